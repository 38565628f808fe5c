r"""Probability masses p(x | parameters) of sub-pixels, heads that build them, and the normals of latent spaces.

The classes are similar to ``torch.distributions``, with two differences. Random numbers come from an explicit
generator. Parameters are converted to at least float32, so that a network that ran in bfloat16 is scored in float32.
There is no epsilon, clamp or switch between formulas: a mass is exact up to rounding.
"""

from bitsperdim.likelihoods.base import Likelihood, at_least_float32
from bitsperdim.likelihoods.bernoulli_layer import (
    bernoulli_log_prob_of_layer,
    learned_bernoulli_log_prob_of_layer,
    tanh_,
)
from bitsperdim.likelihoods.categorical import Bernoulli, Categorical
from bitsperdim.likelihoods.coupled import CoupledLogisticMixture
from bitsperdim.likelihoods.discretized import DiscretizedLogistic, DiscretizedNormal, Mixture
from bitsperdim.likelihoods.heads import HEADS, BernoulliHead, Head, build_head
from bitsperdim.likelihoods.normal import (
    CorrelatedNormal,
    DiagonalNormal,
    LatentDensity,
    LatentMixture,
    NormalChain,
    draw_each,
)

__all__ = [
    "HEADS",
    "Bernoulli",
    "BernoulliHead",
    "Categorical",
    "CorrelatedNormal",
    "CoupledLogisticMixture",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedNormal",
    "Head",
    "LatentDensity",
    "LatentMixture",
    "Likelihood",
    "Mixture",
    "NormalChain",
    "at_least_float32",
    "bernoulli_log_prob_of_layer",
    "build_head",
    "draw_each",
    "learned_bernoulli_log_prob_of_layer",
    "tanh_",
]
