"""Mistakes with densities: the volume of a cell, the noise, and the change of variables."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch import distributions as td

from bitsperdim.studies.known.mistakes.bench import Bench
from bitsperdim.studies.known.mistakes.counting import MASS
from bitsperdim.studies.known.mistakes.mistake import DoesNotApplyError, Foreign, Made, Mistake
from bitsperdim.studies.known.mistakes.models import Another, Cells, Gauss, Mixture, looked_up, near

NARROW = 0.1  # scale in levels of components that have almost all of their mass in one cell
WIDE = 0.3  # scale in levels of wider components
Shape = tuple[int, int, int]


def uniform(image_shape: Shape, n_levels: int) -> Tensor:
    """Return equal masses for all levels, (C, H, W, L), for models of images of another shape."""
    return torch.full((*image_shape, n_levels), 1 / n_levels, dtype=torch.float64)


def of_masses(around: Callable[[Tensor], Callable[[Tensor], Tensor]], bench: Bench) -> Foreign:
    """Return a model that offers ``log_prob``, made from masses (C, H, W, L); its small versions use uniform masses."""
    return Foreign(
        around(bench.masses),
        {
            "offers": "log_prob",
            "build": lambda image_shape, n_levels: around(uniform(image_shape, n_levels)),
        },
    )


def of_cells(width: Callable[[int], float]) -> Callable[[Bench], Made]:
    """Return a mistake in which cells of values from 0 to 1 have the wrong width, ``width(L)``."""

    def made(bench: Bench) -> Made:
        def around(masses: Tensor) -> Callable[[Tensor], Tensor]:
            cells = Cells(masses)

            def log_prob(x: Tensor) -> Tensor:
                density = cells.log_density((x + 0.5) / cells.n_levels)
                return density + cells.n_dims * math.log(width(cells.n_levels))

            return log_prob

        return Made(around(bench.masses)(bench.test), bench.cells.log_p(bench.test), of_masses(around, bench))

    return made


def density_as_mass(bench: Bench) -> Made:
    """Score grey values from 0 to 1 by the density of a normal with variance one."""
    mean = bench.moments[0]

    def log_prob(x: Tensor, mean: Tensor = mean, n_levels: int = bench.n_levels) -> Tensor:
        return td.Normal(mean / (n_levels - 1), 1.0).log_prob(x / (n_levels - 1)).flatten(1).sum(1)

    def mass(x: Tensor) -> Tensor:
        spacing = 1 / (bench.n_levels - 1)
        edges = (torch.arange(bench.n_levels + 1).double() - 0.5) * spacing
        edges[0], edges[-1] = -math.inf, math.inf
        shares = td.Normal((mean * spacing)[..., None], 1.0).cdf(edges).diff(dim=-1)
        return looked_up(shares.log(), x).flatten(1).sum(1)

    def build(image_shape: Shape, n_levels: int) -> object:
        middle = torch.full(image_shape, (n_levels - 1) / 2)
        return lambda x: log_prob(x, middle, n_levels)

    return Made(log_prob(bench.test), mass(bench.test), Foreign(log_prob, {"offers": "log_prob", "build": build}))


def no_noise(bench: Bench) -> Made:
    """Score integers by a density that has a peak at each integer."""

    def around(masses: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: Mixture(masses, NARROW).log_density(x + 0.5)

    wrong, right = around(bench.masses)(bench.test), bench.mixture(NARROW).log_p(bench.test)
    return Made(wrong, right, of_masses(around, bench))


def one_fixed_noise(bench: Bench) -> Made:
    """Add the same draw of the noise to every image, and call the density of the sum an exact likelihood."""
    noise = torch.rand(bench.shape, generator=bench.generator(1), dtype=torch.float64)

    def around(masses: Tensor) -> Callable[[Tensor], Tensor]:
        n_channels, height, width = masses.shape[:-1]
        part = noise[:n_channels, :height, :width]
        return lambda x: Mixture(masses, WIDE).log_density(x + part)

    wrong, right = around(bench.masses)(bench.test), bench.mixture(WIDE).log_p(bench.test)
    return Made(wrong, right, of_masses(around, bench))


def of_flow(direction: float = 1.0, divergence: float = 1.0) -> Callable[[Bench], Made]:
    """Return a mistake in the integration of the differential equation of a flow, see :class:`.models.Gauss`."""

    def made(bench: Bench) -> Made:
        y = bench.test + torch.rand(bench.test.shape, generator=bench.generator(2), dtype=torch.float64)

        def around(gauss: Gauss) -> Callable[[Tensor], Tensor]:
            return lambda values: gauss.log_density(values, direction=direction, divergence=divergence)

        def build(image_shape: Shape, n_levels: int) -> object:
            middle = torch.full(image_shape, n_levels / 2)
            return around(Gauss(middle, middle / 2))

        options = {"offers": "log_density", "range": (0, bench.n_levels), "build": build}
        return Made(around(bench.gauss)(y), bench.gauss.log_density(y), Foreign(around(bench.gauss), options))

    return made


def noisy_bound(masses: Tensor, *, has_entropy: bool) -> Callable[..., Tensor]:
    """Return a bound from a density of noisy images, (B,) nats, with or without the entropy of the noise.

    log P(x) is at least the mean over y of log p(y) + log P(x given y) - log q(y given x).
    """
    mixture = Mixture(masses, WIDE)
    entropy = 0.5 * masses[..., 0].numel() * math.log(math.tau * math.e * NARROW**2) if has_entropy else 0.0

    def bound(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        y = x + 0.5 + NARROW * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        every = near(y, NARROW, mixture.n_levels)[1].logsumexp(-1)
        decoded = td.Normal(x + 0.5, NARROW).log_prob(y) - every
        return mixture.log_density(y) + decoded.flatten(1).sum(1) + entropy

    return bound


def no_entropy(bench: Bench) -> Made:
    """Leave out the entropy of the noise that is added to an image before the density is evaluated."""

    def build(image_shape: Shape, n_levels: int) -> object:
        return noisy_bound(uniform(image_shape, n_levels), has_entropy=False)

    wrong, right = (noisy_bound(bench.masses, has_entropy=flag) for flag in (False, True))
    foreign = Foreign(wrong, {"offers": "bound", "build": build})
    return Made(wrong(bench.test, bench.generator(3)), right(bench.test, bench.generator(3)), foreign)


def grey_cross_entropy(bench: Bench) -> Made:
    """Use x log p + (1 - x) log(1 - p) of grey values x as a log-likelihood."""
    n_levels = bench.n_levels
    if n_levels == 2:
        raise DoesNotApplyError("Of two levels the cross entropy is the likelihood of Bernoulli trials.")
    share = (bench.moments[0] / (n_levels - 1)).clamp(0.01, 0.99)

    def log_prob(x: Tensor) -> Tensor:
        grey = x / (n_levels - 1)
        return grey * share.log() + (1 - grey) * torch.log1p(-share)

    every = torch.stack([log_prob(torch.full(bench.shape, float(level))) for level in range(n_levels)], dim=-1)
    model = Another(conditionals=lambda x: Another(log_prob=log_prob))
    wrong, right = log_prob(bench.test), looked_up(every.log_softmax(-1), bench.test)
    return Made(wrong.flatten(1).sum(1), right.flatten(1).sum(1), Foreign(model))


MISTAKES = (
    Mistake(
        "255 for 256",
        "The noise fills cells of width 1/L, but the volume is taken for that of cells of width 1/(L-1).",
        of_cells(lambda n_levels: 1 / (n_levels - 1)),
        "audit",
        checks=MASS,
        law="evaluation/test_evaluate.py::test_constants_of_a_density_are_ours",
        source="rosinality/glow-pytorch issue 17 (where 1/255 and 1/256 are discussed)",
    ),
    Mistake(
        "log 128 for log 256",
        "The constant of values from -1 to 1, log(L/2), is used for values from 0 to 1, which need log L.",
        of_cells(lambda n_levels: 2 / n_levels),
        "audit",
        checks=MASS,
        law="evaluation/test_evaluate.py::test_constants_of_a_density_are_ours",
        source="musyoku/chainer-gqn issue 17 (log 256, then log 128); asked in yang-song/score_sde_pytorch issue 51",
    ),
    Mistake(
        "log 256 left out",
        "The density of values between 0 and 1 is printed without the volume of the cells, D log L.",
        of_cells(lambda n_levels: 1.0),
        "audit",
        checks=MASS,
        law="evaluation/test_evaluate.py::test_constants_of_a_density_are_ours",
        source="MokkeMeguru/glow-realnvp-tutorial issue 2 (found by its author)",
    ),
    Mistake(
        "A density taken for a mass",
        "Grey values between 0 and 1 are scored by a normal density of variance one, as a squared error is.",
        density_as_mass,
        "audit",
        checks=MASS,
        law="models/test_flows.py::test_a_density_at_integers_is_called_one",
        source="clementchadebec/benchmark_VAE, likelihood of the mse decoder; asked in nadavbh12/VQ-VAE issue 7",
    ),
    Mistake(
        "No noise on integers",
        f"A density with peaks of {NARROW} levels at the integers is scored at the integers themselves.",
        no_noise,
        "audit",
        checks=MASS,
        law="evaluation/test_evaluate.py::test_constants_of_a_density_are_ours",
        source="yang-song/score_sde issue 24 (asked: noise is not added, and the number may be negative)",
    ),
    Mistake(
        "One fixed noise",
        "One draw of the noise is added to every image, and the density of the sum is called an exact log P.",
        one_fixed_noise,
        "audit",
        checks=("sum over tiny images", "annealed mass"),
        law="models/test_flows.py::test_weights_average_to_the_mass_of_the_cell",
    ),
    Mistake(
        "An equation solved in the wrong direction",
        "The equation of a flow is integrated from the noise to the data, not from the data to the noise.",
        of_flow(direction=-1.0),
        "audit",
        checks=("range", "codes"),
        source="openai/consistency_models_cifar10 issue 12 (about 31 bits/dim)",
    ),
    Mistake(
        "The wrong sign of the log-determinant",
        "The integral of the divergence is subtracted where it should be added.",
        of_flow(divergence=-1.0),
        "audit",
        checks=MASS,
        law="models/test_bijections.py::test_ladj_is_the_jacobian",
    ),
    Mistake(
        "The entropy of the noise left out",
        "A bound by a density of noisy images is printed without the entropy of the noise.",
        no_entropy,
        "audit",
        checks=("sum over tiny images", "annealed mass"),
        source="Kim-Dongjun/Soft-Truncation issues 2 and 3 (0.92 bits/dim; corrected by its author)",
    ),
    Mistake(
        "Cross entropy of grey values",
        "x log p + (1 - x) log(1 - p) is printed as a log-likelihood of grey values x between 0 and 1.",
        grey_cross_entropy,
        "audit",
        checks=("masses sum to one",),
        law="likelihoods/test_heads.py::test_what_does_not_fit_is_refused",
        source="pyro-ppl/pyro issue 529 (its tutorial says so itself); pytorch/examples issue 460",
    ),
)
