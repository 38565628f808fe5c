"""Annealing compared with exact results: conjugate models, quadrature of the real VAE, and special cases."""

import math
from itertools import pairwise

import pytest
import torch

from bitsperdim.config.params import RefinedSection
from bitsperdim.estimators.log_weights import jackknife_error, log_mean_exp
from bitsperdim.evaluation import annealed, refined
from bitsperdim.likelihoods import LatentDensity
from support import annealing, laws
from support.cases import small_model


def test_the_schedule_is_its_formula() -> None:
    betas = annealed.sigmoid_schedule(10)
    assert (betas[0], betas[5], betas[-1]) == (0, pytest.approx(0.5, abs=1e-15), 1)
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas, 1 - betas.flip(0))  # equally dense at both ends
    low, high = 1 / (1 + math.exp(4)), 1 / (1 + math.exp(-4))
    assert betas[3].item() == pytest.approx((1 / (1 + math.exp(1.6)) - low) / (high - low), abs=1e-14)
    assert annealed.sigmoid_schedule(1).tolist() == [0, 1]


@pytest.mark.parametrize("n_steps", [1, 2, 60, 150])
def test_what_it_costs_is_what_was_said(n_steps: int) -> None:
    """``n_gradients`` equals the number of gradients that are computed, in both directions, including the pilot run."""
    model, taken = small_model("vae-bernoulli"), [[], []]
    x = laws.all_images(model.image_shape, model.n_levels)[:3]
    options = {"generator": annealing.seeded(), "n_leapfrog": 2}
    annealed.ais(model, x, 2, n_steps, progress=taken[0].append, **options)
    annealed.bdmc(model, 3, 2, n_steps, progress=taken[1].append, **options)
    assert [sum(numbers) for numbers in taken] == [3 * annealed.n_gradients(2, n_steps, 2, n) for n in (1, 2)]


@pytest.mark.processor
@pytest.mark.parametrize("name", ["vae-bernoulli", "vae-logistics", "vae-coupled-rgb", "vae-two-layers"])
def test_one_step_is_naive_monte_carlo(name: str) -> None:
    """T = 1 makes no transition: the same draws have the same weights, up to the rounding of fused evaluation."""
    model = small_model(name)
    x = laws.all_images(model.image_shape, model.n_levels)[:9]
    result = annealed.ais(model, x, 11, 1, generator=annealing.seeded(5))
    with torch.no_grad():
        expected = model.log_weights(x, 11, generator=annealing.seeded(5), proposal="prior")
    torch.testing.assert_close(result.log_w, expected, rtol=0, atol=1e-12)
    assert result.acceptance.shape == (0, 9)


def test_weights_average_to_the_density() -> None:
    annealing.weights_average_to_the_density()


def test_weights_of_the_vae_average_to_its_mass() -> None:
    """Sixteen images, a false alarm in one of 60,000 seeds; the log of the mean is within its error too."""
    model, x = annealing.curved()
    with torch.no_grad():
        log_p = laws.masses_by_quadrature(model, x).log()
    result = annealed.ais(model, x, 2_000, 24, generator=annealing.seeded(), n_leapfrog=3)
    annealing.means_are((result.log_w - log_p).exp(), 1.0, 0.05)
    assert ((result.log_p - log_p).abs() < laws.FAR * result.standard_error).all()
    assert result.standard_error.max() < 0.05
    naive = annealed.ais(model, x, 2_000, 1, generator=annealing.seeded())
    assert result.ess.mean() > 1.3 * naive.ess.mean()


def test_reverse_weights_average_to_the_density() -> None:
    annealing.reverse_weights_average_to_the_density()


def test_the_bracket_holds_on_average() -> None:
    annealing.the_bracket_holds_on_average()


def test_the_bracket_holds_with_many_chains() -> None:
    annealing.the_bracket_holds_with_many_chains()


def test_more_steps_narrow_the_bracket() -> None:
    """Four times the steps narrow the gap by more than 4.9 standard errors, and to less than 0.6 of its size."""
    gaps = [annealing.simulated(n_steps, 500)[0] for n_steps in (2, 8, 32, 128)]
    for wide, narrow in pairwise(gaps):
        error = math.hypot(wide.gap_standard_error, narrow.gap_standard_error)
        assert wide.gap - narrow.gap > laws.FAR * error
        assert narrow.gap < 0.6 * wide.gap


