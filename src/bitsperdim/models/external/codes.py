"""What a model returns of its latent code: distributions of torch, or objects that sample and have a log-density.

Codes of any shape are flat here, (..., Z); the model gets them back in its own shape.

Invariants (``tests/models/external/test_codes.py``): samples and log-densities are those of the distribution, whatever
the shape of the code (``test_codes_of_any_shape_are_flat``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError


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
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would keep a traceback for devices not in use
        if device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        yield


class ExternalCode:
    """A distribution of latent codes that a model gave, as :class:`~bitsperdim.likelihoods.DiagonalNormal` is one.

    Args:
        given: of shape (*leading, *event), with ``sample`` or ``rsample``, and ``log_prob``.
        name: of the method that gave it, for messages.
        leading: (B,) of images, () of a prior.
        device: where it draws.

    Raises:
        InputError: it cannot draw, has no log-density, or is of another number of images.
    """

    def __init__(self, given: Any, name: str, leading: Sequence[int], device: torch.device) -> None:  # noqa: ANN401
        """Take the distribution, and look at the shape of what it draws."""
        self.given, self.name, self.leading, self.device = given, name, tuple(leading), device
        self.draws = getattr(given, "rsample" if getattr(given, "has_rsample", True) else "sample", None)
        self.draws = self.draws or getattr(given, "sample", None)
        if not callable(self.draws) or not callable(getattr(given, "log_prob", None)):
            raise InputError(
                f"{name} returned {type(given).__name__}; it must return a distribution of the latent code, with "
                f"sample (or rsample) and log_prob, as those of torch.distributions have."
            )
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            shape = tuple(self.draws((1,)).shape[1:])
        if not self.leading and shape[:1] == (1,) and len(shape) > 1:
            shape = shape[1:]  # a prior of one row
            self.is_row = True
        else:
            self.is_row = False
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
            drawn = self.draws((n_samples, *self.copies))  # type: ignore[misc]  # looked at above
        return drawn.reshape(n_samples, *self.copies, *self.leading, self.size)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of codes (..., Z), (...) in nats."""
        outer = z.shape[:-1]
        shaped = z.reshape(*outer, *((1,) if self.is_row else ()), *self.event)
        found = self.given.log_prob(shaped)
        if found.shape[: len(outer)] != outer:
            raise InputError(
                f"log_prob of what {self.name} returned must begin with the shape {tuple(outer)} for codes of shape "
                f"{tuple(shaped.shape)}, but gave {tuple(found.shape)}."
            )
        total: Tensor = found.flatten(len(outer)).sum(-1) if found.ndim > len(outer) else found
        return total

    @property
    def mean(self) -> Tensor:
        """The mean, (*leading, Z)."""
        mean: Tensor = self.given.mean
        return mean.reshape(*self.leading, self.size)

    def mean_of_each(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean: no draws are needed."""
        return self.mean
