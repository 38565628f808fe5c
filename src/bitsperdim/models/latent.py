"""Models with latent variables z: a prior, an encoder as the proposal, and a decoder.

Invariants: see :mod:`bitsperdim.models.base`; tested by ``tests/models/test_vae.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from bitsperdim.likelihoods import DiagonalNormal, LatentDensity, Likelihood, NormalChain
from bitsperdim.models.base import ImageModel

LatentNormal = DiagonalNormal | NormalChain
Proposal = Literal["encoder", "prior"]


class LatentModel(ImageModel):
    r"""A model with a latent variable z: prior p(z), likelihood p(x given z) and proposal q(z given x).

    .. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x), \qquad z_k \sim q(z \mid x)

    or, with the prior as the proposal, :math:`\log w_k = \log p(x \mid z_k)` with :math:`z_k \sim p(z)`.
    z is (K, B, Z), flat over all stochastic layers.

    In training, the derivative of the bound with respect to the weights of the encoder may be doubly reparameterized
    (Tucker et al. 2019, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives"):

    .. math:: \nabla_\phi \log \frac1K \sum_k w_k
              \;\to\; \sum_k \tilde w_k^2 \, \frac{\partial \log w_k}{\partial z_k} \, \nabla_\phi z_k,
              \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    This estimator has the same mean, and its signal-to-noise ratio does not vanish as K grows. The other derivatives do
    not change.

    Attributes:
        doubly_reparameterized: whether training uses this estimator.
    """

    doubly_reparameterized: bool = False

    @property
    def has_derivatives(self) -> bool:
        """Whether log p(x, z) has derivatives with respect to z, which annealing needs."""
        return True

    @abstractmethod
    def prior(self) -> LatentNormal:
        """Return p(z), shape (Z,)."""

    @abstractmethod
    def encode(self, x: Tensor) -> LatentNormal:
        """Return q(z given x), shape (B, Z)."""

    def encode_as_normal(self, x: Tensor) -> LatentNormal:
        """Return the start of a proposal refinement, (B, Z): q(z given x), or a normal with the same moments."""
        return self.encode(x)

    @abstractmethod
    def decode(self, z: Tensor) -> Likelihood:
        """Return p(x given z) for z (K, B, Z), batch shape (K, B, C, H, W)."""

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x given z) for z (K, B, Z), (K, B) in nats."""
        return self.decode(z).log_prob_of_images(x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x given z) + log p(z), (K, B) in nats."""
        return self.log_p_x_given_z(x, z) + self.prior().log_prob(z)

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        proposal: Proposal = "encoder",
        encoded: LatentDensity | None = None,
    ) -> Tensor:
        """Return log w in nats, (K, B), differentiable with respect to all parameters that it depends on.

        Args:
            x: images (B, C, H, W) uint8, values 0..L-1.
            n_samples: number of samples K.
            labels: not used.
            generator: random number generator for all draws; on a CPU the k-th row does not depend on K.
            noise: not used.
            proposal: ``encoder`` draws z from q(z given x); ``prior`` draws z from p(z), independently for each image
                (naive Monte Carlo).
            encoded: q(z given x) for these images if it is already known, or another density to draw z from.

        Raises:
            ValueError: there is no proposal of this name.
        """
        if proposal not in get_args(Proposal):
            raise ValueError(f"proposal must be one of {', '.join(get_args(Proposal))}, not {proposal!r}")
        if proposal == "prior":
            return self.log_p_x_given_z(x, self.draw_latents(n_samples, len(x), generator=generator))
        q_z_given_x = self.encode(x) if encoded is None else encoded
        z = q_z_given_x.rsample(n_samples, generator=generator)  # (K, B, Z)
        if not (self.doubly_reparameterized and self.training and z.requires_grad):
            return self.log_joint(x, z) - q_z_given_x.log_prob(z)
        log_w = self.log_joint(x, z) - q_z_given_x.detach().log_prob(z)
        # the derivative of the bound multiplies the gradient of z by these weights once, and the hook once more
        shares = torch.softmax(log_w.detach(), dim=0)[..., None]  # (K, B, 1)
        z.register_hook(lambda gradient: gradient * shares)
        return log_w

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw z from the prior, then x from p(x given z)."""
        return self.sample_joint(n_images, generator=generator)[1]

    def sample_joint(self, n_images: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw z (B, Z) from the prior, then x (B, C, H, W) from p(x given z); z is then a draw from p(z given x)."""
        z = self.prior().rsample(n_images, generator=generator)  # (B, Z)
        return z, self.decode(z[None]).sample(generator=generator)[0]

    def draw_latents(self, n_samples: int, n_images: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw z from the prior, (K, B, Z), independently for each image; on a CPU the k-th does not depend on K."""
        return self.prior().expand(n_images).rsample(n_samples, generator=generator)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return reconstructions for pictures: the centre of p(x given z) at the mean of q(z given x).

        Returns:
            (B, C, H, W) in level units: the mean of p(x given z), except for coupled channels (see ``central`` of that
            likelihood).

        Raises:
            ValueError: the images do not fit the model.
        """
        self.check(x)
        self.check_places(x)
        return self.decode(self.encode(x).mean[None]).central[0]
