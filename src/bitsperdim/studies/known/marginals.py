r"""Models whose log P(x) is known independently of the estimators that are tested.

- *VAEs* with one or two latent variables: :math:`P(x) = \int p(z) \, p(x \mid z) \, dz` by the trapezoidal rule on a
  grid over :math:`[-10, 10]^Z`. The error falls exponentially with the number of steps, because the integrand is
  analytic and vanishes at both ends. The stated error is the difference from the result with half as many steps.
- *A Gaussian* of two sub-pixels: :math:`P(x) = \int_{cell} \mathcal N(y; \mu, \Sigma) \, dy` by Gauss-Legendre nodes;
  the stated error is the difference from the result with half as many nodes.
- *Templates and hidden Markov images* as latent models whose encoder is inexact on purpose: their log P(x) has a closed
  form (:mod:`bitsperdim.sources.known`), and the weights are
  :math:`p(z) \, p(x \mid z) / q(z \mid x)` with discrete z.

Invariants (``tests/studies/test_known_estimators.py``): quadrature has converged, and agrees with adaptive quadrature
and with SciPy's normal in two dimensions; weights of discrete codes average to P(x), by enumeration of all codes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitsperdim.core.files import sha256
from bitsperdim.data.prepared import Description
from bitsperdim.likelihoods.normal import draw_each
from bitsperdim.models.base import ImageModel
from bitsperdim.models.gaussian import Gaussian
from bitsperdim.models.latent import LatentModel
from bitsperdim.sources.known import HiddenMarkov, KnownDistribution, Templates

REACH = 10.0  # half width of the grid for each latent, in standard deviations of the prior; 1e-23 lies outside
STEPS = {1: 2000, 2: 200}  # number of latent variables -> steps of the grid in each direction
NODES = 48  # Gauss-Legendre nodes in each direction of a cell
POINTS_AT_ONCE = 2**14

LogP = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Known:
    """A model and its known log P(x).

    Attributes:
        name: name of the model in tables.
        model: the model in evaluation mode, float64.
        images: (N, C, H, W) images whose log P(x) is estimated.
        log_p: (N,) known log P(x), float64 nats.
        error: upper limit of the error of ``log_p``, nats; 0 for a closed form.
        ask: the function that returns log P(x) for other images.
        is_annealed: whether the bracket of annealing is tested too, which needs a continuous latent code.
    """

    name: str
    model: ImageModel
    images: Tensor
    log_p: Tensor
    error: float
    ask: LogP
    is_annealed: bool = False

    @property
    def description(self) -> Description:
        """The description of the images."""
        images = self.images.numpy()
        channels, height, width = self.model.image_shape
        return Description(
            image_shape=self.model.image_shape,
            n_levels=self.model.n_levels,
            train_levels=self.model.n_levels,
            binarization="none",
            n_images={"test": len(images)},
            test_sha256=sha256(images),
            protocol=f"{self.name}/none/{height}x{width}x{channels}/L{self.model.n_levels}/test{len(images)}/given-none",
        )


@torch.no_grad()
def by_grid(model: LatentModel, images: Tensor, n_steps: int) -> Tensor:
    """Return log P(x) by the trapezoidal rule over the latent variables, (N,) float64 nats.

    Args:
        model: model in evaluation mode with few latent variables, whose sub-pixels are independent given z.
        images: (N, C, H, W).
        n_steps: number of steps of the grid in each direction.
    """
    prior = model.prior()
    n_latents = prior.mean.shape[-1]
    axis = torch.linspace(-REACH, REACH, n_steps + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * n_latents).reshape(-1, 1, n_latents)
    chosen = torch.nn.functional.one_hot(images.flatten(1).long(), model.n_levels).double().flatten(1)  # (N, D L)
    total = torch.full((len(images),), -torch.inf, dtype=torch.float64)
    for z in grid.split(POINTS_AT_ONCE):
        given = model.decode(z.to(model.dtype))
        levels = [given.log_prob(torch.tensor(level)).flatten(1) for level in range(model.n_levels)]
        log_masses = torch.stack(levels, dim=-1).double().flatten(1)  # (G, D L)
        log_joint = log_masses @ chosen.T + prior.log_prob(z).double()  # (G, N)
        total = torch.logaddexp(total, torch.logsumexp(log_joint, 0))
    return total + n_latents * math.log(2 * REACH / n_steps)


def of_vae(name: str, model: LatentModel, images: Tensor, *, is_annealed: bool = True) -> Known:
    """Return a VAE with one or two latent variables, and its log P(x) by quadrature."""
    n_steps = STEPS[model.prior().mean.shape[-1]]
    log_p = by_grid(model, images, n_steps)
    error = float((by_grid(model, images, n_steps // 2) - log_p).abs().max())
    return Known(name, model, images, log_p, error, lambda x: by_grid(model, x, n_steps), is_annealed)


@torch.no_grad()
def by_nodes(model: Gaussian, images: Tensor, n_nodes: int) -> Tensor:
    """Return log P(x) of images of two sub-pixels by Gauss-Legendre quadrature over their cells, (N,) float64 nats."""
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(n_nodes))
    u = torch.cartesian_prod((nodes + 1) / 2, (nodes + 1) / 2)  # (Q, 2) in the unit square
    log_weights = (torch.outer(weights, weights) / 4).log().flatten()
    y = (images.flatten(1)[:, None] + u) / model.n_levels  # (N, Q, 2)
    log_density = model.log_density(y.reshape(-1, *model.image_shape)).reshape(len(images), -1)
    return torch.logsumexp(log_density + log_weights, 1) - model.n_dims * math.log(model.n_levels)


def of_gaussian(name: str, model: Gaussian, images: Tensor) -> Known:
    """Return a Gaussian of two sub-pixels, and its log P(x) by quadrature."""
    log_p = by_nodes(model, images, NODES)
    error = float((by_nodes(model, images, NODES // 2) - log_p).abs().max())
    return Known(name, model, images, log_p, error, lambda x: by_nodes(model, x, NODES))


class DiscreteCode(ImageModel):
    """A known distribution with a hidden variable z, as a latent model that draws z from an inexact encoder.

    Args:
        source: the distribution.
        sharpness: power to which the posterior probabilities are raised; above 1 the encoder is overconfident.
    """

    def __init__(self, source: KnownDistribution, sharpness: float) -> None:
        """Store the distribution and the sharpness."""
        super().__init__(source.image_shape, source.n_levels)
        self.source = source
        self.sharpness = sharpness

    @abstractmethod
    def encode(self, x: np.ndarray) -> Tensor:
        """Return log q for the parts of z, which are independent, (N, R, S): R parts with S values each."""

    @abstractmethod
    def log_joint(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return log p(x given z) + log p(z), (K, N), for z of shape (K, N, R)."""

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return log w, (K, N) in nats; the k-th row does not depend on K."""
        log_q = self.encode(x.numpy())
        u = draw_each(torch.rand, n_samples, log_q[..., 0], generator)  # (K, N, R)
        z = (u[..., None] >= log_q.exp().cumsum(-1)[..., :-1]).sum(-1)
        log_q_of_z = log_q.expand(n_samples, *log_q.shape).gather(-1, z[..., None]).squeeze(-1).sum(-1)
        return torch.from_numpy(self.log_joint(x.numpy(), z.numpy())) - log_q_of_z

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw from the distribution itself."""
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return torch.from_numpy(self.source.draw(n_images, np.random.default_rng(seed)))


