"""Heads by name: their initial biases, the effect of every output, and the names that params.yaml allows."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from bitsperdim.config.families.base import LikelihoodName
from bitsperdim.likelihoods import HEADS, CoupledLogisticMixture, Likelihood, Mixture, build_head
from bitsperdim.likelihoods.heads import means_of_parts
from bitsperdim.models.base import level_counts

# an even number of levels, so that no level is at the centre, where coefficients have no effect
ALL = [
    ("bernoulli", 2, 1),
    ("categorical", 6, 1),
    ("logistic", 6, 1),
    ("logistic", 6, 3),
    ("normal", 6, 1),
    ("normal", 6, 2),
    ("coupled_logistic", 6, 1),
    ("coupled_logistic", 6, 3),
]


def at_the_start(name: str, n_mixtures: int, images: Tensor, n_levels: int) -> Likelihood:
    """Return the likelihood whose outputs are the initial biases, batch shape (C, H, W)."""
    head = build_head(name, images.shape[1], n_levels, n_mixtures)
    return head(head.biases(level_counts(images, n_levels)))


def test_the_names_are_those_of_the_parameters() -> None:
    assert set(get_args(LikelihoodName)) == HEADS.keys() == {name for name, *_ in ALL}


@pytest.mark.parametrize(("name", "n_levels", "n_mixtures"), ALL)
@pytest.mark.parametrize("n_channels", [1, 3, 4])
def test_every_output_moves_the_likelihood(
    name: str, n_levels: int, n_mixtures: int, n_channels: int, generator: torch.Generator
) -> None:
    """Each output of a pixel changes the masses of its own group of channels in that pixel, and nothing else."""
    head = build_head(name, n_channels, n_levels, n_mixtures)
    shape = (2, head.n_groups, 2, 1, head.n_outputs)
    outputs = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.randint(n_levels, (2, n_channels, 2, 1), generator=generator)
    log_p = head(outputs).log_prob(x)
    assert log_p.shape == x.shape
    (gradient,) = torch.autograd.grad(log_p[1, :, 0, 0].sum(), outputs, retain_graph=True)
    assert (gradient[1, :, 0, 0] != 0).all()
    assert gradient.count_nonzero() == head.n_groups * head.n_outputs
    if head.n_groups > 1:
        (gradient,) = torch.autograd.grad(log_p[1, 1, 0, 0], outputs)
        assert (gradient[1, 1, 0, 0] != 0).all()
        assert gradient.count_nonzero() == head.n_outputs


@pytest.mark.parametrize(("name", "n_levels"), [("bernoulli", 2), ("categorical", 5)])
def test_the_start_is_the_marginal(name: str, n_levels: int, generator: torch.Generator) -> None:
    """Each level starts with its share, as if it had been seen once more."""
    images = torch.randint(n_levels, (30, 3, 2, 2), generator=generator).to(torch.uint8)
    start = at_the_start(name, 1, images, n_levels)
    for level in range(n_levels):
        expected = ((images == level).sum(0).double() + 1) / (30 + n_levels)
        torch.testing.assert_close(start.log_prob(torch.tensor(level)).exp(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["logistic", "normal", "coupled_logistic"])
@pytest.mark.parametrize("n_mixtures", [1, 2, 5])
def test_a_density_starts_at_mean_and_spread(name: str, n_mixtures: int, generator: torch.Generator) -> None:
    """This holds for each channel; the means of several components add their variance to that of the images."""
    peaks = torch.where(torch.rand(4000, 3, 1, 2, generator=generator) < 0.4, 100.0, 150.0)
    noise = 8 * torch.randn(4000, 3, 1, 2, generator=generator)
    images = (peaks + torch.tensor([-20.0, 0.0, 20.0])[:, None, None] + noise).round().to(torch.uint8)
    start = at_the_start(name, n_mixtures, images, 256)
    levels = torch.arange(256, dtype=torch.float64)[:, None, None, None]
    masses = start.log_prob(levels).exp()  # (256, C, H, W)
    mean = (masses * levels).sum(0)
    variance = (masses * levels.square()).sum(0) - mean.square()
    parts = images.double().sort(0).values.reshape(n_mixtures, -1, 3, 1, 2).mean(1)  # parts of equal mass
    expected = images.double().var(0) + parts.var(0, correction=0)
    # with several coupled components only the first channel has the weights of the marginal
    n = 1 if name == "coupled_logistic" and n_mixtures > 1 else 3
    torch.testing.assert_close(mean[:n], images.double().mean(0)[:n], rtol=0.01, atol=0)
    torch.testing.assert_close(variance[:n], expected[:n], rtol=0.03, atol=0)


def test_the_parts_have_equal_mass() -> None:
    """Levels 0 0 0 1 3 3 by hand: in parts of two images, in parts of 1.5 with two divided levels, and in one part."""
    counts = torch.tensor([[3, 1, 0, 2]])
    for n_parts, means in ((3, [0, 0.5, 3]), (4, [0, 0, (1 + 0.5 * 3) / 1.5, 3]), (1, [7 / 6])):
        torch.testing.assert_close(means_of_parts(counts, n_parts), torch.tensor([means]).double())


@pytest.mark.parametrize("name", ["logistic", "normal", "coupled_logistic"])
def test_components_start_apart(name: str, generator: torch.Generator) -> None:
    """Components are ordered by location, in the same way in all channels, and have equal weights."""
    images = torch.randint(30, (200, 3, 2, 2), generator=generator).to(torch.uint8)
    start = at_the_start(name, 4, images, 30)
    if isinstance(start, CoupledLogisticMixture):
        loc, logits = start.loc, start.logits
        assert (start.coefficients == 0).all()
    else:
        assert isinstance(start, Mixture)
        loc, logits = start.components.loc, start.logits
    assert (loc.diff(dim=-1) > 3).all()
    assert (logits == 0).all()


def test_a_location_of_zero_is_the_middle_and_a_scale_of_zero_half_the_range() -> None:
    head = build_head("logistic", 1, 256, 1)
    found = head(torch.zeros(1, 1, 1, 2))
    assert found.loc.item() == 127.5
    assert found.log_scale.item() == pytest.approx(math.log(127.5))


def test_a_density_starts_with_the_spread_of_the_marginal_and_of_a_cell() -> None:
    """A level n is a uniform value between n - 1/2 and n + 1/2: equally many levels 3 and 5 have variance 1 + 1/12."""
    counts = torch.tensor([0, 0, 0, 7, 0, 7, 0, 0]).reshape(1, 1, 1, 8)
    head = build_head("normal", 1, 8, 1)
    found = head(head.biases(counts).float())
    assert found.loc.item() == pytest.approx(4.0)
    assert found.log_scale.exp().square().item() == pytest.approx(1 + 1 / 12, rel=1e-6)


def test_coefficients_stay_within_one() -> None:
    head = build_head("coupled_logistic", 3, 256, 2)
    found = head(torch.full((1, 1, 1, head.n_outputs), 50.0))
    assert isinstance(found, CoupledLogisticMixture)
    assert (found.coefficients == 1).all()


def test_outputs_of_half_precision_are_taken_to_float32() -> None:
    for name, n_levels, n_mixtures in ALL:
        head = build_head(name, 3, n_levels, n_mixtures)
        outputs = torch.zeros(head.n_groups, 1, 1, head.n_outputs, dtype=torch.bfloat16)
        assert head(outputs).log_prob(torch.zeros(3, 1, 1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "n_levels", "n_mixtures", "sentence"),
    [
        ("poisson", 5, 1, "likelihood must be one of bernoulli, categorical, logistic, normal, coupled_logistic, not"),
        ("bernoulli", 5, 1, "a Bernoulli likelihood has 2 levels, not 5"),
        ("bernoulli", 2, 2, "a Bernoulli likelihood has n_mixtures 1, not 2"),
        ("categorical", 5, 2, "a categorical likelihood has n_mixtures 1, not 2"),
        ("normal", 5, 0, "n_mixtures must be at least 1, not 0"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, n_levels: int, n_mixtures: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_head(name, 3, n_levels, n_mixtures)