def test_the_bracket_of_the_vae_contains_quadrature() -> None:
    model, images = annealing.curved()
    bracket = annealed.bdmc(model, 400, 2, 6, generator=annealing.seeded(), n_leapfrog=3, n_pilot_chains=2)
    assert bracket.x.dtype == torch.uint8
    with torch.no_grad():
        log_p = laws.masses_by_quadrature(model, images).log()
    log_p = log_p[bracket.x.flatten(1).long() @ torch.tensor([8, 4, 2, 1])]
    assert annealing.z_score(bracket.lower - log_p) < laws.FAR
    assert annealing.z_score(bracket.upper - log_p) > -laws.FAR
    assert 0 < bracket.gap < 0.5
    assert bracket.gap > laws.FAR * bracket.gap_standard_error


def test_a_bracket_is_of_its_weights() -> None:
    bracket, _ = annealing.simulated(3, 5)
    forward = torch.tensor([[-3.0, -2.0], [-2.5, -4.0], [-2.7, -2.2]], dtype=torch.float64)
    reverse = forward.flip(0) + 0.5
    parts = [
        annealed.Annealed(log_w, bracket.forward.acceptance, bracket.forward.step_sizes) for log_w in (forward, reverse)
    ]
    bracket = annealed.Bracket(bracket.x[:2], *parts)
    torch.testing.assert_close(bracket.lower, forward.exp().mean(0).log())
    torch.testing.assert_close(bracket.upper, -(1 / reverse.exp()).mean(0).log())
    torch.testing.assert_close(bracket.lower_standard_error, jackknife_error(forward))
    torch.testing.assert_close(bracket.upper_standard_error, jackknife_error(-reverse))
    torch.testing.assert_close(bracket.forward.log_p, log_mean_exp(forward))
    gaps = bracket.upper - bracket.lower
    assert bracket.gap == pytest.approx(gaps.mean().item())
    assert bracket.gap_standard_error == pytest.approx(gaps.std().item() / math.sqrt(2))


def test_reverse_chains_use_the_steps_of_forward_chains() -> None:
    bracket, _ = annealing.simulated(5, 7)
    assert torch.equal(bracket.forward.step_sizes, bracket.reverse.step_sizes)
    assert bracket.forward.step_sizes.shape == bracket.reverse.acceptance.shape == (4, 7)


@pytest.mark.parametrize("n_steps", [5, 150])
@pytest.mark.parametrize("target", [0.65, 0.9])
def test_the_pilot_finds_the_target_acceptance(n_steps: int, target: float) -> None:
    """The chains that count have the target acceptance for every image; steps are smaller for narrower densities."""
    model = annealing.conjugate()
    result = annealed.ais(
        model, annealing.IMAGES, 300, n_steps, generator=annealing.seeded(), n_leapfrog=3, target_acceptance=target
    )
    assert (result.acceptance.mean(0) - target).abs().max() < 0.07
    assert (result.step_sizes[-1] < 0.8 * result.step_sizes[0]).all()


@pytest.mark.processor
def test_given_steps_are_taken_as_they_are() -> None:
    """With frozen steps in place of a pilot run, the weights are a function of the generator only."""
    model, x = annealing.conjugate(), annealing.IMAGES
    first = annealed.ais(model, x, 50, 7, generator=annealing.seeded(), n_leapfrog=2)
    second, third = (
        annealed.ais(model, x, 50, 7, generator=annealing.seeded(1), n_leapfrog=2, step_sizes=first.step_sizes)
        for _ in range(2)
    )
    assert torch.equal(second.step_sizes, first.step_sizes)
    assert torch.equal(second.log_w, third.log_w)
    assert not torch.equal(second.log_w, first.log_w)
    with pytest.raises(ValueError, match=r"shape \(6, 3\)"):
        annealed.ais(model, x, 50, 7, generator=annealing.seeded(), step_sizes=first.step_sizes[:-1])


