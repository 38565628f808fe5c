r"""A small autoregressive network with fixed weights, similar to a PixelCNN.

.. math:: P(x) = \prod_i p(x_i \mid x_{<i}), \qquad
    p(\cdot \mid x_{<i}) = \mathrm{softmax}_l\left(s\, v(l)^\top (U_c \tanh(A_c u_i + b_c) + k)\right)

The order is row by row, pixel by pixel, and channel by channel within a pixel (van den Oord, Kalchbrenner and
Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016). The context u_i consists of the pixels to the left, above to the
left, above, and above to the right, with all their channels, and of the earlier channels of the same pixel. Its values
are numbers from -1 to 1; a pixel outside the image is 0.

v(l) is (t, 1/3 - t^2), where t = 2 l / (L-1) - 1 is the brightness of the level, and k = (0, 2). The network thus
returns how bright a sub-pixel is and how certain this is, for any L. If its output is zero, exp(-2 s t^2) is a normal
of variance 1 / (4 s). The square of half the distance between levels is added to 1 / (4 strength), so that there is
noise also with few levels. This gives s = strength / (1 + 4 strength / (L-1)^2).

Half of the hidden units use the mean of their context and make bright values beside bright values more likely, which
gives regions. The other half of the units is random. At strength 0 all levels are equally likely.

Invariants (``tests/sources/known/test_small_pixelcnn.py``): log P equals that of a plain loop over sub-pixels; a
conditional depends only on its context, and on each number in it.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from bitsperdim.core.units import n_dims
from bitsperdim.sources.known.base import KnownDistribution, fixed_uniforms, levels_drawn

SEED = 2
OFFSETS = ((0, -1), (-1, -1), (-1, 0), (-1, 1))  # (rows, columns) of the pixels in the context
N_HIDDEN = 16
FOLLOWING = 2.0  # sum of the weights of a unit that uses the mean of its context
SURE = 2.0  # preference for levels in the middle if the output of the network is zero


class SmallPixelCnn(KnownDistribution):
    """A fixed two-layer network on a causal neighbourhood."""

    name = "small_pixelcnn"
    default_levels = 8
    default_strength = 3.0

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        strength: float | None = None,
        n_components: int | None = None,
    ) -> None:
        """Compute the weights; arguments as for :class:`KnownDistribution`."""
        super().__init__(image_shape, n_levels, strength, n_components)
        channels = self.image_shape[0]
        n_seen = (len(OFFSETS) + 1) * channels
        half = N_HIDDEN // 2
        numbers = 2 * fixed_uniforms(SEED, channels, N_HIDDEN, n_seen + 3) - 1  # from -1 to 1
        n_before = len(OFFSETS) * channels + np.arange(channels)  # how many numbers of the context each channel uses
        weights = numbers[..., :n_seen].copy()
        weights[:, :half] = (1 + numbers[:, :half, :n_seen] / 2) / n_before[:, None, None] * FOLLOWING
        weights *= np.arange(n_seen) < n_before[:, None, None]
        self._weights = np.moveaxis(weights, 1, 2)  # (C, context, hidden)
        self._bias = numbers[..., n_seen] * 0.5  # (C, hidden)
        out = numbers[..., n_seen + 1 :].copy()  # (C, hidden, 2)
        out[:, :half, 0] = np.abs(out[:, :half, 0])
        t = 2 * np.arange(self.n_levels) / (self.n_levels - 1) - 1
        scale = self.strength / (1 + 4 * self.strength / (self.n_levels - 1) ** 2)
        self._out = scale * (out @ np.stack([t, 1 / 3 - t**2]))  # (C, hidden, L)
        self._sure = scale * SURE * (1 / 3 - t**2)  # (L,)

    def log_conditionals(self, context: np.ndarray, channel: int) -> np.ndarray:
        """Return the log-masses of the levels of a channel in nats, (..., L).

        Args:
            context: context (..., 5 C), values from -1 to 1: the channels of the four neighbours, then those of the
                pixel itself, of which only channels before ``channel`` are used.
            channel: number of the channel, from 0 to C-1.
        """
        hidden = np.tanh(context @ self._weights[channel] + self._bias[channel])
        return log_softmax(hidden @ self._out[channel] + self._sure, axis=-1)

    def _canvas(self, n_images: int) -> np.ndarray:
        """Return zeros for the images and a border, with rows and columns first: (1 + H, 1 + W + 1, N, C)."""
        channels, height, width = self.image_shape
        return np.zeros((height + 1, width + 2, n_images, channels))

    def _brightness(self, levels: np.ndarray) -> np.ndarray:
        return 2 * levels.astype(np.float64) / (self.n_levels - 1) - 1

    def _log_p(self, images: np.ndarray) -> np.ndarray:
        channels, height, width = self.image_shape
        levels = images.transpose(2, 3, 0, 1).astype(np.int64)  # (H, W, N, C)
        canvas = self._canvas(len(images))
        canvas[1:, 1:-1] = self._brightness(levels)
        log_p = np.zeros(len(images))
        for row, channel in np.ndindex(height, channels):
            context = _context(canvas, row, slice(0, width))  # (W, N, 5 C)
            log_masses = self.log_conditionals(context, channel)
            log_p += np.take_along_axis(log_masses, levels[row, ..., channel, None], -1).sum((0, 2))
        return log_p

    def _numbers_of_an_image(self) -> int:
        channels, _, width = self.image_shape
        return 3 * n_dims(self.image_shape) + width * (5 * channels + 2 * N_HIDDEN + 3 * self.n_levels)

    def _from_uniforms(self, uniforms: np.ndarray) -> np.ndarray:
        channels, height, width = self.image_shape
        uniforms = uniforms.reshape(-1, height, width, channels)
        images = np.empty((len(uniforms), *self.image_shape), np.uint8)
        canvas = self._canvas(len(uniforms))
        for row, column, channel in np.ndindex(height, width, channels):
            context = _context(canvas, row, slice(column, column + 1))[0]  # (N, 5 C)
            masses = np.exp(self.log_conditionals(context, channel))
            drawn = levels_drawn(masses, uniforms[:, row, column, channel])
            images[:, channel, row, column] = drawn
            canvas[1 + row, 1 + column, :, channel] = self._brightness(drawn)
        return images


def _context(canvas: np.ndarray, row: int, columns: slice) -> np.ndarray:
    """Return the context of pixels in a row, (columns, N, 5 C): their neighbours, then the pixels themselves."""
    return np.concatenate(
        [
            canvas[1 + row + down, 1 + columns.start + right : 1 + columns.stop + right]
            for down, right in (*OFFSETS, (0, 0))
        ],
        axis=-1,
    )
