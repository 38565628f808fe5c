r"""Wrapper of a model that gives the velocity of an ordinary differential equation, or the score of a diffusion.

.. math:: \frac{dy}{dt} = v(t, y), \qquad
          \log p(y_1) = \log p_0(y_0) - \int_{t_0}^{t_1} \nabla \cdot v(t, y_t) \, dt

The equation runs from the base distribution at t_0 to the data at t_1; an image is followed backwards. A score with its
noise schedule gives the velocity of :mod:`bitsperdim.models.parts.noise_schedules`. The data are
:math:`\alpha(t_1) (low + (high - low) (x + u) / L)`, with noise u in or around each cell.

There are three errors, and each is stated:

- The *Monte Carlo error* comes from the noise u, and from random probes if the divergence is not exact. Probes give the
  right mean of the logarithm, but not of its exponential: P(x) would be multiplied by E[exp(error)]. So with probes
  each sample is a draw of a lower bound, and only logarithms are averaged. With the exact divergence, the samples are
  log-weights, and more of them make the bound tighter.
- The *solver error* comes from the grid. The first sample of each image is computed again with half and with a quarter
  of the steps (:mod:`bitsperdim.estimators.solver`). If the solver error is not negligible beside the Monte Carlo
  error, the number is an estimate and not a bound.
- The *test-set error* is that of any other number.

Invariants (``tests/models/external/test_ode.py``): a Gaussian and a linear flow have their known densities, with exact
and with probed divergence, for both directions of time (``test_a_gaussian_has_its_density``,
``test_a_linear_flow_has_its_density``); a mixture agrees with quadrature (``test_a_mixture_has_its_density``); images
are independent of each other (``test_images_are_independent``); the same generator gives the same numbers, and
another one other numbers (``test_the_generator_decides``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError, shown
from bitsperdim.likelihoods import draw_each
from bitsperdim.models.density import NoiseFrom, NoiseName
from bitsperdim.models.external.codes import seeded
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.density import ExternalDensity
from bitsperdim.models.external.external import described
from bitsperdim.models.external.methods import Offer
from bitsperdim.models.parts import ode as equations
from bitsperdim.models.parts.dequantization import Dequantizer, UniformDequantizer, dequantize
from bitsperdim.models.parts.kernel_noise import HALF_LOG_2PI, GaussianDequantizer, TruncatedNormalDequantizer
from bitsperdim.models.parts.noise_schedules import Schedule, schedule_of

CellNoise = Literal["uniform", "truncated_normal", "gaussian", "variational"]
KEYS = ("times", "n_steps", "method", "probes", "schedule", "noise")
TIMES = {"velocity": (0.0, 1.0), "score": (1.0, 1e-5)}  # of the base distribution and of the data
N_STEPS, MOST_STEPS = 32, 100_000
MOST_EXACT = 1024  # sub-pixels up to which the divergence is exact by default
MOST_PROBES = 10_000


@dataclass(frozen=True)
class OdeSettings:
    """How a differential equation is solved, and which noise connects its density with images of integers.

    Attributes:
        times: time of the base distribution and time of the data.
        n_steps: number of steps between them, a multiple of 4.
        method: Runge-Kutta method.
        probes: number of random probes of the divergence for each sample; None: the divergence is exact.
        schedule: noise schedule; None: there is none, as for a velocity that reaches the data themselves.
        noise: noise in each cell. ``variational`` is a conditional flow that is fitted to training images.
    """

    times: tuple[float, float]
    n_steps: int
    method: equations.MethodName
    probes: int | None
    schedule: Schedule | None
    noise: CellNoise

    @property
    def words(self) -> str:
        """All settings in a few words without spaces, for signatures."""
        start, end = (f"{time:g}" for time in self.times)
        trace = "exact" if self.probes is None else f"{self.probes}-probes"
        schedule = "" if self.schedule is None else f",{self.schedule.words}"
        return f"{self.method},{self.n_steps}-steps,{start}-to-{end},{trace},{self.noise}-noise{schedule}"

    @property
    def kernel(self) -> tuple[float, float]:
        """Alpha and sigma at the time of the data; 1 and 0 without a schedule."""
        return (1.0, 0.0) if self.schedule is None else self.schedule.at(self.times[1])

    def grid(self) -> list[float]:
        """Return the times of all steps, from the data to the base distribution."""
        start, end = reversed(self.times)
        if self.schedule is not None and self.noise_is_left:
            return self.schedule.grid(start, end, self.n_steps)
        return [start + (end - start) * number / self.n_steps for number in range(self.n_steps + 1)]

    @property
    def noise_is_left(self) -> bool:
        """Whether both image and noise are left at both ends, so that steps can be equal in log(alpha / sigma)."""
        ends = [] if self.schedule is None else [self.schedule.at(time) for time in self.times]
        return all(alpha > 0 and sigma > 0 for alpha, sigma in ends)


def settings_of(given: object, method: str, n_dims: int) -> OdeSettings:
    """Return complete settings from a mapping with some of the keys of :class:`OdeSettings`.

    Args:
        given: the mapping; None: the defaults. An OdeSettings is returned as it is.
        method: ``velocity`` or ``score``.
        n_dims: number of sub-pixels D; by default, the divergence is exact up to 1,024 of them.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    if isinstance(given, OdeSettings):
        return given
    said = {} if given is None else given
    if not isinstance(said, Mapping) or not set(said) <= set(KEYS):
        raise InputError(f"ode = {shown(given)} is not allowed; it must be a mapping with some of {', '.join(KEYS)}.")
    schedule = None if said.get("schedule") is None else schedule_of(said["schedule"])
    if schedule is None and method == "score":
        raise InputError(
            "score needs ode = {'schedule': ...}, the noise schedule: vp, ve, ot, or two functions of time, (alpha, "
            "sigma)."
        )
    chosen = {
        "n_steps": N_STEPS,
        "method": "rk4",
        "noise": "gaussian" if method == "score" else "uniform",
        **{key: value for key, value in said.items() if value is not None},
    }
    n_steps, probes, noise = chosen["n_steps"], chosen.get("probes"), chosen["noise"]
    if type(n_steps) is not int or not 4 <= n_steps <= MOST_STEPS or n_steps % 4:
        raise InputError(
            f"n_steps = {shown(n_steps)} of ode is not allowed; it must be a multiple of 4 from 4 to {MOST_STEPS:,}."
        )
    if probes is not None and probes != "exact" and (type(probes) is not int or not 1 <= probes <= MOST_PROBES):
        raise InputError(
            f"probes = {shown(probes)} of ode is not allowed; it must be exact, or an integer from 1 to "
            f"{MOST_PROBES:,}."
        )
    if probes is None and n_dims > MOST_EXACT:
        probes = 1
    for key, allowed in (("method", tuple(equations.METHODS)), ("noise", get_args(CellNoise))):
        if chosen[key] not in allowed:
            raise InputError(f"{key} = {shown(chosen[key])} of ode is not allowed; it must be {' or '.join(allowed)}.")
    if noise in ("truncated_normal", "gaussian") and schedule is None:
        raise InputError(f"noise = {noise} of ode needs a schedule, which says how much noise the data have.")
    found = OdeSettings(
        _times(chosen.get("times", TIMES[method])),
        n_steps,
        chosen["method"],
        None if probes == "exact" else probes,
        schedule,
        noise,
    )
    alpha, sigma = found.kernel
    if alpha == 0 or (noise in ("truncated_normal", "gaussian") and sigma == 0):
        raise InputError(
            f"times = {shown(list(found.times))} of ode is not allowed with noise = {noise}: at the time of the data, "
            f"{found.times[1]:g}, the schedule has alpha = {alpha:g} and sigma = {sigma:g}."
        )
    return found


