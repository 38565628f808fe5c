"""The network, compared with a plain loop over sub-pixels, and its context."""

import math

import numpy as np
import pytest

from bitsperdim.sources.known import SmallPixelCnn


def plain_log_p(distribution: SmallPixelCnn, image: np.ndarray) -> float:
    """Return log P, sub-pixel by sub-pixel, with neighbours looked up by position; a pixel outside the image is 0."""
    channels, height, width = image.shape
    t = [2 * level / (distribution.n_levels - 1) - 1 for level in range(distribution.n_levels)]

    def seen(channel: int, row: int, column: int) -> float:
        return t[image[channel, row, column]] if 0 <= row < height and 0 <= column < width else 0.0

    scale = 1 / (1 / distribution.strength + (2 / (distribution.n_levels - 1)) ** 2)
    total = 0.0
    for row in range(height):
        for column in range(width):
            for channel in range(channels):
                context = [seen(c, row, column - 1) for c in range(channels)]
                context += [seen(c, row - 1, column - 1) for c in range(channels)]
                context += [seen(c, row - 1, column) for c in range(channels)]
                context += [seen(c, row - 1, column + 1) for c in range(channels)]
                context += [seen(c, row, column) for c in range(channel)]
                weights = distribution._weights[channel, : len(context)]
                hidden = np.tanh(np.array(context) @ weights + distribution._bias[channel])
                logits = hidden @ distribution._out[channel]
                logits += [scale * 2 * (1 / 3 - value**2) for value in t]
                masses = np.exp(logits) / np.exp(logits).sum()
                total += math.log(masses[image[channel, row, column]])
    return total


@pytest.mark.parametrize(("shape", "n_levels"), [((1, 4, 5), 4), ((3, 3, 2), 3), ((1, 1, 6), 9), ((3, 4, 1), 2)])
def test_log_p_is_that_of_a_plain_loop(shape: tuple[int, int, int], n_levels: int) -> None:
    distribution = SmallPixelCnn(shape, n_levels)
    images = np.random.default_rng(0).integers(n_levels, size=(10, *shape))
    expected = [plain_log_p(distribution, image) for image in images]
    assert distribution.log_p(images) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_conditional_sees_its_context_and_no_more(channels: int) -> None:
    """It depends on every number of the context except the channel's own and later ones, which may have any value."""
    distribution = SmallPixelCnn((channels, 4, 4), 6)
    context = np.random.default_rng(1).uniform(-1, 1, size=5 * channels)
    for channel in range(channels):
        log_masses = distribution.log_conditionals(context, channel)
        assert np.exp(log_masses).sum() == pytest.approx(1, rel=1e-13)
        for place in range(5 * channels):
            other = context.copy()
            other[place] = -other[place]
            moved = np.abs(distribution.log_conditionals(other, channel) - log_masses).max()
            assert moved > 1e-3 if place < 4 * channels + channel else moved == 0


def test_bright_beside_bright_is_likely() -> None:
    """This gives regions: the mean level rises if the whole context is brighter."""
    distribution = SmallPixelCnn((3, 4, 4), 8)
    for channel in range(3):
        means = [
            np.exp(distribution.log_conditionals(np.full(15, value), channel)) @ np.arange(8)
            for value in (-0.8, -0.3, 0.3, 0.8)
        ]
        assert (np.diff(means) > 0).all()
        assert means[2] - means[1] > 1
