"""Discretized densities agree with 60-digit arithmetic for difficult parameters, sum to one, and fit their samples."""

import itertools
import math

import mpmath
import pytest
import torch
from torch import Tensor

from bitsperdim.likelihoods import Categorical, DiscretizedLogistic, DiscretizedNormal, Likelihood, Mixture, discretized
from bitsperdim.likelihoods.discretized import Discretized, log_normal_cdf
from support import exact

pytestmark = pytest.mark.processor

HEADS: dict[str, type[Discretized]] = {"logistic": DiscretizedLogistic, "normal": DiscretizedNormal}
# largest allowed error of a log-mass relative to max(1, |log p|)
FLOAT32 = {"logistic": 2e-7, "normal": 2e-7}
# the same for mixtures of up to 100 components; largest found: 2.4e-7 (logistics), 2.2e-7 (normals) with up to 10
MIXED_FLOAT32 = {"logistic": 5e-7, "normal": 5e-7}


@pytest.mark.parametrize("n_levels", exact.LEVELS)
@pytest.mark.parametrize("kind", HEADS)
def test_a_float32_mass_is_exact_to_rounding(kind: str, n_levels: int) -> None:
    cases = exact.hostile(n_levels)
    x, loc, log_scale = (torch.tensor(column) for column in zip(*cases, strict=True))
    found = HEADS[kind](loc.float(), log_scale.float(), n_levels).log_prob(x)
    assert found.dtype == torch.float32
    with mpmath.workdps(60):
        worst = 0.0
        # both get loc and log_scale rounded to float32
        for level, at, width, value in zip(x, loc.float(), log_scale.float(), found, strict=True):
            truth = exact.log_mass(kind, int(level), float(at), float(width), n_levels)
            worst = max(worst, exact.relative_error(float(value), truth))
    assert worst < FLOAT32[kind]


