r"""Proposals for a latent code that are refined for each image, before the samples that count are drawn.

The encoder was trained to be good on average, and on training images. Here each test image gets its own proposal. It
starts from the encoder's normal; the means move by :math:`s_j a_j`, and the standard deviations :math:`s_j` are
multiplied by :math:`e^{b_j}` (in every stochastic layer, given the layer before). Adam optimizes the offsets a and b
for the bound with k samples,

.. math:: \max_{a, b} \; \log \frac1k \sum_{i=1}^k \frac{p(x, z_i)}{q_{a, b}(z_i)}, \qquad z_i \sim q_{a, b}

with its doubly reparameterized derivative (:mod:`bitsperdim.models.latent`). Then a covariance is fitted if the code
has at most 256 dimensions (:mod:`bitsperdim.evaluation.covariance`): the coordinates of a posterior are correlated, and
in many dimensions a normal with independent coordinates misses most of it. The result is frozen. Its standard
deviations are multiplied by a fixed factor, because a proposal that is too narrow gives weights with heavy tails, and
one that is too wide does not. The samples come from the mixture

.. math:: r(z \mid x) = (1 - \alpha - \beta) \, q_{\text{refined}}(z) + \alpha \, q(z \mid x) + \beta \, p(z)

of the refined normal, the encoder's normal and the prior. The small share of the encoder is a safeguard: the
optimization may settle on one of several modes, and the weights alone would not show that. With this share no weight is
larger than 1 / alpha times the weight under the encoder. The prior has no share by default: in more than a few
dimensions its draws have almost no weight, and each such draw costs the bound at K = 1 many nats.

*Why it is unbiased.* The proposal depends on the image and on its own random numbers, which are used for nothing else.
Given these, it is a fixed density, from which the K samples that count are drawn with new random numbers. Hence
E[w] = P(x), whatever the optimization did. No choice depends on those K samples, and no maximum of two bounds is taken.

Each image has its own stream of random numbers (:mod:`bitsperdim.core.randomness`), which its index and the seeds
determine. Its proposal therefore does not depend on its batch, up to rounding, or on earlier computations.

Invariants (``tests/evaluation/test_refined.py``):

1. E[w] = P(x) for every model with a latent code, against quadrature (``test_weights_average_to_the_mass``).
2. The density of the mixture is the density of its draws (``test_the_density_is_that_of_the_draws``).
3. In a conjugate model a narrow, a wide or a misplaced encoder becomes the posterior
   (``test_a_wrong_encoder_becomes_the_posterior``).
4. The encoder's share covers a mode that the refinement leaves (``test_a_mode_that_is_left_is_still_found``).
5. The proposal of an image does not depend on the other images (``test_images_are_independent``).
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

BETAS, EPSILON = (0.9, 0.99), 1e-8  # parameters of Adam
N_COSTS = 3  # numbers per image in Refined.costs


@dataclass(frozen=True)
class Refined:
    """Proposals for B images, and their cost.

    Attributes:
        proposal: the mixture, (B, Z).
        n_gradients: number of gradients of log p(x, z) with respect to z for each image, (B,) int64; each needs a
            forward and a backward pass through the decoder.
        n_pilot: number of samples for each image that were drawn for the refinement and discarded, (B,) int64.
        n_rounds: number of rounds in which a covariance was fitted for each image, (B,) int64.
    """

    proposal: LatentMixture
    n_gradients: Tensor
    n_pilot: Tensor
    n_rounds: Tensor

    @property
    def costs(self) -> Tensor:
        """``n_gradients``, ``n_pilot`` and ``n_rounds`` of each image, (B, 3) float64."""
        return torch.stack([self.n_gradients, self.n_pilot, self.n_rounds], dim=1).double()


def is_refined(model: ImageModel, section: EvaluateSection) -> bool:
    """Return whether proposals are refined: the settings ask for it, and the model has derivatives in a latent code."""
    return section.proposal == "refined" and isinstance(model, LatentModel) and model.has_derivatives


def usual_gradients(section: RefinedSection) -> int:
    """Return how many gradients most images need: all steps of Adam, and the fit of a covariance with its check."""
    return section.n_steps * section.n_samples + (3 * section.n_pilot if section.n_rounds else 0)


def generators_of(numbers: Iterable[int], *seeds: int, purpose: str = "refining") -> list[torch.Generator]:
    """Return a generator for each image, on the CPU.

    Args:
        numbers: indices of the images.
        seeds: evaluation seed and training seed.
        purpose: one of :data:`bitsperdim.core.randomness.PURPOSES`.
    """
    return [stream(purpose, *seeds, number) for number in numbers]


def refine(model: LatentModel, x: Tensor, section: RefinedSection, generators: Sequence[torch.Generator]) -> Refined:
    """Refine the proposals of a batch of images.

    Args:
        model: model in evaluation mode, with derivatives in z.
        x: images, (B, C, H, W), on the device of the model.
        section: settings of the refinement.
        generators: random number generator of each image (:func:`generators_of`).

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
    """Optimize the offsets with Adam, with a cosine decay of the learning rate to zero, and return them, (2, B, Z).

    Args:
        model: model in evaluation mode.
        x: images, (B, C, H, W).
        offsets: initial values of a and b, (2, B, Z).
        n_steps: number of steps of the optimizer.
        n_samples: number k of samples in the bound.
        learning_rate: learning rate of the first step.
        generators: random number generator of each image, on the CPU.
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
        # If no sample gives an image any probability, its derivative is not finite, and its offsets stay unchanged.
        # This hides no error: a NaN among the log-weights of the samples that count still raises an error.
        found.grad = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        adam.step()
    return found.detach()


def surrogate(model: LatentModel, x: Tensor, proposal: LatentNormal, noise: Tensor) -> Tensor:
    """Return the bound with k samples, (B,) nats, with the doubly reparameterized derivative in the proposal.

    Args:
        model: model in evaluation mode.
        x: images, (B, C, H, W).
        proposal: normal, (B, Z), with derivatives in its parameters.
        noise: standard normal noise, (k, B, Z).
    """
    z = proposal.from_noise(noise)
    log_w = model.log_joint(x, z) - proposal.detach().log_prob(z)
    shares = torch.softmax(log_w.detach(), dim=0)[..., None].to(z.dtype)  # an external likelihood may be in float64
    z.register_hook(lambda gradient: gradient * shares)  # the bound multiplies gradients by the shares too
    return torch.logsumexp(log_w, dim=0) - math.log(len(noise))


@torch.no_grad()
def mixture(model: LatentModel, x: Tensor, refined: LatentDensity, section: RefinedSection) -> LatentMixture:
    """Return the mixture from which samples are drawn, (B, Z): the refined normal, the encoder and the prior.

    Args:
        model: model in evaluation mode.
        x: images, (B, C, H, W).
        refined: widened refined normal, (B, Z).
        section: settings with the shares of the encoder and of the prior.
    """
    shares = {"encoder": section.encoder_share, "prior": section.prior_share}
    parts = {"encoder": lambda: model.encode(x), "prior": lambda: model.prior().expand(len(x))}
    present = [name for name, share in shares.items() if share > 0]
    return LatentMixture(
        [refined, *(parts[name]() for name in present)],
        [1 - sum(shares.values()), *(shares[name] for name in present)],
    )
