"""The same models without a mistake. They have to pass the audit, so that a check that always fails is noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from bitsperdim.studies.known.mistakes.bench import Bench
from bitsperdim.studies.known.mistakes.constants import noisy_bound, uniform
from bitsperdim.studies.known.mistakes.counting import of_raster
from bitsperdim.studies.known.mistakes.masses import UNIT, scale_of
from bitsperdim.studies.known.mistakes.mistake import Foreign, audited
from bitsperdim.studies.known.mistakes.models import Another, Cells, bins
from bitsperdim.studies.known.mistakes.samples import of_weights


def logistic(bench: Bench) -> Foreign:
    """Return a model whose masses are those of a logistic in the cells."""
    mean, scale = bench.moments[0], scale_of(bench)
    given = Another(log_prob=lambda x: bins(x.double(), mean, scale, bench.n_levels))
    return Foreign(Another(conditionals=lambda x: given))


def of_density(bench: Bench) -> Foreign:
    """Return a model that offers a density for values from 0 to 1."""

    def build(image_shape: tuple[int, int, int], n_levels: int) -> object:
        return Cells(uniform(image_shape, n_levels)).log_density

    return Foreign(bench.cells.log_density, {"offers": "log_density", "range": (0, 1), "build": build})


RIGHT: Mapping[str, Callable[[Bench], Foreign]] = {
    "logits": lambda bench: Foreign(bench.raster, UNIT),
    "log_prob": of_raster(lambda log_p, n_dims: log_p),
    "conditionals": logistic,
    "encode": lambda bench: Foreign(bench.vae, UNIT),
    "log_weights": of_weights(lambda vae, x, n: vae.weights(x, n)),
    "bound": lambda bench: Foreign(noisy_bound(bench.masses, has_entropy=True), {"offers": "bound"}),
    "log_density": of_density,
}


def false_alarms(bench: Bench) -> list[str]:
    """Return the failed checks of models without a mistake, as ``model: check``."""
    found = []
    with torch.no_grad():
        for name, make in RIGHT.items():
            found += [f"{name}: {check.name}" for check in audited(bench, make(bench)).failed]
    return found
