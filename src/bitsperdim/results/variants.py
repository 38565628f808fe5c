"""Table rows for one flow with different dequantization noise, from the study or from the models.

Differences are paired, image by image (:mod:`bitsperdim.estimators.paired`).

Invariants (``tests/report/test_ways.py``): the rows are those of the files
(``test_the_rows_of_the_study_are_those_written``); models that are the same flow are found and compared
(``test_models_that_are_one_flow_are_compared``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitsperdim.config.families.base import DequantizedSection, FamilySection
from bitsperdim.config.variants import ways_of_dequantizing
from bitsperdim.core.units import bits_per_dim, nats_to_bits_per_dim
from bitsperdim.estimators.paired import paired_difference

NOISE = {
    "uniform": "uniform, drawn again in every step",
    "uniform_fixed": "uniform, drawn once per image",
    "variational": "learned",
}


@dataclass(frozen=True)
class Way:
    """One way of dequantizing; numbers are in bits per dimension, and those of test images are bounds.

    Attributes:
        name: name of the way, or of the model.
        noise: kind of noise in words.
        train_samples: K of the training objective.
        n_parameters: number of parameters of the flow, and of the noise if it is learned.
        train_bpd: training objective in the epoch whose weights are scored; not a bound if fixed noise was fitted.
        elbo_bpd: bound for the test images with one sample each.
        bpd: bound for the test images with all samples.
        bpd_standard_error: standard error over test images.
        difference: bpd above the reference, paired; None for the reference itself.
        difference_error: standard error of the difference.
        bias_bpd: estimated bias of the bound, never negative.
        ess_median: median effective sample size over images.
        too_few_samples: whether the bound depends more on K than on the model.
    """

    name: str
    noise: str
    train_samples: int
    n_parameters: int
    train_bpd: float
    elbo_bpd: float
    bpd: float
    bpd_standard_error: float
    difference: float | None
    difference_error: float | None
    bias_bpd: float
    ess_median: float
    too_few_samples: bool

    @property
    def is_finite(self) -> bool:
        """Whether the difference and its error are finite, so that they can be drawn in a chart."""
        values = (self.difference, self.difference_error)
        return all(value is not None and math.isfinite(value) for value in values)


def of_study(rows: Sequence[Mapping[str, str | float]], reference: str) -> list[Way]:
    """Return the rows of ``results/density_and_mass/dequantizing.csv``."""
    found = []
    for row in rows:
        way = str(row["way"])
        is_reference = way == reference
        found.append(
            Way(
                name=way.replace("_", " "),
                noise=NOISE["uniform" if way == "importance_weighted" else way],
                train_samples=int(row["train_samples"]),
                n_parameters=int(row["n_parameters"]),
                train_bpd=float(row["train_bpd"]),
                elbo_bpd=float(row["elbo_bpd"]),
                bpd=float(row["bpd"]),
                bpd_standard_error=float(row["bpd_standard_error"]),
                difference=None if is_reference else float(row["difference_bpd"]),
                difference_error=None if is_reference else float(row["difference_bpd_standard_error"]),
                bias_bpd=-float(row["bias_bpd"]),
                ess_median=float(row["ess_median"]),
                too_few_samples=bool(row["too_few_samples"]),
            )
        )
    return found


@dataclass(frozen=True)
class Scored:
    """Results of a model that a :class:`Way` needs.

    Attributes:
        n_parameters: number of free parameters.
        train_bpd: training objective in the epoch whose weights are scored, mean over seeds.
        elbo_bpd: bound for the test images with one sample each.
        bpd: bound for the test images with all samples.
        bpd_standard_error: standard error over test images.
        bias_bpd: estimated bias of the bound, never negative.
        ess_median: median effective sample size over images.
        too_few_samples: whether the bound depends more on K than on the model.
        log_p: log P(x) of each test image, (N,) nats.
        same_as: (N,) the index of the first equal test image; None: all images are distinct.
    """

    n_parameters: int
    train_bpd: float
    elbo_bpd: float
    bpd: float
    bpd_standard_error: float
    bias_bpd: float
    ess_median: float
    too_few_samples: bool
    log_p: np.ndarray
    same_as: np.ndarray | None = None


def of_models(
    sections: Mapping[str, FamilySection], scored: Mapping[str, Scored], shape: tuple[int, int, int]
) -> list[list[Way]]:
    """Return a table for each flow that occurs with several kinds of noise.

    A model is left out if it gives probability 0 to an image.

    Args:
        sections: name -> section of the models that are likelihoods.
        scored: name -> results of the same models.
        shape: (C, H, W).
    """
    usable = {name: section for name, section in sections.items() if np.isfinite(scored[name].log_p).all()}
    tables = []
    for reference, names in ways_of_dequantizing(usable):
        rows = []
        for name in names:
            section, item = usable[name], scored[name]
            if not isinstance(section, DequantizedSection):
                raise TypeError(f"{name} is not a flow")
            pair = paired_difference(item.log_p, scored[reference].log_p, item.same_as)
            rows.append(
                Way(
                    name=name,
                    noise=NOISE[section.dequantization],
                    train_samples=section.train_samples,
                    n_parameters=item.n_parameters,
                    train_bpd=item.train_bpd,
                    elbo_bpd=item.elbo_bpd,
                    bpd=item.bpd,
                    bpd_standard_error=item.bpd_standard_error,
                    difference=None if name == reference else bits_per_dim(pair.nats, shape),
                    difference_error=(None if name == reference else nats_to_bits_per_dim(pair.standard_error, shape)),
                    bias_bpd=item.bias_bpd,
                    ess_median=item.ess_median,
                    too_few_samples=item.too_few_samples,
                )
            )
        tables.append(rows)
    return tables
