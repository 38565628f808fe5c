"""Correct models pass the checks of total mass; errors are caught from the size that a check states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_foreign import Bounds, Codes, Logistic, Masses, Raster, Weights, case_of
from torch import Tensor

from bitsperdim.auditing import annealing, mass
from bitsperdim.auditing.check import Case, Check

LOG2 = math.log(2)
SMALL = Raster(3, (2, 2))
CODES = Codes()
LARGE = Raster(5, (6, 6), seed=1)
with torch.random.fork_rng():  # independent of the modules that were imported before
    torch.manual_seed(0)
    IMAGES = {model: model.sample(40) for model in (SMALL, LARGE)}
BINARY = torch.randint(0, 2, (40, 1, 2, 2), generator=torch.Generator().manual_seed(0))
EVERY = (mass.sum_over_tiny_images, mass.sampler, mass.annealed_mass, mass.slice_of_images)


def of_density(model: object, **options: Any) -> Case:
    return case_of(model, BINARY, 2, offers="log_density", range=(0, 1), **options)


RIGHT: dict[str, Callable[[int], Case]] = {
    "logits": lambda seed: case_of(SMALL, IMAGES[SMALL], 3, seed=seed),
    "log_prob": lambda seed: case_of(Masses(SMALL), IMAGES[SMALL], 3, seed=seed),
    "logits, larger": lambda seed: case_of(LARGE, IMAGES[LARGE], 5, seed=seed),
    "log_prob, larger": lambda seed: case_of(Masses(LARGE), IMAGES[LARGE], 5, seed=seed),
    "encode": lambda seed: case_of(CODES, BINARY, 2, seed=seed),
    "log_weights": lambda seed: case_of(Weights(CODES), BINARY, 2, seed=seed),
    "bound": lambda seed: case_of(Bounds(CODES), BINARY, 2, seed=seed),
    "log_density": lambda seed: of_density(Logistic(), seed=seed),
    "log_density that leaks": lambda seed: of_density(Logistic(is_inside=False), seed=seed),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("seed", range(2))
def test_right_models_pass(name: str, seed: int) -> None:
    case = RIGHT[name](seed)
    found = [check(case) for check in EVERY]
    assert not [check for check in found if check.is_failed]
    assert found[0].status == found[2].status == "passed"
    assert found[0].catches_bpd is not None
    assert found[2].catches_bpd is not None


def test_what_lies_outside_the_range_is_said_and_is_no_error() -> None:
    check = mass.sum_over_tiny_images(RIGHT["log_density that leaks"](0))
    assert check.status == "passed"
    assert "outside the range" in check.words


def with_added(method: str) -> Callable[[float], Case]:
    """Return a function that makes a correct model wrong by a number of nats per image."""
    return {
        "log_prob": lambda added: case_of(Masses(SMALL, added=added), IMAGES[SMALL], 3),
        "log_prob, larger": lambda added: case_of(Masses(LARGE, added=added), IMAGES[LARGE], 5),
        "log_weights": lambda added: case_of(Weights(CODES, added=added), BINARY, 2),
        "bound": lambda added: case_of(Bounds(CODES, added=added), BINARY, 2),
        "log_density": lambda added: of_density(Logistic(added=added)),
    }[method]


@pytest.mark.parametrize(
    ("check", "method"),
    [
        *((mass.sum_over_tiny_images, each) for each in ("log_prob", "log_weights", "bound", "log_density")),
        *((mass.annealed_mass, each) for each in ("log_prob", "log_prob, larger", "log_weights", "log_density")),
        (mass.slice_of_images, "log_prob, larger"),
    ],
)
def test_a_check_catches_what_it_says(
    check: Callable[[Case], Check], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mass, "n_in_time", lambda seconds, one, most: min(most, 64))  # independent of the measured time
    make = with_added(method)
    right = check(make(0.0))
    assert right.status == "passed"
    assert right.catches_bpd is not None
    n_dims = 36 if "larger" in method else 4
    # a sum over smaller images has fewer sub-pixels
    added = right.catches_bpd * LOG2 * n_dims
    assert check(make(1.01 * added + 1e-6)).is_failed
    assert not check(make(0.99 * added - 1e-6)).is_failed


def test_a_density_is_no_mass() -> None:
    images = torch.full((20, 1, 6, 6), 128)
    model = torch.distributions.Normal(0.5, 0.05)
    case = case_of(lambda x: model.log_prob(x / 255).flatten(1).sum(1), images, 256, offers="log_prob")
    assert mass.slice_of_images(case).is_failed
    assert mass.annealed_mass(case).is_failed
    check = mass.sum_over_tiny_images(case)  # two sub-pixels
    assert check.is_failed
    assert check.size_bpd == pytest.approx(math.log2(256), abs=0.1)


def test_255_for_256_is_caught_by_the_sum() -> None:
    def log_prob(x: Tensor) -> Tensor:
        return torch.full((len(x),), -math.log(255) * x[0].numel())

    images = torch.randint(0, 256, (20, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    check = mass.sum_over_tiny_images(case_of(log_prob, images, 256, offers="log_prob"))
    assert check.is_failed
    assert check.size_bpd == pytest.approx(math.log2(256 / 255), rel=0.01)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_softmax_over_another_axis_is_caught(axis: int) -> None:
    case = case_of(Masses(LARGE, axis=axis), IMAGES[LARGE], 5)
    assert mass.sum_over_tiny_images(case).is_failed


def test_weights_without_the_encoder_are_caught() -> None:
    case = case_of(Weights(CODES, has_log_q=False), BINARY, 2, seconds=30.0)
    assert mass.sum_over_tiny_images(case).is_failed


@pytest.mark.parametrize("scale", [0.3, 0.6, 1.5])
def test_weights_of_a_poor_encoder_are_right(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights have heavy tails and most are too small, but their mean is the mass."""
    monkeypatch.setattr(mass, "n_in_time", lambda seconds, one, most: most)
    case = case_of(Weights(Codes(scale=scale)), BINARY, 2)
    assert mass.sum_over_tiny_images(case).status == "passed"


