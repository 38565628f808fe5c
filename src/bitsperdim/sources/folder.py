"""Your own pictures: a folder of PNG, JPEG or WebP files of one size, all grey or all in colour.

The files in the folder itself are the training images; subfolders ``validation`` and ``test`` are those
splits, where they are there. Names are taken in order; a link is the picture that it leads to. Nothing is resized or
cropped: a likelihood of resized images is one of other images.

Every entry of the folder is read, or is one of a few kinds of known side files, which ``download`` names, or is refused
by name. A picture is what its content is (:mod:`bitsperdim.sources.picture_file`), and its name has to say that
it is meant as one: a copy ``a.png.bak`` is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.files import StoredArray, reading, write_npy
from bitsperdim.sources.base import RawImages, Source
from bitsperdim.sources.containers import format_of
from bitsperdim.sources.picture_file import read_picture, shape_of

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
SIDE_SUFFIXES = (".csv", ".dvc", ".json", ".md", ".txt")
SIDE_NAMES = (
    *(".directory", ".ds_store", ".localized", ".nomedia", "desktop.ini", "ehthumbs.db", "thumbs.db"),
    *(".gitattributes", ".gitignore", ".gitkeep", "license", "readme"),
)
APPLE_DOUBLE = b"\0\5\x16\7"  # what macOS writes beside a file on the disks of others, as ._name
N_NAMED = 20  # side files that are named one by one
SPLITS = {"train": "", "validation": "validation", "test": "test"}  # split -> subfolder


class Folder(Source):
    """A folder named by ``dataset.path``."""

    n_levels = 256
    fixed_levels = False
    n_classes = 0

    def check(self, path: str) -> None:
        """Refuse what would not be read, and by their headers pictures that are not taken or not alike."""
        super().check(path)
        splits, _ = survey(path)
        first, *others = (file for files in splits.values() for file in files)
        like = shape_of(first)
        for file in others:
            _refuse_unlike(file, shape_of(file), first, like)

    def facts(self, path: str) -> tuple[tuple[int, int, int] | None, int | None]:
        """Look at the first picture; a folder has no labels."""
        return shape_of(next(file for file in sorted(Path(path).iterdir()) if file.is_file() and _is_picture(file))), 0

    def download(self, folder: Path, path: str) -> None:
        """Read every picture, write one ``<split>.npy`` of each split, and name the files that are not read."""
        self.check(path)
        splits, side_files = survey(path)
        for files in splits.values():  # all are looked at before anything is written
            for file in files:
                read_picture(file)
        shape = shape_of(splits["train"][0])
        forget_splits(folder)
        for split, files in reversed(splits.items()):  # without `train` the folder is not read
            if files:
                _write(folder / f"{split}.npy", files, shape)
        if side_files:
            print(f"download: {shown(path)} holds files that are not read: {_listed(side_files)}.", flush=True)

    def read(self, folder: Path) -> RawImages:
        """Open the arrays without reading them."""
        return RawImages(open_splits(folder), labels={})


def survey(path: str) -> tuple[dict[str, list[Path]], list[str]]:
    """Look at every entry of a folder of pictures.

    Returns:
        The pictures of each split in the order of their names, and the names of the side files.

    Raises:
        InputError: there are no pictures, or something else is there.
    """
    top, named = Path(path), f"params.yaml: dataset.path = {shown(path)}"
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    side_files = []
    try:
        if not top.exists():
            raise InputError(f"{named} does not exist.")
        if not top.is_dir():
            raise InputError(f"{named} is not a folder{'; set dataset.name to npz' if top.suffix == '.npz' else ''}.")
        for split, subfolder in SPLITS.items():
            for entry in sorted((top / subfolder).iterdir()) if (top / subfolder).exists() else []:
                name = str(entry.relative_to(top))
                if entry.is_dir():
                    _refuse_folder(entry, name, named)
                elif _is_picture(entry):
                    splits[split].append(entry)
                else:
                    side_files.append(name)
            if subfolder and not splits[split] and (top / subfolder).exists():
                raise InputError(f"{named} holds a folder {shown(subfolder)} without pictures; fill it or remove it.")
    except OSError as error:
        raise InputError(f"{named} cannot be read: {error.filename}: {error.strerror}; allow it.") from error
    if not splits["train"]:
        raise InputError(
            f"{named} holds no pictures; dataset.name = 'folder' needs a folder of {', '.join(SUFFIXES)} files."
        )
    return splits, side_files


def _refuse_folder(folder: Path, name: str, named: str) -> None:
    """Refuse a folder in the folder that is not one of the two splits."""
    if name not in SPLITS.values():
        raise InputError(
            f"{named} holds a folder {shown(name)}, which would not be read: training pictures lie in the folder "
            f"itself, others in its folders 'validation' and 'test'; move it elsewhere."
        )
    if folder.is_symlink():
        raise InputError(
            f"{named} holds a link {shown(name)} to a folder, and DVC does not see when that changes; "
            f"put the pictures there instead."
        )


def _is_picture(file: Path) -> bool:
    """Whether a file is a picture and named so, and not a side file; anything else is refused."""
    with file.open("rb") as opened:
        start = opened.read(12)
    is_named_so = file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    if format_of(start):
        if is_named_so:
            return True
        what = "hidden, but a picture" if file.name.startswith(".") else "not named as a picture, but is one"
        raise InputError(f"{file} is {what}; name it like 'a.png' to have it read, or move it elsewhere.")
    if is_named_so:
        raise InputError(
            f"{file} is {'not a PNG, JPEG or WebP picture by its content' if start else 'empty'}; "
            f"convert it to one of them, or move it elsewhere."
        )
    is_known = file.name.lower() in SIDE_NAMES or file.suffix.lower() in SIDE_SUFFIXES
    if not is_known and not (file.name.startswith("._") and start.startswith(APPLE_DOUBLE)):
        raise InputError(
            f"{file} would not be read; pictures are {', '.join(SUFFIXES)} files: convert it or move it elsewhere."
        )
    return False


def _listed(names: list[str]) -> str:
    """Name the first files, and the kinds of the others."""
    text = ", ".join(shown(name) for name in names[:N_NAMED])
    if more := names[N_NAMED:]:
        kinds = sorted({Path(name).suffix.lower() or shown(name) for name in more})
        text += f" and {len(more):,} more ({', '.join(kinds)})"
    return text


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


def _refuse_unlike(path: Path, shape: tuple[int, ...], first: Path, first_shape: tuple[int, ...]) -> None:
    if shape != first_shape:
        raise InputError(
            f"{path} has the shape {shape} (C, H, W), but {first} has {first_shape}; all pictures must have one: "
            f"crop them, or convert them all to grey or all to RGB."
        )


def _write(path: Path, files: list[Path], shape: tuple[int, ...]) -> None:
    """Write the pictures one at a time, so that the memory is that of one."""
    write_npy(path, (len(files), *shape), np.dtype(np.uint8), (read_picture(file)[None] for file in files))
