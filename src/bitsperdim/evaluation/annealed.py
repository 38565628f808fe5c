r"""Annealed importance sampling of log P(x) with Hamiltonian transitions, and a bracket for simulated images.

From a start q, the prior or another density, to the posterior by way of
:math:`\gamma_t(z) = q(z)^{1 - \beta_t} \, p(x, z)^{\beta_t}`, :math:`0 = \beta_0 < \dots < \beta_T = 1`,

.. math:: \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q(z_{t-1})}, \qquad
          z_0 \sim q(z), \quad z_t \sim \mathcal T_t(\cdot \mid z_{t-1}) \text{ for } 0 < t < T

where :math:`\mathcal T_t` leaves :math:`\gamma_t` invariant (Neal 2001, "Annealed Importance Sampling"; for decoders
Wu, Burda, Salakhutdinov and Grosse 2017, "On the Quantitative Analysis of Decoder-Based Generative Models"). Then
E[w] = P(x), exactly, however badly the chains mix: these are log-weights as any others, one for each chain, and
:mod:`bitsperdim.estimators.log_weights` applies. T = 1 is importance sampling from q. A start may depend on the image,
as a proposal that is refined for it does (:mod:`bitsperdim.evaluation.refined`), but on nothing that the chains draw,
and of a drawn image not on the z that made it.

*Step sizes.* Chains whose step sizes follow their own acceptance are no longer Markov chains with the right
invariant density, and E[w] = P(x) is lost. So a pilot run goes first, on the same images with random numbers of its
own; it adapts one step size per temperature and image to a target acceptance; these are then frozen, and the chains
that count know nothing of it. Given any step sizes the estimate is unbiased, hence it is unbiased.

*The bracket* (Grosse, Ghahramani and Adams 2015, "Sandwiching the Marginal Likelihood with Bidirectional Monte
Carlo"). For an image drawn from the model together with its z, that z is an exact draw from p(z given x). Chains that
start there and take the reversed transitions in reverse order have E[1/w] = 1/P(x), hence by Jensen's inequality
the negative log of the mean of 1/w is on average above log P(x), as the log of the mean of w is on average below.
Both hold in expectation only: on one image the two may even cross. And both are of images that the
model drew: they say nothing of real images, which may be harder, but by how much the same T can be trusted.

Differences from Wu et al.: step sizes are adapted beforehand and per image, not during the run, and each
transition draws one near it.

Not here: labels; a batch that is cut
into chunks (an image's numbers depend on the batch that it is in, as the random numbers do).

Invariants (``tests/evaluation/test_annealed.py``; conjugate models, whose log P(x) is known):

1. One step is importance sampling from the start, number by number (``test_one_step_is_naive_monte_carlo``,
   ``test_one_step_from_a_proposal_is_importance_sampling``).
2. E[w] = P(x) with step sizes from the pilot run (``test_weights_average_to_the_density``), for the real VAE against
   quadrature (``test_weights_of_the_vae_average_to_its_mass``), and E[1/w] = 1/P(x) of reverse chains
   (``test_reverse_weights_average_to_the_density``); from the prior and from other starts.
3. On average over images, lower <= log P(x) <= upper (``test_the_bracket_holds_on_average``).
4. More steps narrow the bracket (``test_more_steps_narrow_the_bracket``).
5. The chains accept about as often as they should (``test_the_pilot_finds_the_target_acceptance``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitsperdim.estimators.log_weights import effective_sample_size, jackknife_error, log_mean_exp, mean_error
from bitsperdim.evaluation.hmc import Path, Position, transition
from bitsperdim.likelihoods import LatentDensity
from bitsperdim.models.inputs import check_counts
from bitsperdim.models.latent import LatentModel

PILOT_CHAINS = 8  # for each image
PILOT_TRANSITIONS = 100  # at least; with fewer temperatures several at each
PILOT_WARM_UP = 40  # more of them at the first temperature, where nothing is known
FIRST_STEP_SIZE = 0.5  # of the pilot run, times Z^(-1/4), as acceptance in Z dimensions needs
WARM_UP_GAIN = 0.3  # of log step size, for each unit of acceptance too much
GAIN = 0.1


@dataclass(frozen=True)
class Annealed:
    """What chains of B images say; float64, on the CPU.

    Attributes:
        log_w: (n_chains, B) in nats, of chains from the start to the posterior, or back.
        acceptance: (T - 1, B) of each transition, the mean probability over chains, from the start to the posterior.
        step_sizes: (T - 1, B) in the unit of z, in the same order; each transition draws its own near them.
    """

    log_w: Tensor
    acceptance: Tensor
    step_sizes: Tensor

    @property
    def log_p(self) -> Tensor:
        """The estimate of log P(x), (B,) in nats: of forward chains a lower bound in expectation."""
        return log_mean_exp(self.log_w)

    @property
    def standard_error(self) -> Tensor:
        """Monte Carlo standard error of ``log_p``, (B,) in nats; infinite for one chain.

        The jackknife's, up to a third too large (:func:`bitsperdim.estimators.log_weights.jackknife_error`): chains are
        few and their weights nats apart, where the usual formula saturates.
        """
        return jackknife_error(self.log_w)

    @property
    def ess(self) -> Tensor:
        """Effective sample size, (B,), between 1 and the number of chains."""
        return effective_sample_size(self.log_w)


@dataclass(frozen=True)
class Bracket:
    """Bounds on log P(x) of N images that the model drew, in nats; each bound holds in expectation only.

    Attributes:
        x: (N, C, H, W) the images.
        forward: chains from the start.
        reverse: chains from the exact draw of the posterior.
    """

    x: Tensor
    forward: Annealed
    reverse: Annealed

    @property
    def lower(self) -> Tensor:
        """The log of the mean of w over forward chains, (N,): on average at most log P(x)."""
        return self.forward.log_p

    @property
    def lower_standard_error(self) -> Tensor:
        """Monte Carlo standard error of ``lower``, (N,); infinite for one chain."""
        return self.forward.standard_error

    @property
    def upper(self) -> Tensor:
        """The negative log of the mean of 1/w over reverse chains, (N,): on average at least log P(x)."""
        return -log_mean_exp(-self.reverse.log_w)

    @property
    def upper_standard_error(self) -> Tensor:
        """Monte Carlo standard error of ``upper``, (N,), given the draw that all chains of an image start from.

        There is only one exact draw for each image. What another one would change is not in this number, but it is in
        ``gap_standard_error``.
        """
        return jackknife_error(-self.reverse.log_w)

    @property
    def gap(self) -> float:
        """The mean over images of upper minus lower: on average it bounds what either is off by."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_standard_error(self) -> float:
        """Of ``gap``, from its spread over images, which are independent; infinite for one image."""
        return mean_error(self.upper - self.lower)


