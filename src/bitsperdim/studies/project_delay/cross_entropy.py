r"""The cross-entropy method: means that are fitted to late projects, level by level.

Of all exponential proposals, the one closest to the durations of late projects in the sense of the Kullback-Leibler
divergence has their means, :math:`E[t_i \mid T \ge d]`. Nobody sees late projects at first. So the level rises: draw
with the means at hand, take as level the highest that a given share of the draws reaches (at most d), and

.. math:: m_i \leftarrow \frac{\sum_k w_k 1\{T_k \ge \mathrm{level}\} \, t_{ki}}
                              {\sum_k w_k 1\{T_k \ge \mathrm{level}\}}
    \quad \text{but not below } 1 / \lambda_i

until the level is d; then a few times more at d (Rubinstein 1999; de Boer, Kroese, Mannor and Rubinstein 2005, "A
tutorial on the cross-entropy method", algorithm 2.1 and equation 2.16). The draws are forgotten: the estimate made
with the means that were found has draws of its own.

Difference from the references: no mean falls below the task's own. T rises with every duration, so given a delay each
is longer on average and never shorter (durations are associated: Esary, Proschan and Walkup 1967); what is below is
noise, and from half the own mean downwards the variance would be infinite (:mod:`.proposals`).

It does not minimize the variance: the two aims differ where weights have a heavy tail.

Invariants (``tests/studies/test_project_delay.py``): the levels rise to the deadline and the means come near those of
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
    """One update.

    Attributes:
        level: that the draws were held against.
        n_late: draws that reached it.
        means: (n_tasks,) after the update.
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
    """Fit the means; those of the last round are the proposal.

    Args:
        project: whose delay is rare.
        deadline: d.
        n_samples: draws in each round.
        elite_share: of the draws that reach the level, at least.
        n_final: rounds at d, at least 1.
        max_rounds: in which d must have been reached.
        generator: of the draws.

    Raises:
        InputError: the levels have not come to the deadline.
    """
    means, rounds = np.array(project.means), list[Round]()
    while sum(done.level >= deadline for done in rounds) < n_final:
        if len(rounds) >= max_rounds + n_final - 1:
            raise InputError(
                f"The cross-entropy method came to {rounds[-1].level:.4g} in {max_rounds} rounds and not to "
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
