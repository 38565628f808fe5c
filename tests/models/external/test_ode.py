"""Models that offer a velocity or a score: known densities, the errors that are stated, and what is refused.

Statistical tests are seeded; each states its false-alarm rate. The noise in the cells is given as midpoints of equal
shares where possible, which is quadrature.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.evaluation.estimate import estimated_rows
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.methods import offers_of
from bitsperdim.models.external.ode import ExternalOde, settings_of
from bitsperdim.models.external.wrapping import wrap
from support.equations import FLAT, Linear, Mixture, Normal

SHAPE, PIXEL = (1, 2, 2), (1, 1, 1)
LEVELS = torch.arange(12).reshape(3, *SHAPE) % 4


def wrapped(
    model: object, shape: tuple[int, int, int] = SHAPE, n_levels: int = 4, interval: Any = (-1.0, 1.0), **options: Any
) -> ExternalOde:
    layout = options.pop("layout", "channels_first")
    found = wrap(
        offers_of(model)[0],
        shape,
        n_levels,
        convention=Convention("integers", layout),
        interval=interval,
        ode=options.pop("ode", options),
        n_classes=options.pop("n_classes", None),
    )
    assert isinstance(found, ExternalOde)
    return found


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", ["vp", {"name": "ve", "sigma_min": 0.05, "sigma_max": 5.0}])
@pytest.mark.parametrize("probes", ["exact", 1])
def test_a_gaussian_has_its_density(schedule: Any, probes: Any) -> None:
    """The score of a Gaussian at each time is known, and so is the linear map to the base distribution.

    The Jacobian is diagonal, so that a probe is exact too.
    """
    end = 1e-3 if schedule == "vp" else 0.0
    model = wrapped(Normal(schedule), schedule=schedule, n_steps=64, times=[1.0, end], probes=probes, noise="uniform")
    y = torch.rand(5, *SHAPE, generator=generator(), dtype=torch.float64)
    # float32 values of the model's own scale lie within 6e-8 of themselves, and 64 steps leave 1e-6
    torch.testing.assert_close(model.log_density(y), Normal(schedule).known(y, end), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.0), (0.2, 1.7)])
def test_a_linear_flow_has_its_density(times: tuple[float, float]) -> None:
    net = Linear(times)
    y = torch.rand(5, *SHAPE, generator=generator(), dtype=torch.float64)
    exact = wrapped(net, times=list(times), layout="flat")
    torch.testing.assert_close(exact.log_density(y), net.known(y), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.0)])
def test_probes_are_right_on_average(times: tuple[float, float]) -> None:
    """By the derived variance, 400 probes are within 6 standard errors: a false alarm in 2e-9 of the seeds."""
    net, n_probes = Linear(times), 400
    y = torch.rand(2, *SHAPE, generator=generator(), dtype=torch.float64)
    torch.manual_seed(3)
    found = wrapped(net, times=list(times), layout="flat", probes=n_probes, n_steps=8).log_density(y)
    both = (FLAT + FLAT.T).fill_diagonal_(0)
    error = math.sqrt(float(both.square().sum()) / 2 / n_probes)
    difference = found - net.known(y)
    assert float(difference.abs().max()) < 6 * error + 1e-3  # the last term: the solver error
    assert float(difference.abs().max()) > 1e-3  # it is really probed


def midpoints(n: int, x: Tensor) -> Tensor:
    """Return the midpoints of n equal shares as noise for images of one sub-pixel, (n, B, 1, 1, 1)."""
    return ((torch.arange(n, dtype=torch.float64) + 0.5) / n).reshape(n, 1, 1, 1, 1).expand(n, *x.shape)


@torch.no_grad()
@pytest.mark.parametrize("noise", ["uniform", "truncated_normal"])
def test_a_mixture_has_its_density(noise: str) -> None:
    """The masses of all levels, by quadrature over the noise, are those of the mixture, and add up to one."""
    net = Mixture()
    model = wrapped(net, PIXEL, 16, schedule=Mixture.schedule, times=[1.0, Mixture.end], n_steps=64, noise=noise)
    x = torch.arange(16).reshape(16, *PIXEL)
    log_w = model.log_weights(x, 200, noise=midpoints(200, x), generator=generator())
    masses = log_w.double().exp().mean(0)
    # 200 midpoints leave 2e-5, 64 steps 1e-5, float32 1e-6
    torch.testing.assert_close(masses, net.masses(16), rtol=2e-3, atol=1e-4)
    assert float(masses.sum()) == pytest.approx(1, abs=3e-4)


@torch.no_grad()
def test_the_term_at_the_smallest_time_is_complete() -> None:
    """With gaussian noise, P(x) is the integral of p_eps(y) P(x given y): its sum over all levels is one."""
    net = Mixture()
    model = wrapped(net, PIXEL, 16, schedule=Mixture.schedule, times=[1.0, Mixture.end], n_steps=64)
    assert model.settings.noise == "gaussian"
    x = torch.arange(16).reshape(16, *PIXEL)
    masses = model.log_weights(x, 400, noise=midpoints(400, x), generator=generator()).double().exp().mean(0)
    torch.testing.assert_close(masses, net.smoothed_masses(16), rtol=5e-3, atol=5e-4)
    assert float(masses.sum()) == pytest.approx(1, abs=2e-3)


@torch.no_grad()
def test_without_the_term_at_the_smallest_time_the_number_is_too_good() -> None:
    """In published code log P(x given y) - log q(y given x) was missing: its mean is the entropy of the noise here."""
    model = wrapped(Mixture(), PIXEL, 4, schedule=Mixture.schedule, times=[1.0, Mixture.end])
    x = torch.arange(4).reshape(4, *PIXEL)
    u, _ = model.dequantizer(x, 400, generator=None, noise=midpoints(400, x))
    wrong = model.log_density(((x.double() + u) / 4).flatten(0, 1)).reshape(400, 4) - math.log(4)
    right = model.log_weights(x, 400, noise=midpoints(400, x), generator=generator())
    alpha, sigma = model.settings.kernel
    scale = sigma / alpha * 4 / 2  # of a cell
    entropy = -math.log2(scale * math.sqrt(2 * math.pi * math.e))
    assert entropy == pytest.approx(1.44, abs=0.01)  # bits per sub-pixel
    assert float((wrong - right).mean()) / math.log(2) == pytest.approx(entropy, abs=0.01)


def test_a_distribution_of_the_model_is_its_base() -> None:
    """A flow that moves nothing has the density of its base, which is not the standard normal here."""

    class Still:
        def velocity(self, t: Tensor, y: Tensor) -> Tensor:
            return 0 * y

        def base(self) -> td.Distribution:
            return td.Laplace(torch.zeros(4), torch.tensor([0.3, 0.5, 0.7, 0.9]))

    y = torch.rand(3, *SHAPE, generator=generator(), dtype=torch.float64)
    found = wrapped(Still(), layout="flat").log_density(y)
    truth = Still().base().log_prob((2 * y - 1).flatten(1).float()).sum(1).double() + 4 * math.log(2)
    torch.testing.assert_close(found, truth)


class Convolution(nn.Module):
    """A small network of all pixels; its velocity depends on the label, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 1, 3, padding=1))

    def velocity(self, t: Tensor, y: Tensor, labels: Tensor | None = None) -> Tensor:
        time = t.reshape(-1, 1, 1, 1).expand(y.shape)
        moved: Tensor = self.layers(torch.cat([y, time], dim=1))
        return moved if labels is None else moved * (1 + labels.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("probes", ["exact", 2])
def test_images_are_independent(probes: Any) -> None:
    """Float32 sums of 3 x 3 x 8 terms differ by 1e-6 with the batch; 32 steps add them up."""
    model = wrapped(Convolution().eval(), probes=probes)
    noise = torch.rand(3, *SHAPE, generator=generator())
    if probes == "exact":
        whole = model.log_weights(LEVELS, 1, noise=noise, generator=generator())[0]
        alone = [model.log_weights(LEVELS[i : i + 1], 1, noise=noise[i : i + 1])[0] for i in range(3)]
    else:  # the same signs for the same image
        signs = torch.ones(2, 3, *SHAPE, dtype=torch.float64)
        whole = model._followed(noise.double(), signs, None, 1)
        alone = [model._followed(noise[i : i + 1].double(), signs[:, :1], None, 1) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("probes", ["exact", 2])
def test_the_generator_decides(probes: Any) -> None:
    model = wrapped(Convolution().eval(), probes=probes)
    first = model.log_weights(LEVELS, 3, generator=generator(1))
    assert torch.equal(first, model.log_weights(LEVELS, 3, generator=generator(1)))
    assert not bool((first == model.log_weights(LEVELS, 3, generator=generator(2))).any())
    # a row does not depend on K; other batch sizes round differently
    torch.testing.assert_close(model.log_weights(LEVELS, 1, generator=generator(1)), first[:1], rtol=1e-5, atol=1e-5)


def test_with_probes_only_logarithms_are_averaged() -> None:
    """The kind of model decides how samples are joined: E[exp(error)] would multiply P(x)."""
    model = wrapped(Convolution().eval(), probes=1)
    assert model.draws_bounds
    log_w = model.log_weights(LEVELS, 6, generator=generator(1)).double()
    rows = estimated_rows(model, LEVELS, 6, chunk_size=6, generator=generator(1))
    torch.testing.assert_close(rows[:, 0], log_w.mean(0))
    assert not wrapped(Convolution().eval()).draws_bounds


@pytest.mark.parametrize("probes", ["exact", 2])
def test_the_solver_error_is_that_of_the_first_sample(probes: Any) -> None:
    model = wrapped(Convolution().eval(), probes=probes, n_steps=8, method="midpoint")
    used = generator(4)
    rows = estimated_rows(model, LEVELS, 5, chunk_size=2, generator=used)
    values = [model.log_weights(LEVELS, 1, generator=generator(4), coarser=step)[0].double() for step in (1, 2, 4)]
    # the full grid was solved in a chunk of 2 samples, which rounds differently
    torch.testing.assert_close(rows[:, -2], values[0] - values[1], rtol=0, atol=2e-5)
    torch.testing.assert_close(rows[:, -1], values[1] - values[2], rtol=0, atol=2e-5)
    assert float(rows[:, -2:].abs().min()) > 1e-6
    # the following images get the numbers that they would get without these computations
    model.log_weights(LEVELS, 5, generator=(other := generator(4)))
    model_draws = torch.rand(3, generator=used), torch.rand(3, generator=other)
    if probes == "exact":
        assert model_draws[0].shape == model_draws[1].shape


def test_labels_are_given_to_every_sample() -> None:
    model = wrapped(Convolution().eval(), n_classes=3, ode={})
    noise = torch.rand(3, *SHAPE, generator=generator())
    labels = torch.tensor([0, 1, 2])
    both = model.log_weights(LEVELS, 2, labels=labels, noise=torch.stack([noise, noise]), generator=generator())
    torch.testing.assert_close(both[0], both[1], rtol=1e-6, atol=1e-6)
    for label in range(3):
        one = model.log_weights(
            LEVELS[label : label + 1], 1, labels=labels[label : label + 1], noise=noise[label : label + 1]
        )
        torch.testing.assert_close(one[0], both[0, label : label + 1], rtol=1e-5, atol=1e-5)
    without = wrapped(Convolution().eval()).log_weights(LEVELS, 1, noise=noise)[0]
    assert float((both[0] - without).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("probes", ["exact", 1])
def test_weights_have_the_derivatives_of_the_log_density(probes: Any) -> None:
    """With the same random numbers, against a finite difference in float64."""
    net = Convolution().double().eval()
    model = wrapped(net, probes=probes, n_steps=4)

    def mean() -> Tensor:
        return model.log_weights(LEVELS, 1, generator=generator(2)).mean()

    weight, step = net.layers[2].weight, 1e-6
    (found,) = torch.autograd.grad(mean(), weight)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 3, 1, 1] += sign * step
            values.append(float(mean()))
            weight[0, 3, 1, 1] -= sign * step
    assert float(found[0, 3, 1, 1]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)
    assert abs(float(found[0, 3, 1, 1])) > 1e-3


REFUSED: dict[str, tuple[Any, str]] = {
    "an unknown key": (
        {"steps": 4},
        "it must be a mapping with some of times, n_steps, method, probes, schedule, noise",
    ),
    "a list": ([1, 2], "it must be a mapping"),
    "steps not of four": ({"n_steps": 10}, "n_steps = 10 of ode is not allowed; it must be a multiple of 4"),
    "no steps": ({"n_steps": 0}, "n_steps = 0 of ode is not allowed"),
    "steps as text": ({"n_steps": "8"}, "n_steps = '8' of ode is not allowed"),
    "another method": ({"method": "dopri5"}, "method = 'dopri5' of ode is not allowed; it must be midpoint or rk4"),
    "no probes": ({"probes": 0}, "probes = 0 of ode is not allowed; it must be exact, or an integer from 1"),
    "true as probes": ({"probes": True}, "probes = True of ode is not allowed"),
    "the same time twice": (
        {"times": [1, 1]},
        "times = [1, 1] of ode is not allowed; it must be two different numbers",
    ),
    "one time": ({"times": 1}, "times = 1 of ode is not allowed"),
    "an infinite time": ({"times": [0, math.inf]}, "it must be two different numbers"),
    "noise without a schedule": ({"noise": "gaussian"}, "noise = gaussian of ode needs a schedule"),
    "unknown noise": ({"noise": "none"}, "noise = 'none' of ode is not allowed; it must be uniform or"),
    "no noise left": (
        {"noise": "truncated_normal", "schedule": "ot"},
        "at the time of the data, 1, the schedule has alpha = 1 and sigma = 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_settings_are_refused(case: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises(InputError) as refused:
        settings_of(given, "velocity", 64)
    assert words in str(refused.value)


def test_a_score_needs_its_schedule() -> None:
    with pytest.raises(InputError, match="score needs ode"):
        wrapped(Mixture(), ode=None)


def test_large_images_are_probed_by_default() -> None:
    assert settings_of(None, "velocity", 1024).probes is None
    assert settings_of(None, "velocity", 1025).probes == 1
    assert settings_of({"probes": "exact"}, "velocity", 1025).probes is None


class Returning:
    """A model whose velocity is a given function."""

    def __init__(self, velocity: Any) -> None:
        self.velocity = velocity


@pytest.mark.parametrize(
    ("velocity", "words"),
    [
        (lambda t, y: y.detach(), "without a derivative with respect to y"),
        (lambda t, y: y.sum(1), r"must return floating-point numbers of the shape of y, (3, 1, 2, 2), but returned"),
        (lambda t, y: (y, t), "of the shape of y, (3, 1, 2, 2), but returned tuple"),
        (lambda t, y: t * y, "velocity(float32 (3,), float32 (3, 1, 2, 2)) of the model raised RuntimeError"),
        (lambda y: y, "raised TypeError"),
    ],
)
def test_a_wrong_velocity_is_one_sentence(velocity: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        wrapped(Returning(velocity)).log_weights(LEVELS, 1, generator=generator())
    assert words in str(refused.value)


def test_range_and_ode_go_with_their_methods() -> None:
    with pytest.raises(InputError, match="velocity needs `range`"):
        wrapped(Returning(lambda t, y: y), interval=None)
    with pytest.raises(InputError, match="ode is not allowed for a model that offers log_prob"):
        wrap(offers_of(Returning(None).__init__, "log_prob")[0], SHAPE, 4, ode={"n_steps": 8})
