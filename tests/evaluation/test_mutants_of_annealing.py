"""Mutants as in ``test_mutants.py`` for tails, jackknife and annealing: each law must find its deliberate mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bitsperdim.estimators import log_weights, pareto
from bitsperdim.evaluation import annealed, hmc
from bitsperdim.models.latent import LatentModel
from support import annealing, laws
from support.mutants import Mutant, must_die

# Laws (tests as functions) that are not in ``annealing.py``.


def the_jackknife_is_its_formula() -> None:
    log_w = 2 * torch.randn(9, 4, generator=annealing.seeded(), dtype=torch.float64)
    left_out = [log_weights.log_mean_exp(torch.cat([log_w[:k], log_w[k + 1 :]])) for k in range(9)]
    expected = 9 * log_weights.log_mean_exp(log_w) - 8 * torch.stack(left_out).mean(0)
    torch.testing.assert_close(log_weights.jackknife(log_w), expected)


def the_jackknife_survives_a_spike() -> None:
    """Without the spike of 1 the remaining weights are e^-900."""
    log_w = torch.full((4, 1), -900.0, dtype=torch.float64)
    log_w[2] = 0
    expected = -4 * math.log(4) + 3 / 4 * (900 + 3 * math.log(3))
    assert log_weights.jackknife(log_w).item() == pytest.approx(expected)


def a_line_has_an_intercept() -> None:
    """For exponential weights, 20,000 repetitions and K = 8, most of the bias of -0.064 is removed."""
    w = torch.empty(8, 20_000, dtype=torch.float64).exponential_(generator=annealing.seeded())
    control = w.mean(0) - 1
    found = (log_weights.extrapolation(w.log()) - control).mean().item()
    assert abs(found) < 0.035


def tails_come_back() -> None:
    """400 images with K = 5,000; the largest fifth of the weights has k = 0.7; the mean has an error of 0.006."""
    u = torch.rand(5_000, 400, generator=annealing.seeded(), dtype=torch.float64)
    log_w = torch.where(u < 0.2, -0.7 * torch.log(u), torch.log(u))
    assert pareto.pareto_k(log_w).mean().item() == pytest.approx((213 * 0.7 + 5) / 223, abs=0.03)


def wide_proposals_have_no_tail() -> None:
    log_w = annealing.conjugate(1.5).log_weights(annealing.IMAGES, 3_000, generator=annealing.seeded())
    assert (pareto.pareto_k(log_w) < 0).all()


def naive_weights_average_to_the_density() -> None:
    model = annealing.conjugate()
    log_w = model.log_weights(annealing.IMAGES, 20_000, generator=annealing.seeded(), proposal="prior")
    annealing.means_are((log_w - model.log_p(annealing.IMAGES)).exp(), 1.0, 0.05)


def the_limit_is_that_of_the_paper() -> None:
    assert pareto.pareto_k_limit(1_000) == pytest.approx(2 / 3)
    assert pareto.pareto_k_limit(10**6) == 0.7


# Mutants.

LEAPFROG, SCHEDULE = hmc.leapfrog, annealed.sigmoid_schedule
PARETO_K, FIT = pareto.pareto_k, pareto.fit_shape


def half_steps(first: float, last: float) -> Callable[..., Any]:
    """Return leapfrog steps with other momentum steps at the ends, in units of the step size."""

    def leapfrog(
        path: hmc.Path, position: hmc.Position, momentum: Tensor, beta: float, step_size: Tensor, n_leapfrog: int
    ) -> tuple[hmc.Position, Tensor]:
        step = step_size[..., None]
        momentum = momentum + first * step * path.force(position, beta)
        for i in range(n_leapfrog):
            position = path.at(position.z + step * momentum)
            momentum = momentum + (last if i == n_leapfrog - 1 else 1) * step * path.force(position, beta)
        return position, momentum

    return leapfrog


def friction(*args: Any) -> Any:
    position, momentum = LEAPFROG(*args)
    return position, 0.99 * momentum


def steps_that_look_at_z(path: Any, position: hmc.Position, momentum: Tensor, beta: float, step: Tensor, n: int) -> Any:
    """Adaptation during the run: longer steps where the density is low."""
    return LEAPFROG(path, position, momentum, beta, step * (0.5 + 0.3 * position.z.square().sum(-1)).clamp(max=2), n)


def without_kinetic_energy(momentum: Tensor) -> Tensor:
    return torch.zeros(momentum.shape[:2], dtype=torch.float64)


def constant_momentum(like: Tensor, _: torch.Generator) -> Tensor:
    """Return the same momentum in every transition."""
    return torch.ones_like(like)


def force_without_beta(self: hmc.Path, position: hmc.Position, beta: float) -> Tensor:
    return (self.start.mean - position.z) * torch.exp(-2 * self.start.log_scale) + position.gradient


def density_without_prior(self: hmc.Path, position: hmc.Position, beta: float) -> Tensor:
    return beta * position.log_ratio


def density_with_beta_on_all(self: hmc.Path, position: hmc.Position, beta: float) -> Tensor:
    return beta * (self.start.log_prob(position.z) + position.log_ratio)


def accumulated(shift: int, flips: bool = True) -> Callable[..., annealed.Annealed]:
    """Return annealing with increments of beta shifted by one position, or whose reverse chains are not reversed."""

    def anneal(
        path: hmc.Path, position: hmc.Position, betas: Tensor, step_sizes: Tensor, n_leapfrog: int,
        generator: torch.Generator, *, is_reverse: bool = False,
    ) -> annealed.Annealed:  # fmt: skip
        increments, order = betas.diff().tolist(), list(range(len(betas) - 2))
        if is_reverse and flips:
            increments, order = increments[::-1], order[::-1]
        values = [position.log_ratio]
        for t in order:
            position, _ = hmc.transition(path, position, float(betas[t + 1]), step_sizes[t], n_leapfrog, generator)
            values.append(position.log_ratio)
        last = len(values) - 1
        log_w = sum(step * values[min(i + shift, last)] for i, step in enumerate(increments))
        assert isinstance(log_w, Tensor)
        return annealed.Annealed(log_w, torch.zeros_like(step_sizes), step_sizes)

    return anneal


CHOOSE = hmc.choose


def stays_where_it_accepts(accepted: Tensor, proposed: hmc.Position, position: hmc.Position) -> hmc.Position:
    return CHOOSE(~accepted, proposed, position)


def old_weights_with_new_positions(accepted: Tensor, proposed: hmc.Position, position: hmc.Position) -> hmc.Position:
    chosen = CHOOSE(accepted, proposed, position)
    return replace(chosen, log_ratio=position.log_ratio)


def jackknife_with_k(log_w: Tensor) -> Tensor:
    n, left_out = len(log_w), []
    for k in range(n):
        left_out.append(log_weights.log_mean_exp(torch.cat([log_w[:k], log_w[k + 1 :]])))
    return n * log_weights.log_mean_exp(log_w) - n * torch.stack(left_out).mean(0)


def jackknife_divided_by_k(log_w: Tensor) -> Tensor:
    """Divide leave-one-out sums by K instead of K - 1."""
    n = len(log_w)
    return log_weights.log_mean_exp(log_w) - (n - 1) * torch.log1p(-torch.softmax(log_w, 0)).mean(0)


def jackknife_by_subtraction(log_w: Tensor) -> Tensor:
    n, total = len(log_w), torch.logsumexp(log_w, 0)
    rest = total + torch.log1p(-(log_w - total).exp())
    left_out = rest - math.log(n - 1)
    return n * log_weights.log_mean_exp(log_w) - (n - 1) * left_out.mean(0)


def without_threshold(log_w: Tensor) -> Tensor:
    """Fit the largest weights themselves instead of their exceedances over the threshold."""
    n = pareto.tail_size(len(log_w))
    return FIT(torch.exp(log_w - log_w.amax(0)).topk(n, dim=0).values.flip(0))


def arithmetic_for_harmonic(self: annealed.Bracket) -> Tensor:
    return log_weights.log_mean_exp(self.reverse.log_w)


def draws_from_the_encoder(self: LatentModel, n_samples: int, n_images: int, *, generator: Any = None) -> Tensor:
    return self.encode(annealing.IMAGES).rsample(n_samples, generator=generator)


MUTANTS = {
    "kinetic energy of the wrong sign": Mutant(
        hmc, "kinetic_energy", lambda v: -0.5 * v.square().sum(-1), annealing.the_target_is_invariant
    ),
    "kinetic energy forgotten": Mutant(
        hmc, "kinetic_energy", without_kinetic_energy, annealing.the_target_is_invariant
    ),
    "kinetic energy without its half": Mutant(
        hmc, "kinetic_energy", lambda v: v.square().sum(-1), annealing.the_target_is_invariant
    ),
    "momentum not refreshed": Mutant(hmc, "draw_momentum", constant_momentum, annealing.the_target_is_invariant),
    "momentum from a uniform": Mutant(
        hmc,
        "draw_momentum",
        lambda like, generator: torch.rand(like.shape, generator=generator, dtype=like.dtype) * 12**0.5 - 3**0.5,
        annealing.the_target_is_invariant,
    ),
    "first half step dropped": Mutant(hmc, "leapfrog", half_steps(0.0, 0.5), annealing.leapfrog_is_reversible),
    "last half step dropped": Mutant(hmc, "leapfrog", half_steps(0.5, 0.0), annealing.leapfrog_is_reversible),
    "whole steps at both ends": Mutant(
        hmc, "leapfrog", half_steps(1.0, 1.0), annealing.the_hamiltonian_is_kept_to_second_order
    ),
    "friction": Mutant(hmc, "leapfrog", friction, annealing.leapfrog_preserves_volume),
    "steps adapted to where the chain is": Mutant(
        hmc, "leapfrog", steps_that_look_at_z, annealing.the_target_is_invariant
    ),
    "force without beta": Mutant(
        hmc.Path, "force", force_without_beta, annealing.the_hamiltonian_is_kept_to_second_order
    ),
    "force of the wrong sign": Mutant(
        hmc.Path,
        "force",
        lambda self, position, beta: position.z - beta * position.gradient,
        annealing.the_hamiltonian_is_kept_to_second_order,
    ),
    "prior left out of the target": Mutant(
        hmc.Path, "log_density", density_without_prior, annealing.the_target_is_invariant
    ),
    "beta on the prior too": Mutant(
        hmc.Path, "log_density", density_with_beta_on_all, annealing.the_target_is_invariant
    ),
    "everything accepted": Mutant(
        hmc, "choose", lambda accepted, proposed, position: proposed, annealing.the_target_is_invariant
    ),
    "accepted where it should be rejected": Mutant(
        hmc, "choose", stays_where_it_accepts, annealing.the_target_is_invariant
    ),
    "likelihood of the place before": Mutant(
        hmc, "choose", old_weights_with_new_positions, annealing.the_target_is_invariant
    ),
    "temperatures in the wrong order": Mutant(
        annealed,
        "sigmoid_schedule",
        lambda n: 1 - SCHEDULE(n) if n > 1 else SCHEDULE(n),
        annealing.weights_average_to_the_density,
    ),
    "path that stops short": Mutant(
        annealed, "sigmoid_schedule", lambda n: 0.8 * SCHEDULE(n), annealing.weights_average_to_the_density
    ),
    "increments one position late": Mutant(
        annealed, "anneal", accumulated(1), annealing.weights_average_to_the_density
    ),
    "increments one position late, backwards": Mutant(
        annealed, "anneal", accumulated(1), annealing.reverse_weights_average_to_the_density
    ),
    "reverse chains heated as if forward": Mutant(
        annealed, "anneal", accumulated(0, flips=False), annealing.reverse_weights_average_to_the_density
    ),
    "upper bound from the arithmetic mean": Mutant(
        annealed.Bracket, "upper", property(arithmetic_for_harmonic), annealing.the_bracket_holds_with_many_chains
    ),
    "chains start at the encoder, weighted as from the prior": Mutant(
        LatentModel, "draw_latents", draws_from_the_encoder, annealing.weights_average_to_the_density
    ),
    "prior counted twice": Mutant(
        annealing.LinearGaussian,
        "log_p_x_given_z",
        lambda self, x, z: LIKELIHOOD(self, x, z) + self.prior().log_prob(z),
        naive_weights_average_to_the_density,
    ),
    "jackknife with K for K - 1": Mutant(log_weights, "jackknife", jackknife_with_k, the_jackknife_is_its_formula),
    "jackknife with means over K": Mutant(
        log_weights, "jackknife", jackknife_divided_by_k, the_jackknife_is_its_formula
    ),
    "jackknife by subtracting the spike from itself": Mutant(
        log_weights, "jackknife", jackknife_by_subtraction, the_jackknife_survives_a_spike
    ),
    "extrapolation to one block": Mutant(
        log_weights, "extrapolation", log_weights.log_mean_exp, a_line_has_an_intercept
    ),
    "extrapolation with the sizes reversed": Mutant(
        log_weights,
        "bound_against_k",
        lambda log_w: ([1, 2, 4, 8], BOUND(log_w)[1].flip(0)),
        a_line_has_an_intercept,
    ),
    "tail of negated log-weights": Mutant(
        pareto, "pareto_k", lambda log_w: PARETO_K(-log_w), wide_proposals_have_no_tail
    ),
    "tail of log-weights for weights": Mutant(
        pareto, "pareto_k", lambda log_w: PARETO_K((log_w - log_w.amin(0) + 1).log()), tails_come_back
    ),
    "tail without its threshold": Mutant(pareto, "pareto_k", without_threshold, tails_come_back),
    "tail upside down": Mutant(pareto, "fit_shape", lambda x: FIT(x.flip(0)), tails_come_back),
    "k of the other sign": Mutant(pareto, "fit_shape", lambda x: -FIT(x), tails_come_back),
    "all weights for the tail": Mutant(pareto, "tail_size", lambda n: n - 1, tails_come_back),
    "limit from the natural logarithm": Mutant(
        pareto, "pareto_k_limit", lambda n: min(1 - 1 / math.log(n), 0.7), the_limit_is_that_of_the_paper
    ),
}
LIKELIHOOD = annealing.LinearGaussian.log_p_x_given_z
BOUND = log_weights.bound_against_k


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_die(MUTANTS[name], monkeypatch)


def test_far_is_once_in_a_million() -> None:
    """The false-alarm rates in the laws are multiples of this rate."""
    assert math.erfc(laws.FAR / 2**0.5) == pytest.approx(1e-6, rel=0.05)
