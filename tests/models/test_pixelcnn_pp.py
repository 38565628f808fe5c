"""The two shifted streams of the PixelCNN++: their receptive field, their size, and an independent implementation."""

import pytest
import torch
from plain_pixelcnn_pp import PlainPixelCNNpp

from bitsperdim.core.errors import InputError
from bitsperdim.models import build
from bitsperdim.models.parts.causal import CausalConv2d, CausalUpsampling
from bitsperdim.models.pixelcnn_pp import START_OF_CHANGES, START_OF_OUTPUTS, PixelCNNpp
from support import laws

SIZES = {"n_filters": 6, "n_blocks": 1, "n_scales": 2, "dropout": 0.5}
ONE = {"likelihood": "categorical", "n_mixtures": 1}
COUPLED = {"likelihood": "coupled_logistic", "n_mixtures": 2}


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((1, 5, 5), ONE),
        ((1, 4, 6), {**ONE, "n_scales": 3}),
        ((1, 7, 3), {**ONE, "n_scales": 3}),
        ((1, 3, 7), {**COUPLED, "n_scales": 1, "n_blocks": 2}),
        ((3, 3, 4), COUPLED),
        ((3, 4, 3), {**COUPLED, "n_scales": 3}),
        ((2, 5, 2), {"likelihood": "coupled_logistic", "n_mixtures": 1}),
        ((4, 1, 3), COUPLED),
    ],
)
def test_causality_is_two_sided(shape: tuple[int, int, int], changes: dict, generator: torch.Generator) -> None:
    """A pixel sees all earlier pixels and nothing else: these images are within reach."""
    model = laws.scattered(PixelCNNpp(shape, 3, **{**SIZES, **changes}), spread=0.5)
    assert isinstance(model, PixelCNNpp)
    laws.causality_is_two_sided(model, laws.sees_offsets(shape, None), generator)


def test_the_published_size() -> None:
    """5 blocks of 160 filters and 10 mixtures on CIFAR-10: 53.66 million, as in the public PyTorch version."""
    sizes = {"n_filters": 160, "n_blocks": 5, "n_scales": 3, "dropout": 0.5}
    with torch.device("meta"):
        model = PixelCNNpp((3, 32, 32), 256, **sizes, likelihood="coupled_logistic", n_mixtures=10)
    assert model.n_parameters == 53_659_080


def test_a_plain_implementation_agrees(generator: torch.Generator) -> None:
    """Log-likelihoods of random images in float64 agree with padding, shifts and the formula with sigmoids."""
    sizes = {"n_filters": 8, "n_blocks": 2, "n_scales": 3, "dropout": 0.5}
    model = build("pixelcnn_pp", {**sizes, **COUPLED}, (3, 8, 12), 16).double().eval()
    images = torch.randint(16, (6, 3, 8, 12), generator=generator).to(torch.uint8)
    model.initialise(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    assert isinstance(model, PixelCNNpp)
    plain = PlainPixelCNNpp(8, 2, 2, 16, 0.5).double().eval()
    plain.take_weights(model)
    torch.testing.assert_close(plain.log_likelihood(images), model.log_weights(images)[0], rtol=1e-9, atol=0)
    assert sum(parameter.numel() for parameter in plain.parameters()) == model.n_parameters


def test_the_start_is_spread_alike(generator: torch.Generator) -> None:
    """After ``initialise``, every output of every layer has mean zero and the given spread over those images."""
    model = PixelCNNpp((1, 12, 12), 5, n_filters=6, n_blocks=1, n_scales=3, dropout=0.5, **ONE).double()
    images = torch.randint(5, (40, 1, 12, 12), generator=generator).to(torch.uint8)
    model.initialise(images)
    assert model.training
    seen: list[tuple[str, torch.Tensor, float]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, CausalConv2d | CausalUpsampling) and layer is not model.to_outputs:
            layer.register_forward_hook(
                lambda _, __, output, name=name, start=layer.start: seen.append((name, output, start))
            )
    model.eval().outputs(images)
    assert len(seen) == len([name for name, _ in model.named_parameters() if name.endswith("gain")]) - 1
    for name, output, start in seen:
        spread, mean = output.std((0, 2, 3), correction=0), output.mean((0, 2, 3))
        assert (spread / start - 1).abs().max() < 0.35, name  # cropping changes the spread of upsampled maps
        assert mean.abs().max() < 0.3 * start, name
    changes = [spread for name, output, spread in seen if name.endswith("second")]
    assert set(changes) == {START_OF_CHANGES}
    assert model.to_outputs.start == START_OF_OUTPUTS


def test_dropout_is_of_training_alone_and_drawn_by_the_generator(generator: torch.Generator) -> None:
    model = laws.scattered(PixelCNNpp((1, 4, 4), 3, **SIZES, **ONE), spread=0.5)
    x = torch.randint(3, (4, 1, 4, 4), generator=generator).to(torch.uint8)

    def log_p(seed: int) -> torch.Tensor:
        return model.log_weights(x, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(log_p(1), log_p(2))
    model.train()
    assert torch.equal(log_p(1), log_p(1))
    assert not torch.equal(log_p(1), log_p(2))


def test_colours_need_the_coupled_likelihood() -> None:
    with pytest.raises(InputError, match=r"likelihood must be coupled_logistic for 3 channels, not categorical"):
        build("pixelcnn_pp", {**SIZES, **ONE}, (3, 4, 4), 8)
