"""Sequential noise: its weights average to the masses of cells, compared with quadrature, closed forms and scipy."""

import itertools
import math
from unittest import mock

import mpmath
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor
from zuko.nn import MaskedLinear, MaskedMLP
from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

import models.test_flows as flows
from bitsperdim.estimators.log_weights import effective_sample_size, log_mean_exp, standard_error
from bitsperdim.models import DensityModel, build
from bitsperdim.models.flow import Flow
from bitsperdim.models.gaussian import Gaussian
from bitsperdim.models.normalizing_flow import NormalizingFlow
from bitsperdim.models.parts.masked import InOrder
from bitsperdim.models.parts.rising import Affine, Spline
from bitsperdim.models.parts.triangular import Shifted, TriangularMap, shift_of
from support import laws
from support.cases import FLOW, LEARNED, UNIFORM, small_model

pytestmark = pytest.mark.processor

ONE = {**FLOW, **UNIFORM, "n_transforms": 1, "hidden_sizes": [8, 6]}
TRIANGULAR: dict[str, tuple[dict, tuple[int, int, int], int]] = {
    "maf": (ONE, (1, 1, 2), 3),
    "nsf": ({**ONE, "transform": "nsf"}, (1, 2, 1), 4),
    "learned-noise": ({**ONE, **LEARNED}, (1, 1, 2), 3),
    "margin": ({**ONE, "logit_margin": 0.05}, (1, 1, 2), 3),
    "no-logit": ({**ONE, "transform": "nsf", "logit_margin": None}, (2, 1, 1), 3),
}
IN_THE_CUBE = ["maf", "nsf", "learned-noise"]  # the density of the others lies partly outside the cube and is lost


