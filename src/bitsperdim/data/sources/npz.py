"""Your own images: a .npz file of uint8 arrays ``train``, ``test`` and, if you like, ``validation``.

Each is (N, H, W) for grey images or (N, H, W, C) for C channels, C at most 4. ``train_labels`` and
so on, (N,) integers, are optional. Without ``test`` (or ``validation``) a seeded share of ``train``
is set aside (:mod:`bitsperdim.data.preparation`). Object arrays are never unpickled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitsperdim.data.sources.base import RawImages, Source
from bitsperdim.errors import InputError
from bitsperdim.files import reading, write_bytes

SPLITS = ("train", "validation", "test")
MAX_CHANNELS = 4


class Npz(Source):
    """A .npz file named by ``dataset.path``."""

    n_levels = 256
    fixed_levels = False

    def check(self, path: str) -> None:
        """Refuse a path where there is no file."""
        try:
            is_file = Path(path).is_file()
        except OSError as error:
            raise InputError(f"params.yaml: dataset.path = {path[:80]!r} cannot be read: {error.strerror}.") from error
        if not is_file:
            raise InputError(
                f"params.yaml: dataset.path = {path!r} is not a file; dataset.name = 'npz' needs a .npz file "
                f"of uint8 arrays 'train' and 'test'."
            )

    def download(self, folder: Path, path: str) -> None:
        """Verify the user's file and copy it to ``images.npz``."""
        self.check(path)
        read_npz(Path(path))
        write_bytes(folder / "images.npz", Path(path).read_bytes())

    def read(self, folder: Path) -> RawImages:
        """Read the copy."""
        path = folder / "images.npz"
        with reading(path, "download"):
            return read_npz(path)


def read_npz(path: Path) -> RawImages:
    """Read and verify a user's .npz file.

    Raises:
        InputError: it is no .npz file, or an array has a wrong name, shape, type or length.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise InputError(f"{path} holds a single array; save with numpy.savez(path, train=..., test=...).")
            arrays = {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except Exception as error:  # a damaged archive fails in as many ways as it has bytes
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a readable .npz file without pickled objects ({reason}).") from error
    allowed = [*SPLITS, *(f"{split}_labels" for split in SPLITS)]
    for name, array in arrays.items():
        if name not in allowed or not isinstance(array, np.ndarray):
            raise InputError(f"{path}: array {name!r} is not known; allowed are {', '.join(allowed)}.")
    if "train" not in arrays:
        raise InputError(f"{path}: array 'train' is missing; it has {', '.join(arrays) or 'no array'}.")
    images = {split: _images(path, split, arrays[split]) for split in SPLITS if split in arrays}
    for split, array in images.items():
        if array.shape[1:] != images["train"].shape[1:]:
            raise InputError(
                f"{path}: {split!r} holds images of shape {array.shape[1:]} (C, H, W), "
                f"but 'train' of {images['train'].shape[1:]}; all must have one shape."
            )
    labels = {}
    for split in images:
        if f"{split}_labels" in arrays:
            labels[split] = _labels(path, split, arrays[f"{split}_labels"], len(images[split]))
    if labels and labels.keys() != images.keys():
        lacking = ", ".join(f"{split}_labels" for split in images if split not in labels)
        raise InputError(f"{path}: labels are given for some arrays only; add {lacking} or leave all labels out.")
    return RawImages(images=images, labels=labels)


def _images(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise InputError(f"{path}: array {name!r} has type {array.dtype}; images must be uint8, values 0 to 255.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] > MAX_CHANNELS or 0 in array.shape:
        raise InputError(
            f"{path}: array {name!r} has shape {array.shape}; images are (N, H, W) or (N, H, W, C) "
            f"with 1 to {MAX_CHANNELS} channels last, and at least one image."
        )
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))  # (N, C, H, W)


def _labels(path: Path, name: str, array: np.ndarray, n_images: int) -> np.ndarray:
    if array.dtype.kind not in "iu" or array.shape != (n_images,):
        raise InputError(
            f"{path}: array '{name}_labels' has type {array.dtype} and shape {array.shape}; "
            f"labels are integers of shape ({n_images},)."
        )
    return array.astype(np.int64)
