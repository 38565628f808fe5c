r"""Proposals of a latent code that are refined for each image, before the samples that count are drawn.

The encoder was trained to be good on average, and on training images. Here each test image gets a proposal of its own:
the encoder's normal, whose means move by :math:`s_j a_j` and whose standard deviations :math:`s_j` are multiplied by
:math:`e^{b_j}` (in every stochastic layer, given the one before). Adam optimizes the offsets a and b on the bound of k
samples,

.. math:: \max_{a, b} \; \log \frac1k \sum_{i=1}^k \frac{p(x, z_i)}{q_{a, b}(z_i)}, \qquad z_i \sim q_{a, b}

by its doubly reparameterized derivative (:mod:`bitsperdim.models.latent`). Then a covariance is fitted, where the code
has at most 256 numbers (:mod:`bitsperdim.evaluation.covariance`): the coordinates of a posterior are correlated, and a
normal with independent ones misses most of it in many dimensions. What is found is frozen. Its standard deviations are
multiplied by a fixed factor, since a proposal that is too narrow has heavy tails and one that is too wide has none, and
the samples come from the mixture

.. math:: r(z \mid x) = (1 - \alpha - \beta) \, q_{\text{refined}}(z) + \alpha \, q(z \mid x) + \beta \, p(z)

of the refined normal, the encoder's and the prior. The small share of the encoder is a safeguard: the optimization may
settle on one mode of several and leave no trace of that in the weights, but no weight is larger than 1 / alpha times
the encoder's. The prior has no share by default: in more than a few dimensions its draws have no weight, and each costs
the bound at K = 1 many nats.

*Why it is unbiased.* The proposal depends on the image and on random numbers of its own, which are used for nothing
else. Given them it is a density, from which the K samples that count are drawn anew: E[w] = P(x) whatever the
optimization did. Nothing is chosen by looking at those K, and no larger one of two bounds is taken.

An image's random numbers are those of a stream of its own (:mod:`bitsperdim.core.randomness`), which its number and the
seeds decide. So its proposal does not depend on its batch, but for rounding, nor on what was computed before.

Invariants (``tests/evaluation/test_refined.py``):

1. E[w] = P(x) for every model with a latent code, against quadrature (``test_weights_average_to_the_mass``).
2. The density of the mixture is that of its draws (``test_the_density_is_that_of_the_draws``).
3. In a conjugate model a narrow, a wide or a misplaced encoder becomes the posterior
   (``test_a_wrong_encoder_becomes_the_posterior``).
4. A mode that the refinement leaves is found by the encoder's share (``test_a_mode_that_is_left_is_still_found``).
5. An image's proposal does not depend on the others (``test_images_are_independent``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitsperdim.config.params import EvaluateSection, RefinedSection
from bitsperdim.core.randomness import stream
from bitsperdim.evaluation import covariance
from bitsperdim.likelihoods import LatentDensity, LatentMixture
from bitsperdim.models import ImageModel, LatentModel
from bitsperdim.models.latent import LatentNormal

BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam
N_COSTS = 3  # of each image: see Refined.costs


@dataclass(frozen=True)
class Refined:
    """Proposals for B images, and what they cost.

    Attributes:
        proposal: the mixture, (B, Z).
        n_gradients: (B,) int64, of log p(x, z) with respect to z; each needs a pass through the decoder and back.
        n_pilot: (B,) int64, samples that were drawn, looked at and thrown away.
        n_rounds: (B,) int64, of fitting a covariance.
    """

    proposal: LatentMixture
    n_gradients: Tensor
    n_pilot: Tensor
    n_rounds: Tensor

    @property
    def costs(self) -> Tensor:
        """The three numbers of each image, (B, 3) float64."""
        return torch.stack([self.n_gradients, self.n_pilot, self.n_rounds], dim=1).double()


def is_refined(model: ImageModel, section: EvaluateSection) -> bool:
    """Whether the proposals of a model are refined: it must have a code, and derivatives in it."""
    return section.proposal == "refined" and isinstance(model, LatentModel) and model.has_derivatives


def usual_gradients(section: RefinedSection) -> int:
    """Return how many gradients most images get: all steps of Adam, a fit of a covariance, and a look at it."""
    return section.n_steps * section.n_samples + (3 * section.n_pilot if section.n_rounds else 0)


def generators_of(numbers: Iterable[int], *seeds: int, purpose: str = "refining") -> list[torch.Generator]:
    """Return a generator for each image, on the CPU.

    Args:
        numbers: of the images.
        seeds: of the evaluation, and of the training.
        purpose: see :data:`bitsperdim.core.randomness.PURPOSES`.
    """
    return [stream(purpose, *seeds, number) for number in numbers]


def refine(model: LatentModel, x: Tensor, section: RefinedSection, generators: Sequence[torch.Generator]) -> Refined:
    """Refine the proposals of a batch of images.

    Args:
        model: in evaluation mode, with derivatives in z.
        x: (B, C, H, W), on its device.
        section: how.
        generators: of each image (:func:`generators_of`).

    Raises:
        ValueError: the model is in training mode.
    """
    model.check_mode("refining a proposal")
    with torch.no_grad():
        normal = model.encode_as_normal(x)
    offsets = torch.zeros(2, *normal.mean.shape, dtype=normal.mean.dtype, device=x.device)  # a and b
    offsets = optimized(model, x, offsets, section.n_steps, section.n_samples, section.learning_rate, generators)
    n_gradients = torch.full((len(x),), section.n_steps * section.n_samples)
    if section.n_rounds == 0 or not covariance.is_small_enough(normal):
        nothing = torch.zeros_like(n_gradients)
        widened = normal.moved(offsets[0], offsets[1] + math.log(section.widening))
        return Refined(mixture(model, x, widened, section), n_gradients, nothing, nothing)

    def start(at: Tensor) -> LatentNormal:
        return model.encode_as_normal(x[at]).moved(*offsets[:, at])

    found = covariance.fitted(model, x, start, section, generators)
    proposal = mixture(model, x, found.normal, section)
    return Refined(proposal, n_gradients + found.n_gradients, found.n_pilot, found.n_rounds)


def optimized(
    model: LatentModel,
    x: Tensor,
    offsets: Tensor,
    n_steps: int,
    n_samples: int,
    learning_rate: float,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Return offsets after one round of Adam, whose rate falls to zero like a cosine, (2, B, Z).

    Args:
        model: in evaluation mode.
        x: (B, C, H, W).
        offsets: a and b to start at, (2, B, Z).
        n_steps: of the optimizer.
        n_samples: k of the bound.
        learning_rate: of the first step.
        generators: of each image, on the CPU.
    """
    with torch.no_grad():
        normal = model.encode_as_normal(x)
    found = offsets.clone().requires_grad_()
    adam = torch.optim.Adam([found], lr=learning_rate, betas=BETAS, eps=EPSILON)
    for step, noise in enumerate(covariance.noise_of_steps(normal.mean, n_steps, n_samples, generators)):
        adam.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        with torch.enable_grad():
            bound = surrogate(model, x, normal.moved(*found), noise)
            (gradient,) = torch.autograd.grad(-bound.sum(), found)
        # images that no sample gives any mass have no derivative, and stay where they are; nothing is hidden by that,
        # since a log-weight of the samples that count is refused where it is not a number
        found.grad = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        adam.step()
    return found.detach()


