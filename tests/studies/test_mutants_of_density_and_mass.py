"""The tests of the study catch classic confusions of densities and masses; each mutant names the test that must fail.

Every mutant replaces one function by a broken version; the test passes before and must fail after.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.studies.density_and_mass import bound, coding, collapse, hypotheses
from studies import test_density_and_mass as laws
from support.mutants import Mutant, must_die


def dequantized_fit_is_bounded() -> None:
    laws.test_dequantized_data_keep_the_entropy_as_a_bound("digits")


def intervals_agree() -> None:
    laws.test_intervals_agree_with_many_digits(1.0, 1e-9)


def density_of_the_middle() -> Tensor:
    """Use the density in the middle of each cell instead of its mass; the tails are unchanged."""
    middle = bound.log_density(torch.arange(bound.N_LEVELS) + 0.5)
    return torch.cat([MASSES[:1], middle, MASSES[-1:]])


MASSES = bound.log_masses()


def cells_around_the_levels() -> Tensor:
    """Use the cells [x - 1/2, x + 1/2), those of the data before the noise is added."""
    weights, locs, scales = (torch.tensor(v, dtype=torch.float64) for v in (bound.WEIGHTS, bound.LOCS, bound.SCALES))
    components = bound.DiscretizedLogistic(locs + 1, scales.log(), bound.N_LEVELS + 2)
    return bound.Mixture(weights.log(), components).log_prob(torch.arange(bound.N_LEVELS + 2))


def mean_of_weights_outside_the_log(log_w: Tensor) -> tuple[list[int], Tensor]:
    """Average the log-weights at each K instead of the weights."""
    sizes = [2**power for power in range(int(math.log2(len(log_w))) + 1)]
    return sizes, torch.stack([log_w.mean(0) for _ in sizes])


def unshifted_noise(mixture: Any, x: np.ndarray, p: np.ndarray, n_nodes: int = 24) -> tuple[float, float]:
    """Evaluate the density at the level itself, without the noise."""
    value = -float(p @ mixture.log_density(x, np.zeros(len(x))))
    return value, value


def uncentred_variance() -> tuple[Tensor, Tensor, Tensor]:
    """Return CV^2 + 1 instead of CV^2."""
    elbo, cv_squared, mass = QUADRATURE()
    return elbo, cv_squared + 1, mass


QUADRATURE = bound.by_quadrature


MUTANTS = {
    "density for mass": Mutant(
        bound, "log_masses", density_of_the_middle, laws.test_the_masses_sum_to_one_and_agree_with_many_digits
    ),
    "cells around the levels": Mutant(
        bound, "log_masses", cells_around_the_levels, laws.test_the_masses_sum_to_one_and_agree_with_many_digits
    ),
    "mean outside the log": Mutant(
        bound, "bound_against_k", mean_of_weights_outside_the_log, laws.test_the_gap_is_the_one_by_quadrature
    ),
    "second moment for variance": Mutant(
        bound, "by_quadrature", uncentred_variance, laws.test_the_gap_is_the_one_by_quadrature
    ),
    "density without the width": Mutant(
        hypotheses,
        "interval_probability",
        lambda centre, width, mean, scale=1.0: float(hypotheses.normal_density(centre, mean, scale)),
        intervals_agree,
    ),
    "difference of distribution functions": Mutant(
        hypotheses,
        "interval_probability",
        lambda centre, width, mean, scale=1.0: (
            0.5 * (math.erf((centre + width / 2 - mean) / 2**0.5) - math.erf((centre - width / 2 - mean) / 2**0.5))
        ),
        intervals_agree,
    ),
    "unit forgotten": Mutant(
        hypotheses,
        "normal_density",
        lambda y, mean, scale=1.0: np.exp(-0.5 * ((y - mean) / scale) ** 2) / math.sqrt(2 * math.pi),
        laws.test_a_unit_changes_the_densities_and_not_the_ratio,
    ),
    "noise forgotten": Mutant(collapse, "dequantized_cross_entropy", unshifted_noise, dequantized_fit_is_bounded),
    "entropy in nats": Mutant(coding, "nats_to_bits", lambda nats: nats, laws.test_the_wrong_code_costs_the_divergence),
    "divergence the other way round": Mutant(
        coding,
        "divergence",
        lambda p, q: float(q[q > 0] @ np.log(q[q > 0] / np.maximum(p[q > 0], 1e-300))),
        laws.test_the_wrong_code_costs_the_divergence,
    ),
    "words rounded down": Mutant(
        coding,
        "shannon_lengths",
        lambda counts: np.array([(sum(counts) // count).bit_length() - 1 for count in counts]),
        laws.test_shannon_lengths_are_exact_at_powers_of_two,
    ),
    "fixed word lengths for Huffman's": Mutant(
        coding,
        "huffman_lengths",
        lambda weights: np.full(len(weights), math.ceil(math.log2(len(weights)))),
        laws.test_huffman_codes_are_complete_and_optimal,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_die(MUTANTS[name], monkeypatch)
