"""Flows: the density integrates to one, weights average to the mass of the cell, the inverse inverts after training."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from bitsperdim.estimators.log_weights import log_mean_exp
from bitsperdim.evaluation.estimate import estimate
from bitsperdim.models import build
from bitsperdim.models.normalizing_flow import NormalizingFlow
from bitsperdim.models.parts.bijections import ActNorm, Bijection, Squeeze
from bitsperdim.models.realnvp import RealNVP, bijections
from support import laws
from support.cases import SMALL, small_model

FLOWS = [name for name, (family, *_) in SMALL.items() if family in ("flow", "realnvp")]
ON_A_PLANE = [name for name in FLOWS if math.prod(SMALL[name][2]) == 2 and SMALL[name][1]["logit_margin"] == 0]
BEYOND_THE_CUBE = ["flow-margin-plane", "flow-no-logit-plane"]  # part of their density lies outside and is lost


def small_flow(name: str) -> NormalizingFlow:
    model = small_model(name)
    assert isinstance(model, NormalizingFlow)
    return model


def nodes_of_cells(n_levels: int, n_nodes: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Return nodes of the logit of y, from -150 to 150, their Gauss-Legendre weights and their cells."""
    inner = [math.log(edge / (n_levels - edge)) for edge in range(1, n_levels)]
    outer = [150.0, 70.0, 30.0, 14.0, 8.0, 5.0, 3.0]
    edges = [*(-edge for edge in outer), *inner, *reversed(outer)]
    assert edges == sorted(edges)
    cells = [0] * len(outer) + list(range(1, n_levels - 1)) + [n_levels - 1] * len(outer)
    unit, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(n_nodes))
    z, w = [], []
    for low, high in itertools.pairwise(edges):
        for part in range(3):  # networks with rectifiers have kinks, so many short pieces are needed
            start, width = low + (high - low) * part / 3, (high - low) / 3
            z.append(start + width * (unit + 1) / 2)
            w.append(weight * width / 2)
    return torch.cat(z), torch.cat(w), torch.tensor(cells).repeat_interleave(3 * n_nodes)


def masses_on_a_plane(model: NormalizingFlow, n_nodes: int = 16) -> Tensor:
    """Integrate the density over every cell of an image of two sub-pixels, (L*L,) in the order of ``all_images``.

    The integral is over the logit of y, because cells at the edge reach to infinity and y itself would round to 1.
    """
    at, w, cell = nodes_of_cells(model.n_levels, n_nodes)
    grid = torch.cartesian_prod(at, at).reshape(-1, *model.image_shape)
    density = []
    with torch.no_grad():
        for part in grid.split(2**16):
            z, ladj = model.to_normal(part)
            density.append(torch.exp(ladj - z.square().sum(1) / 2) / math.tau)
    where = (cell[:, None] * model.n_levels + cell[None]).flatten()
    each = torch.cat(density) * torch.outer(w, w).flatten()
    return torch.zeros(model.n_levels**2, dtype=torch.float64).index_add(0, where, each)


def integrates_to_one(name: str, n_nodes: int = 16) -> None:
    assert masses_on_a_plane(small_flow(name), n_nodes).sum().item() == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("name", ON_A_PLANE)
def test_the_density_integrates_to_one(name: str) -> None:
    integrates_to_one(name)


def weights_average_to_the_mass_of_the_cell(
    name: str, generator: torch.Generator, n_samples: int, n_nodes: int = 16
) -> None:
    model = small_flow(name)
    images = laws.all_images(model.image_shape, model.n_levels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)  # weights with heavy tails would need millions of samples
        laws.weights_average_to(model, images, masses_on_a_plane(model, n_nodes), generator, n_samples)


@pytest.mark.parametrize("name", ON_A_PLANE)
def test_weights_average_to_the_mass_of_the_cell(name: str, generator: torch.Generator) -> None:
    weights_average_to_the_mass_of_the_cell(name, generator, n_samples=4_000)


@pytest.mark.parametrize("name", BEYOND_THE_CUBE)
def test_weights_average_to_the_mass_inside_the_cube(name: str, generator: torch.Generator) -> None:
    model = small_flow(name)
    images = laws.all_images(model.image_shape, model.n_levels)
    with torch.no_grad():
        masses, finer = (laws.masses_of_cells(model, n_nodes) for n_nodes in (120, 160))
        torch.testing.assert_close(masses, finer, rtol=2e-3, atol=1e-9)  # a tenth of the Monte Carlo error
        assert 0.1 < finer.sum() < 0.999
        laws.weights_average_to(model, images, finer, generator, n_samples=4_000)


