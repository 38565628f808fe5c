r"""The exact distribution of the completion time: the set of finished tasks is a Markov chain.

Exponential durations are memoryless. Let the rates :math:`\lambda_i` be one over the means. The chain goes from the set
S of finished tasks to :math:`S \cup \{i\}` with rate :math:`\lambda_i`, for every task i outside S whose predecessors
are in S. T is the time at which all tasks are finished (Kulkarni and Adlakha 1986, "Markov and Markov-regenerative PERT
networks"). With the generator A among the sets in which a task is unfinished,

.. math:: P(T \ge t) = e_\emptyset^\top e^{tA} \mathbf 1, \qquad E[T] = -e_\emptyset^\top A^{-1} \mathbf 1

The exponential is computed without a subtraction (uniformization): :math:`e^{tA} = (e^{-ch} e^{h(A + cI)})^{t/h}`,
where c is the largest rate of leaving a set, so A + cI has no negative entry. Therefore small probabilities have the
same relative accuracy as large ones.

From the derivative of a logarithm of an integral over exponential densities,

.. math:: E[t_i \mid T \ge t] = \frac{1}{\lambda_i} - \frac{\partial}{\partial \lambda_i} \log P(T \ge t)

All results are exact up to the rounding of float64; no random numbers are used.

Invariants (``tests/studies/test_project_delay.py``):

1. The essay's project has 51 sets, P(T >= 70) = 3.2115e-5 and E[T] = 18.2101
   (``test_the_exact_values_are_those_published``), and the whole distribution agrees with simulation
   (``test_the_distribution_is_the_one_simulated``).
2. Two tasks in sequence and in parallel agree with their closed forms (``test_two_tasks_agree_with_closed_forms``), and
   tails agree with arithmetic of many digits (``test_tails_agree_with_many_digits``).
3. Durations given a delay agree with simulation (``test_durations_given_a_delay_are_those_simulated``).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bitsperdim.studies.project_delay.network import Project

DEGREE = 24  # degree of the power series of e^x for x <= 1; the remainder is below 1e-25


class Chain:
    """The Markov chain of a project: sets of finished tasks, and the steps between them.

    Attributes:
        project: the project; its means are used only if no other rates are given.
        states: sets of finished tasks as bit masks, sorted by the number of finished tasks: the first is empty, the
            last contains all tasks.
        steps: (from, to, task): the indices of two states, and the task that ends.
    """

    def __init__(self, project: Project) -> None:
        """Collect the sets that can be reached."""
        self.project = project
        needed = [sum(1 << other for other in earlier) for earlier in project.predecessors]
        reached = {0}
        waiting = [0]
        while waiting:
            state = waiting.pop()
            for task, mask in enumerate(needed):
                after = state | 1 << task
                if after not in reached and state & mask == mask:
                    reached.add(after)
                    waiting.append(after)
        self.states = sorted(reached, key=lambda state: (state.bit_count(), state))
        number = {state: index for index, state in enumerate(self.states)}
        self.steps = [
            (number[state], number[state | 1 << task], task)
            for state in self.states
            for task, mask in enumerate(needed)
            if state & mask == mask and not state >> task & 1
        ]

    @property
    def rates(self) -> Tensor:
        """One over the means, (n_tasks,) float64."""
        return 1 / torch.tensor(self.project.means, dtype=torch.float64)

    def log_tail(self, t: float, rates: Tensor | None = None) -> Tensor:
        """Return log P(T >= t), an exact scalar in nats that can be differentiated with respect to the rates.

        Args:
            t: time, at least 0.
            rates: (n_tasks,) positive rates, float64; None: the rates of the project.
        """
        rates = self.rates if rates is None else rates
        return self._transition(t, rates)[0].sum().log()

    def distribution(self, step: float, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Return P(T >= t) and the density of T at t = 0, step, ..., n_steps step, (n_steps + 1,) each, exact."""
        transition = self._transition(step, self.rates)
        row = torch.zeros(len(self.states) - 1, dtype=torch.float64)
        row[0] = 1.0
        last = torch.zeros_like(row)
        for before, after, task in self.steps:
            if after == len(row):
                last[before] = self.rates[task]
        rows = []
        for _ in range(n_steps + 1):
            rows.append(row)
            row = row @ transition
        everywhen = torch.stack(rows)
        return everywhen.sum(1).numpy(), (everywhen @ last).numpy()

    def mean(self) -> float:
        """Return E[T], exact: the expected remaining time is computed for each set, from the last set backwards."""
        left = np.zeros(len(self.states))
        rates = self.rates.tolist()
        for index in range(len(self.states) - 2, -1, -1):
            steps = [(rates[task], left[after]) for before, after, task in self.steps if before == index]
            left[index] = (1 + sum(rate * rest for rate, rest in steps)) / sum(rate for rate, _ in steps)
        return float(left[0])

    def mean_durations_given_delay(self, t: float, rates: Tensor | None = None) -> Tensor:
        r"""Return :math:`E[t_i \mid T \ge t]`, (n_tasks,), exact.

        The values are never below the means, because T increases with every duration.
        """
        rates = (self.rates if rates is None else rates).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.log_tail(t, rates), rates)
        return 1 / rates.detach() - gradient

    def _transition(self, t: float, rates: Tensor) -> Tensor:
        """Return e^{tA}, (S, S), among the sets in which a task is unfinished; no entry is negative."""
        before, after, task = (torch.tensor(column) for column in zip(*self.steps, strict=True))
        size = len(self.states)
        flow = torch.zeros(size, size, dtype=torch.float64).index_put((before, after), rates[task])
        leaving = flow.sum(1)[:-1]
        fastest = float(leaving.detach().max())
        n_halvings = max(0, math.ceil(math.log2(max(t * fastest, 1.0))))
        h = t / 2**n_halvings
        positive = h * (flow[:-1, :-1] + torch.diag(fastest - leaving))
        power = torch.eye(size - 1, dtype=torch.float64)
        total = power
        for order in range(1, DEGREE + 1):
            power = power @ positive / order
            total = total + power
        total = math.exp(-fastest * h) * total
        for _ in range(n_halvings):
            total = total @ total
        return total
