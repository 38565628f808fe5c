"""Marginals agree with enumeration, other quadratures and closed forms; the rows describe the estimators correctly.

Statistical tests are seeded; each states how often it would fail for another seed although nothing is wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma
from scipy.stats import multivariate_normal
from torch import Tensor

from bitsperdim.config.known import AnnealedMarginalsSection, EstimatorsSection
from bitsperdim.models import ImageModel, LatentModel
from bitsperdim.models.gaussian import Gaussian
from bitsperdim.sources.known import HiddenMarkov, Templates
from bitsperdim.studies.known import estimators
from bitsperdim.studies.known.estimators import ONE_SIDED, SHORT, bracket_of, is_short, narrowed, row_of
from bitsperdim.studies.known.marginals import (
    STEPS,
    DiscreteCode,
    HiddenMarkovCode,
    Known,
    TemplatesCode,
    by_grid,
    by_nodes,
    of_code,
    of_gaussian,
    of_vae,
)
from support.cases import SMALL, small_model

BINARY = torch.tensor(list(itertools.product(range(2), repeat=4)), dtype=torch.uint8).reshape(-1, 1, 2, 2)


def vae_of(n_latents: int) -> LatentModel:
    """Return a VAE for 2 x 2 binary sub-pixels, with weights far from their initial values."""
    family, params, shape, n_levels = SMALL["vae-bernoulli"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SMALL, "vae-bernoulli", (family, {**params, "latent_size": n_latents}, shape, n_levels))
        model = small_model("vae-bernoulli")
    assert isinstance(model, LatentModel)
    return model


@pytest.mark.parametrize("n_latents", [1, 2])
def test_quadrature_of_a_vae_has_converged_and_its_masses_sum_to_one(n_latents: int) -> None:
    known = of_vae("vae", vae_of(n_latents), BINARY)
    assert float(known.log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert known.error < 1e-6
    assert torch.allclose(by_grid(vae_of(n_latents), BINARY, 2 * STEPS[n_latents]), known.log_p, atol=1e-12)
    assert torch.allclose(known.ask(BINARY[:3]), known.log_p[:3], atol=1e-12)


@torch.no_grad()
def test_quadrature_of_a_vae_is_the_adaptive_one() -> None:
    model, image = vae_of(1), BINARY[6:7]

    def joint(z: float) -> float:
        given = torch.full((1, 1, 1), z, dtype=torch.float64)
        return float(model.log_joint(image, given).exp())

    assert float(by_grid(model, image, STEPS[1])) == pytest.approx(math.log(quad(joint, -10, 10, epsabs=1e-13)[0]))


def test_an_encoder_that_is_too_sure_leaves_the_marginal_alone() -> None:
    model = vae_of(2)
    other = narrowed(model)  # type: ignore[arg-type]
    assert torch.equal(by_grid(model, BINARY, 50), by_grid(other, BINARY, 50))
    mine, theirs = model.encode(BINARY), other.encode(BINARY)
    assert torch.equal(mine.mean, theirs.mean)
    assert torch.allclose((theirs.log_scale - mine.log_scale).exp(), torch.tensor(0.5, dtype=torch.float64))  # type: ignore[union-attr]


def test_the_cells_of_a_gaussian_are_those_of_its_distribution_function() -> None:
    model, images = estimators.fitted_gaussian(40, 3)
    known = of_gaussian("gaussian", model, images)
    assert known.error < 1e-10
    cholesky = torch.linalg.inv(model.whitening)
    normal = multivariate_normal(model.mean.numpy(), (cholesky @ cholesky.T).numpy())
    for image, log_p in zip(images.flatten(1).numpy(), known.log_p, strict=True):
        low = image / model.n_levels
        exact = normal.cdf(low + 1 / model.n_levels, lower_limit=low)
        assert math.exp(log_p) == pytest.approx(exact, rel=1e-6, abs=1e-12)
    assert 0.2 < float(normal.cov[0, 1]) * model.n_levels**2 < 0.3  # a correlation of 0.9 and variances of 1/4


def test_the_cells_of_a_gaussian_of_independent_sub_pixels_are_closed_forms() -> None:
    model = Gaussian((1, 1, 2), 4).double()
    model.mean.copy_(torch.tensor([0.3, 0.8]))
    model.whitening.copy_(torch.diag(torch.tensor([10.0, 4.0])))
    images = torch.tensor([[1, 3], [0, 2]], dtype=torch.uint8).reshape(2, 1, 1, 2)

    def mass(x: int, mean: float, sharpness: float) -> float:
        return 0.5 * (
            math.erf(((x + 1) / 4 - mean) * sharpness / 2**0.5) - math.erf((x / 4 - mean) * sharpness / 2**0.5)
        )

    expected = [mass(a, 0.3, 10) * mass(b, 0.8, 4) for a, b in images.flatten(1).tolist()]
    assert by_nodes(model, images, 48).exp().tolist() == pytest.approx(expected, rel=1e-6)  # float32 means


CODES: list[tuple[Callable[[], DiscreteCode], int]] = [
    (lambda: TemplatesCode(Templates((1, 2, 2), 3, 2.0, 4), 2.0), 1),
    (lambda: HiddenMarkovCode(HiddenMarkov((1, 3, 2), 2, 2.0, 3), 1.5), 3),
]


@pytest.mark.parametrize(("make", "n_parts"), CODES)
def test_weights_of_a_code_average_to_its_mass(make: Callable[[], DiscreteCode], n_parts: int) -> None:
    """By enumeration of all z: q sums to one, and the mean of the weights under q is exactly P(x)."""
    model = make()
    x = model.source.draw(5, np.random.default_rng(0))
    log_q = model.encode(x)
    n_values = log_q.shape[-1]
    z = np.array(list(itertools.product(range(n_values), repeat=n_parts)))[:, None].repeat(len(x), 1)  # (Z, N, R)
    chosen = log_q.expand(len(z), *log_q.shape).gather(-1, torch.from_numpy(z)[..., None]).squeeze(-1).sum(-1)
    assert torch.allclose(chosen.exp().sum(0), torch.ones(5, dtype=torch.float64))
    log_joint = torch.from_numpy(model.log_joint(x, z))
    truth = of_code("code", model, torch.from_numpy(x)).log_p
    assert torch.allclose(torch.logsumexp(log_joint, 0), truth)
    drawn = model.log_weights(torch.from_numpy(x), 4000, generator=torch.Generator().manual_seed(1))
    possible = log_joint - chosen
    assert float((drawn[:, None] - possible[None]).abs().amin(1).max()) < 1e-9  # every drawn weight belongs to some z
    w = (drawn - truth).exp()
    assert bool(((w.mean(0) - 1).abs() < 5 * w.std(0) / 4000**0.5).all())  # 5 standard errors, once in 300,000
    assert float(w.std(0).min()) > 0.01
    few = model.log_weights(torch.from_numpy(x), 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(few, drawn[:3])
    assert model.sample(2, generator=torch.Generator().manual_seed(0)).shape == (2, *model.image_shape)


class Weights(ImageModel):
    """A model whose weights have a known distribution; P(x) is 1 for every image."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__((1, 1, 1), 2)
        self.draw = draw

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        return self.draw(torch.rand(n_samples, len(x), dtype=torch.float64, generator=generator)).log()

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        raise NotImplementedError


