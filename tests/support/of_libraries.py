"""Models of other libraries: the log-weights that this package gives, and images and noise to compare them on."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.libraries import adapted
from bitsperdim.models.external.methods import declared, offers_of
from bitsperdim.models.external.wrapping import External, wrap
from bitsperdim.models.parts.dequantization import HALF_A_STEP

SHAPE, N_LEVELS = (1, 4, 4), 17
N_DIMS = math.prod(SHAPE)
DTYPES = (torch.float32, torch.float64)


def wrapped(
    model: object,
    library: str,
    interval: tuple[float, float] | None = (0.0, 1.0),
    shape: tuple[int, int, int] = SHAPE,
    n_levels: int = N_LEVELS,
    **given: Any,
) -> External:
    """Wrap a model of a library in the same way as ``evaluate`` does."""
    offering = adapted(model, library)
    known = declared(offering, **given)
    convention = Convention(known.get("inputs", "integers"), known.get("layout", "channels_first"))
    return wrap(offers_of(offering)[0], shape, n_levels, convention=convention, interval=interval)


def images_and_noise(n: int = 20, n_levels: int = N_LEVELS) -> tuple[Tensor, Tensor]:
    """Return images (n, *SHAPE) and noise in (0, 1) of the same shape, float64, that the models do not round."""
    drawn = torch.Generator().manual_seed(1)
    x = torch.randint(n_levels, (n, *SHAPE), generator=drawn, dtype=torch.uint8)
    return x, torch.rand(x.shape, generator=drawn).double()


def is_the_log_density_of(
    model: External, log_density: Any, dtype: torch.dtype, low: float = 0.0, high: float = 1.0
) -> None:
    """Check log w = log p(low + (high - low) (x + u) / L) + D log((high - low) / L) for a function of (B, *SHAPE).

    The values are rounded in the same way, so that only sums are rounded differently: a few units in the last place of
    the log-density and of one number for each sub-pixel.
    """
    x, u = images_and_noise()
    values = (low + (high - low) * ((x + (u + HALF_A_STEP)) / N_LEVELS)).to(dtype)
    with torch.no_grad():
        found = model.log_weights(x, 1, noise=u)[0].double()
        truth = log_density(values).double() + N_DIMS * math.log((high - low) / N_LEVELS)
    assert found.std() > 0.1
    allowed = 8 * torch.finfo(dtype).eps * (truth.abs() + N_DIMS * math.log(N_LEVELS))
    assert bool(((found - truth).abs() <= allowed).all()), (found - truth).abs().max()


def perturbed(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """Give the weights of a model some noise, because libraries begin with an identity."""
    drawn = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight += scale * torch.randn(weight.shape, generator=drawn, dtype=weight.dtype)
    return model.eval()


def installed(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
    """Put modules in the place of installed ones for one test."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)


def global_seed() -> Iterator[None]:
    """Seed the global generator, from which libraries draw their weights, within a fixture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
