"""The check of trained models: what it finds, and what it misses nothing of."""

import pytest
import torch
from torch import Tensor

import laws
from bitsperdim.causality import largest_leaked_gradient, receptive_field, sub_pixel_order
from bitsperdim.models import AutoregressiveModel
from bitsperdim.models.causal import CausalConv2d
from bitsperdim.models.pixelcnn import PixelCNN
from cases import SMALL, small_model

EXACT = [name for name, (family, *_) in SMALL.items() if small_model(name).is_exact]


def images(model: AutoregressiveModel) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(model.n_levels, (4, *model.image_shape), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("name", EXACT)
def test_nothing_leaks(name: str, generator: torch.Generator) -> None:
    model = small_model(name)
    assert isinstance(model, AutoregressiveModel)
    with torch.no_grad():  # evaluation takes no gradients, but the check does
        assert largest_leaked_gradient(model, images(model), generator=generator) == 0
        assert largest_leaked_gradient(model.float(), images(model), generator=generator) == 0


@pytest.mark.parametrize("place", ["own", "right"])
def test_a_leak_is_found(place: str, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """One weight of one mask: the last channel sees itself, or one map sees its right neighbour."""
    model = small_model("pixelcnn-rgb")
    assert isinstance(model, PixelCNN)
    layer = model.first if place == "own" else model.blocks[0].convolve
    assert isinstance(layer, CausalConv2d)
    assert layer.mask is not None
    column = layer.mask.shape[3] // 2 + (place == "right")
    assert layer.mask[-1, -1, -1, column] == 0
    layer.mask[-1, -1, -1, column] = 1
    assert largest_leaked_gradient(model, images(model), generator=generator) > 1e-6


def test_a_derivative_that_is_not_finite_is_no_zero(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    model = small_model("pixelcnn-three-levels")
    assert isinstance(model, AutoregressiveModel)
    outputs = type(model).outputs
    monkeypatch.setattr(
        type(model), "outputs", lambda self, x, *rest, **more: outputs(self, x, *rest, **more) + 0 * torch.sqrt(0 * x)
    )
    with pytest.raises(FloatingPointError, match="not finite"):
        largest_leaked_gradient(model, images(model), generator=generator)


def test_the_receptive_field_is_the_promised_one(generator: torch.Generator) -> None:
    """The plain PixelCNN's has a blind spot; a model that looks at nothing has none at all."""
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


def test_the_order_is_pixel_by_pixel() -> None:
    order = sub_pixel_order(torch.Size((3, 2, 2)), torch.device("cpu"))
    assert order[:, 0, 0].tolist() == [0, 1, 2]
    assert order[:, 0, 1].tolist() == [3, 4, 5]
    assert order[:, 1, 0].tolist() == [6, 7, 8]
