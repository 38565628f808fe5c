"""Base class of all data sources.

A source fetches the original files unchanged and reads them; it does not split, quantize or binarize images.
"""

from __future__ import annotations

import gzip
import os
import re
import shlex
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.files import Rows


@dataclass(frozen=True)
class RawImages:
    """The images of a source as they are published.

    Attributes:
        images: images of each split, (N, C, H, W) uint8, in memory or, for sets that may not fit in memory, in a file.
            ``train`` always exists; ``validation`` and ``test`` exist only if the source has an official one.
        labels: class labels of each split, (N,) int64, for the same splits as ``images``; or empty.
        log_p: true log-probability of each image in nats, (N,) float64, by split, for images from a known distribution;
            it contains at least ``test``. Empty if it is not known.
        tag: properties of the images that the name of the source does not tell, for the protocol tag.
    """

    images: Mapping[str, Rows]
    labels: dict[str, np.ndarray]
    log_p: Mapping[str, np.ndarray] = field(default_factory=dict)
    tag: str = ""

    @property
    def are_independent(self) -> bool:
        """Whether images are known to be independent draws, so that equal images are new evidence and not copies."""
        return bool(self.log_p)


class Source(ABC):
    """A data set that can be chosen by ``dataset.name``.

    Attributes:
        n_levels: number of levels L of the published images (values 0..L-1).
        fixed_levels: whether ``dataset.n_levels`` may not change this number.
        is_static: whether the published images are already binarized.
        image_shape: (C, H, W); None if it is not known before the images are read.
        n_classes: number of classes, 0 if there are no labels; None if it is not known before the labels are read.
    """

    n_levels: int
    fixed_levels: bool = True
    is_static: bool = False
    image_shape: tuple[int, int, int] | None = None
    n_classes: int | None = None

    def check(self, path: str) -> None:
        """Check ``dataset.path`` before any work, and raise InputError if it cannot be used.

        DVC tracks this path for every source, although most sources do not read it.
        """
        refuse_unwatchable(path)

    def facts(self, path: str) -> tuple[tuple[int, int, int] | None, int | None]:
        """Return ``image_shape`` and ``n_classes``, as far as they are known before any work."""
        return self.image_shape, self.n_classes

    @abstractmethod
    def download(self, folder: Path, path: str) -> None:
        """Fetch the original files into ``folder`` and verify them.

        Raises:
            InputError: a file cannot be fetched or fails the verification; ``folder`` then holds no part of that file.
        """

    @abstractmethod
    def read(self, folder: Path) -> RawImages:
        """Read the images that :meth:`download` wrote into ``folder``."""


def refuse_unwatchable(path: str) -> None:
    """Refuse a folder that DVC cannot hash, because DVC would fail with an unclear error, or wait for ever.

    Raises:
        InputError: a name in the folder is not UTF-8 text, or an entry is neither a file nor a folder.
    """
    for folder, folders, files in os.walk(path):
        for name in sorted(folders + files):
            inner = Path(folder, name)
            if not _is_text(name):
                raise InputError(
                    f"params.yaml: dataset.path = {shown(path)} holds {inner}, a name that is not UTF-8 text, which "
                    f"DVC cannot read; rename it, for example by: {_renaming(inner)}"
                )
            if not inner.is_file() and not inner.is_dir():
                what = "leads nowhere" if inner.is_symlink() else "is neither a file nor a folder"
                raise InputError(f"params.yaml: dataset.path = {shown(path)} holds {inner}, which {what}; remove it.")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # the name has bytes that Python could not decode
        return False
    return True


def _renaming(path: Path) -> str:
    """Return a shell command that renames a file; in the old name, ``?`` replaces all but plain characters."""
    new = path.with_name(os.fsencode(path.name).decode("cp1252", "replace"))
    return f"mv {re.sub(r'[^0-9A-Za-z._/-]', '?', str(path))} {shlex.quote(str(new))}"


def unpacked_name(name: str) -> str:
    """Return the name of a gzipped file after unpacking."""
    return name.removesuffix(".gz")


def gunzipped(path: Path, n_most: int) -> bytes:
    """Return the content of a gzipped file, or of the unpacked file if only that exists.

    Args:
        path: path of the gzipped file.
        n_most: largest allowed number of bytes of the content; at most one byte more is read into memory.

    Raises:
        InputError: the content is longer, or the file is missing, damaged or not a gzip file.
    """
    plain = path.with_name(unpacked_name(path.name))
    if is_plain := not path.exists() and plain.exists():
        path = plain
    try:
        with path.open("rb") if is_plain else gzip.open(path) as file:
            content = file.read(n_most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is not a readable gzip file ({error}); remove it and run 'download' again."
        ) from error
    if len(content) > n_most:
        raise InputError(f"{path} holds more than {n_most:,} bytes; remove it and run 'download' again.")
    return content
