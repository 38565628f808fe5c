"""The masks of the PixelCNN, proved from both sides."""

import pytest
import torch

from bitsperdim.models.pixelcnn import PixelCNN
from support import laws


@pytest.mark.parametrize(
    ("shape", "kernel_size", "n_blocks", "likelihood", "n_mixtures"),
    [
        ((1, 5, 5), 3, 1, "categorical", 1),
        ((1, 4, 6), 3, 3, "categorical", 1),
        ((3, 3, 4), 3, 2, "categorical", 1),
        ((3, 4, 3), 5, 1, "categorical", 1),
        ((2, 1, 7), 7, 1, "categorical", 1),
        ((4, 3, 1), 3, 1, "categorical", 1),
        ((3, 3, 3), 3, 1, "logistic", 2),
        ((2, 3, 3), 3, 1, "normal", 1),
        ((3, 3, 3), 3, 1, "coupled_logistic", 2),
        ((4, 2, 2), 3, 1, "coupled_logistic", 1),
        ((1, 3, 4), 3, 2, "coupled_logistic", 3),
    ],
)
def test_causality_is_two_sided(
    shape: tuple[int, int, int],
    kernel_size: int,
    n_blocks: int,
    likelihood: str,
    n_mixtures: int,
    generator: torch.Generator,
) -> None:
    """If the likelihood itself couples the channels, the order inside a pixel is the same."""
    head = {"likelihood": likelihood, "n_mixtures": n_mixtures}
    model = PixelCNN(shape, 3, n_filters=24, n_blocks=n_blocks, kernel_size=kernel_size, **head).double()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    laws.causality_is_two_sided(model, laws.pixelcnn_sees(shape, kernel_size, n_blocks), generator)


def test_the_blind_spot_exists() -> None:
    """For any depth, positions one row up and to the right of the first kernel are never seen."""
    for n_blocks in (1, 4, 12):
        field = laws.receptive_field(7, n_blocks)
        assert (-1, 3) in field
        assert (-1, 4) not in field
        assert (-2, 3 + min(1, n_blocks)) in field


def test_the_start_is_the_share_of_each_level(generator: torch.Generator) -> None:
    sizes = {"n_filters": 8, "n_blocks": 1, "kernel_size": 3}
    model = PixelCNN((2, 3, 3), 4, **sizes, likelihood="categorical", n_mixtures=1).double()
    images = torch.randint(3, (20, 2, 3, 3), generator=generator).to(torch.uint8)  # level 3 never occurs
    images[:, 1] = 0
    model.initialise(images)
    assert model.to_outputs.bias is not None
    masses = model.to_outputs.bias.detach().reshape(2, 4).softmax(1)
    counts = torch.stack([(images == level).sum((0, 2, 3)) for level in range(4)], dim=1)
    expected = (counts.double() + 1) / (20 * 9 + 4)
    torch.testing.assert_close(masses, expected, rtol=0, atol=1e-12)
