"""Distributions of latent codes that an external model returns: torch distributions, or objects like them.

An object needs a method to sample and a log-density. Codes of any shape are flattened here to (..., Z); the model gets
them back in its own shape.

Invariants (``tests/models/external/test_codes.py``): samples and log-densities equal those of the distribution, for
every shape of the code (``test_codes_of_any_shape_are_flat``).
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

DRAWS = 256  # number of draws that estimate unknown moments
SMALLEST_SCALE = 1e-6  # smallest scale of a normal, which cannot be zero


@contextmanager
def seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators from ``generator`` within the context, and restore them afterwards.

    Args:
        generator: random number generator that gives the seed; None: the global generators are used unchanged.
        device: device of the model, whose global generator is seeded too.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # torch.manual_seed is not used: it would seed all GPUs, and it keeps a list of its calls
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class ExternalCode:
    """A distribution of latent codes from a model, with the methods of :class:`~bitsperdim.likelihoods.DiagonalNormal`.

    Args:
        given: distribution of shape (*leading, *event), with ``sample`` or ``rsample``, and ``log_prob``.
        name: name of the method that returned it, for messages.
        leading: leading shape: (B,) for B images, () for a prior.
        device: device on which it draws.
        event: expected shape of a code, for a prior; None: the shape of a draw decides.

    Raises:
        InputError: it cannot draw, has no log-density, or has the wrong number of images or the wrong shape of codes.
    """

    def __init__(
        self,
        given: Any,  # noqa: ANN401 - whatever somebody's model returns
        name: str,
        leading: Sequence[int],
        device: torch.device,
        event: Sequence[int] | None = None,
    ) -> None:
        """Store the distribution, and check the shape of a draw."""
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
        self.is_row = event is not None and shape == (1, *event)  # a prior with a batch dimension of 1
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
        self.copies: tuple[int, ...] = ()  # number of copies of a prior: see expand

    @property
    def size(self) -> int:
        """The number of dimensions of a code, Z."""
        return math.prod(self.event)

    @property
    def is_anywhere(self) -> bool:
        """Whether the support is all real values; a distribution that does not state its support counts as such."""
        try:
            support = self.given.support
        except (AttributeError, NotImplementedError):  # no support is stated, as in torch's base class
            return True
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        return isinstance(support, type(constraints.real))

    def expand(self, n: int) -> ExternalCode:
        """Return n independent copies of a prior, shape (n, Z)."""
        wide = object.__new__(ExternalCode)
        wide.__dict__ |= self.__dict__ | {"copies": (n,)}
        return wide

    def detach(self) -> ExternalCode:
        """Raise InputError: the parameters of an external distribution cannot be excluded from derivatives."""
        raise InputError("doubly_reparameterized = true is not allowed with an external model; it must be false.")

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes (K, ..., Z)."""
        with seeded(generator, self.device):
            drawn = self._drawn((n_samples, *self.copies))
        return drawn.reshape(n_samples, *self.copies, *self.leading, self.size)

    def _drawn(self, shape: tuple[int, ...]) -> Tensor:
        try:
            drawn = self.draws(shape)  # type: ignore[misc]  # __init__ checked that it is callable
        except Exception as error:
            raise InputError(
                f"The {type(self.given).__name__} that {self.name} returned cannot draw samples of the leading shape "
                f"{shape}, as the distributions of torch.distributions can; it raised {type(error).__name__}: "
                f"{first_line(error)}."
            ) from error
        if not isinstance(drawn, Tensor) or drawn.shape[: len(shape)] != shape:
            found = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
            raise InputError(
                f"Samples from the {type(self.given).__name__} that {self.name} returned must be a tensor whose shape "
                f"begins with the requested {shape}, but are {found}."
            )
        return drawn

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density in nats, (...), of codes (..., Z)."""
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
                f"log_prob of the distribution that {self.name} returned must begin with the shape {tuple(outer)} for "
                f"codes of shape {tuple(shaped.shape)}, but gave {gave}."
            )
        total: Tensor = found.flatten(len(outer)).sum(-1) if found.ndim > len(outer) else found
        return total

    @property
    def mean(self) -> Tensor:
        """The mean, (*leading, Z); if the distribution states no mean, the mean of some draws, always the same."""
        try:
            mean: Tensor = self.given.mean
        except (AttributeError, NotImplementedError):  # no mean is stated, as in torch's base class
            mean = self.rsample(DRAWS, generator=torch.Generator(self.device).manual_seed(0)).mean(0)
        return mean.reshape(*self.leading, self.size)

    def as_normal(self) -> DiagonalNormal:
        """Return the normal with the same means and standard deviations, without derivatives.

        If the distribution does not state finite moments, they are those of some draws, always the same.
        """
        drawn = self.rsample(DRAWS, generator=torch.Generator(self.device).manual_seed(0)).detach()
        moments = {"mean": drawn.mean(0), "stddev": drawn.std(0)}
        for name in moments:
            with suppress(AttributeError, NotImplementedError):  # the moment is not stated, as in torch's base class
                said = getattr(self.given, name).detach().reshape(*self.leading, self.size)
                moments[name] = said if bool(said.isfinite().all()) else moments[name]
        return DiagonalNormal(moments["mean"], moments["stddev"].clamp_min(SMALLEST_SCALE).log())

    def mean_of_each(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean."""
        return self.mean
