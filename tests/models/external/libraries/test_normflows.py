"""Flows of normflows: its own log-density and its own bits per dimension, classes, and what is refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.core.units import bits_per_dim
from bitsperdim.models.external.libraries import adapted
from bitsperdim.models.parts.dequantization import HALF_A_STEP
from support.of_libraries import (
    DTYPES,
    N_DIMS,
    SHAPE,
    global_seed,
    images_and_noise,
    is_the_log_density_of,
    perturbed,
    wrapped,
)

nf = pytest.importorskip("normflows", reason="normflows is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library uses functions that torch has deprecated
seeded = pytest.fixture(autouse=True)(global_seed)


def of_vectors() -> Any:
    flows = [nf.flows.MaskedAffineAutoregressive(N_DIMS, 16), nf.flows.LULinearPermute(N_DIMS)]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(N_DIMS), flows)


def glow(n_classes: int | None = None, transform: Any = None) -> Any:
    """A Glow of two scales, as in the library's example."""

    def base(shape: tuple[int, int, int]) -> Any:
        return nf.distributions.GlowBase(shape, n_classes) if n_classes else nf.distributions.DiagGaussian(shape)

    flows = [[nf.flows.GlowBlock(4 * n, 8, scale=True), nf.flows.Squeeze()] for n in (2, 1)]
    return nf.MultiscaleFlow(
        [base((8, 1, 1)), base((2, 2, 2))], flows, [nf.flows.Merge()], transform, class_cond=n_classes is not None
    )


def initialized(flow: Any, dtype: torch.dtype) -> Any:
    """Show the flow its first images, from which ActNorm takes its weights, and change all weights a little."""
    y = images_and_noise()[0].to(dtype) / 17 + 0.01
    with torch.no_grad():
        flow = flow.to(dtype)
        flow.log_prob(y, torch.zeros(len(y), dtype=torch.long))
    return perturbed(flow, 0.02)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_number_of_normflows(dtype: torch.dtype) -> None:
    flow = perturbed(of_vectors().to(dtype))
    model = wrapped(flow, "normflows", (-1.0, 1.0))
    assert model.convention.layout == "flat"
    is_the_log_density_of(model, lambda y: flow.log_prob(y.flatten(1)), dtype, -1.0, 1.0)
    for transform in (None, nf.transforms.Logit(0.05), nf.transforms.Shift(-0.5)):
        flow = initialized(glow(transform=transform), dtype)
        model = wrapped(flow, "normflows")
        assert model.convention.layout == "channels_first"
        is_the_log_density_of(model, lambda y, flow=flow: flow.log_prob(y.clone(), None), dtype)


class ToLogit(nn.Module):
    """The map of ``normflows.utils.Logit``, which the library's ``bitsPerDim`` takes into account, as a last layer."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        z = nf.utils.Logit(self.alpha)(y)
        log_sigmoids = torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)
        return z, (math.log(1 - self.alpha) - log_sigmoids).flatten(1).sum(1)


def test_it_is_the_number_of_bits_per_dim() -> None:
    """``bitsPerDim`` of normflows, which is for 256 levels and logits only, in float64."""
    alpha = 0.05
    flow = perturbed(of_vectors().double())
    x, u = images_and_noise(n_levels=256)
    theirs = nf.utils.bitsPerDim(
        flow, nf.utils.Logit(alpha)((x + (u + HALF_A_STEP)) / 256).flatten(1), trans_param=[alpha]
    )
    whole = nf.NormalizingFlow(flow.q0, [*flow.flows, ToLogit(alpha)]).eval()
    log_w = wrapped(whole, "normflows", n_levels=256).log_weights(x, 1, noise=u)[0]
    torch.testing.assert_close(bits_per_dim(log_w.detach(), SHAPE), theirs.detach(), rtol=1e-12, atol=1e-12)


def test_classes_have_equal_weights() -> None:
    """The density is a mixture of normals without flows, and the mean over classes with flows."""
    base = nf.distributions.ClassCondDiagGaussian(N_DIMS, 3)
    base.loc.data, base.log_scale.data = torch.randn(N_DIMS, 3), 0.3 * torch.randn(N_DIMS, 3)
    parts = td.Independent(td.Normal(base.loc.detach().T, base.log_scale.detach().T.exp()), 1)
    mixture = td.MixtureSameFamily(td.Categorical(torch.ones(3)), parts)
    model = wrapped(nf.ClassCondFlow(base, []).eval(), "normflows")
    is_the_log_density_of(model, lambda y: mixture.log_prob(y.flatten(1)), torch.float32)
    flow = initialized(glow(n_classes=3), torch.float64)

    def mean(y: Tensor) -> Tensor:
        given = [flow.log_prob(y, torch.full((len(y),), k)) for k in range(3)]
        return torch.stack(given).exp().mean(0).log()

    is_the_log_density_of(wrapped(flow, "normflows"), mean, torch.float64)


def test_what_is_refused() -> None:
    normal = nf.distributions.DiagGaussian(N_DIMS)
    for model, words in (
        (nn.Linear(2, 2), "must be normflows.NormalizingFlow, ClassCondFlow or MultiscaleFlow"),
        (nf.ConditionalNormalizingFlow(normal, []), "ConditionalNormalizingFlow, which needs a context"),
        (nf.ClassCondFlow(normal, []), "does not state its number of classes"),
    ):
        with pytest.raises(InputError, match=words):
            adapted(model, "normflows")
    x = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    residual = nf.flows.Residual(nf.nets.LipschitzMLP([N_DIMS, 16, N_DIMS], lipschitz_const=0.9))
    fresh = glow()
    for flow, words in (
        (fresh, "2 ActNorm layers of the flow have no weights yet"),
        (perturbed(nf.NormalizingFlow(normal, [residual]), 1.0), "it is estimated with random numbers"),
        (nf.NormalizingFlow(normal, [nf.flows.BatchNorm()]), "no algebraic inverse. Does it need"),
    ):
        with pytest.raises(InputError, match=words):
            wrapped(flow.eval(), "normflows").log_weights(x)
    assert not any(bool(part.data_dep_init_done) for part in fresh.modules() if hasattr(part, "data_dep_init_done"))
