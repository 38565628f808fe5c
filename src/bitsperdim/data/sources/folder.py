"""Your own pictures: a folder of PNG, JPEG or WebP files of one size, all grey or all in colour.

The files in the folder itself are the training images; subfolders ``validation`` and ``test`` are those
splits, where they are there. Names are taken in order; a link is the picture that it leads to. Nothing is resized or
cropped: a likelihood of resized images is one of other images. A picture with transparency, or with more than 8 bits
a channel, is refused, and so is whatever looks like pictures that would not be read: other folders, other formats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from bitsperdim.data.sources.base import RawImages, Source
from bitsperdim.errors import InputError, shown
from bitsperdim.files import StoredArray, reading, write_npy

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".pbm", ".pgm", ".ppm", ".tga", ".tif", ".tiff")
SPLITS = {"train": "", "validation": "validation", "test": "test"}  # split -> subfolder
MODES = {"1": "L", "L": "L", "RGB": "RGB"}  # mode of a file -> mode in which it is read
PALETTE = "P"


class Folder(Source):
    """A folder named by ``dataset.path``."""

    n_levels = 256
    fixed_levels = False
    n_classes = 0

    def check(self, path: str) -> None:
        """Refuse a path where there are no pictures, or some that would not be read."""
        try:
            reason = what_is_wrong(Path(path))
        except OSError as error:
            raise InputError(f"params.yaml: dataset.path = {shown(path)} cannot be read: {error.strerror}.") from error
        if reason:
            raise InputError(f"params.yaml: dataset.path = {shown(path)} {reason}.")

    def facts(self, path: str) -> tuple[tuple[int, int, int] | None, int | None]:
        """Look at the first picture; a folder has no labels."""
        channels, height, width = read_picture(pictures_of(Path(path))[0]).shape
        return (channels, height, width), 0

    def download(self, folder: Path, path: str) -> None:
        """Read every picture, verify that they are alike, and write one ``<split>.npy`` of each split."""
        self.check(path)
        splits = {split: pictures_of(Path(path) / subfolder) for split, subfolder in SPLITS.items()}
        like = read_picture(splits["train"][0])
        for files in splits.values():  # all are looked at before anything is written
            for file in files:
                _refuse_unlike(file, read_picture(file).shape, splits["train"][0], like.shape)
        forget_splits(folder)
        for split, files in reversed(splits.items()):  # without `train` the folder is not read
            if files:
                _write(folder / f"{split}.npy", files, like.shape)

    def read(self, folder: Path) -> RawImages:
        """Open the arrays without reading them."""
        return RawImages(open_splits(folder), labels={})


def what_is_wrong(folder: Path) -> str:
    """Return why a folder's pictures cannot be used, as the end of a sentence; nothing where they can."""
    if not folder.exists():
        return "does not exist"
    if not folder.is_dir():
        return "is no folder" + ("; set dataset.name to npz" if folder.suffix == ".npz" else "")
    for inner in sorted(folder.iterdir()):
        if inner.name.startswith(".") or not inner.is_dir():
            continue
        if inner.name not in SPLITS.values():
            return (
                f"holds a folder {shown(inner.name)}, which would not be read: training pictures lie in the folder "
                f"itself, others in its folders 'validation' and 'test', and further ones belong elsewhere"
            )
        if not pictures_of(inner):
            return f"holds a folder {shown(inner.name)} without pictures; fill it or remove it"
    for split in SPLITS.values():
        for file in sorted((folder / split).iterdir()) if (folder / split).is_dir() else []:
            if file.suffix.lower() in OTHER_SUFFIXES:
                return f"holds {shown(str(file.relative_to(folder)))}; pictures are {', '.join(SUFFIXES)} files"
    if not pictures_of(folder):
        return f"holds no pictures; dataset.name = 'folder' needs a folder of {', '.join(SUFFIXES)} files"
    return ""


def forget_splits(folder: Path) -> None:
    """Remove what an earlier download of other images left."""
    for split in SPLITS:
        for name in (split, f"{split}_labels"):
            (folder / f"{name}.npy").unlink(missing_ok=True)


def open_splits(folder: Path) -> dict[str, StoredArray]:
    """Open ``<split>.npy`` of each split that is there; ``train`` has to be.

    Raises:
        InputError: it is not, or a file is damaged.
    """
    images = {}
    for split in SPLITS:
        path = folder / f"{split}.npy"
        if split == "train" or path.exists():
            with reading(path, "download"):
                images[split] = StoredArray(path)
    return images


def pictures_of(folder: Path) -> list[Path]:
    """Return the pictures in a folder in the order of their names; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as (C, H, W) uint8, C = 1 for a grey one and 3 for one in colour.

    Raises:
        InputError: it is damaged, or has transparency or more than 8 bits a channel.
    """
    try:
        with Image.open(path) as picture:
            mode = "RGB" if picture.mode == PALETTE and "transparency" not in picture.info else picture.mode
            if mode not in MODES:
                raise InputError(f"{path} is a picture of mode {picture.mode!r}; pictures are 8-bit grey or RGB.")
            pixels = np.asarray(picture.convert(MODES[mode]))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable picture; remove it or save it again.") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _refuse_unlike(path: Path, shape: tuple[int, ...], first: Path, first_shape: tuple[int, ...]) -> None:
    if shape != first_shape:
        raise InputError(
            f"{path} has the shape {shape} (C, H, W), but {first} has {first_shape}; all pictures must have one."
        )


def _write(path: Path, files: list[Path], shape: tuple[int, ...]) -> None:
    """Write the pictures one at a time, so that the memory is that of one."""
    write_npy(path, (len(files), *shape), np.dtype(np.uint8), (read_picture(file)[None] for file in files))
