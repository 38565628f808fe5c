r"""Dequantization: noise in (0, 1) as the latent variable that connects a density with a mass on integers.

With any noise density r(u given x) on (0, 1)^D,

.. math:: P(x) = \int p\Big(\frac{x+u}{L}\Big) L^{-D} \, du
               = \mathbb E_{u \sim r} \Big[ \frac{p((x+u)/L)}{L^D \, r(u|x)} \Big]

Hence log p - D log L - log r is a log-weight (Theis, van den Oord and Bethge 2016, eq. 4-7;
Hoogeboom et al. 2020 for more than one draw in training). There are four kinds of noise:

===================  ==========================================================================  ===============
name                 noise                                                                       result
===================  ==========================================================================  ===============
``uniform``          u is uniform, new at every presentation; log r = 0                          a bound
``uniform_fixed``    like ``uniform``, but each training image always keeps its first draw: a    a bound
                     common mistake, for study. Validation and test images have new noise
``variational``      u from a learned r(u given x) (Ho et al. 2019, section 3.1)                 a bound
``none``             u = 1/2 always: a density at integers, for study. It grows without limit    not a likelihood
                     if training finds that values repeat, and it is never ranked
===================  ==========================================================================  ===============

Noise is float64. The uniform draws are multiples of 2^-24 in [0, 1). 2^-25 is added to each, so that it lies in the
middle of its step and strictly inside (0, 1).

Invariants (``tests/models/test_dequantization.py``):

1. The dequantized value lies strictly inside (0, 1), also in the top cell (``test_the_top_cell_stays_below_one``). In
   float32, (L-1+u)/L would round to 1 about once in 150,000 draws with 256 levels, and have an infinite logit.
2. Flooring returns the image (``test_flooring_inverts``).
3. r(u given x) integrates to one over (0, 1)^D and is the density of the drawn noise
   (``test_variational_noise_has_its_density``); variational noise starts as uniform noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.likelihoods import draw_each
from bitsperdim.models.parts.bijections import AffineCoupling, checkerboard

MAX_LEVELS = 4096  # densities take float32 values; with more levels, a cell has too few distinct values
HALF_A_STEP = 2.0**-25  # half the step between uniform draws
DEQUANTIZATIONS = ("none", "uniform_fixed", "uniform", "variational")


class Dequantizer(nn.Module, ABC):
    """Noise with a density r(u given x) on (0, 1)^D.

    Attributes:
        is_noise: whether there is noise at all; a density without noise, at integers, is not a likelihood.
        is_fixed: whether each training image always keeps its noise.
    """

    is_noise: ClassVar[bool] = True
    is_fixed: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, x: Tensor, n_samples: int, *, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw noise for each image.

        Args:
            x: images (B, C, H, W) uint8.
            n_samples: number of samples K.
            generator: random number generator for the noise.
            noise: given uniform noise in [0, 1), (M, B, C, H, W) for the first M <= K draws or (B, C, H, W) for the
                first draw; None: all noise is drawn.

        Returns:
            u (K, B, C, H, W) float64 in (0, 1), and log r(u given x) (K, B) float64 in nats.
        """