def surrogate(model: LatentModel, x: Tensor, proposal: LatentNormal, noise: Tensor) -> Tensor:
    """Return the bound of k samples, (B,) nats, whose derivative in the proposal is the doubly reparameterized one.

    Args:
        model: in evaluation mode.
        x: (B, C, H, W).
        proposal: (B, Z), with derivatives in its parameters.
        noise: (k, B, Z), standard normal.
    """
    z = proposal.from_noise(noise)
    log_w = model.log_joint(x, z) - proposal.detach().log_prob(z)
    shares = torch.softmax(log_w.detach(), dim=0)[..., None]  # the bound brings them to z once, and this once more
    z.register_hook(lambda gradient: gradient * shares)
    return torch.logsumexp(log_w, dim=0) - math.log(len(noise))


@torch.no_grad()
def mixture(model: LatentModel, x: Tensor, refined: LatentDensity, section: RefinedSection) -> LatentMixture:
    """Return what samples come from, (B, Z): the refined normal, with a share of the encoder and of the prior.

    Args:
        model: in evaluation mode.
        x: (B, C, H, W).
        refined: the normal, widened, (B, Z).
        section: the shares.
    """
    shares = {"encoder": section.encoder_share, "prior": section.prior_share}
    parts = {"encoder": lambda: model.encode(x), "prior": lambda: model.prior().expand(len(x))}
    present = [name for name, share in shares.items() if share > 0]
    return LatentMixture(
        [refined, *(parts[name]() for name in present)],
        [1 - sum(shares.values()), *(shares[name] for name in present)],
    )
