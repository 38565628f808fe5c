"""Base class of the distributions with a known log P(x).

Invariants (``tests/sources/known/test_known_laws.py``, for each distribution, grey and colour):

1. P(x) sums to one over all images of a shape (``test_masses_of_all_images_sum_to_one``).
2. Draws have these probabilities (``test_draws_have_the_probabilities_of_log_p``).
3. With strength 0, all sub-pixels are independent (``test_strength_zero_is_independence``).
4. The constants are the same with every version of NumPy and on every processor, up to the rounding of elementary
   functions (``test_a_distribution_stays_what_it_is``).
5. Each image is made from its own random numbers, so the first images do not depend on how many are drawn
   (``test_chunks_change_nothing``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from scipy.special import log_softmax

from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.units import n_dims

MOST_CHANNELS = (1, 3)
MOST_PIXELS_OF_A_SIDE = 64
MOST_LEVELS = 256  # images are uint8
MOST_STRENGTH = 100.0
MOST_COMPONENTS = 64


class KnownDistribution(ABC):
    """A distribution of images with an exact log-probability.

    Attributes:
        name: name in ``dataset.name``.
        default_levels: default number of levels L.
        default_strength: default strength of the dependence between sub-pixels; 0 would be independence.
        default_components: default number of hidden components (templates, states); None: the distribution has no
            components.
        image_shape: (C, H, W).
        n_levels: number of levels L; values of sub-pixels are 0..L-1.
        strength: strength of the dependence between sub-pixels, from 0 to 100.
        n_components: number of hidden components; None: the distribution has no components.
        chunk_numbers: approximate number of float64 numbers in memory at a time; results do not depend on it.
    """

    name: ClassVar[str]
    default_levels: ClassVar[int]
    default_strength: ClassVar[float]
    default_components: ClassVar[int | None] = None
    chunk_numbers: int = 2**22

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        strength: float | None = None,
        n_components: int | None = None,
    ) -> None:
        """Check and store the parameters.

        Args:
            image_shape: (C, H, W).
            n_levels: number of levels L.
            strength: strength of the dependence; None: ``default_strength``.
            n_components: number of hidden components; None: ``default_components``.

        Raises:
            InputError: a parameter is not allowed.
        """
        strength = self.default_strength if strength is None else strength
        n_components = self.default_components if n_components is None else n_components
        channels, height, width = image_shape
        if not _is_whole(channels, MOST_CHANNELS[0], MOST_CHANNELS[-1]) or channels not in MOST_CHANNELS:
            raise self.refusal("drawn.n_channels", channels, "it must be 1 (grey) or 3 (colour)")
        for key, side in (("height", height), ("width", width)):
            if not _is_whole(side, 1, MOST_PIXELS_OF_A_SIDE):
                raise self.refusal(f"drawn.{key}", side, f"it must be a whole number from 1 to {MOST_PIXELS_OF_A_SIDE}")
        if not _is_whole(n_levels, 2, MOST_LEVELS):
            raise self.refusal("n_levels", n_levels, f"it must be a whole number from 2 to {MOST_LEVELS}")
        is_number = isinstance(strength, Real) and not isinstance(strength, bool)
        if not is_number or not 0 <= strength <= MOST_STRENGTH:
            raise self.refusal("drawn.strength", strength, f"it must be a number from 0 to {MOST_STRENGTH:g}")
        if self.default_components is None:
            if n_components is not None:
                raise self.refusal(
                    "drawn.n_components", n_components, "this distribution has no components, so it must be null"
                )
        elif not _is_whole(n_components, 1, MOST_COMPONENTS):
            raise self.refusal(
                "drawn.n_components", n_components, f"it must be a whole number from 1 to {MOST_COMPONENTS}"
            )
        self.image_shape = (int(channels), int(height), int(width))
        self.n_levels = int(n_levels)
        self.strength = abs(float(strength))  # -0.0 is 0
        self.n_components = None if n_components is None else int(n_components)

    def refusal(self, key: str, value: object, rule: str) -> InputError:
        """Return the error for a key of ``dataset``, with its value and the allowed values."""
        return InputError(f"params.yaml: dataset.{key} = {shown(value)} with dataset.name = {self.name}; {rule}.")

    @property
    def tag(self) -> str:
        """The parameters besides name, shape and levels, written with letters, digits, ``-`` and ``.``."""
        components = "" if self.n_components is None else f"-k{self.n_components}"
        return f"s{repr(self.strength).removesuffix('.0')}{components}"

    def draw(self, n_images: int, generator: np.random.Generator) -> np.ndarray:
        """Draw independent images.

        Args:
            n_images: number of images N.
            generator: generator of uniform random numbers; each image uses the same number of them.

        Returns:
            (N, C, H, W) uint8.
        """
        images = np.empty((n_images, *self.image_shape), np.uint8)
        for rows in self._chunks(n_images):
            uniforms = generator.random((rows.stop - rows.start, self._n_uniforms()))
            images[rows] = self._from_uniforms(uniforms)
        return images

    def log_p(self, images: np.ndarray) -> np.ndarray:
        """Return log P(x) in nats, (N,) float64, exact up to rounding.

        Args:
            images: (N, C, H, W), whole numbers from 0 to L-1.

        Raises:
            ValueError: the images have another shape, or other values.
        """
        images = self.checked(images)
        log_p = np.empty(len(images))
        for rows in self._chunks(len(images)):
            log_p[rows] = self._log_p(images[rows])
        return log_p

    def checked(self, images: np.ndarray) -> np.ndarray:
        """Check images and return them.

        Raises:
            ValueError: the images have another shape, or other values.
        """
        images = np.asarray(images)
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images must have shape (N, *{self.image_shape}), not {images.shape}")
        if not np.issubdtype(images.dtype, np.integer):
            raise ValueError(f"images must hold whole numbers, not {images.dtype}")
        if images.size and not 0 <= images.min() <= images.max() < self.n_levels:
            raise ValueError(
                f"images must have values from 0 to {self.n_levels - 1}, not {images.min()} to {images.max()}"
            )
        return images

    def _chunks(self, n_images: int, n_numbers: int = 0) -> Iterator[slice]:
        """Yield slices of images to process at a time.

        Args:
            n_images: number of images.
            n_numbers: how many numbers one image needs, if these are more than :meth:`_numbers_of_an_image`.
        """
        n_rows = max(1, self.chunk_numbers // max(n_numbers, self._numbers_of_an_image()))
        for start in range(0, n_images, n_rows):
            yield slice(start, min(start + n_rows, n_images))

    def _n_uniforms(self) -> int:
        """Return how many random numbers one image needs."""
        return n_dims(self.image_shape)

    @abstractmethod
    def _numbers_of_an_image(self) -> int:
        """Return how many numbers are in memory at a time for each image."""

    @abstractmethod
    def _from_uniforms(self, uniforms: np.ndarray) -> np.ndarray:
        """Return the images (N, C, H, W) for random numbers in [0, 1), (N, :meth:`_n_uniforms`)."""

    @abstractmethod
    def _log_p(self, images: np.ndarray) -> np.ndarray:
        """Return log P(x) in nats, (N,), for images that are already checked."""


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def fixed_uniforms(seed: int, *shape: int) -> np.ndarray:
    """Return numbers in [0, 1) that are the same with every version of NumPy and on every processor.

    They are the upper 53 bits of the raw numbers of PCG64. NumPy guarantees this stream (NEP 19), but not the results
    of the methods of ``Generator``. The conversion to float64 is exact.
    """
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def levels_drawn(masses: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Return the level for each random number: the first level whose cumulative mass is above the number.

    Args:
        masses: masses of the levels, (..., L), not negative; they need not sum to one.
        uniforms: random numbers in [0, 1), (...).
    """
    cumulated = np.cumsum(masses, -1)
    return (cumulated <= (uniforms * cumulated[..., -1])[..., None]).sum(-1)


def log_masses_around(values: np.ndarray, n_levels: int, strength: float) -> np.ndarray:
    r"""Return the log-masses of a normal distribution restricted to the levels.

    .. math:: p(l) \propto \exp\left(-\frac{(l / (L-1) - v)^2}{2 \sigma^2}\right), \qquad
        \sigma^2 = \frac{1}{s^2} + \frac{1}{9 (L-1)^2}

    The second term is the square of a third of the distance between levels, so that there is noise also with few
    levels. The masses are divided by their sum over the L levels, so no mass is lost beyond the edges. At strength 0
    all levels are equally likely.

    Args:
        values: means v, (...); 0 is the darkest level and 1 the brightest.
        n_levels: number of levels L.
        strength: s, the distance between the darkest and the brightest level in standard deviations, without the second
            term.

    Returns:
        Log-masses in nats, (..., L).
    """
    levels = np.arange(n_levels) / (n_levels - 1)
    precision = strength**2 / (1 + (strength / (n_levels - 1)) ** 2 / 9)
    return log_softmax(-0.5 * precision * (levels - values[..., None]) ** 2, axis=-1)