@pytest.mark.parametrize("n_levels", exact.LEVELS)
@pytest.mark.parametrize("kind", HEADS)
def test_a_float32_mass_of_a_mixture_is_exact_to_rounding(kind: str, n_levels: int) -> None:
    """Random mixtures of difficult components and weights are scored at levels in and next to a component's cell."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for n_components, n in ((2, 200), (10, 60), (100, 6)):
        shape = (n, n_components)
        loc, log_scale = (exact.draw(values, shape, generator) for values in (exact.LOCS, exact.LOG_SCALES))
        logits = exact.draw(exact.LOGITS, shape, generator)
        logits[::2] = torch.randn(shape, generator=generator)[::2]  # so that many components have large weights
        x = (loc[:, 0].round() + torch.arange(n) % 3 - 1).clamp(0, n_levels - 1).long()
        found = Mixture(logits, HEADS[kind](loc, log_scale, n_levels)).log_prob(x)
        assert found.dtype == torch.float32
        with mpmath.workdps(60):
            for i in range(n):
                of_component = (
                    log_pi + exact.log_mass(kind, int(x[i]), at, width, n_levels)
                    for log_pi, at, width in zip(
                        exact.log_softmax(logits[i].tolist()), loc[i].tolist(), log_scale[i].tolist(), strict=True
                    )
                )
                worst = max(worst, exact.relative_error(float(found[i]), exact.log_sum(list(of_component))))
    assert worst < MIXED_FLOAT32[kind]


@pytest.mark.parametrize("n_levels", exact.LEVELS)
@pytest.mark.parametrize("kind", HEADS)
def test_masses_sum_to_one_and_add_up_to_the_cdf(kind: str, n_levels: int) -> None:
    pairs = torch.tensor(list(itertools.product(exact.LOCS, exact.LOG_SCALES)), dtype=torch.float64)
    for part in pairs.split(16):
        head = HEADS[kind](part[:, 0], part[:, 1], n_levels)
        levels = torch.arange(n_levels)[:, None]
        masses = head.log_prob(levels).exp()
        assert (masses.sum(0) - 1).abs().max() < 1e-12
        # a running sum of 65,536 masses is rounded 65,536 times
        assert (masses.cumsum(0) - head.cdf(levels)).abs().max() < 1e-11
        assert torch.equal(head.cdf(torch.tensor(n_levels - 1)), torch.ones(len(part), dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", HEADS)
def test_values_and_gradients_are_finite(kind: str, dtype: torch.dtype) -> None:
    for n_levels in exact.LEVELS:
        x, loc, log_scale = (torch.tensor(column) for column in zip(*exact.hostile(n_levels), strict=True))
        loc, log_scale = (parameter.to(dtype).requires_grad_() for parameter in (loc, log_scale))
        value = HEADS[kind](loc, log_scale, n_levels).log_prob(x)
        assert value.isfinite().all()
        assert (value <= 0).all()
        gradients = torch.autograd.grad(value.sum(), (loc, log_scale))
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_normal_distribution_function_is_that_of_torch_where_torch_has_one() -> None:
    x = torch.linspace(-40, 30, 2001, dtype=torch.float64, requires_grad=True)
    value = log_normal_cdf(x)
    torch.testing.assert_close(value, torch.special.log_ndtr(x), rtol=3e-13, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    log_density = -x.detach().square() / 2 - math.log(2 * math.pi) / 2
    torch.testing.assert_close(gradient, torch.exp(log_density - value.detach()), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_are_those_of_the_masses(kind: str) -> None:
    """Gradients equal central differences of the float64 log-mass with a step of 1e-6."""
    generator = torch.Generator().manual_seed(0)
    loc = (torch.rand(200, generator=generator, dtype=torch.float64) * 20 - 4).requires_grad_()
    log_scale = (torch.rand(200, generator=generator, dtype=torch.float64) * 4 - 2).requires_grad_()
    x = torch.randint(12, (200,), generator=generator)

    def log_p(loc: Tensor, log_scale: Tensor) -> Tensor:
        return HEADS[kind](loc, log_scale, 12).log_prob(x)

    assert torch.autograd.gradcheck(log_p, (loc, log_scale), eps=1e-6, atol=1e-6, rtol=1e-5)


def heads(n: int) -> dict[str, Likelihood]:
    """Return four distributions of every kind, repeated n times."""
    loc, log_scale = torch.tensor([-3.0, 0.2, 4.6, 30.0]), torch.tensor([1.0, -3.0, 0.5, 2.0])
    logits = torch.tensor([[0.0, 1.0, -1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-2.0, 5.0, 1.0]])
    found: dict[str, Likelihood] = {}
    for kind, head in HEADS.items():
        found[kind] = head(loc.expand(n, 4), log_scale.expand(n, 4), 9)
        locs, widths = loc[:, None] + torch.arange(3) * 1.7, log_scale[:, None] - torch.arange(3) * 0.4
        found[f"mixture of {kind}s"] = Mixture(logits.expand(n, 4, 3), head(locs.expand(n, 4, 3), widths, 9))
    masses = torch.linspace(-2, 2, 108).reshape(4, 3, 9).cos()
    found["mixture of categoricals"] = Mixture(logits.expand(n, 4, 3), Categorical(masses.expand(n, 4, 3, 9)))
    return found


@pytest.mark.parametrize("kind", heads(1))
def test_every_head_is_one_distribution(kind: str) -> None:
    """Masses sum to one; cdf and mean agree with the masses; the batch shape is kept."""
    head = heads(1)[kind]
    levels = torch.arange(9)[:, None, None]
    masses = head.log_prob(levels).exp()  # (9, 1, 4)
    assert masses.shape == (9, 1, 4)
    torch.testing.assert_close(masses.sum(0), torch.ones(1, 4))
    torch.testing.assert_close(masses.cumsum(0), head.cdf(levels), rtol=0, atol=1e-6)
    torch.testing.assert_close((masses * levels).sum(0), head.mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", heads(1))
def test_samples_follow_the_masses(kind: str, generator: torch.Generator) -> None:
    """36 shares of 100,000 draws for five kinds: one is beyond 5.3 standard errors in one of 48,000 seeds."""
    n = 100_000
    head = heads(n)[kind]
    drawn = head.sample(generator=generator)
    assert drawn.shape == (n, 4)
    assert drawn.dtype == torch.uint8
    masses = heads(1)[kind].log_prob(torch.arange(9)[:, None, None]).exp()[:, 0].double()  # (9, 4)
    shares = torch.stack([(drawn == level).double().mean(0) for level in range(9)])
    z = (shares - masses) / (masses * (1 - masses) / n + 1e-12).sqrt()
    assert z.abs().max() < 5.3


def test_many_levels_are_drawn_as_int32() -> None:
    drawn = DiscretizedLogistic(torch.tensor([60_000.0]), torch.tensor([0.0]), 65_536).sample()
    assert drawn.dtype == torch.int32
    assert abs(int(drawn) - 60_000) < 40


def test_a_mixture_of_one_is_its_component() -> None:
    component = DiscretizedLogistic(torch.tensor([[3.3]]), torch.tensor([[0.1]]), 9)
    mixture = Mixture(torch.tensor([[7.0]]), component)
    x = torch.arange(9)[:, None]
    torch.testing.assert_close(mixture.log_prob(x), component.log_prob(x[..., None])[..., 0])
    torch.testing.assert_close(mixture.mean, component.mean[..., 0])


@pytest.mark.parametrize("numbers_at_once", [2**24, 1000])
def test_the_mean_sums_over_many_levels(numbers_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the edges the mean of a symmetric density is its centre, for any number of levels at a time."""
    monkeypatch.setattr(discretized, "NUMBERS_AT_ONCE", numbers_at_once)
    for head in HEADS.values():
        loc = torch.tensor([30_000.0] * 9, dtype=torch.float64)  # nine locations, so that 1000 numbers are 111 levels
        found = head(loc, torch.full_like(loc, 3.0), 65_536)
        assert found.mean.tolist() == pytest.approx([30_000] * 9, abs=1e-9)


def test_parameters_of_half_precision_are_taken_to_float32() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        head = DiscretizedLogistic(torch.zeros(2, dtype=dtype), torch.zeros(2, dtype=dtype), 4)
        assert head.log_prob(torch.zeros(2)).dtype == torch.float32


def test_fewer_than_two_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2, not 1"):
        DiscretizedLogistic(torch.zeros(1), torch.zeros(1), 1)


def test_the_copied_fallback_is_off_by_two_nats_where_this_one_is_exact() -> None:
    """Public code uses the log-density at the centre of the cell as a fallback if the mass is below 1e-5."""
    log_scale, loc, x = -7 + math.log(127.5), 100.0, 102
    scale = math.exp(log_scale)
    centre = (x - loc) / scale
    copied = centre - log_scale - 2 * math.log1p(math.exp(centre)) if centre < 30 else -centre - log_scale
    found = DiscretizedLogistic(torch.tensor(loc), torch.tensor(log_scale), 256).log_prob(torch.tensor(x))
    with mpmath.workdps(60):
        truth = float(exact.log_mass("logistic", x, loc, float(torch.tensor(log_scale)), 256))
    assert float(found) == pytest.approx(truth, rel=2e-7)
    assert abs(copied - truth) > 1.5