def row_of_weights(draw: Callable[[Tensor], Tensor], n_samples: int, n_replicates: int = 100) -> dict:
    images = torch.zeros(4, 1, 1, 1, dtype=torch.uint8)
    zero = torch.zeros(4, dtype=torch.float64)
    known = Known("weights", Weights(draw).eval(), images, zero, 0.0, lambda _: zero)
    return row_of(known, n_samples, n_replicates, torch.Generator().manual_seed(5))


@pytest.mark.parametrize("n_samples", [16, 1024])
def test_a_row_says_what_is_known_of_exponential_weights(n_samples: int) -> None:
    """The log of the mean of K weights has the bias digamma(K) - log K and variance trigamma(K); limit: 4 errors."""
    row = row_of_weights(lambda u: -torch.log(u), n_samples)
    bias = float(digamma(n_samples)) - math.log(n_samples)
    spread = 1 / math.sqrt(4 * n_samples)
    assert row["bound_bias"] == pytest.approx(bias, abs=4 * spread / 100**0.5 * 1.1)
    assert row["bound_bias_error"] == pytest.approx(spread / 100**0.5, rel=0.3)
    assert 2 * bias <= row["stated_bias"] <= 0.9 * bias  # the larger of two estimates of the bias
    for name in ("jackknife", "extrapolation"):
        assert row[f"{name}_bias"] == pytest.approx(0, abs=4 * row[f"{name}_bias_error"])
    assert row["ess_median"] == pytest.approx(n_samples / 2, rel=0.2)
    assert not row["bound_is_short"]
    assert row["n_bound_covers"] >= 91  # of 100 at 97.5 %: fewer once in 2,000
    is_judged = n_samples >= 1000
    assert (row["n_jackknife_stated"] == 100) is is_judged
    if is_judged:
        assert row["n_jackknife_covers"] >= 86  # of 100 at 95 %: fewer once in 3,000
        assert row["n_bound_within"] >= 86
        assert row["pareto_k_median"] == pytest.approx(0, abs=0.2)
        assert (row["n_flagged"], row["jackknife_is_short"], row["within_is_short"]) == (0, 0, 0)
    else:
        assert math.isnan(row["pareto_k_median"])