def one_transform(name: str) -> Flow:
    """Return a flow with one transform in float64 and changed weights."""
    params, shape, n_levels = TRIANGULAR[name]
    model = build("flow", params, shape, n_levels).double().eval()
    generator = torch.Generator().manual_seed(4)
    model.initialise(torch.randint(n_levels, (50, *shape), generator=generator).to(torch.uint8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    assert isinstance(model, Flow)
    return model


def masses(model: NormalizingFlow, name: str) -> Tensor:
    with torch.no_grad():
        return flows.masses_on_a_plane(model, n_nodes=8) if name in IN_THE_CUBE else laws.masses_of_cells(model, 60)


def weights_average_to_the_masses(name: str, n_samples: int = 4_000) -> None:
    model, generator = one_transform(name), torch.Generator().manual_seed(0)
    images = laws.all_images(model.image_shape, model.n_levels)
    laws.weights_average_to(model, images, masses(model, name), generator, n_samples, noise_from="sequential")


@pytest.mark.parametrize("name", TRIANGULAR)
def test_weights_average_to_the_mass_of_the_cell(name: str) -> None:
    weights_average_to_the_masses(name)


@pytest.mark.parametrize("name", IN_THE_CUBE)
def test_all_masses_together_are_one(name: str) -> None:
    """The sum over all images, with one weight for each, averages to one: one seed in a million fails."""
    model = one_transform(name)
    images = laws.all_images(model.image_shape, model.n_levels)
    w = model.log_weights(images, 4_000, generator=torch.Generator().manual_seed(1), noise_from="sequential").exp()
    totals = w.sum(1)
    assert totals.std() > 1e-3
    assert abs(totals.mean() - 1) < laws.FAR * totals.std() / 4_000**0.5


@pytest.mark.parametrize("name", ["gaussian-grey", "gaussian-rgb"])
def test_a_gaussian_of_few_dimensions(name: str, generator: torch.Generator) -> None:
    model = small_model(name)
    assert isinstance(model, Gaussian)
    images = laws.all_images(model.image_shape, model.n_levels)
    laws.weights_average_to(model, images, laws.masses_of_cells(model), generator, 4_000, noise_from="sequential")


def correlated() -> tuple[Gaussian, Tensor]:
    """Return a normal of two dimensions with a correlation of 0.8, and its covariance."""
    model = Gaussian((1, 1, 2), 3).double().eval()
    factor = torch.tensor([[0.3, 0.0], [0.24, 0.18]], dtype=torch.float64)
    model.mean.copy_(torch.tensor([0.4, 0.6]))
    model.whitening.copy_(torch.linalg.inv(factor))
    return model, factor @ factor.T


def masses_of_a_correlated_normal() -> None:
    model, covariance = correlated()
    images = laws.all_images((1, 1, 2), 3)
    normal = multivariate_normal(model.mean.numpy(), covariance.numpy())
    low = images.flatten(1).double().numpy() / 3
    exact = [normal.cdf(corner + 1 / 3, lower_limit=corner) for corner in low]
    laws.weights_average_to(
        *(model, images, torch.tensor(exact), torch.Generator().manual_seed(2), 20_000), noise_from="sequential"
    )


def test_masses_of_a_correlated_normal() -> None:
    """All nine cells agree with scipy's distribution function."""
    masses_of_a_correlated_normal()


def test_independent_dimensions_are_exact(generator: torch.Generator) -> None:
    """One weight equals the mass of the cell up to rounding, even 40 standard deviations from the mean."""
    model = Gaussian((1, 1, 3), 5).double().eval()
    mean, scale = torch.tensor([0.3, 0.55, -0.4]).double(), torch.tensor([0.05, 0.4, 0.03]).double()
    model.mean.copy_(mean)
    model.whitening.copy_(torch.diag(1 / scale))
    images = laws.all_images((1, 1, 3), 5)
    log_w = model.log_weights(images, 3, generator=generator, noise_from="sequential")
    assert (log_w - log_w[:1]).abs().max() < 1e-9
    with mpmath.workdps(60):
        table = [[exact_log_mass(level, *pair) for level in range(5)] for pair in zip(mean, scale, strict=True)]
    wanted = torch.tensor(table, dtype=torch.float64)[torch.arange(3), images.flatten(1).long()].sum(1)
    torch.testing.assert_close(log_w[0], wanted, rtol=1e-12, atol=1e-9)
    assert wanted.min() < -800


def exact_log_mass(level: int, mean: Tensor, scale: Tensor) -> float:
    low, high = ((mpmath.mpf(level + edge) / 5 - float(mean)) / float(scale) for edge in (0, 1))
    if low + high > 0:
        low, high = -high, -low
    return float(mpmath.log(mpmath.ncdf(high) - mpmath.ncdf(low)))


class Recording(TriangularMap):
    """A map that records the given values."""

    def __init__(self, walk: TriangularMap) -> None:
        self.walk, self.order, self.given = walk, walk.order, {}

    def start(self, edges: Tensor, n_rows: int) -> Tensor:
        self.edges = self.walk.start(edges, n_rows)
        return self.edges

    def conditional(self, dim: int) -> object:
        return self.walk.conditional(dim)

    def give(self, dim: int, values: Tensor) -> None:
        self.given[dim] = values
        self.walk.give(dim, values)


@pytest.mark.parametrize("name", TRIANGULAR)
def test_draws_stay_in_their_cells(name: str, generator: torch.Generator) -> None:
    """This holds for all images; and both halves of each cell are reached."""
    model = one_transform(name)
    images = laws.all_images(model.image_shape, model.n_levels)
    recording = Recording(model.triangular())
    with mock.patch.object(Flow, "triangular", return_value=recording):
        model.log_weights(images, 200, generator=generator, noise_from="sequential")
    (first,) = recording.given
    low, high = recording.edges[:, first]
    values = recording.given[first].unflatten(0, (200, -1))
    assert ((low <= values) & (values <= high)).all()
    middle = ((low + high) / 2).where(low.isfinite() & high.isfinite(), values.mean(0))
    assert (values < middle).any(0).all()
    assert (values > middle).any(0).all()


@pytest.mark.parametrize("name", ["no-logit", "margin", "gaussian"])
def test_the_density_of_the_draws_integrates_to_one(name: str) -> None:
    """The density r = p / (w L^D) integrates to one over every cell, by quadrature with w(y) from the map."""
    model: DensityModel = correlated()[0] if name == "gaussian" else one_transform(name)
    images = laws.all_images(model.image_shape, model.n_levels)
    nodes, weights = (torch.from_numpy(part) for part in flows.np.polynomial.legendre.leggauss(60))
    u, area = torch.cartesian_prod((nodes + 1) / 2, (nodes + 1) / 2), torch.cartesian_prod(weights, weights).prod(1) / 4
    with torch.no_grad():
        for x in images.flatten(1).double():
            y = (x + u) / model.n_levels  # (nodes, 2)
            walk = model.triangular()
            edges = walk.start(torch.stack([x, x + 1])[..., None] / model.n_levels, len(u))
            inside = model.triangular().start(y.T[None].repeat(2, 1, 1), len(u))[0]  # coordinates of the map
            log_w = torch.zeros(len(u), dtype=torch.float64)
            for dim in walk.order:
                z = walk.conditional(dim).forward(edges[:, dim].expand(2, len(u)))
                log_w += torch.log(torch.special.ndtr(z[1]) - torch.special.ndtr(z[0]))
                walk.give(dim, inside[dim])
            log_r = model.log_density(y.reshape(-1, *model.image_shape)) - 2 * math.log(model.n_levels) - log_w
            assert float(log_r.exp() @ area) == pytest.approx(1, abs=2e-3)


def test_the_order_is_that_of_the_map() -> None:
    """With the transform reversed, the last sub-pixel comes first."""
    model = one_transform("maf")
    assert list(model.triangular().order) == [0, 1]
    params = {**ONE, "n_transforms": 2}
    two = build("flow", params, (1, 1, 2), 3).double().eval()
    assert isinstance(two, Flow)
    del two.transforms[0]
    assert list(two.triangular().order) == [1, 0]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in two.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    images = laws.all_images((1, 1, 2), 3)
    laws.weights_average_to(two, images, masses(two, "maf"), generator, 4_000, noise_from="sequential")


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
@pytest.mark.parametrize("hidden", [[7], [12, 9], [3, 20, 5]])
def test_outputs_in_order_are_those_of_one_pass(order: list[int], hidden: list[int]) -> None:
    generator = torch.Generator().manual_seed(6)
    rank = torch.tensor(order).argsort()
    adjacency = (rank[:, None] > rank).repeat_interleave(3, 0)
    with torch.random.fork_rng(devices=[]):
        network = MaskedMLP(adjacency, hidden).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        x = torch.randn(11, 5, generator=generator, dtype=torch.float64)
        whole = network(x).unflatten(1, (5, 3))
        layers = [part for part in network if isinstance(part, MaskedLinear)]
        walk = InOrder(layers, [part for part in network if not isinstance(part, MaskedLinear)], order)
        for _ in range(2):  # a second run does not depend on the first
            walk.start(11)
            for dim in order:
                torch.testing.assert_close(walk.outputs(dim).T, whole[:, dim], rtol=0, atol=1e-11)
                walk.give(x[:, dim])
    assert whole[:, order[-1]].std(0).min() > 1e-3


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_maps_are_those_of_zuko(kind: str, generator: torch.Generator) -> None:
    n_rows, n_bins = 40, 6
    x = torch.cat([torch.linspace(-7, 7, 57), torch.tensor([-5.0, 5.0])]).double()[:, None].expand(-1, n_rows)
    if kind == "affine":
        raw = 3 * torch.randn(2, n_rows, generator=generator, dtype=torch.float64)
        ours, theirs = Affine.of_raw(raw), MonotonicAffineTransform(*raw)
    else:
        raw = 3 * torch.randn(3 * n_bins - 1, n_rows, generator=generator, dtype=torch.float64)
        ours = Spline(raw, n_bins)
        theirs = MonotonicRQSTransform(*raw.T.split([n_bins, n_bins, n_bins - 1], dim=1))
    y = ours.forward(x)
    torch.testing.assert_close(y, theirs._call(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.inverse(y), x, rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.inverse(x), theirs._inverse(x), rtol=0, atol=1e-7)
    assert (y.diff(dim=0)[:-2] > 0).all()
    ends = torch.tensor([[-math.inf], [math.inf]], dtype=torch.float64).expand(2, n_rows)
    assert torch.equal(ours.forward(ends), ends)


def test_rows_do_not_depend_on_chunks(generator: torch.Generator) -> None:
    """Random numbers agree exactly, weights up to rounding; a restarted generator would be noticed."""
    model = one_transform("nsf")
    images = laws.all_images(model.image_shape, model.n_levels)
    ask = {"noise_from": "sequential"}
    state = generator.get_state()
    whole = model.log_weights(images, 6, generator=generator, **ask)
    generator.set_state(state)
    parts = [model.log_weights(images, n, generator=generator, **ask) for n in (1, 3, 2)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=laws.ROUNDING * 100)
    generator.set_state(state)
    assert torch.equal(model.log_weights(images, 6, generator=generator, **ask), whole)
    anew = model.log_weights(images, 1, generator=generator.set_state(state), **ask)
    assert (anew[0] - whole[1]).abs().max() > 1e-3


def test_given_noise_is_the_first_draw(generator: torch.Generator) -> None:
    model = one_transform("maf")
    images = laws.all_images(model.image_shape, model.n_levels)
    noise = torch.rand(images.shape, generator=generator)
    log_w = model.log_weights(images, 2, noise=noise, generator=generator, noise_from="sequential")
    other = model.log_weights(images, 1, noise=noise, noise_from="sequential")
    torch.testing.assert_close(log_w[0], other[0], rtol=0, atol=laws.ROUNDING * 100)
    assert (log_w[1] - log_w[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["maf", "nsf"])
def test_a_float32_network_gives_the_same_masses(name: str) -> None:
    """With eight levels, a float32 model agrees with float64 up to the rounding of the network."""
    model = one_transform(name)
    images = laws.all_images(model.image_shape, model.n_levels)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(8))
    double = model.log_weights(images, 1, noise=noise, noise_from="sequential")
    single = model.float().log_weights(images, 1, noise=noise, noise_from="sequential")
    assert single.dtype == torch.float64
    assert 0 < (single - double).abs().max() < 1e-4


def test_weights_vary_less_than_those_of_uniform_noise(generator: torch.Generator) -> None:
    """This holds for every image of every case; and no weight is above one."""
    for name in TRIANGULAR:
        model = one_transform(name)
        images = laws.all_images(model.image_shape, model.n_levels)
        spread = {}
        for noise_from in ("own", "sequential"):
            log_w = model.log_weights(images, 500, generator=generator, noise_from=noise_from)
            spread[noise_from] = (log_w.exp().std(0) / log_w.exp().mean(0)).mean()
            assert noise_from == "own" or log_w.max() <= 0
        assert spread["sequential"] < 0.7 * spread["own"]


def test_what_is_no_single_triangular_map_is_refused() -> None:
    two = build("flow", {**FLOW, **UNIFORM}, (1, 1, 2), 3).eval()
    images = laws.all_images((1, 1, 2), 3)
    for model in (two, small_model("realnvp-plane")):
        assert isinstance(model, DensityModel)
        assert not model.is_triangular
        with pytest.raises(ValueError, match="sequential noise needs a density that is one triangular map"):
            model.log_weights(images, 1, noise_from="sequential")


def test_each_mass_is_one_factor() -> None:
    """Given the first value, the masses of all cells of the second sum to one, for a logit without margin."""
    for name, at in itertools.product(IN_THE_CUBE, (-2.0, 0.0, 1.5)):
        model = one_transform(name)
        levels = torch.arange(model.n_levels).double()
        edges = torch.stack([levels, levels + 1])[:, None].expand(2, 2, -1) / model.n_levels
        walk = model.triangular()
        with torch.no_grad():
            edges = walk.start(edges, model.n_levels)
            walk.conditional(0)
            walk.give(0, torch.full((model.n_levels,), at, dtype=torch.float64))
            z = walk.conditional(1).forward(edges[:, 1])
        total = (torch.special.ndtr(z[1]) - torch.special.ndtr(z[0])).sum()
        assert float(total) == pytest.approx(1, abs=1e-12)


def a_shift_leaves_the_masses(name: str) -> None:
    model, generator = one_transform(name), torch.Generator().manual_seed(9)
    images = laws.all_images(model.image_shape, model.n_levels)
    shift = 0.6 * torch.randn(model.n_dims, len(images), generator=generator, dtype=torch.float64)
    laws.weights_average_to(*(model, images, masses(model, name), generator, 4_000), noise_from=Shifted(shift))


@pytest.mark.parametrize("name", ["maf", "no-logit"])
def test_a_shift_leaves_the_masses(name: str) -> None:
    a_shift_leaves_the_masses(name)


def chained(n_dims: int = 12) -> Gaussian:
    """Return a normal with strongly dependent dimensions, given each other far narrower than a cell."""
    model = Gaussian((1, 1, n_dims), 4).double().eval()
    steps = torch.eye(n_dims, dtype=torch.float64) - 0.95 * torch.diag(torch.ones(n_dims - 1).double(), -1)
    model.mean.fill_(0.5)
    model.whitening.copy_(steps / 0.12)
    return model


def a_learned_shift_helps() -> None:
    model, generator = chained(), torch.Generator().manual_seed(10)
    x = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3], [1, 2, 2, 1, 1, 1, 0, 0, 1, 1, 2, 1]], dtype=torch.uint8)
    x = x.reshape(2, 1, 1, 12)
    plain = model.log_weights(x, 4_000, generator=generator, noise_from="sequential")
    shifted = model.shifted(x, 256, 100, generator)
    better = model.log_weights(x, 4_000, generator=generator, noise_from=shifted)
    for log_w in (plain, better):
        assert (standard_error(log_w) < 0.05).all()
    errors = (standard_error(plain).square() + standard_error(better).square()).sqrt()
    assert ((log_mean_exp(plain) - log_mean_exp(better)).abs() < laws.FAR * errors).all()
    assert (effective_sample_size(better) > 1.3 * effective_sample_size(plain)).all()


