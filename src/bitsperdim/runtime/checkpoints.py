"""Checkpoints: the whole state of unfinished work, so that the next run goes on where this one stopped.

They live under ``checkpoints/`` (or ``BITSPERDIM_CHECKPOINTS``), which no stage declares: DVC deletes
declared outputs before a stage runs. Each training and each evaluation has a folder of its own, named by a fingerprint
of everything that decides its result, and two generations in it: should the newer be damaged, the
older one serves. It is written about once a minute, or every ``BITSPERDIM_CHECKPOINT_SECONDS``. A stage whose
outputs are written marks its folders, and the next one removes them (:mod:`bitsperdim.runtime.finished`).

A checkpoint is one safetensors file, tensors with a JSON text and a checksum of both: nothing is unpickled.
A failure to write one is told on stderr and stops nothing; the generations before it stay as they are.

Invariants (``tests/runtime/test_checkpoints.py``): what is saved comes back bit for bit; a truncated file, a foreign
one and one with any byte changed are refused with a sentence. A full disk leaves the last good one intact
(``tests/runtime/test_full_disk.py``), and a process that is killed at any moment leaves one that can be used
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
    """The place of the state of one training or evaluation.

    Attributes:
        folder: its own; made when something is saved.
        fingerprint: stands in each file as well.
        interval: seconds between two saves.
    """

    folder: Path
    fingerprint: str
    interval: float = 60.0

    @staticmethod
    def of(decides: Mapping[str, Any], code: Iterable[Path]) -> Checkpoint:
        """Return the place for work that is decided by these values, by code and by torch's version.

        Args:
            decides: names and values of JSON.
            code: the files of Python that the work needs (:func:`bitsperdim.core.code.needed`): an edit of any other,
                such as a chart or another family, leaves the work where it is.

        Raises:
            InputError: BITSPERDIM_CHECKPOINT_SECONDS is no number of seconds.
        """
        content = {**decides, "code": digest(code), "torch": torch.__version__}
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return Checkpoint(finished.folder_of_all() / fingerprint, fingerprint, _interval())

    def part(self, name: str) -> Checkpoint:
        """Return a place of its own for one part of the work; :meth:`finish` of the whole is of it too."""
        return replace(self, folder=self.folder / name, fingerprint=f"{self.fingerprint}-{name}")

    def save(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Write a new generation; what was the newer becomes the older."""
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
            sys.stderr.write(f"{path} cannot be written ({error.strerror or error}); the run goes on without it.\n")

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest good generation, tensors on the CPU; None where there is none.

        A file that cannot be used is named on stderr, with the reason, by the first process of a machine. What a killed
        process left of one that it was writing is removed.
        """
        with contextlib.suppress(OSError):
            remove_leftovers(self.folder)
        for name in (NEWER, OLDER):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                return self._read(path)
            except Exception as error:  # a damaged file fails in as many ways as there are bytes
                if speaks():
                    sys.stderr.write(f"{path} cannot be used ({error or type(error).__name__}); it is left aside.\n")
        return None

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if metadata.get("sha256") != _checksum(tensors, metadata.get("values", "")):
            raise ValueError("it is damaged")
        if metadata["fingerprint"] != self.fingerprint:
            raise ValueError("it belongs to another run")
        return tensors, json.loads(metadata["values"])

    def finish(self) -> None:
        """Say that the outputs are written; the next stage removes the folder."""
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
