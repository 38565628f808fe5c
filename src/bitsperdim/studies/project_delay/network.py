r"""A project of tasks that wait for each other, and the duration of the project.

A task begins when the last of its predecessors ends; the project ends with its last task. With durations t,

.. math:: F_i = t_i + \max_{j \in \mathrm{pred}(i)} F_j, \qquad T = \max_i F_i

so T is the length of the longest path. A path is a chain of tasks in which each task waits for the task before it, and
its length is the sum of its durations. The essay's project, :data:`PROJECT`, has ten tasks with independent exponential
durations (Owen 2013, chapter 9; Keng, essay on importance sampling and variational autoencoders).

This module computes no probabilities; see :mod:`.chain` (exact) and :mod:`.estimators` (Monte Carlo).

Invariants (``tests/studies/test_project_delay.py``):

1. T is the largest sum over all paths (``test_the_completion_time_is_that_of_the_longest_path``).
2. The critical path is a path, and it is the longest path at the mean durations
   (``test_the_critical_path_is_the_longest_at_the_means``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Project:
    """The tasks of a project, numbered from 0, with their predecessors.

    Attributes:
        means: means of the exponential durations, all in the same unit of time.
        predecessors: predecessors of each task, whose numbers are smaller than the number of the task.

    Raises:
        ValueError: a mean is not positive, or a task waits for itself or for a later one.
    """

    means: tuple[float, ...]
    predecessors: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Check the tasks: other functions rely on their order."""
        if len(self.means) != len(self.predecessors) or not all(0 < mean < np.inf for mean in self.means):
            raise ValueError(f"{self.means} are not finite positive means of {len(self.predecessors)} tasks")
        for task, earlier in enumerate(self.predecessors):
            if not all(0 <= other < task for other in earlier):
                raise ValueError(f"task {task} waits for {earlier}, but all of these must be earlier tasks")

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
        project: a project with n_tasks tasks.
        durations: (n, n_tasks) non-negative durations.

    Returns:
        (n, n_tasks) finishing times in the unit of the durations.
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
    """Return T, the length of the longest path, (n,), for durations (n, n_tasks)."""
    return finishing_times(project, durations).max(1)


def critical_path(project: Project, durations: Sequence[float] | None = None) -> tuple[int, ...]:
    """Return the tasks of the longest path in order; of equally long paths, the one with the smallest numbers.

    Args:
        project: the project.
        durations: duration of each task; None: the means.
    """
    finish = finishing_times(project, np.array([project.means if durations is None else durations], np.float64))[0]
    path = [int(finish.argmax())]
    while earlier := project.predecessors[path[0]]:
        path.insert(0, max(earlier, key=lambda task: (finish[task], -task)))
    return tuple(path)