class NoDequantizer(Dequantizer):
    """No noise: u is always the middle of the cell."""

    is_noise = False

    def forward(
        self, x: Tensor, n_samples: int, *, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return u = 1/2 and log r = 0."""
        u = torch.full((n_samples, *x.shape), 0.5, dtype=torch.float64, device=x.device)
        return u, u.new_zeros(u.shape[:2])


class UniformDequantizer(Dequantizer):
    """Independent uniform noise: log r = 0."""

    def forward(
        self, x: Tensor, n_samples: int, *, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw u uniformly from (0, 1), and return log r = 0."""
        u = uniform(x, n_samples, generator, noise)
        return u, u.new_zeros(u.shape[:2])


class FixedUniformDequantizer(UniformDequantizer):
    """Uniform noise that is fixed: the trainer always gives a training image the same noise."""

    is_fixed = True


class VariationalDequantizer(Dequantizer):
    r"""Learned noise: a conditional flow from uniform noise v to u (Ho et al. 2019, "Flow++", section 3.1).

    .. math:: u = \sigma\big( f_x(\mathrm{logit}(v)) \big), \qquad
              \log r(u \mid x) = -\log \left| \frac{du}{dv} \right|

    f_x is a sequence of affine couplings that are conditioned on the image. It starts as the identity, so u starts as
    uniform noise.

    Difference from the paper: its f_x starts from a normal, has gates and attention, and couples logistic mixtures.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        n_couplings: number of couplings, which alternate between the two colours of a checkerboard.
        n_filters: number of hidden channels in the network of each coupling.
        n_blocks: number of residual blocks in the network of each coupling.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], n_levels: int, *, n_couplings: int, n_filters: int, n_blocks: int
    ) -> None:
        """Build the couplings."""
        super().__init__()
        channels, height, width = image_shape
        if height * width < 2:
            raise ValueError("variational noise needs images of at least 2 pixels, and these have 1")
        self.n_levels = n_levels
        self.couplings = nn.ModuleList(
            AffineCoupling(
                checkerboard(height, width, odd=bool(number % 2)),
                channels,
                n_filters=n_filters,
                n_blocks=n_blocks,
                n_context=channels,
            )
            for number in range(n_couplings)
        )

    def forward(
        self, x: Tensor, n_samples: int, *, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw u from r(u given x), differentiable with respect to the weights."""
        v = uniform(x, n_samples, generator, noise)
        return self.transformed(x, v)

    def transformed(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return u (K, B, C, H, W) for v in (0, 1) of the same shape, and log r(u given x) (K, B)."""
        dtype = next(self.parameters()).dtype
        scaled = x.to(dtype) * (2 / (self.n_levels - 1)) - 1
        context = scaled.expand(v.shape).flatten(0, 1)  # (KB, C, H, W)
        h = torch.logit(v.flatten(0, 1)).to(dtype)
        ladj = -logistic_log_density(h).flatten(1).sum(1)  # ladj of the logit
        for coupling in self.couplings:
            h, more = coupling(h, context)
            ladj = ladj + more.double()
        ladj = ladj + logistic_log_density(h).flatten(1).sum(1)  # plus ladj of the logistic function
        return torch.sigmoid(h.double()).unflatten(0, v.shape[:2]), -ladj.unflatten(0, v.shape[:2])


def dequantizer(
    name: str, image_shape: tuple[int, int, int], n_levels: int, variational: Mapping[str, int]
) -> Dequantizer:
    """Build a dequantizer by name.

    Args:
        name: one of :data:`DEQUANTIZATIONS`.
        image_shape: (C, H, W).
        n_levels: number of levels L.
        variational: sizes of the network for learned noise: ``n_couplings``, ``n_filters``, ``n_blocks``.

    Raises:
        ValueError: there is no dequantization of that name, or the noise is variational and images have only one
            pixel.
    """
    if name == "none":
        return NoDequantizer()
    if name == "uniform":
        return UniformDequantizer()
    if name == "uniform_fixed":
        return FixedUniformDequantizer()
    if name == "variational":
        return VariationalDequantizer(image_shape, n_levels, **variational)
    raise ValueError(f"dequantization must be one of {', '.join(DEQUANTIZATIONS)}, not {name!r}")


def uniform(x: Tensor, n_samples: int, generator: torch.Generator | None, noise: Tensor | None) -> Tensor:
    """Return uniform numbers (K, B, C, H, W) float64 in (0, 1); the first of them may be given as ``noise``.

    Raises:
        ValueError: the shape of the noise does not fit the images.
    """
    if noise is not None and noise.shape[-x.ndim :] != x.shape:
        raise ValueError(f"noise for images of shape {tuple(x.shape)} cannot have the shape {tuple(noise.shape)}")
    like = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    given = [] if noise is None else [noise.to(like).reshape(-1, *x.shape)[:n_samples]]
    n_drawn = n_samples - sum(len(part) for part in given)
    drawn = [draw_each(torch.rand, n_drawn, like, generator)] if n_drawn else []
    return torch.cat([*given, *drawn]).double() + HALF_A_STEP


def logistic_log_density(h: Tensor) -> Tensor:
    """Return the log-density of the standard logistic in float64, which is the log of the sigmoid's derivative."""
    h = h.double()
    return F.logsigmoid(h) + F.logsigmoid(-h)


def dequantize(x: Tensor, u: Tensor, n_levels: int) -> Tensor:
    """Return (x + u) / L in float64, strictly inside (0, 1); ``x`` broadcasts against ``u``."""
    # a learned u may have been rounded to 0 or 1, so values at the ends of the interval are moved inside
    least = 2.0**-60
    below_one = 1 - torch.finfo(torch.float64).eps / 2
    return ((x.double() + u) / n_levels).clamp(min=least, max=below_one)
