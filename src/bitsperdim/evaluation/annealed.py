r"""Annealed importance sampling (AIS) of log P(x) with Hamiltonian transitions, and bounds on both sides of log P(x)
for simulated images.

The chains move from a start q, which is the prior or another density, to the posterior. They pass through the densities
:math:`\gamma_t(z) = q(z)^{1 - \beta_t} \, p(x, z)^{\beta_t}`, :math:`0 = \beta_0 < \dots < \beta_T = 1`:

.. math:: \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q(z_{t-1})}, \qquad
          z_0 \sim q(z), \quad z_t \sim \mathcal T_t(\cdot \mid z_{t-1}) \text{ for } 0 < t < T

Here :math:`\mathcal T_t` leaves :math:`\gamma_t` invariant (Neal 2001, "Annealed Importance Sampling"; for decoders
Wu, Burda, Salakhutdinov and Grosse 2017, "On the Quantitative Analysis of Decoder-Based Generative Models"). Then
E[w] = P(x) holds exactly, however badly the chains mix. Each chain gives one log-weight, and
:mod:`bitsperdim.estimators.log_weights` treats it like any other log-weight. With T = 1 this is importance sampling
from q. The start may depend on the image, for example as a proposal that is refined for this image
(:mod:`bitsperdim.evaluation.refined`). It must not depend on anything that the chains draw. If the model drew the
image, the start must not depend on the z that generated it either.

*Step sizes.* If chains adapt their step sizes to their own acceptance, they are no longer Markov chains with the right
invariant density, and E[w] = P(x) no longer holds. A pilot run on the same images therefore comes first, with its own
random numbers. It adapts one step size per temperature and image to a target acceptance. These step sizes are then
frozen, and the chains that count use nothing else from the pilot run. The estimate is unbiased for any given step
sizes, hence it is unbiased.

*The bracket* (Grosse, Ghahramani and Adams 2015, "Sandwiching the Marginal Likelihood with Bidirectional Monte
Carlo"). If an image is drawn from the model together with its z, that z is an exact draw from p(z given x). Chains that
start there and take the reversed transitions in reverse order have E[1/w] = 1/P(x). By Jensen's inequality, the
negative log of the mean of 1/w is then on average above log P(x), and the log of the mean of w is on average below it.
Both bounds hold in expectation only: on one image they may even cross. Both hold for images that the model drew.
They do not bound log P(x) of real images, which may be harder; they only show how far the same T can be trusted.

Differences from Wu et al.: step sizes are adapted beforehand and per image, not during the run, and each
transition draws its step size near the adapted one.

Not supported: labels, and batches that are split into chunks (the results for an image depend on its batch, because
the random numbers do).

Invariants (``tests/evaluation/test_annealed.py``; conjugate models, whose log P(x) is known):

1. With one step, AIS is importance sampling from the start, number by number (``test_one_step_is_naive_monte_carlo``,
   ``test_one_step_from_a_proposal_is_importance_sampling``).
2. E[w] = P(x) holds with step sizes from the pilot run (``test_weights_average_to_the_density``), and for the real VAE
   against quadrature (``test_weights_of_the_vae_average_to_its_mass``). E[1/w] = 1/P(x) holds for reverse chains
   (``test_reverse_weights_average_to_the_density``). Starts are the prior and other densities.
3. On average over images, lower <= log P(x) <= upper (``test_the_bracket_holds_on_average``).
4. More steps narrow the bracket (``test_more_steps_narrow_the_bracket``).
5. The chains accept about as often as the target says (``test_the_pilot_finds_the_target_acceptance``).
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

PILOT_CHAINS = 8  # chains per image in the pilot run
PILOT_TRANSITIONS = 100  # fewest transitions; if there are fewer temperatures, each has several transitions
PILOT_WARM_UP = 40  # additional transitions at the first temperature, where no step size is known yet
FIRST_STEP_SIZE = 0.5  # of the pilot run; multiplied by Z^(-1/4), because acceptance depends on the dimension Z
WARM_UP_GAIN = 0.3  # change of the log step size per unit of excess acceptance, in the warm-up
GAIN = 0.1  # the same after the warm-up


@dataclass(frozen=True)
class Annealed:
    """Results of the annealing chains of B images; float64, on the CPU.

    Attributes:
        log_w: log-weights, (n_chains, B), in nats, of chains from the start to the posterior, or back.
        acceptance: mean acceptance probability of each transition over the chains, (T - 1, B), in the order from the
            start to the posterior.
        step_sizes: (T - 1, B) in the unit of z, in the same order; each transition draws its own step size near them.
    """

    log_w: Tensor
    acceptance: Tensor
    step_sizes: Tensor

    @property
    def log_p(self) -> Tensor:
        """The estimate of log P(x), (B,) in nats; for forward chains it is a lower bound in expectation."""
        return log_mean_exp(self.log_w)

    @property
    def standard_error(self) -> Tensor:
        """Monte Carlo standard error of ``log_p``, (B,) in nats; infinite for one chain.

        This is the jackknife error, which may be up to a third too large
        (:func:`bitsperdim.estimators.log_weights.jackknife_error`). The usual formula saturates here, because there are
        few chains and their weights are nats apart.
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
        x: the images, (N, C, H, W).
        forward: results of the chains from the start.
        reverse: results of the chains that begin at the exact draw from the posterior.
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

        There is only one exact draw for each image. This error does not contain the effect of another draw, but
        ``gap_standard_error`` does.
        """
        return jackknife_error(-self.reverse.log_w)

    @property
    def gap(self) -> float:
        """The mean over images of upper minus lower: on average it bounds the error of either bound."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_standard_error(self) -> float:
        """Standard error of ``gap``, from its spread over the independent images; infinite for one image."""
        return mean_error(self.upper - self.lower)