@pytest.mark.processor
@pytest.mark.parametrize("transform", ["maf", "nsf"])
def test_no_mass_is_lost_in_half_precision(transform: str) -> None:
    """Under autocast, the density of the second value given the first still integrates to one.

    With one transform, z_1 depends only on y_1, so the integral over y_2 is N(z_1) times the derivative of z_1.
    """
    params = {**SMALL["flow-maf"][1], "transform": transform, "n_transforms": 1}
    model = build("flow", params, (1, 1, 2), 4)
    assert isinstance(model, NormalizingFlow)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.3 * draw)
    at, w, _ = nodes_of_cells(model.n_levels)
    first = torch.tensor([-2.0, -0.7, 0.1, 0.8, 1.9], dtype=torch.float64)
    grid = torch.cartesian_prod(first, at).float().reshape(-1, 1, 1, 2).requires_grad_()
    densities = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            z, ladj = model.to_normal(grid)
        z = z.reshape(len(first), -1, 2).double()
        (derivative,) = torch.autograd.grad(z[..., 0].sum(), grid, retain_graph=True)
        ladj_given_first = ladj.reshape(len(first), -1) - derivative[..., 0].double().log().reshape(len(first), -1)
        densities.append(torch.exp(ladj_given_first - z[..., 1].square() / 2).detach() / math.tau**0.5)
        torch.testing.assert_close(densities[-1] @ w, torch.ones(len(first)).double(), rtol=0, atol=1e-3)
    assert (densities[0] - densities[1]).abs().max() > 1e-4  # half precision was used: float32 would differ by 1e-6


def through(stack: list[Bijection], flat: Tensor, shape: tuple[int, int, int]) -> Tensor:
    y = flat.reshape(1, *shape)
    for part in stack:
        y, _ = part(y)
    return y.flatten()


def test_every_stack_of_couplings_moves_everything(generator: torch.Generator) -> None:
    """Before and after each squeeze, every value changes with values of the other colour or half of the channels."""
    model = small_flow("realnvp-three-scales")
    assert isinstance(model, RealNVP)
    n_stacks = 0
    channels, height, width = model.image_shape
    for scale in model.scales:
        parts = bijections(scale)
        squeeze = next((number for number, part in enumerate(parts) if isinstance(part, Squeeze)), len(parts))
        squeezed = (4 * channels, height // 2, width // 2)
        for stack, shape in ((parts[:squeeze], (channels, height, width)), (parts[squeeze + 1 :], squeezed)):
            if stack:
                y = torch.randn(math.prod(shape), generator=generator, dtype=torch.float64)
                jacobian = torch.autograd.functional.jacobian(lambda y, s=stack, c=shape: through(s, y, c), y)
                assert ((jacobian != 0).sum(1) > 1).all()
                n_stacks += 1
        channels, height, width = squeezed[0] // 2, *squeezed[1:]
    assert n_stacks == 5


def test_every_normalisation_starts_at_mean_0_and_spread_1(generator: torch.Generator) -> None:
    """This holds on the images of the initialisation, for any couplings in between."""
    model = small_flow("realnvp-three-scales")
    with torch.no_grad():
        y = torch.randn(400, *model.image_shape, generator=generator, dtype=torch.float64) * 3 + 1
        model.normalise(y)
        seen: list[Tensor] = []
        for part in model.modules():
            if isinstance(part, ActNorm):
                part.register_forward_hook(lambda _, __, result: seen.append(result[0]))
        model.to_normal(y)
    assert len(seen) == 1 + 2 * (3 + 3) + 4
    for z in seen:
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(z.shape[1]).double(), rtol=0, atol=1e-9)
        torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(z.shape[1]).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ON_A_PLANE)
def test_samples_follow_the_masses(name: str) -> None:
    """Counts of all images in 4,000 samples fit, by exact binomial tails: one seed in 100,000 fails."""
    model = small_flow(name)
    samples = model.sample(4_000, generator=torch.Generator().manual_seed(5)).flatten(1).long()
    masses = masses_on_a_plane(model).clamp(max=1)
    counts = torch.bincount(samples[:, 0] * model.n_levels + samples[:, 1], minlength=len(masses))
    below, above = binom.cdf(counts, 4_000, masses), binom.sf(counts - 1, 4_000, masses)
    assert 2 * np.minimum(below, above).min() > 1e-5 / len(masses)


