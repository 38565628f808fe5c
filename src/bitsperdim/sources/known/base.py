"""What every distribution with a known log P(x) promises.

Invariants (``tests/sources/known/test_known_laws.py``, for each distribution, grey and colour):

1. P(x) over all images of a shape sums to one (``test_masses_of_all_images_sum_to_one``).
2. Draws have these probabilities (``test_draws_have_the_probabilities_of_log_p``).
3. Strength 0 is independence of all sub-pixels (``test_strength_zero_is_independence``).
4. The constants are the same with every version of NumPy and on every processor up to the rounding of elementary
   functions (``test_a_distribution_stays_what_it_is``).
5. An image is made of random numbers of its own, so that the first images of many are those that few would be
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
MOST_LEVELS = 256  # of uint8
MOST_STRENGTH = 100.0
MOST_COMPONENTS = 64


class KnownDistribution(ABC):
    """A distribution of images whose log-probability is computed exactly.

    Attributes:
        name: as ``dataset.name`` has it.
        default_levels: L where the user says nothing.
        default_strength: of the dependence between sub-pixels where the user says nothing; 0 would be independence.
        default_components: the number of hidden components (templates, states) where the user says nothing; None:
            there are no components.
        image_shape: (C, H, W).
        n_levels: L; values of sub-pixels are 0..L-1.
        strength: of the dependence, from 0 to 100.
        n_components: None where there are no components.
        chunk_numbers: how many numbers of float64 are in memory at once, roughly; what comes out does not depend on it.
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
        """Check the parameters; no work is done yet.

        Args:
            image_shape: (C, H, W).
            n_levels: L.
            strength: of the dependence; None: ``default_strength``.
            n_components: None: ``default_components``.

        Raises:
            InputError: one of them is not allowed.
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
                raise self.refusal("drawn.n_components", n_components, "this distribution has none: it must be null")
        elif not _is_whole(n_components, 1, MOST_COMPONENTS):
            raise self.refusal(
                "drawn.n_components", n_components, f"it must be a whole number from 1 to {MOST_COMPONENTS}"
            )
        self.image_shape = (int(channels), int(height), int(width))
        self.n_levels = int(n_levels)
        self.strength = abs(float(strength))  # -0.0 is 0
        self.n_components = None if n_components is None else int(n_components)

    def refusal(self, key: str, value: object, rule: str) -> InputError:
        """Return the error of a key of ``dataset``: its value and what is allowed."""
        return InputError(f"params.yaml: dataset.{key} = {shown(value)} with dataset.name = {self.name}; {rule}.")

    @property
    def tag(self) -> str:
        """All that decides the distribution besides name, shape and levels: letters, digits, ``-`` and ``.``."""
        components = "" if self.n_components is None else f"-k{self.n_components}"
        return f"s{repr(self.strength).removesuffix('.0')}{components}"

    def draw(self, n_images: int, generator: np.random.Generator) -> np.ndarray:
        """Draw images that are independent of each other.

        Args:
            n_images: N.
            generator: of uniform random numbers; each image takes the same number of them.

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
        """Return the images.

        Raises:
            ValueError: they have another shape, or other values.
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
        """Yield the rows that are worked on at once; ``n_numbers`` of an image where they are more than otherwise."""
        n_rows = max(1, self.chunk_numbers // max(n_numbers, self._numbers_of_an_image()))
        for start in range(0, n_images, n_rows):
            yield slice(start, min(start + n_rows, n_images))

    def _n_uniforms(self) -> int:
        """Return how many random numbers make an image."""
        return n_dims(self.image_shape)

    @abstractmethod
    def _numbers_of_an_image(self) -> int:
        """Return how many numbers are in memory at once for each image."""

    @abstractmethod
    def _from_uniforms(self, uniforms: np.ndarray) -> np.ndarray:
        """Return the images, (N, C, H, W), that random numbers in [0, 1) make, (N, :meth:`_n_uniforms`)."""

    @abstractmethod
    def _log_p(self, images: np.ndarray) -> np.ndarray:
        """Return log P(x) in nats, (N,), of images that were checked."""


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def fixed_uniforms(seed: int, *shape: int) -> np.ndarray:
    """Return numbers in [0, 1) that are the same with every version of NumPy and on every processor.

    They are the upper 53 bits of the raw numbers of PCG64, whose stream NumPy guarantees (NEP 19), which it does not
    for the methods of ``Generator``; the conversion to float64 is exact.
    """
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def levels_drawn(masses: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Return the level that each random number stands for: the first whose cumulated mass is above it.

    Args:
        masses: (..., L), not negative; they need not sum to one.
        uniforms: (...), in [0, 1).
    """
    cumulated = np.cumsum(masses, -1)
    return (cumulated <= (uniforms * cumulated[..., -1])[..., None]).sum(-1)


def log_masses_around(values: np.ndarray, n_levels: int, strength: float) -> np.ndarray:
    r"""Return a normal that lives on the levels alone.

    .. math:: p(l) \propto \exp\left(-\frac{(l / (L-1) - v)^2}{2 \sigma^2}\right), \qquad
        \sigma^2 = \frac{1}{s^2} + \frac{1}{9 (L-1)^2}

    The second term is a third of the distance between levels, squared: with few levels too there is noise. The masses
    are divided by their sum over the L levels, so that nothing is lost beyond the edges; at strength 0 all levels are
    equally likely.

    Args:
        values: v, (...), of which 0 is the darkest level and 1 the brightest.
        n_levels: L.
        strength: s: the distance between the darkest and the brightest level in standard deviations, but for that term.

    Returns:
        Log-masses in nats, (..., L).
    """
    levels = np.arange(n_levels) / (n_levels - 1)
    precision = strength**2 / (1 + (strength / (n_levels - 1)) ** 2 / 9)
    return log_softmax(-0.5 * precision * (levels - values[..., None]) ** 2, axis=-1)
