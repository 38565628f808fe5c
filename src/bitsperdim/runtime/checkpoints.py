"""Checkpoints: the whole state of unfinished work, so that the next run can resume it.

They are in ``checkpoints/`` (or ``BITSPERDIM_CHECKPOINTS``). No stage of DVC declares this folder as an output, because
DVC deletes declared outputs before a stage runs. Each training run and each evaluation has its own subfolder, named by
a fingerprint of everything that its result depends on. The subfolder holds two generations: if the newer one is
damaged, the older one is used. A checkpoint is written about once a minute, or every ``BITSPERDIM_CHECKPOINT_SECONDS``
seconds. When a stage has written its outputs, it marks its folders, and a later stage removes them
(:mod:`bitsperdim.runtime.finished`).

A checkpoint is one safetensors file with tensors, a JSON text and a checksum of both; nothing is unpickled. If a
checkpoint cannot be written, a message on stderr says so, the work continues, and the earlier generations stay intact.

Invariants (``tests/runtime/test_checkpoints.py``): loading gives exactly the saved bits; a truncated file, a file of
another run, and a file with any byte changed are refused with a message. If the disk is full, the last good checkpoint
stays intact (``tests/runtime/test_full_disk.py``). A process that is killed at any moment leaves a usable checkpoint
(``tests/runtime/test_killed.py``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitsperdim.core.code import digest
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import atomic_path, remove_leftovers
from bitsperdim.core.stopping import speaks
from bitsperdim.runtime import finished

SECONDS = "BITSPERDIM_CHECKPOINT_SECONDS"
NEWER, OLDER = "state.safetensors", "previous.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The folder for the state of one training run or evaluation, with methods to save and load the state.

    Attributes:
        folder: folder of this work only; it is created at the first save.
        fingerprint: hash of everything that the result depends on; it is also stored in each file.
        interval: seconds between two saves.
    """

    folder: Path
    fingerprint: str
    interval: float = 60.0

    @staticmethod
    def of(decides: Mapping[str, Any], code: Iterable[Path]) -> Checkpoint:
        """Return the checkpoint of work whose result depends on these values, this code and the version of torch.

        Args:
            decides: names and JSON values of everything else that the result depends on.
            code: Python files that the work needs (:func:`bitsperdim.core.code.needed`). After an edit of any other
                file, such as a chart or another family, the work can still be resumed.

        Raises:
            InputError: BITSPERDIM_CHECKPOINT_SECONDS is not a number of seconds.
        """
        content = {**decides, "code": digest(code), "torch": torch.__version__}
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return Checkpoint(finished.folder_of_all() / fingerprint, fingerprint, _interval())

    def part(self, name: str) -> Checkpoint:
        """Return the checkpoint of one part of the work, in a subfolder; :meth:`finish` of the whole covers it too."""
        return replace(self, folder=self.folder / name, fingerprint=f"{self.fingerprint}-{name}")

    def save(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Write a new generation; the previous newer generation becomes the older one.

        If the file cannot be written, a message is printed and the work continues.

        Args:
            tensors: names and tensors of the state.
            values: names and JSON values of the state.
        """
        from safetensors.torch import save

        path = self.folder / NEWER
        content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        text = json.dumps(values)
        metadata = {"fingerprint": self.fingerprint, "values": text, "sha256": _checksum(content, text)}
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(save(content, metadata=metadata))
                if path.exists():
                    path.replace(self.folder / OLDER)
        except OSError as error:
            sys.stderr.write(f"{path} cannot be written ({error.strerror or error}); the run continues without it.\n")

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors, on the CPU, and values of the newest usable generation; None if there is none.

        If a file cannot be used, the first process of each machine prints its name and the reason on stderr. Unfinished
        temporary files of a killed process are removed.
        """
        with contextlib.suppress(OSError):
            remove_leftovers(self.folder)
        for name in (NEWER, OLDER):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                return self._read(path)
            except Exception as error:  # a damaged file can raise almost any exception
                if speaks():
                    sys.stderr.write(f"{path} cannot be used ({error or type(error).__name__}); it is ignored.\n")
        return None

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if metadata.get("sha256") != _checksum(tensors, metadata.get("values", "")):
            raise ValueError("it is damaged")
        if metadata["fingerprint"] != self.fingerprint:
            raise ValueError("it belongs to another run")
        return tensors, json.loads(metadata["values"])

    def finish(self) -> None:
        """Mark the folder, because the outputs are written; a later stage removes it."""
        finished.mark(self.folder)


def _interval() -> float:
    text = os.environ.get(SECONDS, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{SECONDS} = {text!r} is not allowed; it must be a number of seconds, 0 or more.")
    return seconds


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