class TemplatesCode(DiscreteCode):
    """A mixture of templates: z is the index of the template, and the encoder is its posterior to a power."""

    source: Templates

    def encode(self, x: np.ndarray) -> Tensor:
        """Return log q(z given x), (N, 1, T)."""
        log_joint = self.source.log_shares[:, None] + self.source.log_p_given_component(x)  # (T, N)
        return torch.from_numpy(self.sharpness * log_joint.T[:, None]).log_softmax(-1)

    def log_joint(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return log p(x given z) + log p(z), (K, N)."""
        log_joint = self.source.log_shares[:, None] + self.source.log_p_given_component(x)
        found: np.ndarray = log_joint[z[..., 0], np.arange(len(x))]
        return found


class HiddenMarkovCode(DiscreteCode):
    """A hidden Markov chain: z are its states, and the encoder draws each from its marginal posterior to a power."""

    source: HiddenMarkov

    def encode(self, x: np.ndarray) -> Tensor:
        """Return log q(z_r given x), (N, H, S)."""
        return (self.sharpness * torch.from_numpy(self.source.posterior(x)).log()).log_softmax(-1)

    def log_joint(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return log p(x given z) + log p(z), (K, N)."""
        return self.source.log_p_of_states(z) + self.source.log_p_given_states(x, z)


def of_code(name: str, model: DiscreteCode, images: Tensor) -> Known:
    """Return a known distribution as a latent model."""

    def ask(x: Tensor) -> Tensor:
        return torch.from_numpy(model.source.log_p(x.numpy()))

    return Known(name, model.eval(), images, ask(images), 0.0, ask)