def sigmoid_schedule(n_steps: int, sharpness: float = 4.0) -> Tensor:
    r"""Return beta_0 = 0 to beta_T = 1, (T + 1,) float64, denser towards both ends.

    .. math:: \beta_t = \frac{\sigma(\delta (2t/T - 1)) - \sigma(-\delta)}{\sigma(\delta) - \sigma(-\delta)}

    Args:
        n_steps: T, at least 1.
        sharpness: delta, positive.

    Reference: Wu et al. 2017, the "sigmoid schedule" with delta = 4.
    """
    t = torch.arange(n_steps + 1, dtype=torch.float64)
    beta = torch.sigmoid(sharpness * (2 * t / n_steps - 1))
    return (beta - beta[0]) / (beta[-1] - beta[0])


def ais(
    model: LatentModel,
    x: Tensor,
    n_chains: int,
    n_steps: int,
    *,
    generator: torch.Generator,
    n_leapfrog: int = 10,
    target_acceptance: float = 0.65,
    n_pilot_chains: int = PILOT_CHAINS,
    step_sizes: Tensor | None = None,
    progress: Callable[[int], object] = lambda _: None,
    start: LatentDensity | None = None,
) -> Annealed:
    """Estimate log P(x) by chains from a start to the posterior.

    What it costs is in :func:`n_gradients`: with few chains most of it is the pilot run. All chains are in memory at
    once.

    Args:
        model: in evaluation mode, on the device of x.
        x: (B, C, H, W) uint8 or another integer type, values 0..L-1.
        n_chains: independent chains for each image, each with a weight of its own.
        n_steps: T, increments of beta; there is a transition between any two.
        generator: of all randomness, on the device of x.
        n_leapfrog: steps of a transition.
        target_acceptance: between 0 and 1, of the pilot run.
        n_pilot_chains: for each image, in the pilot run.
        step_sizes: (T - 1, B), in place of a pilot run; they must not come from chains with the same random numbers.
        progress: called with the number of gradients each time that some have been taken.
        start: q, (B, Z), with derivatives in z; None: the prior.

    Returns:
        log-weights, nats; the log of their mean is a lower bound in expectation.

    Raises:
        ValueError: the model is in training mode, x is not images of it, or a number is out of range.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    model.check_mode("annealing")
    check_counts(n_chains=n_chains, n_steps=n_steps, n_leapfrog=n_leapfrog, n_pilot_chains=n_pilot_chains)
    model.check(x)
    model.check_places(x, generator=generator)
    path, betas = Path(model, x, progress, start), sigmoid_schedule(n_steps)
    if step_sizes is None:
        step_sizes = adapted_step_sizes(path, betas, n_pilot_chains, n_leapfrog, target_acceptance, generator)
    elif step_sizes.shape != (n_steps - 1, len(x)):
        raise ValueError(f"step_sizes must have the shape {(n_steps - 1, len(x))}, not {tuple(step_sizes.shape)}")
    with torch.no_grad():
        first = path.at(path.draw(n_chains, generator))
    return anneal(path, first, betas, step_sizes.to(x.device), n_leapfrog, generator)


def bdmc(
    model: LatentModel,
    n_images: int,
    n_chains: int,
    n_steps: int,
    *,
    generator: torch.Generator,
    n_leapfrog: int = 10,
    target_acceptance: float = 0.65,
    n_pilot_chains: int = PILOT_CHAINS,
    progress: Callable[[int], object] = lambda _: None,
    start_of: Callable[[Tensor], LatentDensity | None] = lambda _: None,
) -> Bracket:
    """Draw images from the model and bracket their log P(x): by chains from a start, and by chains from their own z.

    What the gap between the two says of real images is an extrapolation: see the module.

    Args:
        model: in evaluation mode.
        n_images: N, to be drawn.
        n_chains: in each direction, for each image.
        n_steps: T.
        generator: of all randomness, on the device of the model.
        n_leapfrog: steps of a transition.
        target_acceptance: between 0 and 1, of the pilot run.
        n_pilot_chains: for each image, in the pilot run, which serves both directions.
        progress: as of :func:`ais`.
        start_of: from the images to the start, which must not depend on the z that made them; None: the prior.

    Returns:
        Bounds in nats that hold in expectation.

    Raises:
        ValueError: the model is in training mode, or a number is out of range.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    model.check_mode("annealing")
    check_counts(n_images=n_images, n_chains=n_chains, n_steps=n_steps, n_leapfrog=n_leapfrog)
    model.check_places(generator=generator)
    with torch.no_grad():
        z, x = model.sample_joint(n_images, generator=generator)
    options = {"n_leapfrog": n_leapfrog, "target_acceptance": target_acceptance, "n_pilot_chains": n_pilot_chains}
    start = start_of(x)
    how = {"generator": generator, "progress": progress, "start": start, **options}
    forward = ais(model, x, n_chains, n_steps, **how)  # type: ignore[arg-type]
    path, step_sizes = Path(model, x, progress, start), forward.step_sizes.to(x.device)
    last = path.at(z.expand(n_chains, *z.shape))
    reverse = anneal(path, last, sigmoid_schedule(n_steps), step_sizes, n_leapfrog, generator, is_reverse=True)
    return Bracket(x.cpu(), forward, reverse)


