"""Mistakes in the coupled mixture, each of which a test of ``test_coupled.py`` must find; see ``test_mutants.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bitsperdim.likelihoods import CoupledLogisticMixture, DiscretizedLogistic, Mixture
from bitsperdim.likelihoods.coupled import Located
from likelihoods import test_coupled
from support.mutants import Mutant, must_die

LOG_CELLS = DiscretizedLogistic.log_cells


def masses_sum_to_one() -> None:
    test_coupled.test_masses_of_a_pixel_sum_to_one(3, 2)


def masses_follow_the_formula() -> None:
    test_coupled.test_the_joint_is_the_mixture_of_products(3, 4)


def samples_follow() -> None:
    test_coupled.test_samples_follow_the_masses()


def finite_edges(self: Any, below: Tensor, above: Tensor, is_first: Tensor, is_last: Tensor) -> Tensor:
    return LOG_CELLS(self, below, above, is_first & False, is_last & False)


def coupled_by(
    pair: Callable[[int, int], int], seen: Callable[[int, int], int], *, from_zero: bool = False
) -> Callable[..., Located]:
    """Return a location of channel c that adds coefficient pair(c, j) times channel seen(c, j), for j < c."""

    def component(self: Any, x: Tensor, channel: int) -> Located:
        centre = 0.0 if from_zero else (self.n_levels - 1) / 2
        loc = self.loc[..., channel, :, :, :].expand(*x.shape[:-3], *self.loc.shape[-3:])
        for j in range(channel):
            distance = x[..., seen(channel, j), :, :, None] - centre
            loc = loc + self.coefficients[..., pair(channel, j), :, :, :] * distance
        return Located(loc, self.log_scale[..., channel, :, :, :].expand_as(loc), self.n_levels, torch.zeros_like(loc))

    return component


def weights_of_the_prior(self: Any, x: Tensor) -> Mixture:
    """As if every channel chose a component of its own."""
    components = self.components(x.double())
    return Mixture(self.logits.unsqueeze(-4).expand(components.loc.shape), components)


def weights_that_know_the_channel(self: Any, x: Tensor) -> Mixture:
    components = self.components(x.double())
    masses = components.log_prob(x[..., None]).cumsum(-4)
    return Mixture(torch.log_softmax(self.logits, -1).unsqueeze(-4) + masses, components)


def an_indicator_per_channel(self: Any, *, generator: torch.Generator | None = None) -> Tensor:
    x = self.loc.new_zeros(*self.loc.shape[:-4], 0, *self.loc.shape[-3:-1])
    for channel in range(self.n_channels):
        drawn = Mixture(self.logits, self.component(x, channel)).sample(generator=generator)
        x = torch.cat([x, drawn.unsqueeze(-3)], -3)
    return x


MUTANTS = {
    "edge cells of finite width": Mutant(DiscretizedLogistic, "log_cells", finite_edges, masses_sum_to_one),
    "coefficients of blue swapped": Mutant(
        CoupledLogisticMixture,
        "component",
        coupled_by(lambda c, j: c * (c - 1) // 2 + c - 1 - j, lambda c, j: j),
        masses_follow_the_formula,
    ),
    "coupled to the channel itself": Mutant(
        CoupledLogisticMixture,
        "component",
        coupled_by(lambda c, j: c * (c - 1) // 2 + j, lambda c, j: j + 1),
        masses_sum_to_one,
    ),
    "coupling counted from level 0": Mutant(
        CoupledLogisticMixture,
        "component",
        coupled_by(lambda c, j: c * (c - 1) // 2 + j, lambda c, j: j, from_zero=True),
        masses_follow_the_formula,
    ),
    "weights not updated by earlier channels": Mutant(
        CoupledLogisticMixture, "given", weights_of_the_prior, masses_follow_the_formula
    ),
    "weights updated by the channel itself": Mutant(
        CoupledLogisticMixture, "given", weights_that_know_the_channel, masses_sum_to_one
    ),
    "samples choose a component per channel": Mutant(
        CoupledLogisticMixture, "sample", an_indicator_per_channel, samples_follow
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_die(MUTANTS[name], monkeypatch)


def test_the_twins_differ_in_their_mistake_alone() -> None:
    """With the right coefficients, values and centre the twin of a location gives the locations of the mixture."""
    head = test_coupled.mixture(3, 4, 2)
    right = coupled_by(lambda c, j: c * (c - 1) // 2 + j, lambda c, j: j)
    x = test_coupled.pixels(3, 4).double()
    for channel in range(3):
        torch.testing.assert_close(right(head, x, channel).loc, head.component(x, channel).loc, rtol=0, atol=1e-12)
