r"""The Ising model for two levels, and the solid-on-solid model for more, with free boundaries.

.. math:: P(x) = \frac{1}{Z} \exp\left(-s \sum_{a \sim b} c_{ab} |x_a - x_b|\right)

Neighbours a ~ b are sub-pixels of one channel beside or below each other (c = 1), and all pairs of channels of one
pixel (c = 1/4). With two levels, |x_a - x_b| is 1 if they differ. This is the Ising model with coupling J = s / 2,
which is also the Potts model of two states with coupling s. With more levels, a Potts model (equal or not) would ignore
the order of the levels and give maps of regions. The absolute difference, as in the solid-on-solid model with bounded
heights, makes brightness change in small steps, as in pictures. The infinite grid of two levels is critical at
s = ln(1 + sqrt 2) = 0.881 (Onsager); the default is a little below.

Z is a sum over L^D images. The transfer matrix (Kramers and Wannier, Physical Review 60, 1941; Onsager, Physical Review
65, 1944; Potts, Proceedings of the Cambridge Philosophical Society 48, 1952, for more than two levels) computes it site
by site along the longer side. The rest of the sum depends on the earlier values only through the frontier: the last
value in each of the m = (shorter side) C columns, which has L^m states. Images are drawn in the opposite direction: the
last frontier by its weight, then each earlier value given the frontier after it.

Invariants (``tests/sources/known/test_ising.py``): log Z equals that from the sum over all images, that of the
transposed strip, and that of the closed form for a chain.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from bitsperdim.core.units import n_dims
from bitsperdim.sources.known.base import KnownDistribution, levels_drawn

MOST_STATES = 2**20
CHANNEL_SHARE = 0.25  # c for channels; with 1, colour images at the default strength would have nearly one colour


class Ising(KnownDistribution):
    """The Ising or solid-on-solid model, in which neighbours tend to be equal; exact by the transfer matrix."""

    name = "ising"
    default_levels = 2
    default_strength = 0.75

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        strength: float | None = None,
        n_components: int | None = None,
    ) -> None:
        """Check that the frontier has at most 2^20 states; arguments as for :class:`KnownDistribution`."""
        super().__init__(image_shape, n_levels, strength, n_components)
        channels, height, width = self.image_shape
        self._is_wide = width > height
        self._n_slices, self._n_columns = max(height, width), min(height, width) * channels
        if self.n_levels**self._n_columns > MOST_STATES:
            raise self.refusal(
                f"drawn.{'height' if self._is_wide else 'width'}",
                min(height, width),
                f"the exact sum needs n_levels^(shorter side x n_channels) = {self.n_levels}^{self._n_columns} states "
                f"and {MOST_STATES:,} are allowed, so make the shorter side, dataset.n_levels or n_channels smaller",
            )
        levels = np.arange(self.n_levels)
        distances = np.abs(levels[:, None] - levels)
        self._beside_weights = np.exp(-self.strength * distances)  # (L, L), symmetric
        self._channel_weights = np.exp(-self.strength * CHANNEL_SHARE * distances)

    @cached_property
    def log_z(self) -> float:
        """The logarithm of the sum of exp(-energy) over all images, in nats."""
        messages, log_scale = self._forward
        return log_scale + math.log(messages[-1].sum())

    def energy(self, images: np.ndarray) -> np.ndarray:
        """Return the weighted sum of |x_a - x_b| over neighbours, (N,)."""
        x = images.astype(np.int64)
        beside = np.abs(np.diff(x, axis=2)).sum((1, 2, 3)) + np.abs(np.diff(x, axis=3)).sum((1, 2, 3))
        pairs = [np.abs(x[:, one + 1 :] - x[:, one, None]).sum((1, 2, 3)) for one in range(x.shape[1])]
        return beside + CHANNEL_SHARE * np.sum(pairs, axis=0)

    def _log_p(self, images: np.ndarray) -> np.ndarray:
        return -self.strength * self.energy(images) - self.log_z

    def _numbers_of_an_image(self) -> int:
        return 8 * n_dims(self.image_shape) + 3 * self.n_levels

    @cached_property
    def _forward(self) -> tuple[list[np.ndarray], float]:
        """The weight of each frontier after each slice, up to a factor, and the logarithm of the last factor."""
        message = np.ones(self.n_levels**self._n_columns)
        log_scale = 0.0
        messages = []
        for number in range(self._n_slices):
            for column in range(self._n_columns):
                if number > 0:
                    message = self._summed(message, column)
                message = self._beside(message, column)
                largest = message.max()
                message /= largest
                log_scale += math.log(largest)
            messages.append(message)
        return messages, log_scale

    def _summed(self, message: np.ndarray, column: int) -> np.ndarray:
        """Sum over the current value of a column; afterwards its axis holds the next value of the column."""
        values = message.reshape(self.n_levels**column, self.n_levels, -1)
        return np.moveaxis(np.tensordot(values, self._beside_weights, (1, 0)), -1, 1).reshape(-1)

    def _beside(self, message: np.ndarray, column: int) -> np.ndarray:
        """Multiply by the weights between the value of a column and its earlier neighbours in the same slice."""
        channels = self.image_shape[0]
        channel = column % channels
        before = [(column - distance, self._channel_weights) for distance in range(1, channel + 1)]
        if column >= channels:
            before.append((column - channels, self._beside_weights))
        for other, weights in before:
            values = message.reshape(
                self.n_levels**other, self.n_levels, self.n_levels ** (column - other - 1), self.n_levels, -1
            )
            message = (values * weights[:, None, :, None]).reshape(-1)
        return message

    def _from_uniforms(self, uniforms: np.ndarray) -> np.ndarray:
        n_images = len(uniforms)
        levels = self.n_levels
        at_ends, _ = self._forward
        strides = levels ** np.arange(self._n_columns - 1, -1, -1)  # stride of each column in the state number
        values = np.empty((n_images, self._n_slices, self._n_columns), np.int64)
        cumulated = np.cumsum(at_ends[-1])
        # one random number decides the whole last frontier; the other random numbers of that slice are not used
        state = np.searchsorted(cumulated, uniforms[:, 0] * cumulated[-1], side="right")
        values[:, -1] = state[:, None] // strides % levels
        for number in range(self._n_slices - 1, 0, -1):
            message = at_ends[number - 1]
            messages = []
            for column in range(self._n_columns):  # recompute the weights before each step within the slice
                messages.append(message)
                if column < self._n_columns - 1:
                    message = self._beside(self._summed(message, column), column)
                    message = message / message.max()
            for column in range(self._n_columns - 1, -1, -1):
                now = values[:, number, column]
                others = state - now * strides[column]
                places = others[:, None] + np.arange(levels) * strides[column]
                masses = messages[column][places] * self._beside_weights[now]
                before = levels_drawn(masses, uniforms[:, number * self._n_columns + column])
                values[:, number - 1, column] = before
                state = others + before * strides[column]
        channels, height, width = self.image_shape
        if self._is_wide:
            return values.reshape(n_images, width, height, channels).transpose(0, 3, 2, 1)
        return values.reshape(n_images, height, width, channels).transpose(0, 3, 1, 2)
