"""Models with a latent code z: a prior, an encoder as the proposal, and a decoder.

Invariants: those of :mod:`bitsperdim.models.base`, by ``tests/models/test_vae.py``.
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
    r"""A latent variable z with prior p(z), likelihood p(x given z) and proposal q(z given x).

    .. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x), \qquad z_k \sim q(z \mid x)

    or, with the prior as the proposal, :math:`\log w_k = \log p(x \mid z_k)` with :math:`z_k \sim p(z)`.
    z is (K, B, Z), flat over all stochastic layers.

    In training the derivative of the bound in the weights of the proposal may be taken in the doubly reparameterized
    way (Tucker et al. 2019, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives"):

    .. math:: \nabla_\phi \log \frac1K \sum_k w_k
              \;\to\; \sum_k \tilde w_k^2 \, \frac{\partial \log w_k}{\partial z_k} \, \nabla_\phi z_k,
              \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    It has the same mean, and its signal does not drown in its noise as K grows. The other derivatives are as they were.

    Attributes:
        doubly_reparameterized: whether it is.
    """

    doubly_reparameterized: bool = False

    @property
    def has_derivatives(self) -> bool:
        """Whether log p(x, z) has derivatives in z, as annealing needs them."""
        return True

    @abstractmethod
    def prior(self) -> LatentNormal:
        """Return p(z), of shape (Z,)."""

    @abstractmethod
    def encode(self, x: Tensor) -> LatentNormal:
        """Return q(z given x), of shape (B, Z)."""

    def encode_as_normal(self, x: Tensor) -> LatentNormal:
        """Return what the refinement of a proposal starts at, (B, Z): q(z given x), or a normal of its moments."""
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
        """Return log w, (K, B) in nats, differentiable in all parameters that it depends on.

        Args:
            x: (B, C, H, W) uint8, values 0..L-1.
            n_samples: K.
            labels: of no use here.
            generator: of all randomness; on a CPU the k-th row does not depend on K.
            noise: of no use here.
            proposal: ``encoder`` draws z from q(z given x), ``prior`` from p(z): naive Monte Carlo, each image with
                draws of its own.
            encoded: q(z given x) of these images, where it is known already, or another density to draw z from.

        Raises:
            ValueError: a proposal of another name.
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
        # the bound's own derivative brings one factor of these to z; the second is put on there
        shares = torch.softmax(log_w.detach(), dim=0)[..., None]  # (K, B, 1)
        z.register_hook(lambda gradient: gradient * shares)
        return log_w

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw z from the prior, then x from p(x given z)."""
        return self.sample_joint(n_images, generator=generator)[1]

    def sample_joint(self, n_images: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw z (B, Z) from the prior, then x (B, C, H, W) from p(x given z): z is then a draw from p(z given x)."""
        z = self.prior().rsample(n_images, generator=generator)  # (B, Z)
        return z, self.decode(z[None]).sample(generator=generator)[0]

    def draw_latents(self, n_samples: int, n_images: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw z from the prior, (K, B, Z), independent for each image; on a CPU the k-th does not depend on K."""
        return self.prior().expand(n_images).rsample(n_samples, generator=generator)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the middle of p(x given z) at the mean of q(z given x), (B, C, H, W) in level units, to be looked at.

        It is the mean, but for coupled channels: see ``central`` there.

        Raises:
            ValueError: x is not images of the model.
        """
        self.check(x)
        self.check_places(x)
        return self.decode(self.encode(x).mean[None]).central[0]