def test_a_learned_shift_helps() -> None:
    """The effective sample size grows, and the mass stays the same."""
    a_learned_shift_helps()


def test_a_shift_is_shrunk_as_far_as_it_is_noise(generator: torch.Generator) -> None:
    """Equal weights give no shift; a true shift is found; zeros and spikes give no NaN; images are independent."""
    v = torch.rand(30, 256, 4, generator=generator, dtype=torch.float64)
    normal = torch.special.ndtri(v)
    true = torch.full((30,), 0.3, dtype=torch.float64)
    log_w = torch.stack(
        [
            torch.zeros(256).double(),
            (true[:, None] * normal[..., 1]).sum(0),
            torch.full((256,), -torch.inf).double(),
            torch.zeros(256).double().index_fill_(0, torch.tensor([3]), 500.0),
        ],
        dim=1,
    )
    shift = shift_of(v, log_w)
    assert shift.shape == (30, 4)
    assert shift.isfinite().all()
    assert shift[:, 0].abs().max() < 0.1
    assert 0.1 < shift[:, 1].mean() < 0.45
    assert not shift[:, 2].any()
    assert (shift[:, 3].square().sum() < 9).all()
    torch.testing.assert_close(shift_of(v[..., 1:2], log_w[:, 1:2]), shift[:, 1:2])
    assert shift_of(torch.ones(2, 8, 1), torch.zeros(8, 1).double()).isfinite().all()  # 1 - 2^-25 in float32
