r"""Hamiltonian Monte Carlo on the path from a start q to the posterior of a latent-variable model.

.. math:: \gamma_\beta(z) = q(z) \left(\frac{p(x, z)}{q(z)}\right)^\beta, \qquad
          H(z, v) = -\log \gamma_\beta(z) + \tfrac12 \lVert v \rVert^2

With the prior as the start the ratio is p(x given z).

A transition draws a new momentum v and a step size near the given one, follows Hamilton's equations by leapfrog steps
(Neal 2011, "MCMC Using Hamiltonian Dynamics", with unit masses), and accepts the end with probability
min(1, exp(-H' + H)), else stays. It leaves :math:`\gamma_\beta` invariant, and is its own reverse: a transition from z
to z' is as frequent as one back. All chains of all images move at once. There is no adaptation here: step sizes are
given (:mod:`bitsperdim.evaluation.annealed`).

*Why the step size is drawn.* Where the density is nearly normal with equal widths, as the prior is, a trajectory
of just one period ends where it began, with an acceptance that looks healthy: chains of a fixed step size may stand
still. Neal (2011) advises to draw the step size for each transition, which spoils nothing, as it does not look
at z. In the conjugate model of the tests, with three leapfrog steps, it halves the gap between lower and upper bound.

Gradients are taken with respect to z alone. Hamiltonians are float64 whatever the model computes in. A trajectory that
ends where the Hamiltonian is not a number is rejected.

Invariants (``tests/evaluation/test_hmc.py``):

1. The leapfrog map is undone by reversing the momentum (``test_leapfrog_is_reversible``).
2. It preserves volume (``test_leapfrog_preserves_volume``).
3. It conserves the Hamiltonian up to the square of the step size (``test_the_hamiltonian_is_kept_to_second_order``).
4. A transition leaves its target invariant (``test_the_target_is_invariant``), and satisfies detailed balance
   (``test_a_transition_is_its_own_reverse``).
5. No image moves with another (``test_images_are_independent``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitsperdim.likelihoods import LatentDensity
from bitsperdim.models.latent import LatentModel

JITTER = 0.2  # each chain's step size is uniform within so much of the given one, relatively


@dataclass(frozen=True)
class Position:
    """Where all chains are.

    Attributes:
        z: (K, B, Z).
        log_ratio: log p(x, z) - log q(z) there, (K, B) float64, nats; from the prior on it is log p(x given z).
        log_start: log q(z), likewise.
        gradient: of ``log_ratio`` with respect to z, (K, B, Z).
        start_gradient: likewise of log q(z).
    """

    z: Tensor
    log_ratio: Tensor
    log_start: Tensor
    gradient: Tensor
    start_gradient: Tensor


class Path:
    """The densities between a start q and the posterior, not normalised, for a batch of images.

    Args:
        model: of any prior.
        x: (B, C, H, W).
        progress: called with the number of gradients each time that some have been taken.
        start: q, (B, Z), differentiable in z; None: the prior.
    """

    def __init__(
        self,
        model: LatentModel,
        x: Tensor,
        progress: Callable[[int], object] = lambda _: None,
        start: LatentDensity | None = None,
    ) -> None:
        """Take the model, its images and the start."""
        self.model, self.x, self.progress, self.is_from_prior = model, x, progress, start is None
        with torch.no_grad():
            self.start: LatentDensity = model.prior() if start is None else start

    def draw(self, n_chains: int, generator: torch.Generator) -> Tensor:
        """Draw z (K, B, Z) from the start."""
        if self.is_from_prior:
            return self.model.draw_latents(n_chains, len(self.x), generator=generator)
        return self.start.rsample(n_chains, generator=generator)

    def at(self, z: Tensor) -> Position:
        """Evaluate log p(x, z) - log q(z), log q(z) and their gradients at z (K, B, Z)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_start = self.start.log_prob(z)
            (start_gradient,) = torch.autograd.grad(log_start.sum(), z)
            log_target = (self.model.log_p_x_given_z if self.is_from_prior else self.model.log_joint)(self.x, z)
            (gradient,) = torch.autograd.grad(log_target.sum(), z)
        self.progress(log_start.numel())
        log_ratio, log_start = log_target.detach().double(), log_start.detach().double()
        if not self.is_from_prior:
            log_ratio, gradient = log_ratio - log_start, gradient - start_gradient
        return Position(z.detach(), log_ratio, log_start, gradient, start_gradient)

    def log_density(self, position: Position, beta: float) -> Tensor:
        r"""Return :math:`\log \gamma_\beta`, (K, B) float64, nats."""
        return position.log_start + beta * position.log_ratio

    def force(self, position: Position, beta: float) -> Tensor:
        r"""Return the gradient of :math:`\log \gamma_\beta` with respect to z, (K, B, Z)."""
        return position.start_gradient + beta * position.gradient