def test_a_bound_that_is_said_to_be_exact_is_caught() -> None:
    codes = Weights(CODES)

    def log_prob(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return codes.log_weights(x, 64).mean(0)

    with torch.random.fork_rng():
        check = mass.sum_over_tiny_images(case_of(log_prob, BINARY, 2, offers="log_prob"))
    assert check.is_failed
    assert "less than one" in check.words


def test_a_model_that_can_be_built_is_summed() -> None:
    class Fixed(Masses):
        def log_prob(self, x: Tensor) -> Tensor:
            assert x.shape[2:] == self.raster.size
            return super().log_prob(x)

    def build(*, image_shape: tuple[int, int, int], n_levels: int) -> Fixed:
        return Fixed(Raster(n_levels, image_shape[1:]), added=0.1)

    without = case_of(Fixed(LARGE), IMAGES[LARGE], 5)
    assert mass.sum_over_tiny_images(without).status == "not applicable"
    check = mass.sum_over_tiny_images(case_of(Fixed(LARGE), IMAGES[LARGE], 5, build=build))
    assert check.is_failed
    assert check.size_bpd == pytest.approx(0.1 / 4 / LOG2, rel=0.01)
    useless = case_of(Fixed(LARGE), IMAGES[LARGE], 5, build=lambda **_: None)
    assert mass.sum_over_tiny_images(useless).status == "not applicable"


def test_pixels_that_are_repeated_to_fit_are_no_smaller_images() -> None:
    table = torch.randn(1, 6, 1)

    def log_prob(x: Tensor) -> Tensor:  # it broadcasts images of one row
        logits = (table + 0 * x).flatten(1)
        return (
            (x.flatten(1) * logits - torch.nn.functional.softplus(logits)).sum(1) if x.shape[2] == 6 else logits[:, 0]
        )

    images = torch.randint(0, 2, (20, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    assert mass.sum_over_tiny_images(case_of(log_prob, images, 2, offers="log_prob")).status == "not applicable"


def test_a_constant_for_its_own_size_is_no_error() -> None:
    def log_prob(x: Tensor) -> Tensor:  # right for images of 6 x 6, and for no others
        return torch.full((len(x),), -36 * math.log(256))

    images = torch.randint(0, 256, (20, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    assert mass.sum_over_tiny_images(case_of(log_prob, images, 256, offers="log_prob")).status == "not applicable"


@pytest.mark.parametrize("temperature", [0.8, 1.25])
@pytest.mark.parametrize(
    ("size", "way"), [((2, 2), "logits"), ((6, 6), "logits"), ((2, 2), "log_prob"), ((6, 6), "log_prob")]
)
def test_a_sampler_of_another_temperature_is_caught(size: tuple[int, int], way: str, temperature: float) -> None:
    wrong = Raster(3, size, temperature=temperature)
    model = wrong if way == "logits" else Masses(wrong)
    case = case_of(model, wrong.sample(40), 3, seconds=30.0)  # only a few seconds are needed
    check = mass.sampler(case)
    assert check.is_failed
    assert check.size_bpd is not None
    assert check.size_bpd > 0


def test_a_sampler_of_what_is_impossible_is_caught() -> None:
    class Black:
        def log_prob(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1).any(1), -torch.inf, 0.0)

        def sample(self, n: int) -> Tensor:
            return torch.ones(n, 1, 2, 2, dtype=torch.int64)

    assert mass.sampler(case_of(Black(), torch.zeros(4, 1, 2, 2, dtype=torch.int64), 2)).is_failed


def test_what_is_not_images_is_said() -> None:
    wrong = Masses(SMALL)
    wrong.sample = lambda n: torch.full((n, 1, 2, 2), 3)  # type: ignore[method-assign]
    assert mass.sampler(case_of(wrong, IMAGES[SMALL], 3)).is_failed
    wrong.sample = lambda n: torch.zeros(n, 1, 2, 2)  # type: ignore[method-assign]
    assert mass.sampler(case_of(wrong, IMAGES[SMALL], 3)).status == "not applicable"


def test_the_truth_is_not_beaten() -> None:
    images = LARGE.sample(200)
    with torch.no_grad():
        truth = LARGE.log_p(images)
    right = mass.known_truth(case_of(Masses(LARGE), images, 5, log_p_true=truth.numpy()))
    assert right.status == "passed"
    assert right.catches_bpd is not None
    added = right.catches_bpd * LOG2 * 36
    for factor, is_failed in ((1.01, True), (0.99, False)):
        model = Masses(LARGE, added=factor * added)
        assert mass.known_truth(case_of(model, images, 5, log_p_true=truth.numpy())).is_failed is is_failed
    assert mass.known_truth(case_of(Masses(LARGE), images, 5)).status == "not applicable"


def test_annealing_is_unbiased_however_badly_it_mixes() -> None:
    """The mean over many runs of few steps is the total mass, which is e^0.5 here."""
    case = case_of(Masses(SMALL, added=0.5), IMAGES[SMALL], 3)
    generator = torch.Generator().manual_seed(0)
    ask = mass._asker(case, generator)
    start = annealing.fitted(torch.from_numpy(case.data.images), 3)
    path = annealing.pilot(ask, start, 16, 8, generator)
    weights = annealing.anneal(ask, start, path, 20_000, 6, generator).exp()
    error = float(weights.std()) / len(weights) ** 0.5
    assert float(weights.mean()) == pytest.approx(math.exp(0.5), abs=4 * error)
    assert error < 0.02


def test_annealing_of_weights_is_unbiased_too() -> None:
    case = case_of(Weights(CODES), BINARY, 2)
    generator = torch.Generator().manual_seed(0)
    ask = mass._asker(case, generator)
    start = annealing.fitted(torch.from_numpy(case.data.images), 2)
    path = annealing.pilot(ask, start, 16, 8, generator)
    weights = annealing.anneal(ask, start, path, 20_000, 6, generator).exp()
    error = float(weights.std()) / len(weights) ** 0.5
    assert float(weights.mean()) == pytest.approx(1.0, abs=4 * error)
    assert error < 0.02


def test_why_build_makes_nothing_is_said() -> None:
    """The message contains the error for the first shape that was tried."""

    def build(image_shape: tuple[int, int, int], n_levels: int) -> object:
        raise KeyError("n_hidden")

    images = torch.randint(5, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0))

    def uniform(x: Tensor) -> Tensor:
        """Accept only images of the model's own size."""
        return torch.full((len(x),), -64 * math.log(5)) + 0.0 * x.reshape(len(x), 64).sum(1)

    check = mass.sum_over_tiny_images(case_of(uniform, images, 5, offers="log_prob", build=build))
    assert check.status == "not applicable"
    assert "build makes no tiny model that can be asked (for " in check.words
    assert "it raised KeyError: 'n_hidden')" in check.words
