"""Flows of nflows: its own log-density, for vectors and images, and what is refused."""

from typing import Any

import pytest
import torch
from torch import nn

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.libraries import adapted
from support.of_libraries import DTYPES, N_DIMS, SHAPE, global_seed, is_the_log_density_of, perturbed, wrapped

pytest.importorskip("nflows", reason="nflows is not installed")
from nflows import distributions, transforms
from nflows.flows import Flow, MaskedAutoregressiveFlow, SimpleRealNVP
from nflows.nn.nets import ConvResidualNet

pytestmark = pytest.mark.filterwarnings("ignore")  # the library uses functions that torch has deprecated
seeded = pytest.fixture(autouse=True)(global_seed)


def net(n_inputs: int, n_outputs: int) -> nn.Module:
    return ConvResidualNet(in_channels=n_inputs, out_channels=n_outputs, hidden_channels=4, num_blocks=1)


def of_images() -> Any:
    """A flow of two scales for values from 0 to 17: its first transform divides them by 17."""
    whole = transforms.MultiscaleCompositeTransform(2)
    first = [
        transforms.PointwiseAffineTransform(scale=1 / 17),
        transforms.Logit(),
        transforms.SqueezeTransform(),
        transforms.ActNorm(4),
        transforms.OneByOneConvolution(4),
        transforms.AffineCouplingTransform(torch.tensor([1, 1, 0, 0]), net),
    ]
    whole.add_transform(transforms.CompositeTransform(first), (4, 2, 2))
    whole.add_transform(transforms.AdditiveCouplingTransform(torch.tensor([1, 0]), net), (2, 2, 2))
    return Flow(whole, distributions.StandardNormal([N_DIMS]))


def of_vectors(**more: Any) -> Any:
    transform = transforms.MaskedAffineAutoregressiveTransform(N_DIMS, 16, **more)
    return Flow(transform, distributions.StandardNormal([N_DIMS]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_number_of_nflows(dtype: torch.dtype) -> None:
    for flow in (MaskedAutoregressiveFlow(N_DIMS, 16, 2, 1), SimpleRealNVP(N_DIMS, 16, 2, 1), of_vectors()):
        flow = perturbed(flow.to(dtype))
        model = wrapped(flow, "nflows", (-1.0, 1.0))
        assert model.convention.layout == "flat"
        is_the_log_density_of(model, lambda y, flow=flow: flow.log_prob(y.flatten(1)), dtype, -1.0, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_and_a_preprocessing_transform(dtype: torch.dtype) -> None:
    """The range is that of the values before the flow's own preprocessing."""
    flow = perturbed(of_images().to(dtype))
    model = wrapped(flow, "nflows", (0.0, 17.0))
    assert model.convention.layout == "channels_first"
    is_the_log_density_of(model, flow.log_prob, dtype, 0.0, 17.0)


def test_what_is_refused() -> None:
    transform = transforms.IdentityTransform()
    normal = distributions.StandardNormal([N_DIMS])
    for model, words in (
        (transform, "cannot be nflows.transforms.standard.IdentityTransform; it must be a flow without a context"),
        (of_vectors(context_features=3), "nflows.flows.base.Flow, which is conditioned on a context"),
        (Flow(transform, normal, nn.Linear(2, 2)), "which is conditioned on a context"),
    ):
        with pytest.raises(InputError, match=words):
            adapted(model, "nflows")
    x = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    for flow, words in (
        (Flow(transform, distributions.ConditionalDiagonalNormal([N_DIMS])), "Context can't be None. Does it need"),
        (MaskedAutoregressiveFlow(9, 4, 1, 1), "The flow takes 9 values for each image, but the images have 16"),
    ):
        with pytest.raises(InputError, match=words):
            wrapped(flow.eval(), "nflows").log_weights(x)


def test_a_context_that_is_left_out_changes_the_number_in_silence() -> None:
    """This is why such a flow is refused: nflows itself raises no error."""
    flow = perturbed(of_vectors(context_features=3))
    y = torch.rand(4, N_DIMS)
    assert bool((flow.log_prob(y) - flow.log_prob(y, torch.ones(4, 3))).abs().min() > 1e-3)
