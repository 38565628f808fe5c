r"""Estimates of P(T >= d) from weighted draws, their estimated errors, and the coverage of these errors.

The log-weight of a late draw is log w; the log-weight of any other draw is minus infinity. The statistics are those of
all likelihoods (:mod:`bitsperdim.evaluation`). With n draws,

.. math:: \hat P = \frac1n \sum_k w_k 1\{T_k \ge d\}, \qquad
          \mathrm{ESS} = \frac{(\sum_k w_k 1\{T_k \ge d\})^2}{\sum_k w_k^2 1\{T_k \ge d\}}

The variance reduction is the variance of one naive draw, P (1 - P), divided by the variance of one weighted draw: the
number of naive draws that one weighted draw is worth. The measured value depends on the same few large weights as the
standard error.

Memory holds one log-weight for each draw; durations are drawn in chunks.

Invariants (``tests/studies/test_project_delay.py``):

1. Estimates are unbiased and have the exact variance (``test_estimates_are_unbiased_with_the_exact_variance``).
2. Chunks change only the memory that is used (``test_chunks_are_the_draws_of_one_generator``).
3. Without a late draw the error is unknown and not 0 (``test_no_late_draw_has_an_unknown_error``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitsperdim.estimators.log_weights import effective_sample_size, log_mean_exp, standard_error
from bitsperdim.estimators.paired import INTERVAL
from bitsperdim.studies.project_delay.network import Project, completion_times
from bitsperdim.studies.project_delay.proposals import log_weights

CHUNK = 2**14  # draws at a time; their durations take 1.3 MB and fit into the cache


@dataclass(frozen=True)
class Estimate:
    """One estimate of P(T >= d).

    Attributes:
        n_samples: n.
        n_late: number of draws with T >= d.
        probability: the estimate.
        standard_error: standard error estimated from the same draws; infinite without a late draw, because it is then
            unknown.
        ess: ESS of the weights of late draws, between 1 and ``n_late``; 0 without a late draw.
        ess_all: ESS of the weights of all draws.
        variance_reduction: measured variance reduction; 0 without a late draw.
    """

    n_samples: int
    n_late: int
    probability: float
    standard_error: float
    ess: float
    ess_all: float
    variance_reduction: float


@dataclass(frozen=True)
class Coverage:
    """The coverage of nominal 95 % intervals, over replicates of n draws each.

    Attributes:
        n_samples: n.
        coverage: share of the intervals (1.96 estimated standard errors to each side) that contain P; an interval
            without a late draw is 0 +- 0 and does not contain P.
        coverage_error: standard error of ``coverage``.
        empty: share of the replicates without a late draw.
        error_ratio: median over replicates of the estimated divided by the exact standard error; 0 if the exact error
            is infinite.
    """

    n_samples: int
    coverage: float
    coverage_error: float
    empty: float
    error_ratio: float


def draw(
    project: Project, means: np.ndarray, deadline: float, n_samples: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the durations of n projects with ``means`` (n_tasks,).

    Returns:
        log w of all draws, (n,) nats, float64; and whether each draw is late, (n,) bool.
    """
    log_w, is_late = np.empty(n_samples), np.empty(n_samples, dtype=bool)
    for start in range(0, n_samples, CHUNK):
        stop = min(start + CHUNK, n_samples)
        durations = generator.standard_exponential((stop - start, project.n_tasks)) * means
        log_w[start:stop] = log_weights(project, means, durations)
        is_late[start:stop] = completion_times(project, durations) >= deadline
    return torch.from_numpy(log_w), torch.from_numpy(is_late)


def of_late(log_w: Tensor, is_late: Tensor) -> Tensor:
    """Return the log-weights of the event: log w for late draws, and minus infinity for all others."""
    return torch.where(is_late, log_w, -torch.inf)


def estimate(log_w: Tensor, is_late: Tensor, probability: float) -> Estimate:
    """Estimate P(T >= d) from draws (n,); the exact ``probability`` gives the variance of naive draws."""
    log_event = of_late(log_w, is_late)[:, None]
    n_samples, n_late = len(log_w), int(is_late.sum())
    found = math.exp(log_mean_exp(log_event)[0])
    # an error of 0 would look like certainty, and would give an infinite variance reduction
    error = found * float(standard_error(log_event)[0]) if n_late else math.inf
    return Estimate(
        n_samples=n_samples,
        n_late=n_late,
        probability=found,
        standard_error=error,
        ess=float(effective_sample_size(log_event)[0]),
        ess_all=float(effective_sample_size(log_w[:, None])[0]),
        variance_reduction=probability * (1 - probability) / (n_samples * error**2),
    )


def coverage(log_event: Tensor, probability: float, variance: float) -> Coverage:
    """Return how often the intervals of replicates contain the truth.

    Args:
        log_event: (n, R) log-weights of the event in R replicates.
        probability: exact probability of the event.
        variance: exact variance of one draw.
    """
    n_samples, n_replicates = log_event.shape
    estimates = log_mean_exp(log_event).exp()
    errors = estimates * standard_error(log_event)  # 0 if no draw is late
    holds = ((estimates - probability).abs() <= INTERVAL * errors).double()
    share = float(holds.mean())
    return Coverage(
        n_samples=n_samples,
        coverage=share,
        coverage_error=math.sqrt(share * (1 - share) / n_replicates),
        empty=float((estimates == 0).double().mean()),
        error_ratio=float(errors.quantile(0.5)) / math.sqrt(variance / n_samples),
    )
