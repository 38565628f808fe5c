r"""The Gaussian: a multivariate normal density of the dequantized images, fitted in closed form.

.. math:: y = \frac{x+u}{L} \sim \mathcal N(\mu, \Sigma), \qquad
          \mu = \frac{\bar x + 1/2}{L}, \quad \Sigma = \frac{1}{L^2} \Big( \mathrm{cov}(x) + \tfrac1{12} I \Big)

mu and Sigma are the maximum-likelihood values for uniformly dequantized images with the noise integrated out. The 1/12
is the variance of the noise; because of it, Sigma is never singular.

The density is defined on all of R^D. Its mass outside the unit cube is lost, so its masses of images sum to less than
one. Its bits per dimension are therefore valid, but not as low as they could be. Samples are moved to the nearest
level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitsperdim.likelihoods.base import as_levels
from bitsperdim.models.density import DensityModel
from bitsperdim.models.parts.dequantization import UniformDequantizer
from bitsperdim.models.parts.rising import Affine
from bitsperdim.models.parts.triangular import TriangularMap

CHUNK = 4096  # images at a time in the fit, so that its memory does not grow with the number of images
NOISE_VARIANCE = 1 / 12  # variance of u, which is uniform on [0, 1)


class Gaussian(DensityModel):
    """A multivariate normal with full covariance.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int) -> None:
        """Start from a standard normal."""
        super().__init__(image_shape, n_levels)
        self.dequantizer = UniformDequantizer()
        self.register_buffer("mean", torch.zeros(self.n_dims))
        self.register_buffer("whitening", torch.eye(self.n_dims))  # inverse of the Cholesky factor, lower triangular

    @property
    def n_parameters(self) -> int:
        """The number of free parameters: those of the mean and of one triangle of the covariance."""
        return self.n_dims + self.n_dims * (self.n_dims + 1) // 2

    def unchecked_initialise(self, images: Tensor) -> None:
        """Fit mu and Sigma to training images (N, C, H, W)."""
        total = torch.zeros(self.n_dims, dtype=torch.float64, device=images.device)
        for chunk in images.split(CHUNK):
            total += chunk.flatten(1).double().sum(0)
        centre = total / len(images)
        scatter = torch.zeros(self.n_dims, self.n_dims, dtype=torch.float64, device=images.device)
        for chunk in images.split(CHUNK):
            deviation = chunk.flatten(1).double() - centre
            scatter += deviation.T @ deviation
        identity = torch.eye(self.n_dims, dtype=torch.float64, device=images.device)
        covariance = (scatter / len(images) + NOISE_VARIANCE * identity) / self.n_levels**2
        cholesky = torch.linalg.cholesky(covariance)
        self.mean.copy_((centre + 0.5) / self.n_levels)
        self.whitening.copy_(torch.linalg.solve_triangular(cholesky, identity, upper=False))

    def log_density(self, y: Tensor) -> Tensor:
        """Return log N(y; mu, Sigma), (B,) in nats."""
        with torch.autocast(y.device.type, enabled=False):  # autocast is for networks, and this is not a network
            white = (y.flatten(1).to(self.mean) - self.mean) @ self.whitening.T  # (B, D)
        log_det = self.whitening.diagonal().log().sum()
        return -0.5 * white.square().sum(1) + log_det - 0.5 * self.n_dims * math.log(math.tau)

    @property
    def is_triangular(self) -> bool:
        """True: the whitening matrix is lower triangular."""
        return True

    def triangular(self) -> TriangularMap:
        """Return the whitening as a triangular map."""
        return _Whitening(self.mean.double(), self.whitening.double())

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw from the normal density and move each value to the nearest level."""
        white = torch.randn(self.n_dims, n_images, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        y = torch.linalg.solve_triangular(self.whitening, white, upper=False).T + self.mean
        levels = (y * self.n_levels).floor().clamp(0, self.n_levels - 1)
        return as_levels(levels, self.n_levels).reshape(n_images, *self.image_shape)


class _Whitening(TriangularMap):
    """The map z_i = W_ii (y_i - mu_i) + the sum over j < i of W_ij (y_j - mu_j); its values are y - mu."""

    def __init__(self, mean: Tensor, whitening: Tensor) -> None:
        """Store mu (D,) and W (D, D)."""
        self.mean, self.whitening, self.order = mean, whitening, range(len(mean))

    def start(self, edges: Tensor, n_rows: int) -> Tensor:
        """Return the edges minus the mean."""
        self.given = self.mean.new_zeros(len(self.mean), n_rows)
        return edges - self.mean[:, None]

    def conditional(self, dim: int) -> Affine:
        """Return the affine map for one dimension."""
        scale, shift = self.whitening[dim, dim], self.whitening[dim, :dim] @ self.given[:dim]
        return Affine(scale, shift)

    def give(self, dim: int, values: Tensor) -> None:
        """Store one value for each row."""
        self.given[dim] = values
