"""The check whether a trained model looks ahead: the leaks that it finds, and models that it accepts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bitsperdim.models import AutoregressiveModel, build
from bitsperdim.models.conditional import sub_pixel_order
from bitsperdim.models.look_ahead import (
    check_causality,
    cuts_of,
    largest_leaked_change,
    largest_leaked_gradient,
    random_log_masses,
    receptive_field,
)
from bitsperdim.models.parts.causal import CausalConv2d
from bitsperdim.models.pixelcnn import PixelCNN
from support import laws
from support.cases import PIXELCNN, SMALL, small_model

pytestmark = pytest.mark.processor

EXACT = [name for name, (family, *_) in SMALL.items() if small_model(name).is_exact]


def images(model: AutoregressiveModel) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(model.n_levels, (4, *model.image_shape), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("name", EXACT)
def test_nothing_leaks(name: str, generator: torch.Generator) -> None:
    model = small_model(name)
    assert isinstance(model, AutoregressiveModel)
    with torch.no_grad():  # evaluation runs without gradients, but the check enables them
        for each in (model, model.float()):
            assert largest_leaked_gradient(each, images(each), generator=generator) == 0
            assert largest_leaked_change(each, images(each), generator=generator) == 0


@pytest.mark.parametrize("place", ["own", "right"])
def test_a_leak_is_found(place: str, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """The leak is one weight of one mask: the last channel sees itself, or one map sees its right neighbour."""
    model = small_model("pixelcnn-rgb")
    assert isinstance(model, PixelCNN)
    layer = model.first if place == "own" else model.blocks[0].convolve
    assert isinstance(layer, CausalConv2d)
    assert layer.mask is not None
    column = layer.mask.shape[3] // 2 + (place == "right")
    assert layer.mask[-1, -1, -1, column] == 0
    layer.mask[-1, -1, -1, column] = 1
    assert largest_leaked_gradient(model, images(model), generator=generator) > 1e-6
    assert largest_leaked_change(model, images(model), generator=generator) > 1e-6
    with pytest.raises(ValueError, match=r"^the model looks ahead: a log-mass changes by \S+ nats per level of values"):
        check_causality(model, images(model))


def test_a_small_leak_is_a_leak() -> None:
    """The leak is a ten-thousandth of a nat per level."""
    with pytest.raises(ValueError, match=r"^the model looks ahead: a log-mass changes by \S+ nats per level of values"):
        check_causality((model := leaking(lambda x: 1e-4 * x, torch.float32)), images(model))


def leaking(change: Callable[[Tensor], Tensor], dtype: torch.dtype) -> AutoregressiveModel:
    """Return a model for 1x6x6 images with 17 levels whose outputs contain an additional function of the image."""
    model = build("pixelcnn", PIXELCNN, (1, 6, 6), 17)
    assert isinstance(model, AutoregressiveModel)
    laws.scattered(model).to(dtype)
    outputs = model.outputs

    def leaked(x: Tensor, *rest: Any, **options: Any) -> Tensor:
        added: Tensor = outputs(x, *rest, **options) + change(x) * torch.linspace(-1, 1, 17, dtype=dtype)[:, None, None]
        return added

    model.outputs = leaked  # type: ignore[method-assign]
    return model


TABLE = torch.linspace(-1, 1, 17) ** 2
WITHOUT_DERIVATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "compared": lambda x: (x > 3).float(),
    "rounded": lambda x: (x / 8).round(),
    "detached": lambda x: x.detach() / 16,
    "looked up": lambda x: TABLE[x.long()],
    "the largest": lambda x: x.flatten(2).argmax(2)[..., None, None] / 36,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0, -1])
@pytest.mark.parametrize("leak", WITHOUT_DERIVATIVE)
def test_a_leak_without_a_derivative_is_found(
    leak: str, shift: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """The leak depends on the pixel itself or on its right neighbour; found with any generator for the levels."""
    model = leaking(lambda x: WITHOUT_DERIVATIVE[leak](x).roll(shift, 3), dtype)
    x = images(model)
    assert largest_leaked_gradient(model, x, generator=generator) == 0
    assert largest_leaked_change(model, x, generator=generator) > 0.01
    with pytest.raises(ValueError, match=r"^the model looks ahead: a log-mass changes by \S+ nats with the levels"):
        check_causality(model, x)


def test_what_was_before_is_no_leak(generator: torch.Generator) -> None:
    """The same function of the left neighbour is allowed; the first column does not see the end of the row above."""
    for change in WITHOUT_DERIVATIVE.values():
        if change is not WITHOUT_DERIVATIVE["the largest"]:
            model = leaking(lambda x, change=change: F.pad(change(x), (1, 0))[..., :-1], torch.float32)
            assert largest_leaked_change(model, images(model), generator=generator) == 0


@pytest.mark.parametrize(("dtype", "found"), [(torch.float32, 2e-3), (torch.float64, 1e-7)])
def test_rounding_is_no_leak(dtype: torch.dtype, found: float, generator: torch.Generator) -> None:
    """Changes by some units of rounding are tolerated; a leak of a few times the tolerance is not."""
    eps = torch.finfo(dtype).eps
    jitter = torch.Generator().manual_seed(1)

    def rounded(x: Tensor) -> Tensor:
        return 16 * eps * torch.randn(x.shape, generator=jitter, dtype=dtype)

    assert largest_leaked_change(leaking(rounded, dtype), images(leaking(rounded, dtype)), generator=generator) == 0
    model = leaking(lambda x: found * (x > 8).to(dtype), dtype)
    assert 0 < largest_leaked_change(model, images(model), generator=generator) <= 2 * found


def test_what_becomes_possible_is_a_leak(generator: torch.Generator) -> None:
    """The mass of a level is zero unless the pixel itself has a high value."""
    forbidden = torch.zeros(17, 1, 1).index_fill(0, torch.tensor([5]), -torch.inf)
    model = leaking(lambda x: 0 * x.float(), torch.float32)
    plain = model.outputs
    model.outputs = lambda x, *rest, **more: (  # type: ignore[method-assign]
        plain(x, *rest, **more) + torch.where(x > 8, 0.0, forbidden)
    )
    many = torch.cat([images(model)] * 8)
    assert largest_leaked_change(model, many, generator=generator) == torch.inf
    model.outputs = lambda x, *rest, **more: plain(x, *rest, **more) + forbidden  # type: ignore[method-assign]
    assert largest_leaked_change(model, many, generator=generator) == 0
    model.outputs = lambda x, *rest, **more: plain(x, *rest, **more) * torch.nan  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="a log-mass is NaN"):
        largest_leaked_change(model, many, generator=generator)


def test_a_model_that_takes_whole_numbers_only_is_checked(generator: torch.Generator) -> None:
    """Its images have no derivative: this is not an error, and the test by change finds a leak."""
    model = leaking(lambda x: 0 * x.float(), torch.float32)
    plain = model.outputs
    model.outputs = lambda x, *rest, **more: plain(x.long(), *rest, **more)  # type: ignore[method-assign]
    assert check_causality(model, images(model)) == 0
    assert receptive_field(model, images(model), 2, 2, generator=generator).max() == 0


def test_the_model_and_its_derivatives_are_left_alone() -> None:
    """The gradients that an optimizer is about to use do not change."""
    model = small_model("pixelcnn-rgb")
    assert isinstance(model, AutoregressiveModel)
    model.log_weights(images(model)).sum().backward()
    values = [*model.parameters(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]
    before, state = [value.clone() for value in values], torch.random.get_rng_state()
    check_causality(model, images(model))
    assert all(torch.equal(one, other) for one, other in zip(before, values, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("n_images", [1, 3, 4, 50])
def test_cuts_are_of_all_images_and_of_both_ends(n_images: int, generator: torch.Generator) -> None:
    cuts = cuts_of(torch.zeros(n_images, 3, 4, 5), generator)
    assert cuts.shape[1:] == (n_images, 1, 1, 1)
    assert len(cuts) == {1: 16, 3: 6, 4: 4, 50: 1}[n_images]
    assert {0, 59} <= set(cuts.flatten().tolist()) <= set(range(60))
    assert len(cuts.unique()) > 10


@pytest.mark.parametrize("leaks", [False, True])
def test_where_a_derivative_is_not_finite_the_change_decides(leaks: bool, generator: torch.Generator) -> None:
    model = leaking(lambda x: 0 * torch.sqrt(0 * x.float()) + leaks * (x > 3).float(), torch.float32)
    assert largest_leaked_gradient(model, images(model), generator=generator) == 0
    if not leaks:
        assert check_causality(model, images(model)) == 0
        return
    with pytest.raises(ValueError, match="the model looks ahead"):
        check_causality(model, images(model))


@pytest.mark.parametrize("name", ["pixelcnn-logistics", "gated-logistics", "plus-rgb"])
def test_narrow_densities_are_no_leak(name: str) -> None:
    """Levels far from the centre have log-masses of -10^30, whose derivatives overflow."""
    model = laws.scattered(small_model(name), spread=1.0).float()
    assert isinstance(model, AutoregressiveModel)
    assert check_causality(model, images(model)) == 0


@pytest.mark.parametrize("leaks", [False, True])
def test_a_leak_of_the_level_that_is_there_is_found(leaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak is worth a bit per dimension, but is small compared with log-masses of about -10^6 of other levels."""
    model = build("pixelcnn", {**PIXELCNN, "likelihood": "logistic"}, (1, 8, 8), 256).eval()
    assert isinstance(model, PixelCNN)

    def outputs(x: Tensor, *_: Any, **__: Any) -> Tensor:
        told = (x.detach().float() - 100.5).sign() * 5e-5 / 127.5
        location = (100.5 - 127.5) / 127.5 + leaks * told
        return torch.cat([location, torch.full_like(location, 1e-5 / 127.5).log()], 1) + 0 * x.float().sum()

    monkeypatch.setattr(model, "outputs", outputs)
    x = 100 + torch.randint(2, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    if not leaks:
        assert check_causality(model, x) == 0
        return
    assert -model.log_weights(x).mean() / 64 < 0.01  # nats per dimension; the truth is log 2
    with pytest.raises(ValueError, match="the model looks ahead"):
        check_causality(model, x)


def test_the_receptive_field_is_the_promised_one(generator: torch.Generator) -> None:
    """The plain PixelCNN has a blind spot; a model that ignores the image has an empty receptive field."""
    shape = (1, 5, 7)
    model = laws.scattered(
        PixelCNN(shape, 3, n_filters=24, n_blocks=1, kernel_size=3, likelihood="categorical", n_mixtures=1)
    )
    assert isinstance(model, PixelCNN)
    seen = receptive_field(model, images(model), 4, 2, generator=generator) > 0
    promised = laws.pixelcnn_sees(shape, 3, 1)
    expected = torch.tensor([promised(4 * 7 + 2, j) for j in range(35)]).reshape(5, 7)
    assert torch.equal(seen, expected)
    assert not seen[3, 4]  # one row up, two to the right: the blind spot
    histogram = small_model("histogram-grey")
    assert isinstance(histogram, AutoregressiveModel)
    assert receptive_field(histogram, images(histogram), 1, 1, generator=generator).max() == 0


def test_the_receptive_field_is_that_of_all_channels(generator: torch.Generator) -> None:
    """Green depends on red of the same pixel, although red does not depend on green."""
    model = small_model("pixelcnn-rgb")
    assert isinstance(model, AutoregressiveModel)
    seen = receptive_field(model, images(model), 0, 0, generator=generator)
    assert seen[0, 0] > 0
    assert seen.count_nonzero() == 1


def test_the_receptive_field_adds_up_images_and_channels_without_their_signs() -> None:
    """Contributions of images or channels do not cancel each other."""
    model = small_model("pixelcnn-rgb")
    assert isinstance(model, AutoregressiveModel)
    x, log_p = random_log_masses(model, images(model), None, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(log_p[:, :, 1, 1].sum(), x)
    expected = sum(part.abs() for image in gradient for part in image)
    found = receptive_field(model, images(model), 1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected)


def test_images_of_all_parts_of_a_set_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that is sorted by class is not checked only with its first class."""
    model, seen = small_model("pixelcnn-rgb"), list[Tensor]()
    assert isinstance(model, AutoregressiveModel)
    x = torch.randint(model.n_levels, (11, *model.image_shape), generator=torch.Generator().manual_seed(5))

    def kept(model: AutoregressiveModel, images: Tensor, **rest: Any) -> float:
        seen.append(images)
        return 0.0

    for name in ("largest_leaked_gradient", "largest_leaked_change"):
        monkeypatch.setattr(f"bitsperdim.models.look_ahead.{name}", kept)
    check_causality(model, x)
    assert len(seen) == 2
    assert all(torch.equal(each, x[[0, 2, 5, 8]]) for each in seen)


def test_the_order_is_pixel_by_pixel() -> None:
    order = sub_pixel_order(torch.Size((3, 2, 2)), torch.device("cpu"))
    assert order[:, 0, 0].tolist() == [0, 1, 2]
    assert order[:, 0, 1].tolist() == [3, 4, 5]
    assert order[:, 1, 0].tolist() == [6, 7, 8]
