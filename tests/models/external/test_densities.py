"""The log-density of a flow: what is random, of another size or fails is refused, and the values are not changed."""

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.densities import FlowDensity, sizes
from bitsperdim.models.external.methods import module_of

NORMAL = td.Normal(0.0, 1.0)


class Flow(nn.Module):
    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise, self.n_calls = nn.Parameter(torch.tensor(noise)), 0

    def log_prob(self, y: Tensor) -> Tensor:
        self.n_calls += 1
        if y.shape[-1] == 3:
            raise ValueError("no threes\nare allowed")
        total = NORMAL.log_prob(y).flatten(1).sum(1)
        y += 1  # as some layers do
        return total + self.noise.detach() * torch.randn(len(y))


def test_it_is_the_function() -> None:
    flow, y = Flow().eval(), torch.rand(5, 2, 2)
    before = y.clone()
    density = FlowDensity(flow, flow.log_prob, n_values=4, n_dimensions=2)
    assert torch.equal(density.log_density(y), NORMAL.log_prob(before).flatten(1).sum(1))
    assert torch.equal(y, before)
    assert density.bitsperdim == {"offers": "log_density", "layout": "plane"}
    module = module_of(density)
    assert module is not None
    assert list(module.parameters()) == [flow.noise]
    density.log_density(y)
    assert flow.n_calls == 4  # the first call of all asks twice for two images


def test_what_is_refused() -> None:
    y = torch.rand(5, 4)
    flow = Flow()
    for words, shape in (
        ("The flow takes 5 values for each image, but the images have 4.", y),
        (r"log_prob of Flow raised ValueError for values of shape \(2, 3\): no threes. Does it need", torch.rand(5, 3)),
    ):
        density = FlowDensity(flow.eval(), flow.log_prob, n_values=5 if "takes" in words else None)
        with pytest.raises(InputError, match=words) as caught:
            density.log_density(shape)
        assert "\n" not in str(caught.value)
    random = Flow(noise=0.01)
    with pytest.raises(InputError, match="nats for the same values: it is estimated with random numbers"):
        FlowDensity(random.eval(), random.log_prob).log_density(y)
    FlowDensity(random.train(), random.log_prob).log_density(y)  # training may be random


def test_a_check_is_made_once_and_not_in_training() -> None:
    flow, calls = Flow(), []
    density = FlowDensity(flow, flow.log_prob, check=lambda: calls.append(1))
    for mode, n_calls in ((True, 0), (False, 1), (False, 1)):
        flow.train(mode)
        density.log_density(torch.rand(3, 4))
        assert len(calls) == n_calls


def test_infinite_values_are_equal() -> None:
    """A density that is zero at some values is not random."""
    density = FlowDensity(object(), lambda y: torch.where(y[:, 0] > 0, torch.inf, -torch.inf).neg())
    assert density.log_density(torch.tensor([[1.0], [-1.0]])).tolist() == [-torch.inf, torch.inf]


def test_sizes() -> None:
    assert sizes([(1, 8, 8)]) == (64, 3)
    assert sizes([(8, 2, 2), (2, 4, 4)]) == (64, 3)
    assert sizes([(64,), None]) == sizes([]) == (None, None)
