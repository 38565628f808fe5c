"""Display of a running recipe's training, epoch by epoch, beside the committed training curve.

The committed curve is shown at the same number of presented images. Training writes its curve beside its log about once
a second (:mod:`bitsperdim.runtime.curve`), so that of several shorter epochs only the newest is shown. Rows of an
earlier run in the same folder are not shown. A run from DVC's queue has its logs elsewhere, and cannot be followed.

Invariants (``tests/recipes/test_following.py``): each new row is shown once, and the last row when the run has ended
(``test_each_row_is_shown_once``); beside it is the committed row of the same model and seed with the same number of
presentations, or the next smaller number (``test_the_committed_row_is_that_of_as_many_presentations``). The title says
if the committed curve was made with other parameters (``test_a_committed_curve_of_other_values_is_said_to_be_one``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bitsperdim.config.defaults import completed
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json
from bitsperdim.recipes.recipe import RESULTS, Recipe, SizeName, read_yaml, reading_result, result_name
from bitsperdim.recipes.running import LOGS, STARTED, is_running, run_name
from bitsperdim.recipes.settings import applied
from bitsperdim.runtime.curve import EVERY, SECONDS, read_rows

Row = Mapping[str, str]
COLUMNS = (  # title, width
    ("model", 16),
    ("seed", 4),
    ("epoch", 6),
    ("presented", 13),
    ("seconds", 9),
    ("train", 8),
    ("validation", 10),
    ("| presented", 15),
    ("seconds", 9),
    ("validation", 10),
    ("difference", 10),
)
TITLE = (
    "{name}, and to the right of the line {kept}: bits/dim of training and validation images, bounds if there is no "
    "exact"
)


def follow(
    root: Path,
    recipe: Recipe,
    size: SizeName,
    settings: Sequence[str] = (),
    wait: Callable[[], None] = lambda: time.sleep(EVERY),
) -> Iterator[str]:
    """Yield the lines of a table, each when it is known, until the run ends.

    Args:
        root: folder of the repository.
        recipe: the running recipe.
        size: ``cpu``, ``long`` or ``gpu``.
        settings: settings (``-S``) with which the run was started.
        wait: function that is called between two readings of the files.

    Raises:
        InputError: the recipe is not running, or the committed curve is damaged.
    """
    name = run_name(recipe.name, size, settings)
    folder, path = root / LOGS / name, RESULTS / f"{result_name(recipe.name, size)}.csv"
    kept = _committed(root / path)
    if not is_running(folder):
        raise InputError(
            f"{name} is not running here (a run from DVC's queue cannot be followed). Start it with "
            f"`bitsperdim recipe {recipe.name} --size {size}`, and follow it from another terminal."
        )
    there = str(path) if kept else f"nothing ({path} does not exist)"
    if kept and (others := _differing(root, recipe, size, settings)):
        there += f" (made with other values in {', '.join(others)})"
    yield f"{TITLE.format(name=name, kept=there)} number."
    yield _line([title for title, _ in COLUMNS])
    shown: dict[tuple[str, str], Row] = {}
    while True:
        goes_on = is_running(folder)  # tested before reading, so that the last rows are not missed
        for model, row in _newest(folder):
            key = model, row["seed"]
            if shown.get(key) != row:
                shown[key] = row
                yield _beside(model, row, at_presentations(kept, *key, int(row["n_presented"])))
        if not goes_on:
            return
        wait()


def _committed(path: Path) -> list[Row]:
    """Return the rows of a committed curve; an empty list if there is no file.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return []
    with reading_result(path):
        rows = read_rows(path.read_text(encoding="utf-8"))
        for row in rows:  # raises an error if a column that is needed later is damaged
            _ = row["model"], row["seed"], int(row["n_presented"] or 0), float(row["validation_bpd"]), row[SECONDS]
    return [row for row in rows if row["n_presented"]]


def _differing(root: Path, recipe: Recipe, size: SizeName, settings: Sequence[str]) -> list[str]:
    """Return the sections, among those that affect the curve, in which the committed result and the run differ.

    Raises:
        InputError: the result is damaged, or a parameter is not allowed.
    """
    path = root / RESULTS / f"{result_name(recipe.name, size)}.json"
    params = recipe.parameters(read_yaml(root / "params.yaml"), size)
    params = applied(params, settings, root) if settings else params
    with reading_result(path):
        then = read_json(path)["params"]
        names = ["dataset", "dequantize", "train", *params["models"]]
        return [name for name in names if completed(then, name).get(name) != completed(params, name).get(name)]


def _newest(folder: Path) -> Iterator[tuple[str, Row]]:
    """Yield the model and the newest row of each of this run's training runs, in the order in which they started."""
    started = (folder / STARTED).stat().st_mtime_ns
    written = [(path.stat().st_mtime_ns, path) for path in folder.glob("train-*.csv")]
    for at, path in sorted(written):
        if at >= started:
            newest = {row["seed"]: row for row in read_rows(path.read_text(encoding="utf-8"))}
            yield from ((path.stem.removeprefix("train-"), row) for row in newest.values())


def at_presentations(rows: Sequence[Row], model: str, seed: str, n_presented: int) -> Row | None:
    """Return the last row of a model and a seed with at most this number of presentations; None if there is no row."""
    own = [row for row in rows if (row["model"], row["seed"]) == (model, seed)]
    return max(
        (row for row in own if int(row["n_presented"]) <= n_presented),
        key=lambda row: (int(row["n_presented"]), int(row["epoch"])),
        default=None,
    )


def _beside(model: str, row: Row, kept: Row | None) -> str:
    cells = [model, row["seed"], row["epoch"], f"{int(row['n_presented']):,}", _seconds(row)]
    cells += [f"{float(row[name]):.4f}" for name in ("train_bpd", "validation_bpd")]
    if kept is None:
        return _line([*cells, "|"])
    difference = float(row["validation_bpd"]) - float(kept["validation_bpd"])
    cells += [f"| {int(kept['n_presented']):,}", _seconds(kept), f"{float(kept['validation_bpd']):.4f}"]
    return _line([*cells, f"{difference:+.4f}"])


def _seconds(row: Row) -> str:
    return f"{float(row[SECONDS]):,.0f}" if row[SECONDS] else "?"


def _line(cells: Sequence[str]) -> str:
    """Return the cells in columns; the model's name and the cell after the line are aligned to the left."""
    placed = [
        cell.ljust(width) if number == 0 or cell.startswith("|") else cell.rjust(width)
        for number, (cell, (_, width)) in enumerate(zip(cells, COLUMNS, strict=False))
    ]
    return "  ".join(placed).rstrip()
