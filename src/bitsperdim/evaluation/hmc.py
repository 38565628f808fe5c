r"""Hamiltonian Monte Carlo on the path from a start q to the posterior of a latent-variable model.

.. math:: \gamma_\beta(z) = q(z) \left(\frac{p(x, z)}{q(z)}\right)^\beta, \qquad
          H(z, v) = -\log \gamma_\beta(z) + \tfrac12 \lVert v \rVert^2

If the start is the prior, the ratio is p(x given z).

A transition draws a new momentum v and a step size near the given one, and follows Hamilton's equations with leapfrog
steps (Neal 2011, "MCMC Using Hamiltonian Dynamics", with unit masses). It accepts the end point with probability
min(1, exp(-H' + H)), and otherwise stays. It leaves :math:`\gamma_\beta` invariant, and is its own reverse: a
transition from z to z' is as frequent as one from z' to z. All chains of all images move at once. This module adapts no
step sizes: they are given (:mod:`bitsperdim.evaluation.annealed`).

*Why the step size is drawn at random.* If the density is nearly normal with equal widths, as the prior is, a trajectory
of exactly one period ends where it began. Chains with a fixed step size may then not move at all, although their
acceptance looks good. Neal (2011) advises to draw the step size for each transition. This keeps the target invariant,
because the draw does not depend on z. In the conjugate model of the tests, with three leapfrog steps, it halves the gap
between the lower and the upper bound.

Gradients are computed with respect to z only. Hamiltonians are float64, whatever dtype the model uses. A trajectory
is rejected if the Hamiltonian at its end is NaN.

Invariants (``tests/evaluation/test_hmc.py``):

1. Reversing the momentum undoes the leapfrog map (``test_leapfrog_is_reversible``).
2. It preserves volume (``test_leapfrog_preserves_volume``).
3. It conserves the Hamiltonian up to the square of the step size (``test_the_hamiltonian_is_kept_to_second_order``).
4. A transition leaves its target invariant (``test_the_target_is_invariant``), and satisfies detailed balance
   (``test_a_transition_is_its_own_reverse``).
5. The chains of one image do not depend on the other images (``test_images_are_independent``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitsperdim.likelihoods import LatentDensity
from bitsperdim.models.latent import LatentModel

JITTER = 0.2  # each chain's step size is uniform between (1 - JITTER) and (1 + JITTER) times the given one


@dataclass(frozen=True)
class Position:
    """Positions of all chains, with the densities and gradients there.

    Attributes:
        z: latent codes, (K, B, Z).
        log_ratio: log p(x, z) - log q(z), (K, B) float64, nats; if the start is the prior, it is log p(x given z).
        log_start: log q(z), (K, B) float64, nats.
        gradient: gradient of ``log_ratio`` with respect to z, (K, B, Z).
        start_gradient: gradient of log q(z) with respect to z, (K, B, Z).
    """

    z: Tensor
    log_ratio: Tensor
    log_start: Tensor
    gradient: Tensor
    start_gradient: Tensor


class Path:
    """The unnormalised densities between a start q and the posterior, for a batch of images.

    Args:
        model: latent-variable model with any prior.
        x: images, (B, C, H, W).
        progress: function that is called with the number of new gradients whenever some have been computed.
        start: density q, (B, Z), differentiable in z; None: the prior.
    """

    def __init__(
        self,
        model: LatentModel,
        x: Tensor,
        progress: Callable[[int], object] = lambda _: None,
        start: LatentDensity | None = None,
    ) -> None:
        """Store the model, its images and the start."""
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
    """Return half the squared norm of the momentum (K, B, Z), (K, B) float64."""
    return 0.5 * momentum.double().square().sum(-1)


def leapfrog(
    path: Path, position: Position, momentum: Tensor, beta: float, step_size: Tensor, n_leapfrog: int
) -> tuple[Position, Tensor]:
    r"""Follow Hamilton's equations with leapfrog steps of position and momentum.

    .. math:: v \leftarrow v + \tfrac\epsilon2 \nabla \log \gamma_\beta(z), \qquad z \leftarrow z + \epsilon v, \qquad
              v \leftarrow v + \tfrac\epsilon2 \nabla \log \gamma_\beta(z)

    The two half steps of the momentum between successive steps of the position are joined to one whole step.

    Args:
        path: densities between the start and the posterior.
        position: initial position.
        momentum: initial momentum v, (K, B, Z).
        beta: position on the path, between 0 and 1.
        step_size: step size epsilon, (B,) or (K, B), in the unit of z.
        n_leapfrog: number of steps, at least 1.

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
        path: densities between the start and the posterior.
        position: current position.
        beta: position on the path, between 0 and 1.
        step_size: step size, (B,), in the unit of z; it must not depend on present or past positions of these chains.
        n_leapfrog: number of leapfrog steps, at least 1.
        generator: source of the random momenta, step sizes and acceptance decisions.

    Returns:
        The new position, and the acceptance probability, (K, B) float64.
    """
    momentum = draw_momentum(position.z, generator)
    u, jitter = torch.rand(
        (2, *momentum.shape[:2]), generator=generator, dtype=torch.float64, device=momentum.device
    )  # (K, B) each
    steps = step_size * (1 + JITTER * (2 * jitter - 1))
    proposed, final_momentum = leapfrog(path, position, momentum, beta, steps, n_leapfrog)
    before = kinetic_energy(momentum) - path.log_density(position, beta)
    after = kinetic_energy(final_momentum) - path.log_density(proposed, beta)
    # An end point whose Hamiltonian is NaN is never accepted. The caller raises an error if a log-weight is NaN.
    probability = torch.exp(before - after).clamp(max=1).nan_to_num(0)
    return choose(u < probability, proposed, position), probability


def choose(accepted: Tensor, proposed: Position, position: Position) -> Position:
    """Return the proposed position where ``accepted`` (K, B) is true, and the old position elsewhere."""
    vectors = accepted[..., None]
    return Position(
        torch.where(vectors, proposed.z, position.z),
        torch.where(accepted, proposed.log_ratio, position.log_ratio),
        torch.where(accepted, proposed.log_start, position.log_start),
        torch.where(vectors, proposed.gradient, position.gradient),
        torch.where(vectors, proposed.start_gradient, position.start_gradient),
    )
