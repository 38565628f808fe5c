"""Laws of the coupled mixture, small enough to run twice per mutant, and its mutants: for ``test_mutants.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import laws
from bitsperdim.likelihoods import CoupledLogisticMixture, DiscretizedLogistic, Mixture
from bitsperdim.likelihoods.coupled import Located

LOG_CELLS = DiscretizedLogistic.log_cells


def mixture(*batch: int) -> CoupledLogisticMixture:
    """Two strong couplings of three channels of three levels in one pixel, (*batch, 3, 1, 1)."""
    loc = torch.tensor([[-0.5, 2.5], [1.0, 0.0], [2.0, 0.7]])
    coefficients = torch.tensor([[0.9, -0.8], [-0.7, 0.2], [0.1, 0.9]])
    logits, log_scale = torch.tensor([0.4, -0.2]), torch.tensor([[-1.0, -0.5], [-0.8, -1.2], [-0.3, -1.0]])
    parameters = [each.double()[..., None, None, :] for each in (logits, loc, log_scale, coefficients)]
    return CoupledLogisticMixture(*(each.expand(*batch, *each.shape) for each in parameters), 3)


def pixels_and_masses() -> tuple[Tensor, Tensor]:
    """Return all 27 values of the pixel and the mass of each, from the formula: locations add up from level 1."""
    pixels, m = laws.all_images((3, 1, 1), 3), mixture()
    r, g, b = pixels[:, :, 0, 0].double().T[..., None]
    (g_r, b_r, b_g), shift = m.coefficients[:, 0, 0], m.loc[:, 0, 0]
    locs = [shift[0] + 0 * r, shift[1] + g_r * (r - 1), shift[2] + b_r * (r - 1) + b_g * (g - 1)]
    products = torch.softmax(m.logits[0, 0], 0)
    for x, loc, log_scale in zip((r, g, b), locs, m.log_scale[:, 0, 0], strict=True):
        above = torch.where(x == 2, 1, torch.sigmoid((x + 0.5 - loc) / log_scale.exp()))
        below = torch.where(x == 0, 0, torch.sigmoid((x - 0.5 - loc) / log_scale.exp()))
        products = products * (above - below)
    return pixels, products.sum(1)


def masses_are_those_of_the_formula() -> None:
    pixels, masses = pixels_and_masses()
    found = mixture().log_prob(pixels).sum(1).exp()[:, 0, 0]
    torch.testing.assert_close(found, masses, rtol=0, atol=1e-12)


def conditionals_sum_to_one() -> None:
    pixels, _ = pixels_and_masses()
    conditionals = mixture().log_prob(pixels).exp()[:, :, 0, 0].reshape(3, 3, 3, 3)  # of r, g, b; the channel
    red, green, blue = conditionals.unbind(-1)
    for total in (red[:, 0, 0].sum(), green[:, :, 0].sum(1), blue.sum(2)):
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def samples_follow() -> None:
    """Counts of 27 values in 20,000 draws: one is beyond 4.9 standard errors once in 37,000 seeds."""
    _, masses = pixels_and_masses()
    drawn = mixture(20_000).sample(generator=torch.Generator().manual_seed(0))[:, :, 0, 0].long() @ torch.tensor(
        [9, 3, 1]
    )
    shares = torch.bincount(drawn, minlength=27) / 20_000
    assert ((shares - masses).abs() < 4.9 * (masses * (1 - masses) / 20_000).sqrt() + 1e-9).all()


def finite_edges(self: Any, below: Tensor, above: Tensor, is_first: Tensor, is_last: Tensor) -> Tensor:
    return LOG_CELLS(self, below, above, is_first & False, is_last & False)


def coupled_by(pair: Callable[[int, int], int], seen: Callable[[int, int], int], centre: float) -> Callable:
    """Return a location of channel c that adds coefficient pair(c, j) times channel seen(c, j), for j < c."""

    def component(self: Any, x: Tensor, channel: int) -> Located:
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
