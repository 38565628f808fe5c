"""Estimation of log P(x) from log-weights: the estimate, its errors, its bias, its diagnostics.

Annealed importance sampling is in :mod:`bitsperdim.estimation.annealed`.
"""

from bitsperdim.estimation.estimate import TOLERATED_SHARE, Estimate, estimate
from bitsperdim.estimators.log_weights import (
    bias,
    bound_against_k,
    effective_sample_size,
    extrapolation,
    jackknife,
    jackknife_error,
    leading_bias,
    log_mean_exp,
    mean_error,
    standard_error,
)
from bitsperdim.estimators.pareto import pareto_k, pareto_k_limit

__all__ = [
    "TOLERATED_SHARE",
    "Estimate",
    "bias",
    "bound_against_k",
    "effective_sample_size",
    "estimate",
    "extrapolation",
    "jackknife",
    "jackknife_error",
    "leading_bias",
    "log_mean_exp",
    "mean_error",
    "pareto_k",
    "pareto_k_limit",
    "standard_error",
]
