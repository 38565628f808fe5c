r"""A project of tasks that wait for each other, and how long it takes.

A task begins when the last of its predecessors ends; the project ends with its last task. With durations t,

.. math:: F_i = t_i + \max_{j \in \mathrm{pred}(i)} F_j, \qquad T = \max_i F_i

so T is the length of the longest path: of all chains of tasks, each waiting for the one before, the one whose durations
add up to most. The essay's project, :data:`PROJECT`, has ten tasks with independent exponential durations (Owen 2013,
chapter 9; Keng, essay on importance sampling and variational autoencoders).

Not here: probabilities, which are the business of :mod:`.chain` (exact) and :mod:`.estimators` (Monte Carlo).

Invariants (``tests/studies/test_project_delay.py``):

1. T is the largest sum over all paths (``test_the_completion_time_is_that_of_the_longest_path``).
2. The critical path is a path, and the longest at the mean durations
   (``test_the_critical_path_is_the_longest_at_the_means``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Project:
    """Tasks, numbered from 0, each after its predecessors.

    Attributes:
        means: of the exponential durations, any unit of time, the same for all.
        predecessors: of each task, numbers smaller than its own.

    Raises:
        ValueError: a mean is not positive, or a task waits for itself or for a later one.
    """

    means: tuple[float, ...]
    predecessors: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Check it: what follows walks through the tasks in order."""
        if len(self.means) != len(self.predecessors) or not all(0 < mean < np.inf for mean in self.means):
            raise ValueError(f"{self.means} are not positive means of {len(self.predecessors)} tasks")
        for task, earlier in enumerate(self.predecessors):
            if not all(0 <= other < task for other in earlier):
                raise ValueError(f"task {task} waits for {earlier}, which are not all before it")

    @property
    def n_tasks(self) -> int:
        """The number of tasks."""
        return len(self.means)


# the essay numbers its tasks from 1
PROJECT = Project(
    means=(4.0, 4.0, 2.0, 5.0, 2.0, 3.0, 2.0, 3.0, 2.0, 2.0),
    predecessors=((), (0,), (0,), (1,), (1,), (2,), (2,), (2,), (4, 5, 6), (3, 7, 8)),
)


def finishing_times(project: Project, durations: np.ndarray) -> np.ndarray:
    r"""Return when each task ends, :math:`F_i = t_i + \max_{j \in \mathrm{pred}(i)} F_j`.

    Args:
        project: of n_tasks tasks.
        durations: (n, n_tasks) not negative.

    Returns:
        (n, n_tasks) in the unit of the durations.
    """
    finish = np.empty_like(durations)
    for task, earlier in enumerate(project.predecessors):
        finish[:, task] = durations[:, task]
        if earlier:
            start = finish[:, earlier[0]]
            for other in earlier[1:]:
                start = np.maximum(start, finish[:, other])
            finish[:, task] += start
    return finish


def completion_times(project: Project, durations: np.ndarray) -> np.ndarray:
    """Return T, (n,), of durations (n, n_tasks): the length of the longest path."""
    return finishing_times(project, durations).max(1)


def critical_path(project: Project, durations: Sequence[float] | None = None) -> tuple[int, ...]:
    """Return the tasks of the longest path in order; of equally long ones that of the smallest numbers.

    Args:
        project: the tasks.
        durations: of each task; the means where there are none.
    """
    finish = finishing_times(project, np.array([project.means if durations is None else durations], np.float64))[0]
    path = [int(finish.argmax())]
    while earlier := project.predecessors[path[0]]:
        path.insert(0, max(earlier, key=lambda task: (finish[task], -task)))
    return tuple(path)