def sigmoid_schedule(n_steps: int, sharpness: float = 4.0) -> Tensor:
    r"""Return beta_0 = 0, ..., beta_T = 1, (T + 1,) float64, more densely spaced towards both ends.

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
    """Estimate log P(x) with annealed chains from a start to the posterior.

    :func:`n_gradients` returns the cost: with few chains, the pilot run takes most of it. All chains are in memory at
    once.

    Args:
        model: model in evaluation mode, on the device of x.
        x: images, (B, C, H, W), uint8 or another integer type, values 0..L-1.
        n_chains: number of independent chains for each image; each chain gives one weight.
        n_steps: number T of increments of beta; there is one transition between two increments.
        generator: source of all random numbers, on the device of x.
        n_leapfrog: number of leapfrog steps in a transition.
        target_acceptance: acceptance probability that the pilot run aims at, between 0 and 1.
        n_pilot_chains: number of chains for each image in the pilot run.
        step_sizes: step sizes, (T - 1, B), in place of a pilot run; they must not come from chains with the same random
            numbers.
        progress: function that is called with the number of new gradients whenever some have been computed.
        start: density q, (B, Z), with derivatives in z; None: the prior.

    Returns:
        Log-weights in nats; the log of their mean is a lower bound in expectation.

    Raises:
        ValueError: the model is in training mode, x does not hold images that fit the model, or a number is out of
            range.
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
    """Draw images from the model and bound their log P(x) with chains from a start and chains from their own z.

    To apply the gap between the two bounds to real images is an extrapolation: see the module docstring.

    Args:
        model: model in evaluation mode.
        n_images: number N of images to draw.
        n_chains: number of chains in each direction, for each image.
        n_steps: number T of increments of beta.
        generator: source of all random numbers, on the device of the model.
        n_leapfrog: number of leapfrog steps in a transition.
        target_acceptance: acceptance probability that the pilot run aims at, between 0 and 1.
        n_pilot_chains: number of chains for each image in the pilot run, which serves both directions.
        progress: same as for :func:`ais`.
        start_of: function from the images to the start, which must not depend on the z that generated them; if it
            returns None, the start is the prior.

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
    """Return how many gradients of log p(x given z) are computed for one image, including the pilot run.

    Args:
        n_chains: number of chains in each direction.
        n_steps: number T of increments of beta.
        n_leapfrog: number of leapfrog steps in a transition.
        n_directions: 1 for :func:`ais`, 2 for :func:`bdmc`.
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

    Each increment belongs to the same position in both directions: a reverse chain starts at z_{T-1} and visits the
    positions of a forward chain in reverse order. A Hamiltonian transition is its own reverse.

    Args:
        path: densities between the start and the posterior.
        position: z_0 of all chains, drawn from the start; for reverse chains z_{T-1}, drawn from the posterior.
        betas: exponents from 0 to 1, (T + 1,).
        step_sizes: step sizes, (T - 1, B).
        n_leapfrog: number of leapfrog steps in a transition.
        generator: source of the random numbers of the transitions.
        is_reverse: whether the chains go from the posterior to the start.

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
    r"""Choose a step size for each temperature and image with pilot chains that are used for nothing else.

    After each transition the step size changes by

    .. math:: \log \epsilon \leftarrow \log \epsilon + 0.1 \, (\bar a - a^*)

    where the mean acceptance probability :math:`\bar a` is taken over the pilot chains of the image. The gain is three
    times as large in the first 40 transitions, which are all at the first temperature. If the path has fewer than 100
    transitions, each temperature gets several transitions. Its step size is then the mean of the later half of the
    logarithms, which is less noisy than the last one.

    Args:
        path: densities between the start and the posterior.
        betas: exponents from 0 to 1, (T + 1,).
        n_chains: number of pilot chains for each image.
        n_leapfrog: number of leapfrog steps in a transition.
        target_acceptance: acceptance probability to aim at, between 0 and 1.
        generator: source of the random numbers of the pilot chains.

    Returns:
        Step sizes, (T - 1, B) float64, in the unit of z.
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
