"""Search for test images among the images on which a model that was made elsewhere was trained.

Invariants (``tests/evaluation/test_training_images.py``): exact and near copies are found, whatever the layout of the
array; a file without an array of such images is refused in one sentence.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitsperdim.config.families.base import FamilySection
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import in_chunks
from bitsperdim.data.near import near_copies
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.data.repeated import are_among, digests, first_equal


def seen(section: FamilySection, prepared: PreparedImages) -> tuple[np.ndarray, np.ndarray]:
    """Return for each test image whether the model was trained on it, and whether it was trained on a near copy of it.

    Both results are bools of shape (N,), as far as the training images are known.

    Args:
        section: settings of the model. If they name ``train_images``, these are searched; the training split of the
            data set is then searched only if the model is also trained here. Otherwise the training split is searched.
        prepared: prepared images with the test split.

    Raises:
        InputError: the file cannot be read, or does not hold images of this shape and these levels.
    """
    in_ours, near_ours = prepared.in_train["test"], prepared.near_train["test"] >= 0
    named = getattr(section, "train_images", None)
    if named is None:
        return in_ours, near_ours
    images = read_training_images(Path(named), prepared.description.image_shape, prepared.description.n_levels)
    test, of_train = prepared.images["test"], digests(images)
    found = are_among(digests(test), of_train)
    near = near_copies(in_chunks(test), images, np.unique(first_equal(of_train)), found).of >= 0
    return (found | in_ours, near | near_ours) if getattr(section, "fit", False) else (found, near)


def read_training_images(path: Path, image_shape: tuple[int, int, int], n_levels: int) -> np.ndarray:
    """Return the images of a file, (N, C, H, W) uint8.

    Args:
        path: path of a .npz file with an array (N, H, W), (N, H, W, C) or (N, C, H, W).
        image_shape: shape (C, H, W) that the images must have.
        n_levels: number of levels L of the images that the models are given.

    Raises:
        InputError: the file cannot be read, or does not hold such images.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            names = list(stored.files)
            name = "train" if "train" in names else names[0]
            if name != "train" and len(names) != 1:
                raise InputError(
                    f"{path} has no array 'train', but {', '.join(names)}; it must have one, or hold a single array."
                )
            images = stored[name]
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}, the train_images of a model, does not exist.") from error
    except Exception as error:  # a damaged file may raise any error
        raise InputError(f"{path} is not a readable .npz file with an array of images.") from error
    channels, height, width = image_shape
    shape = images.shape[1:]
    if images.dtype.kind not in "iu" or shape not in ((height, width), (height, width, channels), image_shape):
        raise InputError(
            f"{path}: array {name!r} is {images.dtype} {images.shape}; training images must be integers of the shape "
            f"(N, {height}, {width}) or (N, {height}, {width}, {channels}), like the test images."
        )
    if len(shape) == 2 and channels != 1:
        raise InputError(f"{path}: array {name!r} has no channels; the test images have {channels}.")
    if images.size and not 0 <= int(images.min()) <= int(images.max()) < n_levels:
        raise InputError(
            f"{path}: array {name!r} has values from {images.min()} to {images.max()}; they must be levels from 0 to "
            f"{n_levels - 1}, like those of the test images."
        )
    if len(shape) == 2:
        images = images[:, None]
    elif shape != image_shape:
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images.astype(np.uint8))
