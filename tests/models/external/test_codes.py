"""Distributions of latent codes from an external model: of any shape, flattened here, and seeded."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.codes import ExternalCode, seeded

CPU = torch.device("cpu")


def normal(*shape: int, event: int = 0) -> td.Distribution:
    base = td.Normal(torch.arange(torch.Size(shape).numel()).reshape(shape).float(), 0.5)
    return td.Independent(base, event) if event else base


@pytest.mark.parametrize("is_prior", [False, True])
@pytest.mark.parametrize("inner", [(3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("is_independent", [False, True])
def test_codes_of_any_shape_are_flat(
    inner: tuple[int, ...], is_independent: bool, is_prior: bool, generator: torch.Generator
) -> None:
    leading = () if is_prior else (4,)
    given = normal(*leading, *inner, event=len(inner) if is_independent else 0)
    code = ExternalCode(given, "encode", leading, CPU)
    n = torch.Size(inner).numel()
    assert (code.event, code.size) == (inner, n)
    z = code.rsample(5, generator=generator)
    assert z.shape == (5, *leading, n)
    by_hand = td.Normal(torch.arange(torch.Size((*leading, n)).numel()).reshape(*leading, n).float(), 0.5)
    torch.testing.assert_close(code.log_prob(z), by_hand.log_prob(z).sum(-1))
    assert torch.equal(code.mean, by_hand.mean)
    assert torch.equal(code.mean_of_each(7), code.mean)


def test_a_prior_of_one_row_is_a_prior(generator: torch.Generator) -> None:
    row, flat = (ExternalCode(normal(*shape), "prior", (), CPU, (3,)) for shape in ((1, 3), (3,)))
    assert row.event == flat.event == (3,)
    z = row.expand(4).rsample(5, generator=generator)
    assert z.shape == (5, 4, 3)
    assert z.std(dim=(0, 1)).min() > 0.1  # each image has its own draws
    torch.testing.assert_close(row.log_prob(z), flat.log_prob(z))


def test_draws_are_seeded_and_leave_the_global_generator_alone() -> None:
    code = ExternalCode(normal(4, 3), "encode", (4,), CPU)
    before = torch.get_rng_state()
    first, second = (code.rsample(5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    ExternalCode(normal(4, 3), "encode", (4,), CPU)  # draws once, to find the shape
    assert torch.equal(first, second)
    assert not torch.equal(first, code.rsample(5, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_after_an_error_the_global_generator_is_as_it_was() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(torch.Generator().manual_seed(0), CPU):
        torch.rand(3).reshape(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_code_of_integers_and_one_without_rsample() -> None:
    class Dice:
        def sample(self, shape: tuple[int, ...]) -> Tensor:
            return torch.randint(6, (*shape, 4))

        def log_prob(self, z: Tensor) -> Tensor:
            return torch.full(z.shape, 1 / 6).log()

    for given in (Dice(), td.Categorical(logits=torch.zeros(4, 6))):
        code = ExternalCode(given, "encode", (4,), CPU)
        z = code.rsample(9, generator=torch.Generator().manual_seed(0))
        assert z.shape == (9, 4, 1)
        torch.testing.assert_close(code.log_prob(z), torch.full((9, 4), 1 / 6).log())


class Code:
    """A distribution whose draws and log-densities a test chooses."""

    def __init__(self, draw: Any = None, log_prob: Any = None) -> None:
        self.sample = draw or (lambda shape: torch.zeros(*shape, 4, 2))
        self.log_prob = log_prob or (lambda z: z.sum(-1))


def drawn_and_scored(given: object) -> Tensor:
    code = ExternalCode(given, "encode", (4,), CPU)
    return code.log_prob(code.rsample(1))


def fail(*_: object) -> None:
    raise TypeError("no. Never.")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(4, 2), "encode returned Tensor; it must return a distribution of the latent code, with sample"),
        ((torch.zeros(4, 2), torch.zeros(4, 2)), "encode returned tuple; it must return a distribution"),
        (td.Normal(torch.zeros(2), 1.0), "a distribution of shape (2,); for 4 images it must begin with 4."),
        (
            Code(fail),
            "Code that encode returned cannot draw samples of the leading shape (1,), as the distributions of torch",
        ),
        (Code(lambda shape: torch.zeros(3, 4, 2)), "begins with the requested (1,), but are (3, 4, 2)."),
        (Code(lambda shape: 0.5), "begins with the requested (1,), but are float."),
        (Code(log_prob=fail), "encode returned, raised TypeError for codes of shape (1, 4, 2): no. Never."),
        (
            Code(log_prob=lambda z: z.sum()),
            "must begin with the shape (1, 4) for codes of shape (1, 4, 2), but gave ().",
        ),
        (
            Code(log_prob=lambda z: 1.0),
            "must begin with the shape (1, 4) for codes of shape (1, 4, 2), but gave float.",
        ),
    ],
)
def test_what_is_no_code_is_refused(given: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        drawn_and_scored(given)
    assert words in str(caught.value)


def test_gradients_go_through_draws() -> None:
    mean = torch.zeros(4, 2, requires_grad=True)
    ExternalCode(td.Normal(mean, 1.0), "encode", (4,), CPU).rsample(3).sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [[3.0, 3.0]] * 4


def test_it_cannot_be_detached() -> None:
    with pytest.raises(InputError, match="doubly_reparameterized = true is not allowed with an external model"):
        ExternalCode(normal(4, 3), "encode", (4,), CPU).detach()