def draw_momentum(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a standard normal momentum of the shape (K, B, Z) of ``like``."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def kinetic_energy(momentum: Tensor) -> Tensor:
    """Return half the square of the momentum (K, B, Z), (K, B) float64."""
    return 0.5 * momentum.double().square().sum(-1)


def leapfrog(
    path: Path, position: Position, momentum: Tensor, beta: float, step_size: Tensor, n_leapfrog: int
) -> tuple[Position, Tensor]:
    r"""Follow Hamilton's equations: half a step of the momentum, steps of both in turn, half a step of the momentum.

    .. math:: v \leftarrow v + \tfrac\epsilon2 \nabla \log \gamma_\beta(z), \qquad z \leftarrow z + \epsilon v, \qquad
              v \leftarrow v + \tfrac\epsilon2 \nabla \log \gamma_\beta(z)

    Args:
        path: the densities.
        position: the start.
        momentum: v at the start, (K, B, Z).
        beta: between 0 and 1.
        step_size: epsilon, (B,) or (K, B), in the unit of z.
        n_leapfrog: the number of steps, at least 1.

    Returns:
        Position and momentum at the end.
    """
    step = step_size.to(momentum.dtype)[..., None]  # (B, 1) or (K, B, 1)
    momentum = momentum + step / 2 * path.force(position, beta)
    for i in range(n_leapfrog):
        position = path.at(position.z + step * momentum)
        kick = step if i < n_leapfrog - 1 else step / 2
        momentum = momentum + kick * path.force(position, beta)
    return position, momentum


def transition(
    path: Path, position: Position, beta: float, step_size: Tensor, n_leapfrog: int, generator: torch.Generator
) -> tuple[Position, Tensor]:
    r"""Make one transition that leaves :math:`\gamma_\beta` invariant.

    Args:
        path: the densities.
        position: the start.
        beta: between 0 and 1.
        step_size: (B,), in the unit of z; it must not depend on where these chains are or have been.
        n_leapfrog: the number of steps, at least 1.
        generator: of momenta, step sizes and decisions.

    Returns:
        The new position, and the probability of acceptance, (K, B) float64.
    """
    momentum = draw_momentum(position.z, generator)
    u, jitter = torch.rand(
        (2, *momentum.shape[:2]), generator=generator, dtype=torch.float64, device=momentum.device
    )  # (K, B) each
    steps = step_size * (1 + JITTER * (2 * jitter - 1))
    proposed, final_momentum = leapfrog(path, position, momentum, beta, steps, n_leapfrog)
    before = kinetic_energy(momentum) - path.log_density(position, beta)
    after = kinetic_energy(final_momentum) - path.log_density(proposed, beta)
    # an end whose Hamiltonian is not a number is never accepted; a log-weight that is none is refused by the caller
    probability = torch.exp(before - after).clamp(max=1).nan_to_num(0)
    return choose(u < probability, proposed, position), probability


def choose(accepted: Tensor, proposed: Position, position: Position) -> Position:
    """Return the proposed position where ``accepted`` (K, B), else the other."""
    vectors = accepted[..., None]
    return Position(
        torch.where(vectors, proposed.z, position.z),
        torch.where(accepted, proposed.log_ratio, position.log_ratio),
        torch.where(accepted, proposed.log_start, position.log_start),
        torch.where(vectors, proposed.gradient, position.gradient),
        torch.where(vectors, proposed.start_gradient, position.start_gradient),
    )
