"""The place in the user's code where an error was raised.

Invariants (``tests/models/external/test_loading.py``): ``test_an_error_in_the_code_is_told_with_its_place``.
"""

from __future__ import annotations

import traceback
from pathlib import Path


def where(error: BaseException) -> str:
    """Return the place in the user's code where an error was raised, ``file.py:12``; empty if there is no such place.

    It is the innermost line outside of Python's library, installed packages and this package.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_near(error.filename)}:{error.lineno}"
    ours, here = str(Path(__file__).resolve().parents[2]), str(Path(traceback.__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_installed = "site-packages" in frame.filename or frame.filename.startswith((ours, here))
        if not is_installed and Path(frame.filename).is_file():
            return f"{_near(frame.filename)}:{frame.lineno}"
    return ""


def _near(filename: str) -> str:
    path, here = Path(filename), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else filename
