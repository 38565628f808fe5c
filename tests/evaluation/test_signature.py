"""The signature of a number changes with everything that changes the number, and with nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitsperdim
from bitsperdim.evaluation.result import Estimate
from bitsperdim.evaluation.signature import weights_sha256
from support.foreign import Masked, Offering, Slopes, Vae, some_images

IMAGES = some_images((1, 2, 2), 3)


def fields(estimate: Estimate) -> dict[str, str]:
    return dict(field.split(":", 1) for field in estimate.signature.split("|"))


def scored(model: object, images: Any = IMAGES, **options: Any) -> Estimate:
    return bitsperdim.evaluate(model, images, **{"n_levels": 3, "n_samples": 4, **options})


SAMPLED: list[tuple[str, dict[str, Any]]] = [
    ("data", {"images": some_images((1, 2, 2), 3, seed=1)}),
    ("data", {"subset": 5}),
    ("weights", {"model": Vae(seed=1)}),
    ("seed", {"seed": 1}),
    ("K", {"n_samples": 5}),
    ("batch", {"batch_size": 5}),
    ("chunk", {"chunk_size": 3}),
    ("proposal", {"proposal": "encoder"}),
    ("inputs", {"model": Vae(inputs="unit"), "inputs": "unit"}),
    ("method", {"model": Vae().weights, "offers": "log_weights"}),
]


@pytest.mark.parametrize(("field", "changes"), SAMPLED)
def test_what_changes_the_number_changes_the_signature(field: str, changes: dict[str, Any]) -> None:
    one, other = scored(Vae()), scored(**{"model": Vae(), **changes})
    assert fields(one)[field] != fields(other)[field]
    assert one.signature == scored(Vae()).signature
    if field not in ("inputs", "method"):  # the same model, called in another way
        assert one.bits_per_dim != other.bits_per_dim


def test_what_changes_nothing_leaves_the_signature() -> None:
    net = Masked()
    exact = [scored(net.mass, offers="log_prob", **options) for options in ({}, {"batch_size": 5}, {"n_samples": 9})]
    exact += [scored(net.mass, offers="log_prob", **options) for options in ({"seed": 3}, {"chunk_size": 1})]
    assert len({estimate.signature for estimate in exact}) == 1
    assert len({estimate.bits_per_dim for estimate in exact}) == 1
    sampled = [scored(Vae(), **options) for options in ({}, {"batch_size": 500}, {"chunk_size": 7}, {"name": "mine"})]
    assert len({estimate.signature.replace("|batch:500", "|batch:120") for estimate in sampled}) == 1
    assert len({estimate.bits_per_dim for estimate in sampled}) == 1


def test_the_type_of_the_weights_is_in_it() -> None:
    net = Masked().double()
    assert fields(scored(net.mass, offers="log_prob"))["dtype"] == "float64"


def test_the_range_of_a_density_is_in_it_to_the_last_digit() -> None:
    ends = (1.0, 1.00000001)
    ranges = {fields(scored(Slopes((0.0, end)), range=(0, end)))["range"] for end in ends}
    assert ranges == {"0.0,1.0", "0.0,1.00000001"}


def test_all_is_in_it_that_a_paper_needs() -> None:
    found = fields(scored(Vae(), inputs="integers"))
    assert list(found) == [
        *(
            "data",
            "test",
            "kind",
            "verified",
            "method",
            "inputs",
            "seed",
            "batch",
            "chunk",
            "proposal",
            "dtype",
            "device",
            "weights",
        ),
        *("K", "torch", "python", "bitsperdim"),
    ]
    assert found["kind"] == "upper-bound"
    assert found["verified"] == "no"
    assert found["bitsperdim"] == bitsperdim.__version__
    assert fields(scored(Offering(Masked(), logits=Masked().last)))["verified"] == "logits+causality"
    assert scored(Vae()).verified("masses", "sums").signature.split("|")[3] == "verified:masses+sums"


def test_weights_that_are_not_known_are_called_so() -> None:
    net = Masked()
    assert fields(scored(lambda x: net.mass(x), offers="log_prob"))["weights"] == "unknown"
    assert fields(scored(net.mass, offers="log_prob"))["weights"] == str(weights_sha256(net))[:12]
    assert fields(scored(Offering(log_prob=net.mass)))["weights"] == "none"


def test_weights_are_named_by_their_values() -> None:
    class Holder(nn.Module):
        def __init__(self, *values: Tensor) -> None:
            super().__init__()
            for number, value in enumerate(values):
                self.register_buffer(f"b{number}", value)

    values = [
        torch.arange(6.0).reshape(2, 3),
        torch.tensor(True),
        torch.tensor([]),
        torch.ones(2, dtype=torch.bfloat16),
    ]
    first = weights_sha256(Holder(*values))
    assert first == weights_sha256(Holder(*(value.clone() for value in values)))
    assert first == weights_sha256(Holder(values[0].T.contiguous().T, *values[1:]))
    others = [values[0].reshape(3, 2), values[0].double(), values[0] + 1e-6, torch.zeros(2, 3)]
    assert len({first, *(weights_sha256(Holder(other, *values[1:])) for other in others)}) == 5
    assert weights_sha256(None) is weights_sha256(nn.Identity()) is None
