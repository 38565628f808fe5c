"""The bound of diffusion models: its terms are those of quadrature, and mistakes move it by a known size.

These tests do not need ``diffusers``: see :mod:`support.diffusion`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitsperdim
from bitsperdim.core.errors import InputError
from bitsperdim.models.external.libraries import diffusers as adapter
from bitsperdim.models.external.libraries.diffusers import DiscreteBound, adapt, decoder
from bitsperdim.models.external.methods import offers_of
from bitsperdim.models.external.wrapping import wrap
from support.diffusion import (
    MASSES,
    PREDICTIONS,
    SHORT,
    VARIANCES,
    DDPMScheduler,
    Flat,
    best,
    between,
    by_nodes,
    by_quadrature,
    images_of,
    linear,
    seeded,
)


@pytest.mark.parametrize("variance_type", VARIANCES)
def test_terms_are_those_of_quadrature(variance_type: str) -> None:
    model = best(SHORT, variance_type=variance_type)
    with torch.no_grad():
        for x in (0, 1, 3):
            log_p, terms = by_quadrature(model, x, len(MASSES))
            found = by_nodes(model, x, len(MASSES))
            for name, value in terms.items():
                assert found[name] == pytest.approx(value, abs=1e-7), (x, name)
            assert -sum(terms.values()) < log_p - 1e-3  # of a chain of three steps; equal only for the true posterior


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_draws_is_the_bound(seed: int) -> None:
    """Within 5 standard errors for 3 images and 2 random terms: 1 of 280,000 seeds fails by chance, if normal."""
    model, n_draws = best(SHORT), 20_000
    for x in (0, 1, 3):
        with torch.no_grad():
            truth = by_nodes(model, x, len(MASSES))
            drawn = model.terms(torch.full((n_draws, 1, 1, 1), x), len(MASSES), seeded(seed))
        assert drawn["prior"].tolist() == pytest.approx([truth["prior"]] * n_draws)
        for name in ("diffusion", "reconstruction"):
            error = float(drawn[name].std()) / n_draws**0.5
            assert abs(float(drawn[name].mean()) - truth[name]) < 5 * error + 1e-9, name


@pytest.mark.parametrize(("n_dims", "n_chains"), [(1, (100, 1000)), (2, (30, 300))])
def test_the_bound_reaches_the_entropy(n_dims: int, n_chains: tuple[int, int]) -> None:
    """The gap falls as 1/T, and the bound is never below the entropy.

    The gap of two sub-pixels has a Monte Carlo error; 6 standard errors are allowed, which fails by chance for fewer
    than one of 100 million seeds.
    """
    masses = MASSES
    if n_dims == 2:  # the second sub-pixel depends on the first
        masses = torch.stack([MASSES.roll(shift) * share for shift, share in enumerate(MASSES)])
    entropy = float(-torch.special.xlogy(masses, masses).sum())
    gaps = []
    for n_chain in n_chains:
        model, n_draws = best(linear(n_chain), masses), 400
        total, variance = 0.0, 0.0
        with torch.no_grad():
            for image, mass in zip(images_of(len(MASSES), n_dims), masses.flatten().tolist(), strict=True):
                if mass > 0 and n_dims == 1:
                    total += mass * sum(by_nodes(model, int(image), len(MASSES)).values())
                elif mass > 0:
                    drawn = sum(model.terms(image.expand(n_draws, 1, 1, -1), len(MASSES), seeded(n_chain)).values())
                    total += mass * float(drawn.mean())
                    variance += mass**2 * float(drawn.var()) / n_draws
        gaps.append((total - entropy, variance**0.5))
    (rough, _), (fine, error) = gaps
    assert fine > -6 * error
    assert rough > 5 * fine - 30 * error
    assert fine < 15 * n_dims / n_chains[1] + 6 * error


@pytest.mark.parametrize("n_levels", [2, 17, 256])
def test_masses_of_the_decoder_sum_to_one(n_levels: int) -> None:
    mean = torch.tensor([-1e3, -1.0, -0.3, 0.0, 1 / 255, 0.99999, 1.0, 40.0], dtype=torch.float64)
    log_variance = torch.tensor([-40.0, -9.0, -5.0, 0.0, 5.0, 30.0], dtype=torch.float64)
    levels = torch.arange(n_levels).reshape(-1, 1, 1)
    log_masses = decoder(mean[:, None], log_variance, n_levels).log_prob(levels)
    assert bool(log_masses.isfinite().all())
    torch.testing.assert_close(log_masses.exp().sum(0), torch.ones(8, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    # the cell of a level has the width 2 / (L-1): the share of a normal that is narrow and in its middle
    narrow = decoder(torch.tensor(1.0 - 2 / (n_levels - 1)), torch.tensor(-30.0), n_levels)
    assert float(narrow.log_prob(torch.tensor(n_levels - 2))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("variance_type", VARIANCES)
def test_the_last_step_has_the_variance_of_ho_et_al(variance_type: str) -> None:
    """With beta_1 = 0.1 and beta_2 = 4/9, the posterior variance of the second step is 0.1 / 0.5 * 4/9."""
    _, log_variance = best(SHORT, variance_type=variance_type).step(torch.zeros(1, 1, 1, 1).double(), torch.tensor([0]))
    posterior = 0.1 / 0.5 * 4 / 9
    expected = {"learned": 0.01, "learned_range": 0.1**0.65 * posterior**0.35}.get(variance_type, posterior)
    assert float(log_variance.detach().exp()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n_steps", [1, 4, 20, 60])
@pytest.mark.parametrize("n_chain", [2, 3, 40])
def test_every_step_is_drawn_as_often_as_it_should(n_chain: int, n_steps: int) -> None:
    """The mean weight of each step over all offsets is 1.

    The offsets are the middles of 20,000 cells. Steps change at n edges at most for each end of a step's share, so that
    its mean weight is wrong by at most 2 n cells times a weight.
    """
    model, n_cells = best(linear(n_chain), n_steps=n_steps), 20_000
    steps, weights = model.steps_at((torch.arange(n_cells, dtype=torch.float64) + 0.5) / n_cells)
    assert steps.shape == weights.shape == (n_steps, n_cells)
    mean = torch.zeros(n_chain, dtype=torch.float64).index_add(0, steps.flatten(), weights.flatten()) / n_cells
    assert float(mean[0]) == 0
    assert float((mean[1:] - 1).abs().max()) <= 2 * n_steps * float(weights.max()) / n_cells
    assert float(weights.max()) <= (n_chain - 1) / (adapter.EVENLY * n_steps)


@pytest.mark.parametrize("n_steps", [1, 5])
def test_drawn_steps_have_no_bias(n_steps: int) -> None:
    """Within 5 standard errors of all steps, by quadrature: if normal, 1 of 1.7 million seeds fails by chance."""
    model, n_draws = best(linear(50), n_steps=n_steps), 20_000
    with torch.no_grad():
        truth = by_nodes(model, 1, len(MASSES))["diffusion"]
        drawn = model.terms(torch.full((n_draws, 1, 1, 1), 1), len(MASSES), seeded())["diffusion"]
    assert abs(float(drawn.mean()) - truth) < 5 * float(drawn.std()) / n_draws**0.5
    assert float(drawn.std()) < 3 * truth


def test_terms_sum_to_the_bound_and_a_seed_repeats_them() -> None:
    x = images_of(len(MASSES))
    for n_steps in (None, 4):
        model = best(linear(20), n_steps=n_steps)
        bounds = []
        for _ in range(2):
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(3)
                bounds.append(model.bound(x, len(MASSES)))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)
            terms = model.terms(x, len(MASSES))
            other = model.terms(x, len(MASSES), seeded(4))
            again = model.terms(x, len(MASSES), seeded(4))
        assert all(each.shape == (len(x),) and each.dtype == torch.float64 for each in terms.values())
        assert torch.equal(bounds[0], bounds[1])
        assert torch.equal(bounds[0], -(terms["prior"] + terms["diffusion"] + terms["reconstruction"]))
        assert all(torch.equal(other[name], again[name]) for name in other)
        assert not torch.equal(other["diffusion"], terms["diffusion"])
        assert torch.equal(other["prior"], terms["prior"])


def test_every_kind_of_prediction_is_the_same_bound() -> None:
    x, found = images_of(len(MASSES), 2), []
    for kind in PREDICTIONS:
        model = best(linear(20), torch.outer(MASSES, MASSES), prediction_type=kind)
        with torch.no_grad():
            found.append(sum(model.terms(x, len(MASSES), seeded()).values()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[2], found[0], rtol=1e-9, atol=1e-9)


def test_a_chain_that_ends_in_pure_noise_has_no_prior_term() -> None:
    alphas = [0.9, 0.5, 0.0]
    with torch.no_grad():
        found = [by_nodes(best(alphas, prediction_type=kind), 1, 4) for kind in ("v_prediction", "sample")]
    assert found[0] == pytest.approx(found[1], abs=1e-9)
    assert found[0]["prior"] == 0
    with pytest.raises(InputError, match=r"'epsilon' is not allowed with alphas_cumprod that end at 0"):
        best(alphas)


class Wide(DiscreteBound):
    """A mistake: cells of the width 2 / L, which is 2 / 256, for levels at the distance 2 / (L-1), which is 2 / 255."""

    def reconstruction(self, x: Tensor, n_levels: int, noise: Tensor) -> Tensor:
        t = torch.zeros(len(x), dtype=torch.int64)
        start = 2 * x.double() / (n_levels - 1) - 1
        mean, log_variance = self.step(self.noisy(start, t, noise), t)
        low, high = ((start + side / n_levels - mean) / (0.5 * log_variance).exp() for side in (-1, 1))
        low = torch.where(x == 0, -math.inf, low)
        high = torch.where(x == n_levels - 1, math.inf, high)
        return -between(low, high).log().flatten(1).sum(1)


class WithoutPrior(DiscreteBound):
    """A mistake: the divergence of q(x_T given x_0) is left out."""

    def prior(self, start: Tensor) -> Tensor:
        return torch.zeros(len(start), dtype=torch.float64)


class Mean(DiscreteBound):
    """A mistake: the mean over sub-pixels in place of the sum, in the divergences."""

    def divergence(self, start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return super().divergence(start, t, noise) / start[0].numel()


def test_mistakes_move_the_number_by_a_known_size() -> None:
    """With equal noise, so that differences have no Monte Carlo error.

    The decoder is wide, so that the mass of an inner cell is its width times a density.
    """
    n_levels, n_dims = 256, 4
    x = torch.randint(1, n_levels - 1, (20, 1, 1, n_dims), generator=seeded())
    scheduler = DDPMScheduler(SHORT, prediction_type="sample")
    right, *wrong = (kind(Flat(), scheduler, None) for kind in (DiscreteBound, Wide, WithoutPrior, Mean))
    with torch.no_grad():
        terms = right.terms(x, n_levels, seeded())
        off = [sum(each.terms(x, n_levels, seeded()).values()) - sum(terms.values()) for each in wrong]
    bits_per_dim = [each / n_dims / math.log(2) for each in off]
    assert bits_per_dim[0].tolist() == pytest.approx([math.log2(256 / 255)] * len(x), abs=1e-5)  # 0.0056
    torch.testing.assert_close(off[1], -terms["prior"])
    assert float(off[1].min()) < float(off[1].max()) < -0.001
    torch.testing.assert_close(off[2], -(1 - 1 / n_dims) * terms["diffusion"])
    assert float(off[2].max()) < -1


def test_the_settings_name_all_that_determines_the_number() -> None:
    said = [best(linear(n)).settings for n in (20, 30)]
    assert said[0].startswith("20-of-20-steps,") or said[0].startswith("all-of-20-steps,")
    assert said[0].split("schedule-")[1] != said[1].split("schedule-")[1]
    assert best(linear(20)).settings == said[0]


def test_it_is_scored_as_a_bound_with_the_levels_of_the_images() -> None:
    """The number is within 5 standard errors of quadrature: if normal, 1 of 1.7 million seeds fails by chance."""
    x = images_of(len(MASSES))
    model = best(linear(20))
    (offer,) = offers_of(model)
    wrapped = wrap(offer, (1, 1, 1), len(MASSES))
    assert wrapped.draws_bounds
    assert wrapped.dtype == torch.float64
    drawn = wrapped.log_weights(x, 3, generator=seeded())
    assert drawn.shape == (3, len(x))
    assert torch.equal(drawn, wrapped.log_weights(x, 3, generator=seeded()))
    result = bitsperdim.evaluate(model, x.numpy()[[0, 1, 3]].repeat(40, 0), n_levels=4, n_samples=4)
    truth = [sum(by_nodes(model, level, len(MASSES)).values()) for level in (0, 1, 3)]
    assert abs(result.nats - sum(truth) / 3) < 5 * float(result.scores.standard_error.square().sum().sqrt()) / 120
    with pytest.raises(InputError, match=r"takes inputs = 'integers' here: the scaling to \[-1, 1\] is done for it"):
        bitsperdim.evaluate(model, x.numpy(), n_levels=4, inputs="symmetric")


def scheduled(**config: Any) -> DDPMScheduler:
    return DDPMScheduler(SHORT, **config)


def named(name: str, **values: Any) -> Any:
    return type(name, (), values)()


REFUSED: list[tuple[Any, str]] = [
    (nn.Linear(1, 1), "Linear has no unet and scheduler; give a DDPMPipeline, or a tuple (unet, scheduler)."),
    ((1, scheduled()), "unet is int; it must be a torch.nn.Module, such as UNet2DModel."),
    ((Flat(), scheduled(thresholding=True)), "thresholding = True is not supported; allowed is False"),
    ((Flat(), scheduled(prediction_type="flow")), "prediction_type = 'flow' is not supported; allowed are epsilon, v_"),
    ((Flat(), scheduled(variance_type="wide")), "variance_type = 'wide' is not supported; allowed are fixed_small, "),
    ((Flat(), scheduled(num_train_timesteps=9)), "num_train_timesteps = 9 does not fit the 3 values of alphas_cumprod"),
    ((Flat(), DDPMScheduler([0.5])), "alphas_cumprod of the scheduler must be at least 2 decreasing numbers between 0"),
    ((Flat(), DDPMScheduler([1.0, 0.5])), "must be at least 2 decreasing numbers between 0 and 1"),
    ((Flat(), DDPMScheduler([0.5, 0.6])), "must be at least 2 decreasing numbers between 0 and 1"),
    ((Flat(), DDPMScheduler([0.5, math.nan])), "must be at least 2 decreasing numbers between 0 and 1"),
    (
        (Flat(), named("EulerDiscreteScheduler", config={})),
        "EulerDiscreteScheduler is not supported, only DDPMScheduler and DDIMScheduler; if the network was",
    ),
    (
        named("LDMPipeline", unet=Flat(), scheduler=scheduled(), components={"unet": 0, "scheduler": 0, "vqvae": 0}),
        "LDMPipeline has vqvae besides unet and scheduler; only pipelines of pixels without a text or a latent space",
    ),
]


@pytest.mark.parametrize(("model", "words"), REFUSED)
def test_what_is_refused(model: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        adapt(model)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"num_class_embeds": 10},
            "Flat has num_class_embeds = 10: a network conditioned on the class is not supported",
        ),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"cross_attention_dim": 768}, "Flat needs a text or another condition; only UNet2DModel is supported."),
        ({"sample_size": 32}, "made for images of 1 channels and 32 x 32 pixels, not for images (1, 1, 2) (C, H, W)."),
        ({"in_channels": 3}, "The network is made for images of 3 channels, not for images (1, 1, 2) (C, H, W)."),
    ],
)
def test_networks_that_are_refused(config: dict[str, Any], words: str) -> None:
    net = Flat()
    net.config = config
    with pytest.raises(InputError) as caught:
        adapt((net, scheduled())).bound(torch.zeros(1, 1, 1, 2, dtype=torch.int64), 4)
    assert words in str(caught.value)


@pytest.mark.parametrize("n_steps", [0, -1, 2.0, True, "all"])
def test_a_number_of_steps_is_a_positive_integer(n_steps: Any) -> None:
    with pytest.raises(
        InputError, match=r"n_steps = .* is not allowed; it must be a positive integer, or None for all"
    ):
        adapt((Flat(), scheduled()), n_steps)


def test_predictions_that_define_no_normal_are_refused() -> None:
    x = torch.zeros(2, 1, 1, 2, dtype=torch.int64)
    with pytest.raises(
        InputError, match=r"the network must return shape \(40, 2, 1, 2\) with variance_type = 'learned'"
    ):
        adapt((Flat(), scheduled(variance_type="learned"))).bound(x, 4)
    with pytest.raises(InputError, match=r"must return shape \(40, 1, 1, 2\) with .*, but it returned \(40, 2, 1, 2\)"):
        adapt((Flat(2), scheduled())).bound(x, 4)
    with pytest.raises(InputError, match="needs a network whose second half of channels is positive"):
        adapt((Flat(2), scheduled(variance_type="learned"))).bound(x, 4)
