"""Check whether a rerun agrees with the committed numbers; ``make check`` uses it.

On the machine that made ``dvc.lock`` a rerun is byte-identical. Another machine adds numbers in another order, and
training amplifies the differences; the numbers then agree only within the tolerances below.

Usage: ``python -m bitsperdim.comparing.rerun REFERENCE RERUN``, with two folders of results.

Invariant (``tests/comparing/test_check.py``): a missing metric, a different text and a number outside its tolerance are
each reported.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from bitsperdim.config.params import SWITCHED_OFF
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json
from bitsperdim.core.labels import COUNTED
from bitsperdim.core.metrics import Metrics
from bitsperdim.core.yardsticks import ImagesMetrics
from bitsperdim.results.reading import read_stored

# Training on another machine changes a likelihood by about as much as another seed does. On digits, the standard
# deviations over 5 seeds are 0.006 (vae), 0.005 (iwae) and 0.009 bits/dim (pixelcnn).
TRAINED = {"bpd": 0.05, "bpd_standard_error": 0.01, "bpd_monte_carlo_error": 0.001}
# Splits, images and their codes are computed from integers by libraries with fixed versions.
DATA = {
    "entropy_bpd": 1e-8,
    "entropy_bias_bpd": 1e-8,
    "uniform_bpd": 1e-8,
    "png_bpd": 0.02,
    "png_single_bpd": 0.02,
    "webp_bpd": 0.02,
}
# Exact numbers change only by rounding. Fits to raw and to dequantized levels change more, because hundreds of training
# steps amplify the rounding.
STUDY = {
    "levels.entropy_bits": 1e-8,
    "hypotheses.posterior_b": 1e-8,
    "bound.gap_exact": 1e-8,
    "collapse.raw_bits": 1e-3,
    "collapse.dequantized_bits": 1e-3,
    "coding.codes.data.message_bits": 1e-3,
    "coding.codes.logistic.cross_entropy_bits": 1e-3,
}
# Exact numbers, too: random draws are the same on every machine, and sums of their weights change only by rounding.
DELAY = {
    "exact.probability": 1e-13,
    "exact.mean": 1e-8,
    "proposals.naive.probability": 1e-12,
    "proposals.cross_entropy.probability": 1e-9,
    "proposals.cross_entropy.variance_reduction_exact": 1e-2,
    "proposals.least_variance.variance_reduction_exact": 1e-3,
}
# Constructed weights are plain arithmetic. Of the trained networks, only those that fit well on every machine are
# listed.
NEURONS = {
    "majority.hard": 1e-8,
    "constructed.step.l1": 1e-5,
    "constructed.smooth.l1": 1e-5,
    "constructed.disc.l1": 1e-5,
    "constructed.disc.close_share": 1e-4,
    "accuracy.single_300.easy.mean": 1.0,
    "accuracy.single_300.medium.mean": 2.0,
    "accuracy.resnet_40.easy.mean": 5.0,
}
# The truth is plain arithmetic on images that are the same on every machine; the models are trained. The known
# marginals of templates and of hidden Markov chains have closed forms, and so have, nearly, the cells of a Gaussian.
TRUTHS = {
    "excess.sources.templates.truth_bpd": 1e-8,
    "excess.sources.templates.independent_bpd": 1e-8,
    "excess.sources.templates.models.histogram.excess_bpd": 1e-6,
    "excess.sources.templates.models.gated_pixelcnn.excess_bpd": 0.05,
    "excess.sources.templates.models.vae.excess_bpd": 0.05,
    "estimators.models.templates.log_p_nats": 1e-8,
    "estimators.models.hidden_markov.log_p_nats": 1e-8,
    "estimators.models.gaussian.log_p_nats": 1e-5,
}
SAME = ("kind", "protocol", "test_sha256", "n_images", "n_samples", "n_seeds", "n_parameters", "n_impossible_images")
SAME_STUDY = ("levels.n_levels", "levels.n_images", "levels.n_pixels", "collapse.raw_kind", "coding.n_symbols")
SAME_DELAY = (
    "deadline",
    "n_samples",
    "n_replicates",
    "exact.n_states",
    "proposals.naive.n_late",
    "proposals.mistake.variance_is_infinite",
)
SAME_NEURONS = ("n_steps", "n_seeds", "n_points", "constructed.disc.n_blocks", "constructed.disc_joined.n_blocks")
SAME_TRUTHS = (
    *(f"excess.{key}" for key in ("n_train", "n_validation", "n_test", "n_levels", "n_samples", "level")),
    *(f"excess.sources.templates.{key}" for key in ("protocol", "test_sha256")),
    *(f"excess.sources.templates.models.{model}.is_refuted" for model in ("histogram", "gated_pixelcnn", "vae")),
    *(f"estimators.{key}" for key in ("n_images", "n_replicates", "n_chains")),
)
STUDIES = {
    "known": (SAME_TRUTHS, TRUTHS),
    "density_and_mass": (SAME_STUDY, STUDY),
    "project_delay": (SAME_DELAY, DELAY),
    "universal_resnet": (SAME_NEURONS, NEURONS),
}
SAME_DATA = ("protocol", "test_sha256", "n_train", "n_validation", "n_test", *(f"n_{name}" for name in COUNTED))


def disagreements(reference: dict[str, Any], rerun: dict[str, Any], name: str) -> list[str]:
    """Return a sentence for each metric that disagrees."""
    same: tuple[str, ...] = SAME
    tolerances = TRAINED
    if name == "dequantize":
        same, tolerances = SAME_DATA, DATA
    elif reference == rerun == SWITCHED_OFF:
        return []
    elif name in STUDIES:
        same, tolerances = STUDIES[name]
        reference, rerun = _flat(reference), _flat(rerun)
    found = []
    for key in same:
        if reference.get(key) != rerun.get(key) or key not in reference:
            found.append(f"{name}: {key} is {rerun.get(key)!r}, but the committed value is {reference.get(key)!r}.")
    for key, tolerance in tolerances.items():
        first, second = reference.get(key, math.nan), rerun.get(key, math.nan)
        if not (first == second or abs(first - second) <= tolerance):  # NaN disagrees
            found.append(
                f"{name}: {key} is {second:.5f}, but the committed value is {first:.5f} (tolerance {tolerance:g})."
            )
    return found


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a flat dictionary, with nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def compare(reference: Path, rerun: Path) -> list[str]:
    """Return a sentence for each disagreement between two folders of results.

    Raises:
        InputError: a file is damaged, or has another format than this version writes.
    """
    names = [sorted(path.parent.name for path in folder.glob("*/metrics.json")) for folder in (reference, rerun)]
    if names[0] != names[1] or not names[0]:
        return [
            f"The rerun has results for {', '.join(names[1]) or 'nothing'}, but the committed results are for "
            f"{', '.join(names[0]) or 'nothing'}."
        ]
    found = []
    for name in names[0]:
        paths = [folder / name / "metrics.json" for folder in (reference, rerun)]
        schema = ImagesMetrics if name == "dequantize" else Metrics
        first, second = (
            read_json(path) if name in STUDIES else read_stored(path, schema).as_record() for path in paths
        )
        found += disagreements(first, second, name)
    return found


def main() -> None:
    """Compare the two folders of the command line; exit with status 1 if they disagree."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bitsperdim.comparing.rerun REFERENCE RERUN")
    try:
        found = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    except InputError as error:
        found = [str(error)]
    if found:
        sys.exit("\n".join(found))
    print("The rerun agrees with the committed metrics.")


if __name__ == "__main__":
    main()