@pytest.mark.processor
@pytest.mark.parametrize("name", FLOWS)
def test_ladj_is_the_jacobian(name: str, generator: torch.Generator) -> None:
    model = small_flow(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)  # the Jacobian of many couplings at full strength would hardly have a correct digit
    y = 0.02 + 0.96 * torch.rand(4, *model.image_shape, generator=generator, dtype=torch.float64)
    z, ladj = model.to_latent(y)
    for image in range(len(y)):

        def moved(flat: Tensor) -> Tensor:
            return model.to_latent(flat.reshape(1, *model.image_shape))[0].flatten()

        jacobian = torch.autograd.functional.jacobian(moved, y[image].flatten())
        torch.testing.assert_close(ladj[image], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-8, atol=1e-8)
        # the other side: every value of z depends on some other value
        assert ((jacobian != 0).sum(1) > 1).all()
        assert ((jacobian != 0).sum(0) > 1).all()
    torch.testing.assert_close(model.from_latent(z), y, rtol=0, atol=1e-9)


@pytest.mark.processor
@pytest.mark.parametrize(
    ("family", "params"),
    [
        ("flow", {"transform": "maf", "n_transforms": 3, "hidden_sizes": [32], "n_bins": 4}),
        ("flow", {"transform": "nsf", "n_transforms": 2, "hidden_sizes": [32], "n_bins": 4}),
        ("realnvp", {"n_scales": 2, "n_filters": 12, "n_blocks": 1}),
    ],
)
def test_the_inverse_inverts(family: str, params: dict, generator: torch.Generator) -> None:
    """After 200 float32 steps on images with two kinds of rows: to 1e-5 from data to normal and back, and reverse."""
    shared = {"logit_margin": 0.0, "dequantization": "uniform", "variational": VARIATIONAL}
    model = build(family, {**params, **shared}, (1, 4, 4), 5)
    assert isinstance(model, NormalizingFlow)
    rows = torch.tensor([[0, 1, 3, 4], [4, 2, 2, 0]], dtype=torch.uint8)
    images = rows[torch.randint(2, (256, 1, 4), generator=generator)]
    model.initialise(images)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(200):
        x = images[(step * 32) % 256 :][:32]
        loss = -log_mean_exp(model.log_weights(x, generator=generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 4
    with torch.no_grad():
        u = torch.rand(images.shape, generator=generator, dtype=torch.float64)
        y = (images + u) / 5
        z, _ = model.to_latent(y)
        torch.testing.assert_close(model.from_latent(z), y, rtol=0, atol=1e-5)
        z = torch.randn(256, 16, generator=generator)
        torch.testing.assert_close(model.to_latent(model.from_latent(z))[0], z, rtol=0, atol=2e-3)


VARIATIONAL = {"n_couplings": 2, "n_filters": 4, "n_blocks": 1}


def test_a_density_at_integers_is_called_one(generator: torch.Generator) -> None:
    params = {**SMALL["flow-maf"][1], "dequantization": "none"}
    model = build("flow", params, (1, 1, 2), 3).double().eval()
    images = laws.all_images((1, 1, 2), 3)
    model.initialise(images)
    result = estimate(model, images, 7, chunk_size=2, batch_size=4, generator=generator)
    assert result.kind == "density"
    assert result.n_samples == 1
    y = (images.double() + 0.5) / 3
    assert isinstance(model, NormalizingFlow)
    torch.testing.assert_close(result.log_p, model.log_density(y).detach() - 2 * math.log(3), rtol=0, atol=1e-12)
    assert not result.standard_error.any()
    for name, kind in (("uniform", "lower"), ("uniform_fixed", "lower"), ("variational", "lower")):
        other = build("flow", {**params, "dequantization": name}, (1, 1, 2), 3)
        assert other.kind == kind
        assert other.keeps_noise == (name == "uniform_fixed")


def test_sizes_that_do_not_fit_the_images_are_refused() -> None:
    from bitsperdim.core.errors import InputError

    realnvp = {**SMALL["realnvp-rgb"][1], "n_scales": 3}
    with pytest.raises(InputError, match="n_scales = 3 needs a height and a width that are multiples of 4"):
        build("realnvp", realnvp, (1, 6, 8), 4)
    for shape, n_scales in (((1, 4, 4), 3), ((3, 1, 1), 1)):
        with pytest.raises(InputError, match=f"n_scales = {n_scales} leaves one pixel at the last scale"):
            build("realnvp", {**realnvp, "n_scales": n_scales}, shape, 4)
    with pytest.raises(InputError, match="variational noise needs images of at least 2 pixels"):
        build("flow", SMALL["flow-variational"][1], (3, 1, 1), 4)
    flow = SMALL["flow-maf"][1]
    with pytest.raises(InputError, match="transform must be one of maf, nsf, not 'spline'"):
        build("flow", {**flow, "transform": "spline"}, (1, 1, 2), 4)
    with pytest.raises(InputError, match="at least 2 dimensions"):
        build("flow", flow, (1, 1, 1), 4)
