"""Every form in which a model may return a mass of sub-pixels, and values that are refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.likelihoods import Likelihood
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.distributions import is_density, likelihood_of
from support.foreign import Levels, Own

CPU = torch.device("cpu")
FORMS: dict[str, Callable[[Tensor], Any]] = {  # functions of log-masses (B, *inner, L), or of shifted ones
    "logits last": lambda t: t + 3.0,
    "logits first": lambda t: t.movedim(-1, 1) - 2.0,
    "categorical by logits": lambda t: td.Categorical(logits=t),
    "categorical by probs": lambda t: td.Categorical(probs=t.exp()),
    "independent": lambda t: td.Independent(td.Categorical(logits=t), t.ndim - 2),
    "partly independent": lambda t: td.Independent(td.Independent(td.Categorical(logits=t), 1), t.ndim - 3),
    "own": Own,
}


def asked(given: object, x: Tensor, n_levels: int, layout: str, leading: tuple[int, ...] = ()) -> Likelihood:
    return likelihood_of(given, "m", leading or (len(x),), tuple(x.shape[1:]), n_levels, Convention(layout=layout), CPU)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "flat", "plane"])
@pytest.mark.parametrize(("shape", "n_levels"), [((1, 2, 4), 3), ((3, 2, 4), 5), ((1, 2, 4), 2), ((1, 2, 3), 300)])
def test_every_form_is_the_same_mass(
    shape: tuple[int, int, int], n_levels: int, layout: str, generator: torch.Generator
) -> None:
    if layout == "plane" and shape[0] > 1:
        pytest.skip("a plane has one channel")
    ours = torch.log_softmax(torch.randn(5, *shape, n_levels, generator=generator), -1)
    x = torch.randint(n_levels, (5, *shape), generator=generator)
    truth = ours.gather(-1, x[..., None])[..., 0]
    theirs = Levels(shape, n_levels, "integers", layout).laid_out(ours)
    for name, form in FORMS.items():
        if n_levels == 2 and layout == "flat" and name == "logits first" and math.prod(shape) == 2:
            continue
        found = asked(form(theirs), x, n_levels, layout)
        torch.testing.assert_close(found.log_prob(x), truth, atol=2e-6, rtol=0, msg=name)
        torch.testing.assert_close(found.log_prob_of_images(x), truth.flatten(1).sum(1), atol=2e-5, rtol=0, msg=name)
    if n_levels == 2:
        logits = theirs[..., 1] - theirs[..., 0]
        for given in (logits, td.Bernoulli(logits=logits), td.Independent(td.Bernoulli(logits=logits), 1)):
            torch.testing.assert_close(asked(given, x, 2, layout).log_prob(x), truth, atol=2e-6, rtol=0)
    if shape[0] == 1 and layout == "channels_first":  # (B, L, H, W), as a convolution returns it
        without_channel = theirs[:, 0].movedim(-1, 1)
        torch.testing.assert_close(asked(without_channel, x, n_levels, layout).log_prob(x), truth, atol=2e-6, rtol=0)


def test_leading_dimensions_are_those_of_samples(generator: torch.Generator) -> None:
    tables = torch.log_softmax(torch.randn(4, 5, 1, 2, 2, 3, generator=generator), -1)  # K = 4, B = 5
    x = torch.randint(3, (5, 1, 2, 2), generator=generator)
    truth = tables.gather(-1, x.expand(4, 5, 1, 2, 2)[..., None])[..., 0]
    for given in (tables.flatten(0, 1), td.Categorical(logits=tables.flatten(0, 1))):
        found = asked(given, x, 3, "channels_first", (4, 5))
        assert torch.equal(found.log_prob(x), truth) or torch.allclose(found.log_prob(x), truth, atol=1e-6)
        torch.testing.assert_close(found.log_prob_of_images(x), truth.flatten(2).sum(2))


def test_one_number_for_each_image_is_its_mass() -> None:
    class Whole:
        def log_prob(self, x: Tensor) -> Tensor:
            return -x.flatten(1).sum(1).float()

    x = torch.tensor([[1, 2], [3, 4]]).reshape(2, 1, 1, 2)
    found = asked(Whole(), x, 5, "channels_first")
    assert found.log_prob_of_images(x).tolist() == [-3.0, -7.0]
    with pytest.raises(InputError, match="one number for each image, but masses of single sub-pixels are needed"):
        found.log_prob(x)


def test_masses_make_the_cdf_the_mean_and_samples(generator: torch.Generator) -> None:
    probs = torch.tensor([0.2, 0.0, 0.5, 0.3]).expand(4000, 1, 1, 1, 4)
    x = torch.full((4000, 1, 1, 1), 2)
    found = asked(td.Categorical(probs=probs), x, 4, "channels_first")
    torch.testing.assert_close(found.cdf(x)[0], torch.tensor([[[0.7]]]))
    torch.testing.assert_close(found.mean[0], torch.tensor([[[1.9]]]))
    shares = torch.bincount(found.sample(generator=generator).flatten(), minlength=4) / 4000
    assert shares[1] < 1e-3
    # three shares within 4 standard errors of at most 0.0079: a false alarm in fewer than 2 of 10,000 seeds
    torch.testing.assert_close(shares, probs[0, 0, 0, 0], atol=0.032, rtol=0)


def test_our_own_likelihood_stays_what_it_is() -> None:
    ours = asked(torch.zeros(2, 1, 1, 2, 3), torch.zeros(2, 1, 1, 2, dtype=torch.int64), 3, "channels_first")
    assert asked(ours, torch.zeros(2, 1, 1, 2, dtype=torch.int64), 3, "channels_first") is ours


@pytest.mark.parametrize(
    ("shape", "n_levels", "layout", "given"),
    [((1, 2, 2), 4, "flat", (2, 4, 4)), ((1, 3, 3), 3, "plane", (2, 3, 3, 3)), ((2, 2, 2), 2, "flat", (2, 8))],
)
def test_logits_that_may_be_read_in_two_ways_are_refused(
    shape: tuple[int, int, int], n_levels: int, layout: str, given: tuple[int, ...]
) -> None:
    x = torch.zeros(2, *shape, dtype=torch.int64)
    if given == (2, 8):  # as trials there is only one form
        assert asked(torch.zeros(given), x, n_levels, layout).log_prob(x)[0, 0, 0, 0] == pytest.approx(-math.log(2))
        return
    with pytest.raises(InputError, match=r"may be read in two ways, .*; return a torch.distributions.Categorical inst"):
        asked(torch.zeros(given), x, n_levels, layout)


class Failing:
    def log_prob(self, _: Tensor) -> Tensor:
        raise RuntimeError("shape '[3]' is invalid.\nmore")


class Stretched:
    def log_prob(self, x: Tensor) -> Tensor:
        return x.float().sum(0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(2, 5), r"m returned logits of shape (2, 5); for a batch of 2 and 3 levels allowed are (2, 1, 2, "),
        (torch.zeros(2, 1, 2, 2, 3, dtype=torch.int64), "logits of type torch.int64; they must be floating-point"),
        (td.Normal(torch.zeros(2, 1, 2, 2), 1.0), "m returned Normal, which is a density and not a mass"),
        (td.Independent(td.Normal(torch.zeros(2, 1, 2, 2), 1.0), 3), "m returned Normal, which is a density"),
        (
            td.Categorical(logits=torch.zeros(2, 3)),
            "Categorical of batch shape (2,); it must be one for each sub-pixel",
        ),
        (
            td.Categorical(logits=torch.zeros(2, 1, 2, 2, 2), validate_args=True),  # zuko switches the validation off
            "Categorical, which m returned, raised ValueError when",
        ),
        (
            Failing(),
            "raised RuntimeError when it was called with levels, integers 0..2 of shape (2, 1, 2, 2)",
        ),
        (Stretched(), "must give one number for each sub-pixel, shape (2, 1, 2, 2), but gave (1, 2, 2)."),
        (
            None,
            "m returned NoneType; it must return logits, or a distribution over the levels 0..2 with a method log_p",
        ),
        ((torch.zeros(1), torch.zeros(1)), "m returned tuple; it must return logits"),
    ],
)
def test_what_is_no_mass_is_refused(given: object, words: str) -> None:
    x = torch.full((2, 1, 2, 2), 2)
    with pytest.raises(InputError) as caught:
        asked(given, x, 3, "channels_first").log_prob(x)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert ".." not in str(caught.value).replace("0..2", "")


def test_what_says_nothing_of_its_support_is_no_density() -> None:
    assert not is_density(Own(torch.zeros(1)))
    assert not is_density(td.Poisson(torch.ones(2)))
    assert is_density(td.TransformedDistribution(td.Uniform(0.0, 1.0), [td.AffineTransform(0.0, 2.0)]))