@pytest.mark.processor
def test_images_are_independent() -> None:
    """The weights and step sizes of an image do not depend on the other images, in the pilot run too."""
    model, x = annealing.curved()
    one, other = (
        annealed.ais(model, images, 4, 6, generator=annealing.seeded(), n_leapfrog=2)
        for images in (x[[3, 5]], x[[3, 12]])
    )
    for name in ("log_w", "step_sizes", "acceptance"):
        assert torch.equal(getattr(one, name)[:, 0], getattr(other, name)[:, 0])
        assert not torch.equal(getattr(one, name)[:, 1], getattr(other, name)[:, 1])


def test_a_float32_model_adds_up_in_float64() -> None:
    model, x = annealing.curved()
    exact = annealed.ais(model, x, 200, 20, generator=annealing.seeded(), n_leapfrog=3)
    try:
        rough = annealed.ais(model.float(), x, 200, 20, generator=annealing.seeded(), n_leapfrog=3)
    finally:
        model.double()
    assert rough.log_w.dtype == torch.float64
    error = (exact.standard_error.square() + rough.standard_error.square()).sqrt()
    assert ((rough.log_p - exact.log_p).abs() < laws.FAR * error).all()


def test_what_is_refused() -> None:
    model, x = annealing.conjugate(), annealing.IMAGES
    for name, numbers in (("n_chains", (0, 5)), ("n_steps", (5, 0))):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            annealed.ais(model, x, *numbers, generator=annealing.seeded())
    with pytest.raises(ValueError, match="n_leapfrog must be at least 1"):
        annealed.bdmc(model, 3, 1, 2, generator=annealing.seeded(), n_leapfrog=0)
    with pytest.raises(ValueError, match="evaluation mode"):
        annealed.ais(annealing.LinearGaussian(), x, 2, 2, generator=annealing.seeded())
    broken = x.clone()
    broken[1] = torch.nan
    with pytest.raises(FloatingPointError, match="image 1 of the batch"):
        annealed.ais(model, broken, 2, 3, generator=annealing.seeded())


@pytest.mark.processor
@pytest.mark.parametrize("name", ["vae-bernoulli", "vae-two-layers"])
def test_one_step_from_a_proposal_is_importance_sampling(name: str) -> None:
    """With T = 1, the same draws have the importance weights of that proposal."""
    model = small_model(name)
    x = laws.all_images(model.image_shape, model.n_levels)[:9]
    with torch.no_grad():
        start = model.encode(x)
        expected = model.log_weights(x, 11, generator=annealing.seeded(5))
    result = annealed.ais(model, x, 11, 1, generator=annealing.seeded(5), start=start)
    torch.testing.assert_close(result.log_w, expected, rtol=0, atol=1e-12)


def test_weights_from_another_start_average_to_the_density() -> None:
    annealing.weights_from_a_start_average_to_the_density()


def test_reverse_weights_from_another_start_average_to_the_density() -> None:
    annealing.reverse_weights_from_a_start_average_to_the_density()


def test_the_bracket_from_a_refined_start_contains_quadrature() -> None:
    model, images = annealing.curved()
    with torch.no_grad():
        log_p = laws.masses_by_quadrature(model, images).log()

    def start_of(x: torch.Tensor) -> LatentDensity:
        section = RefinedSection(n_steps=20, n_rounds=1)
        return refined.refine(model, x, section, refined.generators_of(range(len(x)), 0)).proposal.parts[0]

    options = {"generator": annealing.seeded(), "n_leapfrog": 3, "n_pilot_chains": 2}
    bracket = annealed.bdmc(model, 400, 2, 6, start_of=start_of, **options)
    exact = log_p[bracket.x.flatten(1).long() @ torch.tensor([8, 4, 2, 1])]
    assert annealing.z_score(bracket.lower - exact) < laws.FAR
    assert annealing.z_score(bracket.upper - exact) > -laws.FAR
    assert 0 < bracket.gap < 0.5


def test_from_the_posterior_itself_there_is_no_gap() -> None:
    """If the start is the posterior, every chain has the weight P(x), whatever its transitions do."""
    model = annealing.conjugate()
    bracket = annealed.bdmc(model, 20, 2, 5, generator=annealing.seeded(), n_leapfrog=3, start_of=model.encode)
    exact = model.log_p(bracket.x)
    for bound in (bracket.lower, bracket.upper):
        torch.testing.assert_close(bound, exact, rtol=0, atol=1e-11)
