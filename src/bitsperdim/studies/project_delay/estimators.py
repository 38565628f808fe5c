r"""Estimates of P(T >= d) from weighted draws, with what is said of their error and whether it holds.

The log-weight of a draw that is late is log w, of any other minus infinity; the statistics are those of every
likelihood here, :mod:`bitsperdim.evaluation`. With n draws,

.. math:: \hat P = \frac1n \sum_k w_k 1\{T_k \ge d\}, \qquad
          \mathrm{ESS} = \frac{(\sum_k w_k 1\{T_k \ge d\})^2}{\sum_k w_k^2 1\{T_k \ge d\}}

The variance reduction is that of one naive draw, P (1 - P), over that of one weighted draw: how many naive draws one
weighted draw is worth. Measured, it stands on the same few heavy weights as the standard error does.

Memory holds one log-weight per draw; durations are drawn in chunks.

Invariants (``tests/studies/test_project_delay.py``):

1. Estimates are unbiased, and their spread is the exact one (``test_estimates_are_unbiased_with_the_exact_variance``).
2. Chunks change nothing but the memory (``test_chunks_are_the_draws_of_one_generator``).
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

CHUNK = 2**14  # draws at a time: durations of 1.3 MB stay in the cache


@dataclass(frozen=True)
class Estimate:
    """One estimate.

    Attributes:
        n_samples: n.
        n_late: draws with T >= d.
        probability: the estimate.
        standard_error: estimated from the same draws; infinite without a late draw, where nothing is known of it.
        ess: of the weights of late draws, between 1 and ``n_late``; 0 without any.
        ess_all: of the weights of all draws.
        variance_reduction: measured; 0 without a late draw.
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
    """Whether nominal 95 % intervals hold the truth, over replicates of n draws each.

    Attributes:
        n_samples: n.
        coverage: share of the intervals, 1.96 estimated standard errors to each side, that hold P; one without a late
            draw is 0 +- 0 and holds nothing.
        coverage_error: its standard error.
        empty: share of the replicates without a late draw.
        error_ratio: median over replicates of the estimated over the exact standard error; 0 where that is infinite.
    """

    n_samples: int
    coverage: float
    coverage_error: float
    empty: float
    error_ratio: float


def draw(
    project: Project, means: np.ndarray, deadline: float, n_samples: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw n durations with ``means`` (n_tasks,).

    Returns:
        log w (n,) in nats, float64, of all draws, and whether each is late (n,), bool.
    """
    log_w, is_late = np.empty(n_samples), np.empty(n_samples, dtype=bool)
    for start in range(0, n_samples, CHUNK):
        stop = min(start + CHUNK, n_samples)
        durations = generator.standard_exponential((stop - start, project.n_tasks)) * means
        log_w[start:stop] = log_weights(project, means, durations)
        is_late[start:stop] = completion_times(project, durations) >= deadline
    return torch.from_numpy(log_w), torch.from_numpy(is_late)


def of_late(log_w: Tensor, is_late: Tensor) -> Tensor:
    """Return the log-weights of the event: log w, and minus infinity for a draw that is not late."""
    return torch.where(is_late, log_w, -torch.inf)


def estimate(log_w: Tensor, is_late: Tensor, probability: float) -> Estimate:
    """Estimate P(T >= d) from draws (n,); ``probability`` is the exact one, of which the naive variance is made."""
    log_event = of_late(log_w, is_late)[:, None]
    n_samples, n_late = len(log_w), int(is_late.sum())
    found = math.exp(log_mean_exp(log_event)[0])
    # 0 +- 0 would read like certainty, and would be an infinite reduction of the variance
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
    """Say how often the intervals of replicates hold the truth.

    Args:
        log_event: (n, R) log-weights of the event, R replicates.
        probability: the exact one.
        variance: of one draw, exact.
    """
    n_samples, n_replicates = log_event.shape
    estimates = log_mean_exp(log_event).exp()
    errors = estimates * standard_error(log_event)  # 0 where no draw is late
    holds = ((estimates - probability).abs() <= INTERVAL * errors).double()
    share = float(holds.mean())
    return Coverage(
        n_samples=n_samples,
        coverage=share,
        coverage_error=math.sqrt(share * (1 - share) / n_replicates),
        empty=float((estimates == 0).double().mean()),
        error_ratio=float(errors.quantile(0.5)) / math.sqrt(variance / n_samples),
    )
