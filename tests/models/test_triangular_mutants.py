"""Classic mistakes in sequential noise, each with the law that must find it (as in ``tests/test_mutants.py``)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import models.test_triangular as triangular
from bitsperdim.likelihoods import truncated
from bitsperdim.models import density, flow, gaussian
from bitsperdim.models.parts import rising
from bitsperdim.models.parts import triangular as walks
from bitsperdim.models.parts.masked import InOrder
from support.mutants import Mutant, must_die


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal_has_its_masses() -> None:
    triangular.masses_of_a_correlated_normal()


def flow_has_its_masses() -> None:
    triangular.weights_average_to_the_masses("nsf")


def affine_flow_has_its_masses() -> None:
    triangular.weights_average_to_the_masses("maf")


def masses_are_one() -> None:
    triangular.test_all_masses_together_are_one("maf")


def draws_stay_inside() -> None:
    triangular.test_draws_stay_in_their_cells("maf", generator())


def numbers_keep_their_places() -> None:
    triangular.test_given_noise_is_the_first_draw(generator())


def shifts_leave_the_masses() -> None:
    triangular.a_shift_leaves_the_masses("maf")


def shifts_help() -> None:
    triangular.a_learned_shift_helps()


SHIFT_OF = walks.shift_of
DRAWN, START = walks.truncated_normal, flow._OneTransform.start


def not_truncated(low: Tensor, high: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return torch.special.ndtri(v), DRAWN(low, high, v)[1]


def uniform_in_z(low: Tensor, high: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    low, high = low.clamp(-6, 6), high.clamp(-6, 6)
    return low + v * (high - low), DRAWN(low, high, v)[1]


def never_moved(low: Tensor, high: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return DRAWN(low, high, torch.full_like(v, 0.5))


def wrong_sign(low: Tensor, high: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    z, log_mass = DRAWN(low, high, v)
    return z, -log_mass


def other_side(low: Tensor, high: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    z, log_mass = DRAWN(low, high, v)
    return -z, log_mass


def one_tail(low: Tensor, high: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    z, _ = DRAWN(low, high, v)
    return z, torch.special.log_ndtr(high)


def ends_are_finite(self: flow._OneTransform, edges: Tensor, n_rows: int) -> Tensor:
    return START(self, edges, n_rows).clamp(-2, 2)


def without_the_logit(self: flow._OneTransform, edges: Tensor, n_rows: int) -> Tensor:
    self.network.start(n_rows)
    return edges


def nothing_given(self: InOrder, values: Tensor) -> None:
    GIVEN(self, torch.zeros_like(values))


GIVEN = InOrder.give


def normal_given_nothing(self: gaussian._Whitening, dim: int, values: Tensor) -> None:
    self.given[dim] = 0.0


def upper_triangle(self: gaussian._Whitening, dim: int) -> rising.Affine:
    return rising.Affine(self.whitening[dim, dim], self.whitening[:dim, dim] @ self.given[:dim])


def away(v: Tensor, log_w: Tensor) -> Tensor:
    return -SHIFT_OF(v, log_w)


def of_no_weights(v: Tensor, log_w: Tensor) -> Tensor:
    return SHIFT_OF(v, torch.zeros_like(log_w))


SHIFTED = walks.sequential_log_weights


def without_the_ratio(walk: walks.TriangularMap, edges: Tensor, v: Tensor, shift: Tensor | None = None) -> Tensor:
    if shift is None:
        return SHIFTED(walk, edges, v)
    return SHIFTED(walk, edges, torch.special.ndtr(torch.special.ndtri(v) + shift[:, None]))


def ratio_alone(walk: walks.TriangularMap, edges: Tensor, v: Tensor, shift: Tensor | None = None) -> Tensor:
    log_w = SHIFTED(walk, edges, v)
    if shift is None:
        return log_w
    return log_w - (shift[:, None] * (torch.special.ndtri(v) + shift[:, None] / 2)).sum(0)


MUTANTS = {
    "draws that are not truncated": Mutant(walks, "truncated_normal", not_truncated, normal_has_its_masses),
    "draws uniform in the cell, with the masses of others": Mutant(
        walks, "truncated_normal", uniform_in_z, normal_has_its_masses
    ),
    "the middle of each cell": Mutant(walks, "truncated_normal", never_moved, draws_stay_inside),
    "masses of the wrong sign": Mutant(walks, "truncated_normal", wrong_sign, flow_has_its_masses),
    "draws from the mirror image": Mutant(walks, "truncated_normal", other_side, flow_has_its_masses),
    "the lower edge forgotten": Mutant(walks, "truncated_normal", one_tail, masses_are_one),
    "mass beyond the last edges lost": Mutant(flow._OneTransform, "start", ends_are_finite, masses_are_one),
    "edges before the logit": Mutant(flow._OneTransform, "start", without_the_logit, affine_flow_has_its_masses),
    "a flow that is given nothing": Mutant(InOrder, "give", nothing_given, affine_flow_has_its_masses),
    "a normal that is given nothing": Mutant(gaussian._Whitening, "give", normal_given_nothing, normal_has_its_masses),
    "the other triangle": Mutant(gaussian._Whitening, "conditional", upper_triangle, normal_has_its_masses),
    "a shift away from the weights": Mutant(density, "shift_of", away, shifts_help),
    "a shift learned from no weights": Mutant(density, "shift_of", of_no_weights, shifts_help),
    "a shift without its density": Mutant(
        density, "sequential_log_weights", without_the_ratio, shifts_leave_the_masses
    ),
    "the density of a shift that is not made": Mutant(
        density, "sequential_log_weights", ratio_alone, shifts_leave_the_masses
    ),
    "the inverse forgotten": Mutant(rising.Affine, "inverse", lambda self, y: y, affine_flow_has_its_masses),
    "the inverse of a spline forgotten": Mutant(rising.Spline, "inverse", lambda self, y: y, flow_has_its_masses),
    "probabilities of twice the argument": Mutant(
        truncated, "_cdf", lambda x: torch.erfc(-x * math.sqrt(2)) / 2, normal_has_its_masses
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_die(MUTANTS[name], monkeypatch)
