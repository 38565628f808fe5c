"""The generated tables of ``docs/known-truths.md``, as Markdown from ``docs/known_truths.json``.

Invariants (``tests/readme/test_known_page.py``): every number is that of the file, in its row and column.
"""

from __future__ import annotations

from pathlib import Path

from bitsperdim.readme.studies import TIMES
from bitsperdim.results.formatting import MINUS, count, plain, two_digits, with_error
from bitsperdim.results.known import MODELS, SOURCES, MadeOnceMetrics, ModelMetrics, by_model, check_names
from bitsperdim.results.reading import read_stored

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
    found = made_once(root)
    said, sources = found.excess, found.excess.sources
    channels, height, width = said.image_shape
    text = f"| bits/dim | {' | '.join(SOURCES[name] for name in sources)} |\n|{' --- |' * (1 + len(sources))}\n"
    truths = [f"= {_off(source.truth_bpd, source.truth_bpd_standard_error)}" for source in sources.values()]
    text += f"| **the truth** | {' | '.join(truths)} |\n"
    for name in next(iter(sources.values())).models:
        cells = " | ".join(_lacks(source.models[name]) for source in sources.values())
        text += f"| `{name}`, above the truth | {cells} |\n"
    for words, key in (("independent sub-pixels", "independent_bpd"), ("uniform coding", "uniform_bpd")):
        cells = " | ".join(plain(getattr(source, key) - source.truth_bpd) for source in sources.values())
        text += f"| {words}, above the truth | {cells} |\n"
    refuted = f"**{said.n_refuted} are refuted**" if said.n_refuted else "none is refuted"
    return (
        f"{text}\nThe sources have {count(said.n_train)} training and {count(said.n_test)} test images of {height} "
        f"{TIMES} {width} {TIMES} {channels} sub-pixels and {said.n_levels} levels; K = {said.n_samples}. ± is one "
        f"standard error; for the excess it is the error of the paired differences, image by image. Each model was "
        f"trained once. Of {said.n_models} models {refuted}. † Too few samples. This table and the estimators below "
        f"took {found.seconds / 60:.0f} minutes ({found.made_with['processor']}, {found.made_with['device']}, PyTorch "
        f"{found.made_with['torch']}).\n"
    )


def _off(value: float, error: float) -> str:
    shown, deviation = with_error(value, error)
    return f"{shown} ± {deviation}"


def _lacks(model: ModelMetrics) -> str:
    mark = "†" if model.too_few_samples else ""
    return f"{model.sign} {_off(model.excess_bpd, model.excess_bpd_standard_error)}{mark}" + (
        " **refuted**" if model.is_refuted else ""
    )


def estimators(root: Path) -> str:
    """Return the tables of the error of each estimator, and of how often its statements are true."""
    found = made_once(root)
    said = found.estimators
    text = (
        f"| model | K | k-hat | bound {MINUS} truth | jackknife {MINUS} truth | truth not below bound (97.5 %) | "
        "truth in the jackknife's interval (95 %) | truth within 1.96 errors of the bound | marked † |\n"
        f"|{' --- |' * 9}\n"
    )
    for words, rows in by_model(found.tables.estimators):
        for row in rows:
            k_hat = "" if row.pareto_k_median is None else plain(row.pareto_k_median, 2)
            stated = _times(row.n_jackknife_covers, row.n_jackknife_stated, row.jackknife_is_short)
            text += (
                f"| {words} | {count(row.n_samples)} | {k_hat} | {_off(row.bound_bias, row.bound_bias_error)} | "
                f"{_off(row.jackknife_bias, row.jackknife_bias_error)} | "
                f"{_times(row.n_bound_covers, said.n_replicates, row.bound_is_short)} | "
                f"{stated if row.n_jackknife_stated else 'none stated'} | "
                f"{_times(row.n_bound_within, said.n_replicates, row.within_is_short)} | {row.n_flagged} |\n"
            )
    text += (
        f"\n| model, annealed | steps | lower bound {MINUS} truth | upper bound {MINUS} truth | "
        f"truth not below (97.5 %) | truth not above (97.5 %) | truth between (95 %) |\n|{' --- |' * 7}\n"
    )
    for bracket in found.tables.annealing:
        times = [
            _times(
                getattr(bracket, f"n_{name}_covers"), said.n_annealed_replicates, getattr(bracket, f"{name}_is_short")
            )
            for name in ("lower", "upper", "bracket")
        ]
        text += (
            f"| {MODELS[bracket.model]} | {bracket.n_steps} | {_off(bracket.lower_bias, bracket.lower_bias_error)} | "
            f"{_off(bracket.upper_bias, bracket.upper_bias_error)} | {' | '.join(times)} |\n"
        )
    return (
        f"{text}\nAll values are in nats per image, and are means over {said.n_images} images and {said.n_replicates} "
        f"replicates of the whole estimate; ± is one standard error. The error of the known values is at most "
        f"{two_digits(said.largest_error)} nats. **short** means: true less often than stated, by more than chance.\n"
    )


def _times(n: int, of: int, is_short: int) -> str:
    return f"{n} of {of}" + (" **short**" if is_short else "")
