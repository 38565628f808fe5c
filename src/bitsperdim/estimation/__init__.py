"""Estimation of log P(x) from log-weights: the estimate, its errors, its bias, its diagnostics."""

from bitsperdim.estimation.estimate import TOLERATED_SHARE, Estimate, estimate
from bitsperdim.estimation.log_weights import (
    bias,
    bound_against_k,
    effective_sample_size,
    leading_bias,
    log_mean_exp,
    standard_error,
)

__all__ = [
    "TOLERATED_SHARE",
    "Estimate",
    "bias",
    "bound_against_k",
    "effective_sample_size",
    "estimate",
    "leading_bias",
    "log_mean_exp",
    "standard_error",
]
