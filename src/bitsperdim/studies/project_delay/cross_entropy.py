r"""The cross-entropy method: means that are fitted to late projects, with rising levels.

Of all exponential proposals, the one with the smallest Kullback-Leibler divergence from the durations of late projects
has the means of these durations, :math:`E[t_i \mid T \ge d]`. At first, hardly any draw is late. So the method raises
the level step by step: draw with the current means, take as level the highest value that a given share of the draws
reaches (at most d), and set

.. math:: m_i \leftarrow \frac{\sum_k w_k 1\{T_k \ge \mathrm{level}\} \, t_{ki}}
                              {\sum_k w_k 1\{T_k \ge \mathrm{level}\}}
    \quad \text{but not below } 1 / \lambda_i

until the level is d, and then a few more times at d (Rubinstein 1999; de Boer, Kroese, Mannor and Rubinstein 2005, "A
tutorial on the cross-entropy method", algorithm 2.1 and equation 2.16). These draws are discarded: the estimate with
the means that were found uses new draws.

Difference from the references: no mean falls below the true mean of its task. T increases with every duration, so given
a delay each duration is longer on average and never shorter (durations are associated: Esary, Proschan and Walkup
1967). A smaller value is noise, and with half the true mean or less the variance would be infinite
(:mod:`.proposals`).

The method does not minimize the variance: the two aims differ if weights have a heavy tail.

Invariants (``tests/studies/test_project_delay.py``): the levels rise to the deadline, and the means approach those of
the chain (``test_the_method_finds_the_durations_of_late_projects``); the same seed gives the same means
(``test_a_rerun_is_byte_identical``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitsperdim.core.errors import InputError
from bitsperdim.studies.project_delay import proposals
from bitsperdim.studies.project_delay.network import Project, completion_times


@dataclass(frozen=True)
class Round:
    """One update of the means.

    Attributes:
        level: level of the round.
        n_late: number of draws that reached the level.
        means: (n_tasks,) means after the update.
    """

    level: float
    n_late: int
    means: np.ndarray


def optimize(
    project: Project,
    deadline: float,
    *,
    n_samples: int,
    elite_share: float,
    n_final: int,
    max_rounds: int,
    generator: np.random.Generator,
) -> list[Round]:
    """Fit the means and return all rounds; the means of the last round are the proposal.

    Args:
        project: the project whose delay is rare.
        deadline: d.
        n_samples: number of draws in each round.
        elite_share: share of the draws that reach the level, at least.
        n_final: number of rounds at d, at least 1.
        max_rounds: maximum number of rounds until d is reached.
        generator: source of randomness for the draws.

    Raises:
        InputError: the levels did not reach the deadline within ``max_rounds``.
    """
    means = np.array(project.means)
    rounds: list[Round] = []
    while sum(done.level >= deadline for done in rounds) < n_final:
        if len(rounds) >= max_rounds + n_final - 1:
            raise InputError(
                f"The cross-entropy method reached {rounds[-1].level:.4g} in {max_rounds} rounds, but not "
                f"project_delay.deadline = {deadline:g}; raise project_delay.cross_entropy.n_samples or max_rounds."
            )
        durations = generator.standard_exponential((n_samples, project.n_tasks)) * means
        times = completion_times(project, durations)
        level = min(deadline, float(np.quantile(times, 1 - elite_share, method="lower")))
        late = times >= level
        log_w = proposals.log_weights(project, means, durations[late])
        w = np.exp(log_w - log_w.max())
        means = np.maximum(w @ durations[late] / w.sum(), project.means)
        rounds.append(Round(level, int(late.sum()), means))
    return rounds
