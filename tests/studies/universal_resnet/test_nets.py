"""The networks agree with their formulas, one by one and in a stack."""

import pytest
import torch

from bitsperdim.studies.universal_resnet import DenseNet, OneNeuronResNet


def test_the_formula(generator: torch.Generator) -> None:
    net = OneNeuronResNet(3, 2, generator=generator).double()
    x = torch.randn(50, 3, generator=generator).double()
    state = x
    for k in range(2):
        neuron = torch.clamp(state @ net.rows[0, k] + net.biases[0, k], min=0)
        state = state + neuron[:, None] * net.columns[0, k]
    torch.testing.assert_close(net.stream(x), state)
    torch.testing.assert_close(net(x), state @ net.read_out[0] + net.offset[0])
    dense = DenseNet(3, 4, 2, generator=generator).double()
    hidden = torch.relu(x @ dense.weights[0][0] + dense.biases[0][0])
    hidden = torch.relu(hidden @ dense.weights[1][0] + dense.biases[1][0])
    torch.testing.assert_close(dense(x), (hidden @ dense.read_out[0] + dense.offset[0])[:, 0])
    assert dense.n_parameters == (3 * 4 + 4) + (4 * 4 + 4) + 4 + 1
    assert net.n_parameters == 2 * (2 * 3 + 1) + 3 + 1


def test_a_block_has_one_neuron(generator: torch.Generator) -> None:
    """A block adds a column times one number: the term has rank one and is zero on one side of a plane."""
    net = OneNeuronResNet(3, 5, generator=generator).double()
    x = torch.randn(400, 3, generator=generator).double()
    for k in range(5):
        before, after = net.stream(x, k), net.stream(x, k + 1)
        added = after - before
        assert torch.linalg.matrix_rank(added, rtol=1e-10) == 1
        is_off = (before @ net.rows[0, k] + net.biases[0, k]) <= 0
        assert 0 < is_off.sum() < len(x)
        assert (added[is_off] == 0).all()
        assert (added[~is_off] != 0).any(-1).all()


@pytest.mark.parametrize("kind", ["resnet", "dense"])
def test_networks_do_not_see_each_other(kind: str, generator: torch.Generator) -> None:
    def make(n_nets: int | None) -> OneNeuronResNet | DenseNet:
        return OneNeuronResNet(2, 4, n_nets=n_nets) if kind == "resnet" else DenseNet(2, 3, 4, n_nets=n_nets)

    nets = make(3)
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.normal_(generator=generator)
    x = torch.randn(3, 7, 2, generator=generator)
    together = nets(x)
    for index in range(3):
        one = make(None)
        one.load_state_dict({name: value[index : index + 1] for name, value in nets.state_dict().items()})
        torch.testing.assert_close(one(x[index]), together[index])
    torch.testing.assert_close(nets(x[0])[0], together[0])  # the same points for all


def test_without_a_generator_all_is_zero_and_with_one_it_is_reproducible() -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    for kind in (OneNeuronResNet(2, 3), DenseNet(2, 3, 3)):
        assert (kind(x) == 0).all()
    first, second = (OneNeuronResNet(2, 9, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    identity = OneNeuronResNet(2, 0)
    assert torch.equal(identity.stream(x), x)


@pytest.mark.parametrize("sizes", [(0, 1), (1, -1)])
def test_sizes_that_are_no_sizes_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        OneNeuronResNet(*sizes)
    with pytest.raises(ValueError, match="must be at least 1"):
        DenseNet(2, 0, 1)
    with pytest.raises(ValueError, match="must be at least 1"):
        OneNeuronResNet(2, 1, n_nets=0)
