"""What every data source promises.

A source does not split, quantize or binarize: it fetches the original files unchanged and reads them.
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
    """The images of a source as it publishes them.

    Attributes:
        images: by split, (N, C, H, W) uint8, in memory or, where there may be more of them than fit, in a file.
            ``train`` is always there; ``validation`` and ``test`` only where the source has an official one.
        labels: by split, (N,) int64; the same splits as ``images``, or empty.
        log_p: by split, (N,) float64 nats, the true log-probability of each image, of images that were drawn from a
            known distribution: at least of ``test``; empty where it is not known.
        tag: what the name of the source does not say of the images, for the protocol tag.
    """

    images: Mapping[str, Rows]
    labels: dict[str, np.ndarray]
    log_p: Mapping[str, np.ndarray] = field(default_factory=dict)
    tag: str = ""

    @property
    def are_independent(self) -> bool:
        """Whether images are known to be independent draws: then equal ones are new evidence, and no copies."""
        return bool(self.log_p)


class Source(ABC):
    """A data set that ``dataset.name`` can name.

    Attributes:
        n_levels: the number of levels L of the published images (values 0..L-1).
        fixed_levels: whether ``dataset.n_levels`` may not say otherwise.
        is_static: whether the images were binarized once and for all by those who publish them.
        image_shape: (C, H, W); None where it is known only once the images are read.
        n_classes: of the labels, 0 where there are none; None where that is known only once they are read.
    """

    n_levels: int
    fixed_levels: bool = True
    is_static: bool = False
    image_shape: tuple[int, int, int] | None = None
    n_classes: int | None = None

    def check(self, path: str) -> None:
        """Raise InputError where ``dataset.path`` cannot be used, before any work.

        DVC watches it whatever the source is; most sources do not read it.
        """
        refuse_unwatchable(path)

    def facts(self, path: str) -> tuple[tuple[int, int, int] | None, int | None]:
        """Return ``image_shape`` and ``n_classes`` as far as they can be known before any work."""
        return self.image_shape, self.n_classes

    @abstractmethod
    def download(self, folder: Path, path: str) -> None:
        """Put the original files into ``folder`` and verify them.

        Raises:
            InputError: the files cannot be had or are not what they should be; ``folder`` holds no part of them.
        """

    @abstractmethod
    def read(self, folder: Path) -> RawImages:
        """Read what :meth:`download` put into ``folder``."""


def refuse_unwatchable(path: str) -> None:
    """Refuse a folder of which DVC could not take the hash: it would end in an error of its own, or wait for ever.

    Raises:
        InputError: a name in it is not UTF-8 text, or leads to neither a file nor a folder.
    """
    for folder, folders, files in os.walk(path):
        for name in sorted(folders + files):
            inner = Path(folder, name)
            if not _is_text(name):
                raise InputError(
                    f"params.yaml: dataset.path = {shown(path)} holds {inner}, a name that is not UTF-8 text and that "
                    f"DVC does not take; rename it, for example by: {_renaming(inner)}"
                )
            if not inner.is_file() and not inner.is_dir():
                what = "leads nowhere" if inner.is_symlink() else "is neither a file nor a folder"
                raise InputError(f"params.yaml: dataset.path = {shown(path)} holds {inner}, which {what}; remove it.")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of the name that Python could not decode
        return False
    return True


def _renaming(path: Path) -> str:
    """Return the shell's command; as its old name cannot be written here, all but plain characters stand as ``?``."""
    new = path.with_name(os.fsencode(path.name).decode("cp1252", "replace"))
    return f"mv {re.sub(r'[^0-9A-Za-z._/-]', '?', str(path))} {shlex.quote(str(new))}"


def unpacked_name(name: str) -> str:
    """Return the name that a gzipped file has when it is unpacked."""
    return name.removesuffix(".gz")


def gunzipped(path: Path, n_most: int) -> bytes:
    """Return the content of a gzipped file of at most ``n_most`` bytes; no more than that is ever in memory.

    Where there is no such file but it unpacked, the content of that.

    Raises:
        InputError: it is longer, damaged, or no such file.
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
