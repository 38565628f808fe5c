"""Folders of checkpoints that stages which came to their end leave behind, until DVC has recorded their outputs.

Between the end of a stage and the end of DVC's hashing a kill would make DVC run the stage again, so a stage that is
done marks its folders instead of removing them. Those of earlier stages, whose outputs DVC has by then, are removed by
the next training, the next evaluation and the report.

Invariant (``tests/runtime/test_finished.py``): what is not marked, and what the caller keeps, stays.
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
    """Return the folder in which each training and each evaluation has its own.

    Where DVC runs an experiment in a copy of the repository, which goes when it is interrupted, it is that of the
    repository itself.
    """
    named = os.environ.get(VARIABLE)
    return Path(named) if named else workspace() / "checkpoints"


def mark(folder: Path) -> None:
    """Say that the work is done; nothing where nothing was saved. A full disk is no reason to stop."""
    with contextlib.suppress(OSError):
        (folder / MARK).touch()


def clear(keep: Collection[Path] = ()) -> None:
    """Remove the folders that are marked, and the folder of all where it is empty then.

    Args:
        keep: folders of the stage that starts: it may have been killed after it was done.
    """
    with contextlib.suppress(OSError):  # another process may remove the same
        for path in folder_of_all().glob(f"*/{MARK}"):
            if path.parent not in keep:
                shutil.rmtree(path.parent, ignore_errors=True)
        folder_of_all().rmdir()


__all__ = ["MARK", "VARIABLE", "clear", "folder_of_all", "mark"]