def test_a_heavy_tail_does_not_cover_and_is_marked() -> None:
    """Pareto weights with the exponent 1.25 have an infinite variance, k-hat 0.8 and a mean of 1."""
    row = row_of_weights(lambda u: 0.2 * u**-0.8, 1024)
    assert row["bound_bias"] < -0.02
    assert (row["bound_is_short"], row["within_is_short"]) == (0, 1)  # the bound is too low, by more than its error
    assert row["pareto_k_median"] == pytest.approx(0.8, abs=0.1)
    assert row["n_jackknife_stated"] < 0.05 * 100
    assert row["n_flagged"] > 0.95 * 100


def test_a_bound_of_weights_whose_mean_is_too_large_is_short() -> None:
    row = row_of_weights(lambda u: -1.1 * torch.log(u), 1024)
    assert row["bound_is_short"] == row["jackknife_is_short"] == row["within_is_short"] == 1


def test_what_holds_is_hardly_ever_called_short_and_what_does_not_is() -> None:
    generator = np.random.default_rng(0)
    covers = generator.binomial(50, ONE_SIDED, 20_000)
    assert sum(is_short(int(n), 50, ONE_SIDED) for n in covers) <= SHORT * 20_000 + 3 * math.sqrt(SHORT * 20_000)
    assert sum(is_short(int(n), 50, ONE_SIDED) for n in generator.binomial(50, 0.75, 500)) > 450
    assert not is_short(0, 0, ONE_SIDED)


def test_the_bracket_holds_the_truth_and_nothing_that_is_far_from_it() -> None:
    model = vae_of(2)
    section = AnnealedMarginalsSection(n_images=8, n_replicates=6, n_chains=4, n_steps=[8], n_leapfrog=2)
    right = of_vae("vae", model, BINARY)
    for shift, covers in ((0.0, (6, 6, 6)), (1.0, (6, 0, 0)), (-1.0, (0, 6, 0))):
        known = Known("vae", model, BINARY, right.log_p, 0.0, lambda x, shift=shift: right.ask(x) + shift)
        row = bracket_of(known, 8, section, torch.Generator().manual_seed(0))
        assert (row["n_lower_covers"], row["n_upper_covers"], row["n_bracket_covers"]) == covers
        shorts = (row["lower_is_short"], row["upper_is_short"], row["bracket_is_short"])
        assert shorts == tuple(int(n == 0) for n in covers)
    assert 0.3 < row["acceptance"] < 0.95
    assert row["upper_bias"] - row["lower_bias"] > 0


def test_one_seed_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimators, "N_IMAGES", {"train": 100, "validation": 20})
    section = EstimatorsSection(
        n_images=2,
        n_replicates=2,
        n_samples=[3],
        n_epochs=1,
        annealed=AnnealedMarginalsSection(n_images=2, n_replicates=2, n_chains=2, n_steps=[2], n_leapfrog=1),
    )
    first, again = (estimators.study(section, 0) for _ in range(2))
    assert repr(first) == repr(again)
    metrics, tables = first
    assert [row["model"] for row in tables["estimators"]] == list(metrics["models"])
    assert [row["model"] for row in tables["annealing"]] == ["vae_1", "vae_2"]
    assert max(model["log_p_nats_error"] for model in metrics["models"].values()) < 1e-5
    means = {name: model["log_p_nats"] for name, model in metrics["models"].items()}
    assert means["templates"] == means["templates_sure"]
    assert means["vae_2"] == means["vae_2_narrow"] != means["vae_1"]
