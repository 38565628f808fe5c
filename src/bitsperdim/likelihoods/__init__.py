r"""Probability masses p(x | parameters) of single sub-pixels, and the diagonal normal of latent spaces.

In the manner of ``torch.distributions``, with two differences: randomness is an explicit generator,
and parameters are taken to at least float32, so that a network that ran in bfloat16 is scored in
float32. No epsilon, clamp or switch: a mass is exact to rounding.
"""

from bitsperdim.likelihoods.base import Likelihood, at_least_float32
from bitsperdim.likelihoods.categorical import Bernoulli, Categorical
from bitsperdim.likelihoods.discretized import DiscretizedLogistic, DiscretizedNormal, Mixture
from bitsperdim.likelihoods.normal import DiagonalNormal, draw_each

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedNormal",
    "Likelihood",
    "Mixture",
    "at_least_float32",
    "draw_each",
]
