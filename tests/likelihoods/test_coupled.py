"""The coupled mixture, compared with its written-out formula, 60-digit arithmetic, enumeration and its own samples."""

import itertools

import mpmath
import pytest
import torch
from torch import Tensor

from bitsperdim.likelihoods import CoupledLogisticMixture, DiscretizedLogistic, Mixture
from bitsperdim.likelihoods.coupled import two_sum
from support import exact, laws

COEFFICIENTS = (0.0, 0.5, -0.5, 1.0, -1.0, 0.3, -0.37, 0.9999, -2.5, 1e-8, 1e-14, 1e-30)
# limits relative to max(1, |log p|); largest errors found: 5.9e-8 (conditional), 1.1e-7 (pixel, a float32 sum of three)
CONDITIONAL_FLOAT32, PIXEL_FLOAT32 = 1.2e-7, 3e-7


def mixture(
    n_channels: int, n_levels: int, n_components: int, *, batch: tuple[int, ...] = (), seed: int = 0
) -> CoupledLogisticMixture:
    """Return an ordinary mixture in float64 on images of 1 x 2 pixels."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tail = (1, 2, n_components)
    loc = (n_levels - 1) / 2 + 0.4 * n_levels * normal(n_channels, *tail)
    parameters = [
        normal(*tail),
        loc,
        0.5 * normal(n_channels, *tail),
        torch.tanh(normal(n_channels * (n_channels - 1) // 2, *tail)),
    ]
    return CoupledLogisticMixture(*(each.expand(*batch, *each.shape) for each in parameters), n_levels)


def pixels(n_channels: int, n_levels: int) -> Tensor:
    """Return all values of a pixel, (L^C, C, 1, 1), which broadcast over the pixels of an image."""
    return laws.all_images((n_channels, 1, 1), n_levels)


def hostile(n_levels: int, n_channels: int, n_components: int) -> tuple[CoupledLogisticMixture, Tensor]:
    """Return 200 float32 pixels with difficult parameters, most with levels in or next to the cell of a location."""
    generator = torch.Generator().manual_seed(n_channels * n_components)
    shape = (200, n_channels, 1, 1, n_components)
    pairs = (200, n_channels * (n_channels - 1) // 2, 1, 1, n_components)
    loc, log_scale = (exact.draw(values, shape, generator) for values in (exact.LOCS, exact.LOG_SCALES))
    logits = exact.draw(exact.LOGITS, (200, 1, 1, n_components), generator)
    logits[::2] = torch.randn(logits.shape, generator=generator)[::2]  # so that many components have large weights
    head = CoupledLogisticMixture(logits, loc, log_scale, exact.draw(COEFFICIENTS, pairs, generator), n_levels)
    x = torch.randint(n_levels, shape[:-1], generator=generator)
    for channel in range(n_channels):
        near = head.component(x.double(), channel).loc[:, 0, 0, 0].round()
        near = near + torch.randint(-1, 2, (200,), generator=generator)
        x[50:, channel, 0, 0] = near.clamp(0, n_levels - 1).long()[50:]
    return head, x


def log_masses(head: CoupledLogisticMixture, x: Tensor, i: int) -> tuple[list[mpmath.mpf], float]:
    """Return log p(x_c given x_<c) of pixel i with 60 digits, and the largest |log p_m| of the channels before."""
    logits, levels, half = head.logits[i, 0, 0].tolist(), x[i, :, 0, 0].tolist(), mpmath.mpf(head.n_levels - 1) / 2
    loc, log_scale, coefficients = (each[i, :, 0, 0].tolist() for each in (head.loc, head.log_scale, head.coefficients))
    log_pi = exact.log_softmax(logits)
    joint, found, largest = list(log_pi), [], 0.0
    pair = iter(range(len(coefficients)))
    for channel, level in enumerate(levels):
        before = exact.log_sum(joint)
        if channel == len(levels) - 1:
            largest = max(float(abs(each - start)) for each, start in zip(joint, log_pi, strict=True))
        rows = [coefficients[next(pair)] for _ in range(channel)]
        for m in range(len(joint)):
            at = mpmath.mpf(loc[channel][m])
            at += mpmath.fsum(mpmath.mpf(row[m]) * (levels[j] - half) for j, row in enumerate(rows))
            joint[m] += exact.log_mass("logistic", level, at, log_scale[channel][m], head.n_levels)
        found.append(exact.log_sum(joint) - before)
    return found, largest


@pytest.mark.parametrize("n_levels", exact.LEVELS)
@pytest.mark.parametrize(("n_channels", "n_components"), [(1, 2), (2, 1), (3, 2), (3, 5)])
def test_a_float32_mass_is_exact_to_rounding(n_channels: int, n_components: int, n_levels: int) -> None:
    head, x = hostile(n_levels, n_channels, n_components)
    found = head.log_prob(x)[:, :, 0, 0]
    assert found.dtype == torch.float32
    with mpmath.workdps(60):
        for i in range(len(x)):
            truths, largest = log_masses(head, x, i)
            for channel, truth in enumerate(truths):
                error = abs(mpmath.mpf(float(found[i, channel])) - truth)
                assert error < CONDITIONAL_FLOAT32 * max(1, abs(truth)) + 1e-15 * largest
            assert exact.relative_error(float(found[i].sum()), mpmath.fsum(truths)) < PIXEL_FLOAT32


def test_a_narrow_scale_sees_every_digit_of_the_location() -> None:
    """Locations that float64 cannot represent, a billionth of a level from an edge, with a scale of 2e-9 levels.

    In float64, without the rounding error carried along, the first three would be off by 4e-4 to 8e-4.
    """
    n_levels = 65_536
    cases = [  # loc, coefficient, level of the channel before, level
        (59_999.5, 1e-14, 60_000, 59_999),
        (1e-10, 1.0, 60_000, 27_232),
        (-3e-10, -1.0, 3_000, 29_767),
        (1e6, -1.0, 65_535, 65_535),
        (0.5, 1e-30, 7, 0),
    ]
    loc = torch.tensor([[0.0, case[0]] for case in cases])[..., None, None, None]
    coefficients = torch.tensor([case[1] for case in cases]).reshape(-1, 1, 1, 1, 1)
    x = torch.tensor([case[2:] for case in cases])[..., None, None]
    log_scale = torch.full_like(loc, -20)
    head = CoupledLogisticMixture(torch.zeros(len(cases), 1, 1, 1), loc, log_scale, coefficients, n_levels)
    found = head.log_prob(x)[:, 1, 0, 0]
    with mpmath.workdps(60):
        for i in range(len(cases)):
            assert exact.relative_error(float(found[i]), log_masses(head, x, i)[0][1]) < CONDITIONAL_FLOAT32


def test_a_sum_and_its_rounding_error_are_exact() -> None:
    with mpmath.workdps(60):
        for a, b in itertools.product((1e6, -1e6, 0.1, 1e-30, 59_999.5), repeat=2):
            total, error = (float(each) for each in two_sum(*torch.tensor([[a], [b / 3]], dtype=torch.float64)))
            assert mpmath.mpf(total) + mpmath.mpf(error) == mpmath.mpf(a) + mpmath.mpf(b / 3)


@pytest.mark.parametrize(("n_channels", "n_levels"), [(1, 7), (2, 2), (2, 17), (3, 2), (3, 6), (4, 3)])
def test_masses_of_a_pixel_sum_to_one(n_channels: int, n_levels: int) -> None:
    """So do the masses of a sub-pixel given any earlier channels; for ordinary and difficult float64 parameters."""
    x = pixels(n_channels, n_levels)
    narrow = hostile(n_levels, n_channels, 3)[0]
    doubled = (each[:, None].double() for each in (narrow.logits, narrow.loc, narrow.log_scale, narrow.coefficients))
    for head in (mixture(n_channels, n_levels, 3), CoupledLogisticMixture(*doubled, n_levels)):
        total = head.log_prob(x).sum(-3).exp().sum(-3)
        assert (total - 1).abs().max() < 1e-12
        given = head.given(x)
        levels = torch.arange(n_levels).reshape(-1, *[1] * (given.logits.ndim - 1))
        masses = given.log_prob(levels).exp()
        assert (masses.sum(0) - 1).abs().max() < 1e-12
        assert (masses.cumsum(0) - given.cdf(levels)).abs().max() < 1e-12


@pytest.mark.parametrize(("n_channels", "n_levels"), [(2, 5), (3, 4)])
def test_the_joint_is_the_mixture_of_products(n_channels: int, n_levels: int) -> None:
    """The masses equal the first formula of the module, written with the logistic distribution of torch."""
    head = mixture(n_channels, n_levels, 3)
    for pixel in (0, 1):
        for x in itertools.product(range(n_levels), repeat=n_channels):
            product = torch.softmax(head.logits[0, pixel], -1)
            pair = 0
            for c in range(n_channels):
                loc = head.loc[c, 0, pixel]
                for j in range(c):
                    loc = loc + head.coefficients[pair, 0, pixel] * (x[j] - (n_levels - 1) / 2)
                    pair += 1
                density = torch.distributions.TransformedDistribution(
                    torch.distributions.Uniform(torch.zeros(3).double(), torch.ones(3).double(), validate_args=False),
                    [
                        torch.distributions.SigmoidTransform().inv,
                        torch.distributions.AffineTransform(loc, head.log_scale[c, 0, pixel].exp()),
                    ],
                    validate_args=False,
                )
                above = density.cdf(torch.tensor(x[c] + 0.5).double()) if x[c] < n_levels - 1 else 1
                below = density.cdf(torch.tensor(x[c] - 0.5).double()) if x[c] > 0 else 0
                product = product * (above - below)
            found = head.log_prob(torch.tensor(x)[:, None, None])[:, 0, pixel].sum().exp()
            torch.testing.assert_close(found, product.sum(), rtol=1e-11, atol=1e-15)


def test_one_channel_is_a_mixture() -> None:
    head = mixture(1, 9, 3)
    plain = Mixture(head.logits[None], DiscretizedLogistic(head.loc, head.log_scale, 9))
    x = torch.arange(9)[:, None, None, None]
    torch.testing.assert_close(head.log_prob(x), plain.log_prob(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(head.cdf(x), plain.cdf(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(head.mean, plain.mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(head.central, plain.mean, rtol=1e-13, atol=1e-13)


def test_a_sub_pixel_is_given_the_earlier_channels_alone() -> None:
    """A change of a channel changes the conditionals of later channels of its own pixel, and nothing else."""
    head = mixture(3, 6, 3)
    x = torch.tensor([[1, 4], [5, 0], [2, 3]])[:, None]
    before = torch.stack([head.given(x).log_prob(torch.tensor(level)) for level in range(6)])
    for channel in range(3):
        other = x.clone()
        other[channel, 0, 0] = 3
        after = torch.stack([head.given(other).log_prob(torch.tensor(level)) for level in range(6)])
        moved = (after != before).any(0)[:, 0]
        assert moved.tolist() == [[later > channel, False] for later in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite(dtype: torch.dtype) -> None:
    for n_levels in exact.LEVELS:
        head, x = hostile(n_levels, 3, 4)
        parameters = [
            each.to(dtype).requires_grad_() for each in (head.logits, head.loc, head.log_scale, head.coefficients)
        ]
        value = CoupledLogisticMixture(*parameters, n_levels).log_prob(x)
        assert value.dtype == dtype
        assert value.isfinite().all()
        gradients = torch.autograd.grad(value.sum(), parameters)
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_gradients_are_those_of_the_masses() -> None:
    """Gradients equal central differences of the float64 log-mass with a step of 1e-6."""
    head = mixture(3, 6, 2)
    x = torch.tensor([[1, 4], [5, 0], [2, 3]])[:, None]
    parameters = tuple(
        each.clone().requires_grad_() for each in (head.logits, head.loc, head.log_scale, head.coefficients)
    )

    def log_p(*parameters: Tensor) -> Tensor:
        return CoupledLogisticMixture(*parameters, 6).log_prob(x)

    assert torch.autograd.gradcheck(log_p, parameters, eps=1e-6, atol=1e-6, rtol=1e-5)


def test_samples_follow_the_masses() -> None:
    """100,000 draws of two pixels with 64 values: a share is beyond 5.3 standard errors in one of 67,000 seeds."""
    n = 100_000
    drawn = mixture(3, 4, 2, batch=(n,)).sample(generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (n, 3, 1, 2)
    assert drawn.dtype == torch.uint8
    masses = mixture(3, 4, 2).log_prob(pixels(3, 4)).sum(-3).exp()[:, 0]  # (64, 2)
    numbers = (drawn[:, :, 0].long() * torch.tensor([16, 4, 1])[:, None]).sum(1)  # (n, 2)
    shares = torch.stack([torch.bincount(numbers[:, pixel], minlength=64) for pixel in (0, 1)], 1) / n
    z = (shares - masses) / (masses * (1 - masses) / n + 1e-12).sqrt()
    assert z.abs().max() < 5.3


def test_samples_of_the_conditionals_follow_them() -> None:
    """100,000 draws of the third channel given the others: a share is beyond 4.9 errors in one of 125,000 seeds."""
    n = 100_000
    x = torch.tensor([1, 3, 0])[:, None, None]
    drawn = mixture(3, 4, 2, batch=(n,)).given(x).sample(generator=torch.Generator().manual_seed(0))
    masses = mixture(3, 4, 2).given(x).log_prob(torch.arange(4)[:, None, None, None]).exp()  # (4, C, 1, 2)
    for channel, pixel in itertools.product(range(3), range(2)):
        shares = torch.bincount(drawn[:, channel, 0, pixel].long(), minlength=4) / n
        p = masses[:, channel, 0, pixel]
        assert ((shares - p).abs() < 4.9 * (p * (1 - p) / n).sqrt() + 1e-9).all()


def test_many_levels_are_drawn_as_int32() -> None:
    drawn = mixture(2, 1000, 2).sample(generator=torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int32


@pytest.mark.parametrize(("n_channels", "n_levels"), [(1, 7), (2, 17), (3, 5)])
def test_the_mean_is_that_of_the_masses(n_channels: int, n_levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head = mixture(n_channels, n_levels, 3)
    x = pixels(n_channels, n_levels)
    masses = head.log_prob(x).sum(-3, keepdim=True).exp()  # (L^C, 1, 1, 2)
    torch.testing.assert_close(head.mean, (masses * x).sum(0), rtol=1e-12, atol=1e-12)
    monkeypatch.setattr("bitsperdim.likelihoods.coupled.NUMBERS_AT_ONCE", 100)
    torch.testing.assert_close(head.mean, (masses * x).sum(0), rtol=1e-12, atol=1e-12)


def test_a_mean_that_costs_too_much_is_refused_and_the_middle_is_near() -> None:
    """With one component the central value is the mean, up to edge effects: within 0.1 levels of 100,000 samples."""
    n = 100_000
    loc = torch.tensor([100.0, 140.0, 90.0]).reshape(3, 1, 1, 1)
    coefficients = torch.tensor([0.8, -0.3, 0.4]).reshape(3, 1, 1, 1)
    head = CoupledLogisticMixture(torch.zeros(1, 1, 1), loc, torch.full_like(loc, 1.0), coefficients, 256)
    with pytest.raises(ValueError, match="3 coupled channels of 256 levels sums over 65536 values, more than 4096"):
        _ = head.mean
    many = CoupledLogisticMixture(
        torch.zeros(n, 1, 1, 1),
        loc.expand(n, 3, 1, 1, 1),
        torch.ones(n, 3, 1, 1, 1),
        coefficients.expand(n, 3, 1, 1, 1),
        256,
    )
    drawn = many.sample(generator=torch.Generator().manual_seed(0)).double().mean(0)
    assert head.central.dtype == torch.float32
    torch.testing.assert_close(head.central.double(), drawn, rtol=0, atol=0.1)


def test_what_does_not_fit_is_refused() -> None:
    loc, logits = torch.zeros(3, 1, 1, 2), torch.zeros(1, 1, 2)
    with pytest.raises(ValueError, match="3 channels need 3 coefficients, not 2"):
        CoupledLogisticMixture(logits, loc, loc, loc[:2], 256)
    with pytest.raises(ValueError, match="n_levels must be at least 2, not 1"):
        CoupledLogisticMixture(logits, loc, loc, loc, 1)


def test_parameters_of_half_precision_are_taken_to_float32() -> None:
    loc, logits = torch.zeros(3, 1, 1, 2).bfloat16(), torch.zeros(1, 1, 2).bfloat16()
    head = CoupledLogisticMixture(logits, loc, loc, loc, 4)
    x = torch.zeros(3, 1, 1)
    for found in (head.log_prob(x), head.cdf(x), head.mean, head.central, head.given(x).mean):
        assert found.dtype == torch.float32


def test_an_image_is_the_product_of_its_conditionals(generator: torch.Generator) -> None:
    """Two formulas agree in float64, and with float32 parameters the result is float32."""
    for n_channels in (1, 2, 3):
        head = mixture(n_channels, 5, 3, batch=(40,))
        x = torch.randint(5, (40, n_channels, 1, 2), generator=generator)
        expected = head.log_prob(x).flatten(1).sum(1)
        torch.testing.assert_close(head.log_prob_of_images(x), expected, rtol=1e-12, atol=0)
    head, x = hostile(256, 3, 10)
    found = head.log_prob_of_images(x)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found, head.log_prob(x).double().flatten(1).sum(1).float(), rtol=3e-7, atol=0)
