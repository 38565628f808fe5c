"""The content of ``metrics.json``, as ``evaluate`` and ``dequantize`` write it, with numbers that the tests choose."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitsperdim.core.units import bits_per_dim, nats_to_bits_per_dim

SHAPE = (1, 2, 2)
HASH = "0123456789abcdef" * 4
PROTOCOL = "tiny/none/2x2x1/L4/test5/given-none"
N_IMAGES = 5


def metrics(**changes: Any) -> dict[str, Any]:
    """Return the metrics of a bound, with changes."""
    return {
        "kind": "lower",
        "protocol": PROTOCOL,
        "test_sha256": HASH,
        "n_images": N_IMAGES,
        "n_distinct_images": N_IMAGES,
        "n_training_images": 0,
        "n_seeds": 1,
        "n_samples": 8,
        "n_parameters": 12345,
        "bpd": 1.23456789,
        "bpd_standard_error": 0.0343,
        "bpd_monte_carlo_error": 0.00067,
        "nll_nats": 3.42295174,
        "nll_nats_standard_error": 0.0956,
        "nll_nats_monte_carlo_error": 0.00186,
        "log_p_bias_nats": -0.0123,
        "bias_exceeds_standard_error": False,
        "too_few_samples": False,
        "ess_below_10_share": 0.04,
        "elbo_nats": -3.6,
        "ess_median": 6.25,
        "ess_smallest": 1.5,
        "n_impossible_images": 0,
        **changes,
    }


def exact(**changes: Any) -> dict[str, Any]:
    """Return the metrics of an exact model, with changes."""
    nothing = {"bpd_monte_carlo_error": 0.0, "nll_nats_monte_carlo_error": 0.0, "log_p_bias_nats": 0.0}
    return metrics(kind="exact", n_samples=1, ess_median=1.0, ess_smallest=1.0, **{**nothing, **changes})


def metrics_of(log_p: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Return the metrics of a bound whose log-likelihoods are (seeds, N) nats for images of SHAPE, with changes."""
    mean = log_p.mean(0)
    error = float(mean.std(ddof=1) / np.sqrt(len(mean))) if len(mean) > 1 and np.isfinite(mean).all() else np.inf
    numbers: dict[str, Any] = {
        "protocol": f"tiny/none/2x2x1/L256/test{len(mean)}/given-none",
        "n_images": len(mean),
        "n_distinct_images": len(mean),
        "n_seeds": len(log_p),
        "bpd": bits_per_dim(float(mean.mean()), SHAPE),
        "bpd_standard_error": nats_to_bits_per_dim(error, SHAPE),
        "bpd_monte_carlo_error": 0.0003,
        "nll_nats": -float(mean.mean()),
        "nll_nats_standard_error": error,
        "nll_nats_monte_carlo_error": 0.001,
        "elbo_nats": float(mean.mean()) - 0.1,
        "n_impossible_images": int(np.isneginf(mean).sum()),
    }
    if len(log_p) > 1:
        numbers["bpd_by_seed"] = {str(s): bits_per_dim(float(x), SHAPE) for s, x in enumerate(log_p.mean(1))}
    return metrics(**{**numbers, **changes})


def images_of(protocol: str, n_test: int) -> dict[str, Any]:
    """Return what ``dequantize`` writes if all test images are distinct."""
    return {
        "protocol": protocol,
        "test_sha256": HASH,
        "n_train": 20,
        "n_validation": 4,
        "n_test": n_test,
        "n_test_distinct": n_test,
        "n_test_in_train": 0,
        "n_test_in_validation": 0,
        "n_validation_in_train": 0,
        "entropy_bpd": 1.6,
        "entropy_bias_bpd": -0.25,
        "png_bpd": 30.0,
        "png_single_bpd": 140.0,
        "webp_bpd": 9.0,
        "uniform_bpd": 2.0,
    }