def _times(given: object) -> tuple[float, float]:
    values = list(given) if isinstance(given, list | tuple) else []
    is_number = [
        isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in values
    ]
    if len(values) != 2 or not all(is_number) or values[0] == values[1]:
        raise InputError(
            f"times = {shown(given)} of ode is not allowed; it must be two different numbers: the time of the base "
            f"distribution, and the time of the data."
        )
    return float(values[0]), float(values[1])


class ExternalOde(ExternalDensity):
    """A velocity, or a score with its noise schedule: see the module.

    Args:
        interval: interval (low, high), which is divided into L equal cells, one for each level.
        ode: settings, see :func:`settings_of`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        offer: Offer,
        convention: Convention,
        *,
        n_classes: int | None = None,
        interval: tuple[float, float] | None = None,
        ode: object = None,
    ) -> None:
        """Store the arguments, and check all that can be checked without the model."""
        super().__init__(image_shape, n_levels, offer, convention, n_classes=n_classes, interval=interval)
        self.settings = settings_of(ode, offer.method, self.n_dims)
        self.draws_bounds = self.settings.probes is not None
        self.fits_noise = self.settings.noise == "variational"
        self.alpha, sigma = self.settings.kernel
        scale = sigma / self.alpha * n_levels / (self.high - self.low)  # in units of a cell
        makers: dict[CellNoise, Dequantizer] = {"uniform": UniformDequantizer(), "variational": UniformDequantizer()}
        if self.settings.noise == "truncated_normal":
            makers["truncated_normal"] = TruncatedNormalDequantizer(scale)
        if self.settings.noise == "gaussian":
            makers["gaussian"] = GaussianDequantizer(scale, n_levels)
        self.dequantizer = makers[self.settings.noise]
        self.times = self.settings.grid()
        self._drifts: dict[float, tuple[float, float]] = {}
        self.solver_order = equations.METHODS[self.settings.method].order

    def name_of_noise(self, noise_from: NoiseFrom) -> NoiseName | None:
        """Return the name of the noise."""
        if noise_from != "own":
            return super().name_of_noise(noise_from)
        return "uniform" if self.settings.noise == "variational" else self.settings.noise

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        noise_from: NoiseFrom = "own",
        coarser: int = 1,
    ) -> Tensor:
        """Return log-weights, or draws of a bound, in nats, (K, B); on a CPU the k-th row does not depend on K.

        Args:
            x: images, see :meth:`ImageModel.log_weights`.
            n_samples: number of samples K.
            labels: class labels, (B,) int64, for models that are conditioned on labels.
            generator: random number generator for all draws.
            noise: uniform noise for the first rows.
            noise_from: ``own``, or a fitted dequantizer.
            coarser: factor by which the steps are longer: 1, 2 or 4.

        Raises:
            InputError: the model raised an error, returned something else than a velocity, or has no derivatives.
        """
        given = [] if noise is None else list(noise.reshape(-1, *x.shape))
        dequantizer = noise_from if isinstance(noise_from, Dequantizer) else self.dequantizer
        is_inside = not isinstance(dequantizer, GaussianDequantizer)
        values, signs, log_r = [], [], []
        for number in range(n_samples):  # one sample after the other, so that a row does not depend on K
            of_row = given[number] if number < len(given) else None
            u, of_noise = dequantizer(x, 1, generator=generator, noise=of_row)
            values.append(dequantize(x, u, self.n_levels) if is_inside else (x.double() + u) / self.n_levels)
            log_r.append(of_noise)
            signs.append(self._signs(x, generator))
        of_each = None if labels is None else labels.repeat(n_samples)
        with seeded(generator, self.device):
            log_p = self._followed(torch.cat(values).flatten(0, 1), torch.cat(signs, dim=1), of_each, coarser)
        return log_p.reshape(n_samples, len(x)) - self.n_dims * math.log(self.n_levels) - torch.cat(log_r)

    def _signs(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw random signs for the probes, (M, B, C, H, W) float64; M is 0 if the divergence is exact."""
        like = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        if self.settings.probes is None:
            return like.new_empty((0, *x.shape), dtype=torch.float64)
        return (draw_each(torch.rand, self.settings.probes, like, generator) < 0.5).double() * 2 - 1

    def log_density(self, y: Tensor) -> Tensor:
        """Return the log-density of (x + u) / L in nats, (B,); with probes it is a draw of its estimate."""
        return self._followed(y, self._signs(y, None), None, 1)

    def _followed(self, y: Tensor, signs: Tensor, labels: Tensor | None, coarser: int) -> Tensor:
        """Follow values (B, C, H, W) of (x + u) / L to the base distribution, and return their log-density (B,)."""
        scale = self.alpha * (self.high - self.low)
        values = self.alpha * self.low + scale * y
        has_graph = torch.is_grad_enabled()  # in training

        def velocity(t: float, at: Tensor) -> Tensor:
            return self._velocity(t, at, labels)

        if self.settings.probes is None:
            field = equations.exact(velocity, create_graph=has_graph)
        else:
            field = equations.probed(velocity, signs, create_graph=has_graph)
        try:
            base, integral = equations.solve(field, values, self.times[::coarser], self.settings.method)
        except equations.NoDerivativeError as error:
            raise InputError(
                f"{self.offer.method} returned a value without a derivative with respect to y, which the divergence "
                f"needs; it must not be computed under torch.no_grad() or inference_mode(), nor detached."
            ) from error
        return self._log_base(base, labels) + integral + self.n_dims * math.log(scale)

    def _velocity(self, t: float, y: Tensor, labels: Tensor | None) -> Tensor:
        """Return dy/dt, (B, C, H, W) float64, at the time t."""
        time = torch.full((len(y),), t, dtype=self.dtype, device=y.device)
        name = self.offer.method
        given = self.called(name, time, self.convention.arranged(y.to(self.dtype)), labels=labels)
        shape = (len(y), *self.convention.inner_shape(self.image_shape))
        if not isinstance(given, Tensor) or not given.is_floating_point() or tuple(given.shape) != shape:
            raise InputError(
                f"{name} must return floating-point numbers of the shape of y, {shape}, but returned "
                f"{described(given)}."
            )
        value = self.convention.back(given, self.image_shape).double()
        if name == "velocity" or self.settings.schedule is None:
            return value
        if t not in self._drifts:  # the same times come again for each batch
            self._drifts[t] = self.settings.schedule.drift_and_diffusion(t)
        f, g2 = self._drifts[t]
        return f * y - 0.5 * g2 * value

    def _log_base(self, y: Tensor, labels: Tensor | None) -> Tensor:
        """Return the log-density of the base distribution, (B,) float64.

        This is the distribution that the model's method ``base`` returns. Without this method it is a normal around 0;
        its standard deviation is 1, or sigma at the time of the base distribution for a score.
        """
        if "base" in self.offer.functions:
            base = self.called("base", labels=labels)
            try:
                found = base.log_prob(self.convention.arranged(y.to(self.dtype)))
            except (AttributeError, ValueError, RuntimeError, TypeError) as error:
                raise InputError(
                    f"base must return a distribution whose log_prob takes y of the model's layout; with "
                    f"{type(base).__name__} it raised {type(error).__name__}: {str(error).splitlines()[0]}."
                ) from error
            total = found.flatten(1).sum(1) if found.ndim > 1 else found
            return self.per_image(total, "log_prob of base", (len(y),)).double()
        schedule = self.settings.schedule if self.offer.method == "score" else None
        scale = 1.0 if schedule is None else schedule.at(self.settings.times[0])[1]
        of_each = -(y / scale).square() / 2 - HALF_LOG_2PI - math.log(scale)
        return of_each.flatten(1).sum(1)
