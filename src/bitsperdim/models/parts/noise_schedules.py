r"""Noise schedules of diffusion models: how much of an image, and how much noise, is left at each time.

.. math:: y_t = \alpha(t) \, y_0 + \sigma(t) \, \epsilon, \qquad \epsilon \sim N(0, I)

If the score of the distribution of y_t is known at each time, an ordinary differential equation has the same
distributions (Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 13,
where f and g follow from alpha and sigma as in Kingma et al. 2021, "Variational Diffusion Models"):

.. math:: \frac{dy}{dt} = f \, y - \tfrac12 g^2 \nabla \log p_t(y), \qquad
          f = \frac{\alpha'}{\alpha}, \qquad g^2 = 2 \sigma \sigma' - 2 f \sigma^2

======== =================================================================== ============================
name     alpha and sigma                                                     source
======== =================================================================== ============================
``vp``   alpha = exp(-B / 2), sigma^2 = 1 - exp(-B), B the integral of beta   Song et al. 2021, appendix C
``ve``   alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t               Song et al. 2021, appendix C
``ot``   alpha = t, sigma = 1 - t: time runs from noise to data               Lipman et al. 2023, eq. 20-22
======== =================================================================== ============================

Invariants (``tests/models/test_noise_schedules.py``): f and g^2 are the published ones
(``test_drift_and_diffusion_are_the_published_ones``); the grid has equal steps in the log of alpha / sigma
(``test_the_grid_has_equal_steps``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError, shown

OfTime = Callable[[Tensor], Tensor]  # of a float64 tensor of times, with derivatives
DEFAULTS: dict[str, dict[str, float]] = {
    "vp": {"beta_min": 0.1, "beta_max": 20.0},
    "ve": {"sigma_min": 0.01, "sigma_max": 50.0},
    "ot": {},
}
HALVINGS = 100  # of the interval in which a time of the grid lies


@dataclass(frozen=True)
class Schedule:
    """A noise schedule.

    Attributes:
        alpha: factor of the image at time t.
        sigma: standard deviation of the noise at time t.
        words: name and parameters, for signatures.
    """

    alpha: OfTime
    sigma: OfTime
    words: str

    def at(self, t: float) -> tuple[float, float]:
        """Return alpha and sigma at a time.

        Raises:
            InputError: they are not finite numbers, or one is below 0.
        """
        time = torch.tensor(t, dtype=torch.float64)
        found = float(self.alpha(time)), float(self.sigma(time))
        if not all(math.isfinite(value) and value >= 0 for value in found):
            raise InputError(
                f"schedule {self.words} has alpha = {found[0]:.4g} and sigma = {found[1]:.4g} at time {t:.4g}; both "
                f"must be finite and not below 0."
            )
        return found

    def drift_and_diffusion(self, t: float) -> tuple[float, float]:
        """Return f and g^2 at a time.

        Raises:
            InputError: alpha or sigma has no derivative, or a result is not finite.
        """
        with torch.enable_grad():
            time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
            alpha, sigma = self.alpha(time), self.sigma(time)
            of_alpha, of_sigma = (_derivative(value, time) for value in (alpha, sigma))
        alpha, sigma = alpha.detach(), sigma.detach()
        f = of_alpha / float(alpha) if float(alpha) else math.nan
        g2 = 2 * float(sigma) * of_sigma - 2 * f * float(sigma) ** 2
        if not (math.isfinite(f) and math.isfinite(g2)):
            raise InputError(
                f"schedule {self.words} has no finite drift at time {t:.4g}, where alpha = {float(alpha):.4g} and "
                f"sigma = {float(sigma):.4g}; let `times` end before."
            )
        return f, g2

    def grid(self, start: float, end: float, n_steps: int) -> list[float]:
        """Return the times of a grid with equal steps in log(alpha / sigma); every second one is a grid as well.

        Raises:
            InputError: alpha / sigma does not rise or fall all the way between the two times, or is 0 or infinite.
        """
        low, high = self._log_ratio(start), self._log_ratio(end)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(
                f"schedule {self.words} has sigma = 0 or alpha = 0 at a time in times = {shown([start, end])}; choose "
                f"times at which both are above 0."
            )
        probes = [self._log_ratio(start + (end - start) * number / 64) for number in range(65)]
        signs = {math.copysign(1.0, b - a) for a, b in itertools.pairwise(probes) if a != b}
        if len(signs) != 1:
            raise InputError(
                f"schedule {self.words} is not allowed: alpha / sigma must rise or fall all the way between the times "
                f"{start:.4g} and {end:.4g}."
            )
        inner = [self._time(low + (high - low) * number / n_steps, start, end) for number in range(1, n_steps)]
        return [start, *inner, end]

    def _log_ratio(self, t: float) -> float:
        alpha, sigma = self.at(t)
        if alpha == 0 or sigma == 0:
            return -math.inf if alpha == 0 else math.inf
        return math.log(alpha) - math.log(sigma)

    def _time(self, wanted: float, start: float, end: float) -> float:
        """Return the time at which log(alpha / sigma) has a value, by halving an interval."""
        is_rising = self._log_ratio(end) > self._log_ratio(start)
        for _ in range(HALVINGS):
            middle = (start + end) / 2
            if (self._log_ratio(middle) < wanted) == is_rising:
                start = middle
            else:
                end = middle
        return (start + end) / 2


def _derivative(value: Tensor, time: Tensor) -> float:
    if not value.requires_grad:
        return 0.0
    return float(torch.autograd.grad(value, time, retain_graph=True)[0])


def schedule_of(given: object) -> Schedule:
    """Return a schedule from a name, a mapping with ``name`` and parameters, or two functions (alpha, sigma).

    Raises:
        InputError: it is none of these, or a parameter is unknown or not allowed.
    """
    if isinstance(given, Schedule):
        return given
    if isinstance(given, list | tuple) and len(given) == 2 and all(callable(each) for each in given):
        return Schedule(given[0], given[1], "own")
    said: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = said.pop("name", None)
    if not isinstance(name, str) or name not in DEFAULTS:
        raise InputError(
            f"schedule = {shown(given)} is not allowed; it must be {', '.join(DEFAULTS)}, a mapping with such a name "
            f"and its parameters, or two functions (alpha, sigma) of time."
        )
    for key, value in said.items():
        if key not in DEFAULTS[name]:
            known = ", ".join(DEFAULTS[name]) or "no parameters"
            raise InputError(f"schedule {name} has no parameter {shown(key)}; it has {known}.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"{key} = {shown(value)} of schedule {name} is not allowed; it must be a number above 0.")
    numbers = {**DEFAULTS[name], **said}
    words = "".join([name, *(f",{key}={value:g}" for key, value in numbers.items())])
    if name == "ot":
        return Schedule(lambda t: t, lambda t: 1 - t, words)
    if name == "ve":
        low, ratio = numbers["sigma_min"], numbers["sigma_max"] / numbers["sigma_min"]
        return Schedule(torch.ones_like, lambda t: low * torch.as_tensor(ratio, dtype=t.dtype) ** t, words)
    low, span = numbers["beta_min"], numbers["beta_max"] - numbers["beta_min"]

    def of_beta(t: Tensor) -> Tensor:
        return low * t + span * t.square() / 2

    return Schedule(lambda t: torch.exp(-of_beta(t) / 2), lambda t: torch.sqrt(-torch.expm1(-of_beta(t))), words)
