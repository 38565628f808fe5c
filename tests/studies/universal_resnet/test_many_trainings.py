"""Training treats each network of a stack as if it were alone, also if other training runs share the process."""

import copy
import os

import pytest
import torch

from bitsperdim.studies.universal_resnet import OneNeuronResNet
from bitsperdim.studies.universal_resnet.jobs import Architecture, side_by_side, streams, torch_generator
from bitsperdim.studies.universal_resnet.training import cross_entropy, fit, rate, squared_error
from support.other_processor import VARIABLE

pytestmark = pytest.mark.processor


def points(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    x = 2 * torch.rand(60, 2, generator=generator) - 1
    return x, (x.norm(dim=-1) < 0.6).float()


def test_a_stack_is_trained_as_its_networks_are_alone(generator: torch.Generator) -> None:
    x, labels = points(generator)
    nets = OneNeuronResNet(2, 3, n_nets=2, generator=generator).double()
    start = copy.deepcopy(nets.state_dict())
    fit(nets, x.double(), labels.double().expand(2, -1), cross_entropy, 25, 0.05)
    for index in range(2):
        one = OneNeuronResNet(2, 3, n_nets=1).double()
        one.load_state_dict({name: value[index : index + 1] for name, value in start.items()})
        fit(one, x.double(), labels.double()[None], cross_entropy, 25, 0.05)
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value[0], nets.state_dict()[name][index], rtol=1e-6, atol=1e-9)
            assert not torch.equal(value[0], start[name][index]), f"{name} was not trained"


def test_training_lowers_the_loss(generator: torch.Generator) -> None:
    x, labels = points(generator)
    for loss in (cross_entropy, squared_error):
        nets = OneNeuronResNet(2, 6, n_nets=4, generator=generator)
        targets = labels.expand(4, -1)
        before = loss(nets(x), targets)
        fit(nets, x, targets, loss, 100, 0.05)
        assert (loss(nets(x), targets) < before).all()


@pytest.mark.parametrize("n_steps", [1, 2, 7, 200])
def test_the_rate_rises_and_falls_to_zero(n_steps: int) -> None:
    rates = [rate(step, n_steps, 0.1) for step in range(n_steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    assert rates[-1] < 0.06 or n_steps < 3


def test_what_is_not_finite_is_refused(generator: torch.Generator) -> None:
    x, labels = points(generator)
    nets = OneNeuronResNet(2, 2, n_nets=2, generator=generator)
    with torch.no_grad():
        nets.columns[1] = torch.inf
    with pytest.raises(FloatingPointError, match="step 1"):
        fit(nets, x, labels.expand(2, -1), cross_entropy, 5, 0.1)


@pytest.mark.skipif(os.environ.get(VARIABLE) == "shapes", reason="the stand-in is that of one thread")
def test_threads_change_nothing() -> None:
    x, labels = points(torch.Generator().manual_seed(3))

    def one(index: int) -> torch.Tensor:
        nets = Architecture("resnet", 1, 4).build(2, 2, torch_generator(streams(7, index)))
        fit(nets, x, labels.expand(2, -1), cross_entropy, 20, 0.1)
        return nets(x)

    alone = [one(index) for index in range(4)]
    for n_threads in (1, 3):
        assert all(torch.equal(a, b) for a, b in zip(alone, side_by_side(one, range(4), n_threads), strict=True))
    assert not torch.equal(alone[0], alone[1])
