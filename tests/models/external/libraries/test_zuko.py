"""Flows and distributions of zuko: its own log-density, and what is refused."""

import math
from typing import Any

import pytest
import torch
import zuko
from torch import distributions as td

import bitsperdim
from bitsperdim.core.errors import InputError
from bitsperdim.models.external.libraries import adapted
from support.of_libraries import DTYPES, N_DIMS, SHAPE, global_seed, is_the_log_density_of, perturbed, wrapped

seeded = pytest.fixture(autouse=True)(global_seed)


def flows() -> dict[str, Any]:
    small = {"transforms": 2, "hidden_features": [16]}
    return {
        "MAF": zuko.flows.MAF(N_DIMS, **small),
        "NSF": zuko.flows.NSF(N_DIMS, **small),
        "NICE": zuko.flows.NICE(N_DIMS, **small),
        "CNF": zuko.flows.CNF(N_DIMS, hidden_features=[8], atol=1e-3, rtol=1e-3),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["MAF", "NSF", "NICE"])
def test_it_is_the_number_of_zuko(name: str, dtype: torch.dtype) -> None:
    flow = perturbed(flows()[name].to(dtype))
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        model = wrapped(flow, "zuko", (low, high))
        is_the_log_density_of(model, lambda y: flow().log_prob(y.flatten(1)), dtype, low, high)
    assert model.n_parameters == sum(weight.numel() for weight in flow.parameters())


def test_a_continuous_flow_is_taken_if_its_trace_is_exact() -> None:
    """The steps of its solver depend on the batch, therefore the whole batch is given at once, as zuko does."""
    flow = perturbed(flows()["CNF"])
    is_the_log_density_of(wrapped(flow, "zuko"), lambda y: flow().log_prob(y.flatten(1)), torch.float32)
    estimated = zuko.flows.CNF(N_DIMS, hidden_features=[8], atol=1e-3, rtol=1e-3, exact=False).eval()
    with pytest.raises(InputError, match=r"log_prob of CNF gives .* it is estimated with random numbers"):
        wrapped(estimated, "zuko").log_weights(torch.zeros(2, *SHAPE, dtype=torch.uint8))


def test_a_distribution_and_any_shape_of_events_are_taken() -> None:
    flow = perturbed(zuko.flows.MAF(N_DIMS, transforms=1, hidden_features=[16]))
    is_the_log_density_of(wrapped(flow(), "zuko"), lambda y: flow().log_prob(y.flatten(1)), torch.float32)
    for shape, layout in (((4, 4), "plane"), (SHAPE, "channels_first"), ((N_DIMS,), "flat")):
        image = zuko.distributions.NormalizingFlow(
            td.AffineTransform(torch.linspace(-1, 1, N_DIMS).reshape(shape), 2.0, event_dim=len(shape)),
            td.Independent(td.Normal(torch.zeros(shape), 1.0), len(shape)),
        )
        model = wrapped(image, "zuko")
        assert model.convention.layout == layout
        is_the_log_density_of(model, lambda y, d=image, s=shape: d.log_prob(y.reshape(-1, *s)), torch.float32)
    assert wrapped(image, "zuko", layout="flat").convention.layout == "flat"


def test_what_is_refused() -> None:
    for model, words in (
        (torch.nn.Linear(2, 2), "cannot be torch.nn.modules.linear.Linear; it must be a flow or mixture of zuko"),
        (zuko.flows.MAF, "cannot be the class zuko.flows.autoregressive.MAF itself; it must be"),
        (zuko.flows.GMM(N_DIMS, context=3), "zuko.mixtures.GMM, which cannot be called without a context"),
        (td.Bernoulli(torch.full((4,), 0.5)), "the distribution Bernoulli of discrete values"),
        (td.Independent(td.Poisson(torch.ones(4)), 1), "the distribution Independent of discrete values"),
        (td.Normal(torch.zeros(4, 4), 1.0), r"Normal of batch shape \(4, 4\).*Independent\(\.\.\., 2\)"),
        (3, "cannot be int; it must be"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            adapted(model, "zuko")
        assert "\n" not in str(caught.value)
    x = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    for flow, words in (
        (zuko.flows.MAF(N_DIMS, context=2), "log_prob of MAF raised .* context, which is not allowed"),
        (zuko.flows.MAF(N_DIMS + 1), "The flow takes 17 values for each image, but the images have 16"),
    ):
        with pytest.raises(InputError, match=words):
            wrapped(flow.eval(), "zuko").log_weights(x)


def test_the_sum_over_tiny_images_verifies_it() -> None:
    """``build`` returns flows of zuko too, here in training mode."""
    images = torch.randint(2, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0)).numpy()

    def build(image_shape: tuple[int, int, int], n_levels: int) -> Any:
        return zuko.flows.NSF(math.prod(image_shape), transforms=1, hidden_features=[4], bins=4)

    flow = build((1, 8, 8), 2).eval()
    more: dict[str, Any] = {"n_levels": 2, "range": (-4, 4), "n_samples": 64, "n_asked": 4000}
    found = bitsperdim.audit(flow, images, library="zuko", build=build, **more)
    said = {check.name: check for check in found.checks}["sum over tiny images"]
    assert said.status == "passed"
    assert "a model that build made" in said.words
    assert found.estimate.verified_by == ("sum over tiny images",)