def n_gradients(n_chains: int, n_steps: int, n_leapfrog: int, n_directions: int = 1) -> int:
    """Return how many gradients of log p(x given z) are taken for one image, those of the pilot run too.

    Args:
        n_chains: in each direction.
        n_steps: T.
        n_leapfrog: steps of a transition.
        n_directions: 1 of :func:`ais`, 2 of :func:`bdmc`.
    """
    n_transitions = n_steps - 1
    n_pilot = PILOT_WARM_UP + n_transitions * math.ceil(PILOT_TRANSITIONS / n_transitions) if n_transitions else 0
    n_starts = n_directions * n_chains + (PILOT_CHAINS if n_transitions else 0)
    return n_starts + n_leapfrog * (PILOT_CHAINS * n_pilot + n_directions * n_chains * n_transitions)


@torch.no_grad()
def anneal(
    path: Path,
    position: Position,
    betas: Tensor,
    step_sizes: Tensor,
    n_leapfrog: int,
    generator: torch.Generator,
    *,
    is_reverse: bool = False,
) -> Annealed:
    """Move chains along the path and add up their log-weights.

    The same increment belongs to the same position either way: a reverse chain, which starts at z_{T-1}, visits the
    positions of a forward chain in reverse order. A Hamiltonian transition is its own reverse.

    Args:
        path: the densities.
        position: z_0 of all chains, from the start; in reverse z_{T-1}, from the posterior.
        betas: (T + 1,) from 0 to 1.
        step_sizes: (T - 1, B).
        n_leapfrog: steps of a transition.
        generator: of the transitions.
        is_reverse: from the posterior to the start.

    Raises:
        FloatingPointError: a log-weight is NaN or +inf.
    """
    increments = betas.diff().tolist()  # (T)
    order = list(range(len(increments) - 1))
    if is_reverse:
        increments, order = increments[::-1], order[::-1]
    log_w = increments[0] * position.log_ratio  # (K, B)
    acceptance = torch.zeros_like(step_sizes, dtype=torch.float64)
    for t, increment in zip(order, increments[1:], strict=True):
        beta = float(betas[t + 1])
        position, probability = transition(path, position, beta, step_sizes[t], n_leapfrog, generator)
        acceptance[t] = probability.mean(0)
        log_w = log_w + increment * position.log_ratio
    bad = (log_w.isnan() | log_w.isposinf()).any(0)
    if bad.any():
        raise FloatingPointError(f"a log-weight of image {int(bad.nonzero()[0])} of the batch is NaN or +inf")
    return Annealed(log_w.cpu(), acceptance.cpu(), step_sizes.double().cpu())


