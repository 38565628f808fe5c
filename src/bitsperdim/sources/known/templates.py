r"""A mixture of smooth templates with noise in each sub-pixel.

.. math:: P(x) = \sum_t \pi_t \prod_i p_{t,i}(x_i)

Given its template t, the sub-pixels of an image are independent. Each has a normal on the levels around the value of
the template (:func:`~bitsperdim.sources.known.base.log_masses_around`). A template is a grid of random values, 3 x 3 in
each channel. It is interpolated linearly, and stretched so that its darkest sub-pixel is 0 and its brightest 1. With
one template, or at strength 0, all sub-pixels are independent.

Invariants (``tests/sources/known/test_templates.py``): log P equals that from the sum over templates, term by term.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from bitsperdim.core.units import n_dims
from bitsperdim.sources.known.base import KnownDistribution, fixed_uniforms, levels_drawn, log_masses_around

SEED = 1
GRID = 3  # number of values in the grid of a template along each side
MOST_MASSES = 2**26  # half a gigabyte


class Templates(KnownDistribution):
    """A mixture of T templates.

    Attributes:
        log_shares: logarithm of the probability pi of each template in nats, (T,).
        log_masses: log-masses of the levels of each sub-pixel given the template in nats, (T, C, H, W, L).
        values: values of the templates, from 0 to 1, (T, C, H, W).
        n_components: number of templates T.
    """

    name = "templates"
    default_levels = 16
    default_strength = 12.0
    default_components = 16

    n_components: int

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        strength: float | None = None,
        n_components: int | None = None,
    ) -> None:
        """Compute the templates; arguments as for :class:`KnownDistribution`."""
        super().__init__(image_shape, n_levels, strength, n_components)
        channels, height, width = self.image_shape
        n_masses = self.n_components * n_dims(self.image_shape) * self.n_levels
        if n_masses > MOST_MASSES:
            raise self.refusal(
                "drawn.n_components",
                self.n_components,
                f"n_components x n_channels x height x width x n_levels is {n_masses:,} masses and {MOST_MASSES:,} are "
                "allowed, so make one of these numbers smaller",
            )
        numbers = fixed_uniforms(SEED, self.n_components, 1 + (channels + 1) * GRID**2)
        shares = 1 + numbers[:, 0]  # every template is less than twice as frequent as any other
        self.log_shares = np.log(shares / shares.sum())
        grids = numbers[:, 1:].reshape(-1, channels + 1, GRID, GRID)
        grids = grids[:, :1] + grids[:, 1:]  # brightness shared by all channels, plus colour
        values = np.einsum("hg,tcgk,wk->tchw", _interpolation(height), grids, _interpolation(width))
        darkest, brightest = values.min((1, 2, 3), keepdims=True), values.max((1, 2, 3), keepdims=True)
        stretch = np.where(brightest > darkest, brightest - darkest, 1.0)  # equal only for a single sub-pixel
        self.values = (values - darkest) / stretch
        self.log_masses = log_masses_around(self.values, self.n_levels, self.strength)

    def log_p_given_component(self, images: np.ndarray) -> np.ndarray:
        """Return log P(x given t) in nats, (T, N).

        Raises:
            ValueError: the images do not fit this distribution.
        """
        images = self.checked(images)
        log_p = np.empty((self.n_components, len(images)))
        for rows in self._chunks(len(images)):
            log_p[:, rows] = self._log_p_given_component(images[rows])
        return log_p

    def _log_p_given_component(self, images: np.ndarray) -> np.ndarray:
        c, h, w = np.ogrid[tuple(map(slice, self.image_shape))]
        return np.stack([of_one[c, h, w, images].sum((1, 2, 3)) for of_one in self.log_masses])

    def _log_p(self, images: np.ndarray) -> np.ndarray:
        return logsumexp(self.log_shares[:, None] + self._log_p_given_component(images), axis=0)

    def _numbers_of_an_image(self) -> int:
        return n_dims(self.image_shape) * self.n_levels

    def _n_uniforms(self) -> int:
        return 1 + n_dims(self.image_shape)

    def _from_uniforms(self, uniforms: np.ndarray) -> np.ndarray:
        templates = levels_drawn(np.exp(self.log_shares), uniforms[:, 0])
        masses = np.exp(self.log_masses[templates])  # (N, C, H, W, L)
        return levels_drawn(masses, uniforms[:, 1:].reshape(-1, *self.image_shape))


def _interpolation(n_pixels: int) -> np.ndarray:
    """Return the weight of each grid value for each pixel along a side, (n_pixels, GRID)."""
    places = (np.arange(n_pixels) + 0.5) / n_pixels * (GRID - 1)
    return np.maximum(0.0, 1 - np.abs(places[:, None] - np.arange(GRID)))
