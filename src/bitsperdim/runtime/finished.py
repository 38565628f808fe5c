"""Checkpoint folders of finished stages, which are kept until DVC has recorded the outputs.

If DVC is killed after a stage ends but before it has hashed the outputs, it runs the stage again. Therefore a finished
stage only marks its folders. The next training, the next evaluation and the report remove the marked folders of earlier
stages, whose outputs DVC has recorded by then.

Invariant (``tests/runtime/test_finished.py``): folders that are not marked, or that the caller keeps, are not removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from bitsperdim.core.files import workspace

VARIABLE = "BITSPERDIM_CHECKPOINTS"
MARK = "finished"


def folder_of_all() -> Path:
    """Return the folder that contains the checkpoint folders of all training runs and evaluations.

    If DVC runs an experiment in a copy of the repository, this is the folder of the original repository, because an
    interruption deletes the copy.
    """
    named = os.environ.get(VARIABLE)
    return Path(named) if named else workspace() / "checkpoints"


def mark(folder: Path) -> None:
    """Mark the folder of finished work; errors are ignored, such as a missing folder or a full disk."""
    with contextlib.suppress(OSError):
        (folder / MARK).touch()


def clear(keep: Collection[Path] = ()) -> None:
    """Remove the marked folders, and the folder that contains all folders if it is empty then.

    Args:
        keep: folders of the stage that starts now; it may have been killed after an earlier run had marked them.
    """
    with contextlib.suppress(OSError):  # another process may remove the same folders
        for path in folder_of_all().glob(f"*/{MARK}"):
            if path.parent not in keep:
                shutil.rmtree(path.parent, ignore_errors=True)
        folder_of_all().rmdir()


__all__ = ["MARK", "VARIABLE", "clear", "folder_of_all", "mark"]