@torch.no_grad()
def adapted_step_sizes(
    path: Path, betas: Tensor, n_chains: int, n_leapfrog: int, target_acceptance: float, generator: torch.Generator
) -> Tensor:
    r"""Choose a step size for each temperature and image by chains that are not used for anything else.

    .. math:: \log \epsilon \leftarrow \log \epsilon + 0.1 \, (\bar a - a^*)

    after each transition, where the mean probability of acceptance is over the pilot chains of the image; three times
    as fast in the first 40 transitions, all at the first temperature. With fewer
    than 100 transitions in the path each temperature has several, and gets the mean of the later half of
    the logarithms, which follow chance less than the last one does.

    Args:
        path: the densities.
        betas: (T + 1,) from 0 to 1.
        n_chains: for each image.
        n_leapfrog: steps of a transition.
        target_acceptance: between 0 and 1.
        generator: of the pilot chains.

    Returns:
        (T - 1, B) float64, in the unit of z.
    """
    n_images = len(path.x)
    n_transitions = len(betas) - 2
    if n_transitions == 0:
        return torch.zeros(0, n_images, dtype=torch.float64, device=path.x.device)
    position = path.at(path.draw(n_chains, generator))
    first = FIRST_STEP_SIZE * position.z.shape[-1] ** -0.25
    log_step = torch.full((n_images,), math.log(first), dtype=torch.float64, device=path.x.device)
    n_each = math.ceil(PILOT_TRANSITIONS / n_transitions)
    chosen = []
    for t, beta in enumerate(betas[1:-1].tolist()):
        tried = []
        for gain in [WARM_UP_GAIN] * (PILOT_WARM_UP if t == 0 else 0) + [GAIN] * n_each:
            position, probability = transition(path, position, beta, log_step.exp(), n_leapfrog, generator)
            log_step = log_step + gain * (probability.mean(0) - target_acceptance)
            tried.append(log_step)
        chosen.append(torch.stack(tried[-((n_each + 1) // 2) :]).mean(0).exp())
    return torch.stack(chosen)
