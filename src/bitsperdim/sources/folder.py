"""Your own pictures: a folder of PNG, JPEG or WebP files of one size, all grey or all in colour.

The files in the folder itself are the training images. The subfolders ``validation`` and ``test``, if they exist, hold
those splits. Files are read in the order of their names; a link to a file counts as that file. Nothing is resized or
cropped, because the likelihood of a resized image is the likelihood of a different image.

Every entry of the folder is either read, or is one of a few known kinds of side files, which ``download`` lists, or is
refused with its name. The content of a file decides its format (:mod:`bitsperdim.sources.picture_file`). Its name must
also be that of a picture: a copy ``a.png.bak`` is refused.
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
    ".directory",
    ".ds_store",
    ".localized",
    ".nomedia",
    "desktop.ini",
    "ehthumbs.db",
    "thumbs.db",
    ".gitattributes",
    ".gitignore",
    ".gitkeep",
    "license",
    "readme",
)
APPLE_DOUBLE = b"\0\5\x16\7"  # first bytes of the files ._name that macOS writes on disks of other systems
N_NAMED = 20  # largest number of side files that are listed by name
SPLITS = {"train": "", "validation": "validation", "test": "test"}  # split -> subfolder


class Folder(Source):
    """A folder named by ``dataset.path``."""

    n_levels = 256
    fixed_levels = False
    n_classes = 0

    def check(self, path: str) -> None:
        """Refuse entries that would not be read, and pictures whose headers show a wrong kind or different shapes."""
        super().check(path)
        splits, _ = survey(path)
        first, *others = (file for files in splits.values() for file in files)
        like = shape_of(first)
        for file in others:
            _refuse_unlike(file, shape_of(file), first, like)

    def facts(self, path: str) -> tuple[tuple[int, int, int] | None, int | None]:
        """Return the shape of the first picture, and 0 classes, because a folder has no labels."""
        return shape_of(next(file for file in sorted(Path(path).iterdir()) if file.is_file() and _is_picture(file))), 0

    def download(self, folder: Path, path: str) -> None:
        """Read every picture, write one ``<split>.npy`` for each split, and list the files that are not read."""
        self.check(path)
        splits, side_files = survey(path)
        for files in splits.values():  # all pictures are read and checked before anything is written
            for file in files:
                read_picture(file)
        shape = shape_of(splits["train"][0])
        forget_splits(folder)
        for split, files in reversed(splits.items()):  # `train` is written last: without it the folder is not read
            if files:
                _write(folder / f"{split}.npy", files, shape)
        if side_files:
            print(f"download: {shown(path)} holds files that are not read: {_listed(side_files)}.", flush=True)

    def read(self, folder: Path) -> RawImages:
        """Open the arrays without reading them."""
        return RawImages(open_splits(folder), labels={})


def survey(path: str) -> tuple[dict[str, list[Path]], list[str]]:
    """List the pictures and side files of a folder, and check every entry.

    Returns:
        The pictures of each split in the order of their names, and the names of the side files.

    Raises:
        InputError: there are no pictures, or an entry is neither a picture nor a known side file.
    """
    top = Path(path)
    named = f"params.yaml: dataset.path = {shown(path)}"
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
        raise InputError(
            f"{named} cannot be read: {error.filename}: {error.strerror}; make it readable or remove it."
        ) from error
    if not splits["train"]:
        raise InputError(
            f"{named} holds no pictures; dataset.name = 'folder' needs a folder of {', '.join(SUFFIXES)} files."
        )
    return splits, side_files


def _refuse_folder(folder: Path, name: str, named: str) -> None:
    """Refuse a subfolder that is not one of the two splits, or is a link."""
    if name not in SPLITS.values():
        raise InputError(
            f"{named} holds a folder {shown(name)}, which would not be read. Training pictures belong into the folder "
            f"itself, others into its folders 'validation' and 'test'; move {shown(name)} elsewhere."
        )
    if folder.is_symlink():
        raise InputError(
            f"{named} holds a link {shown(name)} to a folder, and DVC does not notice changes behind a link; "
            f"replace the link by a folder with the pictures."
        )


def _is_picture(file: Path) -> bool:
    """Return whether a file is a picture (True) or a known side file (False), and refuse any other file."""
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
    """Return the names of the first files, and the number and kinds of the others."""
    text = ", ".join(shown(name) for name in names[:N_NAMED])
    if more := names[N_NAMED:]:
        kinds = sorted({Path(name).suffix.lower() or shown(name) for name in more})
        text += f" and {len(more):,} more ({', '.join(kinds)})"
    return text


def forget_splits(folder: Path) -> None:
    """Remove the files of an earlier download."""
    for split in SPLITS:
        for name in (split, f"{split}_labels"):
            (folder / f"{name}.npy").unlink(missing_ok=True)


def open_splits(folder: Path) -> dict[str, StoredArray]:
    """Open ``<split>.npy`` of each existing split; ``train`` must exist.

    Raises:
        InputError: ``train`` is missing, or a file is damaged.
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
            f"{path} has the shape {shape} (C, H, W), but {first} has {first_shape}; all pictures must have the same "
            f"shape: crop them, or convert them all to grey or all to RGB."
        )


def _write(path: Path, files: list[Path], shape: tuple[int, ...]) -> None:
    """Write the pictures one at a time, so that only one picture is in memory."""
    write_npy(path, (len(files), *shape), np.dtype(np.uint8), (read_picture(file)[None] for file in files))
