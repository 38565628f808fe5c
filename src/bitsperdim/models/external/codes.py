"""What a model returns of its latent code: distributions of torch, or objects that sample and have a log-density.

Codes of any shape are flat here, (..., Z); the model gets them back in its own shape.

Invariants (``tests/models/external/test_codes.py``): samples and log-densities are those of the distribution, whatever
the shape of the code (``test_codes_of_any_shape_are_flat``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from bitsperdim.core.errors import InputError
from bitsperdim.likelihoods import DiagonalNormal
from bitsperdim.models.external.distributions import first_line

DRAWS = 256  # of a mean that is not known
SMALLEST_SCALE = 1e-6  # a normal has none of zero


@contextmanager
def seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Let what draws from torch's global generator draw from this one; afterwards the global one is as it was.

    Args:
        generator: None leaves the global one in place.
        device: of the model, whose global generator is set too.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # torch.manual_seed would seed all GPUs, and keeps a list of its calls
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class ExternalCode:
    """A distribution of latent codes that a model gave, as :class:`~bitsperdim.likelihoods.DiagonalNormal` is one.

    Args:
        given: of shape (*leading, *event), with ``sample`` or ``rsample``, and ``log_prob``.
        name: of the method that gave it, for messages.
        leading: (B,) of images, () of a prior.
        device: where it draws.
        event: of a prior, the shape of a code; None: what it draws says so.

    Raises:
        InputError: it cannot draw, has no log-density, or is of another number of images or shape of codes.
    """

    def __init__(
        self,
        given: Any,  # noqa: ANN401 - whatever somebody's model returns
        name: str,
        leading: Sequence[int],
        device: torch.device,
        event: Sequence[int] | None = None,
    ) -> None:
        """Take the distribution, and look at the shape of what it draws."""
        self.given, self.name, self.leading, self.device = given, name, tuple(leading), device
        self.draws = getattr(given, "rsample" if getattr(given, "has_rsample", True) else "sample", None)
        self.draws = self.draws or getattr(given, "sample", None)
        if not callable(self.draws) or not callable(getattr(given, "log_prob", None)):
            raise InputError(
                f"{name} returned {type(given).__name__}; it must return a distribution of the latent code, with "
                f"sample (or rsample) and log_prob, as those of torch.distributions have."
            )
        with torch.no_grad(), seeded(torch.Generator().manual_seed(0), device):
            shape = tuple(self._drawn((1,)).shape[1:])
        self.is_row = event is not None and shape == (1, *event)  # of a prior
        shape = shape[1:] if self.is_row else shape
        if event is not None and shape != tuple(event):
            raise InputError(
                f"encode returned a distribution of codes of shape {tuple(event)} for each image, but {name} one of "
                f"codes of shape {shape}; they must be the same."
            )
        if shape[: len(self.leading)] != self.leading:
            raise InputError(
                f"{name} returned a distribution of shape {shape}; for {self.leading[0]} images it must begin with "
                f"{self.leading[0]}."
            )
        self.event = shape[len(self.leading) :]
        self.copies: tuple[int, ...] = ()  # of a prior: see expand

    @property
    def size(self) -> int:
        """Z."""
        return math.prod(self.event)

    @property
    def is_anywhere(self) -> bool:
        """Whether a code may have any real values, as far as the distribution says."""
        try:
            support = self.given.support
        except (AttributeError, NotImplementedError):  # it does not say, as torch's base class does not
            return True
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        return isinstance(support, type(constraints.real))

    def expand(self, n: int) -> ExternalCode:
        """Return n of a prior, of shape (n, Z)."""
        wide = object.__new__(ExternalCode)
        wide.__dict__ |= self.__dict__ | {"copies": (n,)}
        return wide

    def detach(self) -> ExternalCode:
        """Return the same; derivatives in its parameters cannot be taken out of somebody else's distribution."""
        raise InputError("doubly_reparameterized = true is not allowed with an external model; it must be false.")

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, ..., Z)."""
        with seeded(generator, self.device):
            drawn = self._drawn((n_samples, *self.copies))
        return drawn.reshape(n_samples, *self.copies, *self.leading, self.size)

    def _drawn(self, shape: tuple[int, ...]) -> Tensor:
        try:
            drawn = self.draws(shape)  # type: ignore[misc]  # looked at when it was taken
        except Exception as error:
            raise InputError(
                f"What {self.name} returned, {type(self.given).__name__}, cannot draw: it is asked for samples of the "
                f"leading shape {shape}, as those of torch.distributions are, and raised {type(error).__name__}: "
                f"{first_line(error)}."
            ) from error
        if not isinstance(drawn, Tensor) or drawn.shape[: len(shape)] != shape:
            found = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
            raise InputError(
                f"Samples of what {self.name} returned, {type(self.given).__name__}, must be a tensor whose shape "
                f"begins with the {shape} that is asked for, but are {found}."
            )
        return drawn

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of codes (..., Z), (...) in nats."""
        outer = z.shape[:-1]
        shaped = z.reshape(*outer, *((1,) if self.is_row else ()), *self.event)
        try:
            found = self.given.log_prob(shaped)
        except Exception as error:
            raise InputError(
                f"log_prob of {type(self.given).__name__}, which {self.name} returned, raised {type(error).__name__} "
                f"for codes of shape {tuple(shaped.shape)}: {first_line(error)}."
            ) from error
        if not isinstance(found, Tensor) or found.shape[: len(outer)] != outer:
            gave = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"log_prob of what {self.name} returned must begin with the shape {tuple(outer)} for codes of shape "
                f"{tuple(shaped.shape)}, but gave {gave}."
            )
        total: Tensor = found.flatten(len(outer)).sum(-1) if found.ndim > len(outer) else found
        return total

    @property
    def mean(self) -> Tensor:
        """The mean, (*leading, Z); where the distribution has none, that of some draws, always the same."""
        try:
            mean: Tensor = self.given.mean
        except (AttributeError, NotImplementedError):  # it does not say, as torch's base class does not
            mean = self.rsample(DRAWS, generator=torch.Generator(self.device).manual_seed(0)).mean(0)
        return mean.reshape(*self.leading, self.size)

    def as_normal(self) -> DiagonalNormal:
        """Return the normal of the same means and standard deviations, without derivatives.

        Where the distribution has none, or none that are finite, they are those of some draws, always the same.
        """
        drawn = self.rsample(DRAWS, generator=torch.Generator(self.device).manual_seed(0)).detach()
        moments = {"mean": drawn.mean(0), "stddev": drawn.std(0)}
        for name in moments:
            with suppress(AttributeError, NotImplementedError):  # it does not say, as torch's base class does not
                said = getattr(self.given, name).detach().reshape(*self.leading, self.size)
                moments[name] = said if bool(said.isfinite().all()) else moments[name]
        return DiagonalNormal(moments["mean"], moments["stddev"].clamp_min(SMALLEST_SCALE).log())

    def mean_of_each(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean."""
        return self.mean
