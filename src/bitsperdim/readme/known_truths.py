"""The generated tables of ``docs/known-truths.md``, as Markdown from ``docs/known_truths.json``.

Invariants (``tests/readme/test_known_page.py``): every number is that of the file, in its row and column.
"""

from __future__ import annotations

from pathlib import Path

from bitsperdim.results.known import MODELS, MadeOnceMetrics, by_model, check_names
from bitsperdim.results.reading import read_stored
from bitsperdim.results.templates import markdown

FILE = Path("docs") / "known_truths.json"


def made_once(root: Path) -> MadeOnceMetrics:
    """Read ``docs/known_truths.json``.

    Raises:
        InputError: the file is missing, or has another format than the study writes.
    """
    found = read_stored(root / FILE, MadeOnceMetrics)
    check_names(found, found.tables, root / FILE)
    return found


def excess(root: Path) -> str:
    """Return the table of the excess of each model over the truth on each source."""
    return markdown("readme", "excess", found=made_once(root))


def estimators(root: Path) -> str:
    """Return the tables of the error of each estimator, and of how often its statements are true."""
    found = made_once(root)
    return markdown("readme", "estimators", found=found, models=by_model(found.tables.estimators), MODELS=MODELS)
