"""Bijections: the inverse inverts, ladj equals that of autograd, and each part has its own property."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from bitsperdim.models.parts.bijections import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Logit,
    Squeeze,
    checkerboard,
    half_of_the_channels,
)

pytestmark = pytest.mark.processor

SHAPE = (2, 4, 2)


def built(name: str) -> tuple[Bijection, Tensor, Tensor | None]:
    """Return a bijection in float64 with changed weights, three images for it, and a context."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_filters": 16, "n_blocks": 1}
        parts: dict[str, Bijection] = {
            "logit": Logit(0.0),
            "logit-margin": Logit(0.05),
            "actnorm": ActNorm((2, 1, 1)),
            "actnorm-each": ActNorm(SHAPE),
            "squeeze": Squeeze(),
            "coupling": AffineCoupling(checkerboard(4, 2, odd=True), 2, **sizes),
            "coupling-channels": AffineCoupling(half_of_the_channels(2, second=False), 2, **sizes),
            "coupling-context": AffineCoupling(checkerboard(4, 2, odd=False), 2, n_context=1, **sizes),
        }
        part = parts[name].double()
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    context = torch.randn(3, 1, 4, 2, generator=generator, dtype=torch.float64) if name == "coupling-context" else None
    return part, torch.sigmoid(y) if "logit" in name else y, context


NAMES = (
    "logit",
    "logit-margin",
    "actnorm",
    "actnorm-each",
    "squeeze",
    "coupling",
    "coupling-channels",
    "coupling-context",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_inverse_inverts(name: str) -> None:
    part, y, context = built(name)
    z, _ = part(y, context)
    torch.testing.assert_close(part.inverse(z, context), y, rtol=0, atol=1e-12)
    if name != "squeeze":
        assert (z - y).abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_ladj_is_the_jacobian(name: str) -> None:
    part, y, context = built(name)
    _, ladj = part(y, context)
    assert ladj.shape == (3,)
    for image in range(3):

        def moved(flat: Tensor, image: int = image) -> Tensor:
            given = None if context is None else context[image : image + 1]
            return part(flat.reshape(1, *SHAPE), given)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(moved, y[image].flatten())
        torch.testing.assert_close(ladj[image], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["coupling", "coupling-channels", "coupling-context"])
def test_a_coupling_moves_half_given_the_other(name: str) -> None:
    """Two-sided: masked values do not change, and every other value depends on them."""
    part, y, context = built(name)
    assert isinstance(part, AffineCoupling)
    seen = part.mask.expand(SHAPE).bool()
    assert seen.sum() == seen.numel() // 2
    z, _ = part(y, context)
    assert torch.equal(z[:, seen], y[:, seen])
    assert ((z - y)[:, ~seen].abs() > 0).all()

    def moved(flat: Tensor) -> Tensor:
        return part(flat.reshape(1, *SHAPE), None if context is None else context[:1])[0].flatten()

    jacobian = torch.autograd.functional.jacobian(moved, y[0].flatten())
    flat = seen.flatten()
    off_diagonal = jacobian[~flat][:, ~flat] - torch.diag(jacobian[~flat][:, ~flat].diagonal())
    assert not off_diagonal.any()
    assert (jacobian[~flat][:, flat] != 0).any(1).all()


def test_a_coupling_starts_as_the_identity(generator: torch.Generator) -> None:
    part = AffineCoupling(checkerboard(4, 2, odd=False), 2, n_filters=4, n_blocks=2)
    y = torch.randn(3, *SHAPE, generator=generator)
    z, ladj = part(y)
    assert torch.equal(z, y)
    assert not ladj.any()
    z.square().sum().backward()
    assert part.network.last.weight.grad is not None
    assert part.network.last.weight.grad.abs().max() > 0


def test_activation_normalisation_gives_mean_0_and_spread_1(generator: torch.Generator) -> None:
    y = 3 + 2 * torch.randn(500, *SHAPE, generator=generator, dtype=torch.float64)
    y[:, 1] *= 100
    for shape, over in (((2, 1, 1), (0, 2, 3)), (SHAPE, (0,))):
        part = ActNorm(shape).double()
        part.initialise(y)
        z, _ = part(y)
        torch.testing.assert_close(z.mean(over), torch.zeros_like(z.mean(over)), rtol=0, atol=1e-12)
        spread = z.std(over, correction=0)
        torch.testing.assert_close(spread, torch.ones_like(spread), rtol=0, atol=1e-12)
    alone = ActNorm(SHAPE).double()
    alone.initialise(y[:1])  # one image has no spread: the scale does not change, and there is no warning
    assert not alone(y[:1])[0].any()
    assert not alone.log_scale.any()
    constant = ActNorm((2, 1, 1)).double()
    constant.initialise(torch.full((4, *SHAPE), 0.3, dtype=torch.float64))
    assert constant(torch.full((4, *SHAPE), 0.3, dtype=torch.float64))[0].abs().max() < 1e-15  # rounding of the mean


def test_the_logit_is_that_of_torch_and_finite_next_to_the_ends() -> None:
    y = torch.tensor([2.0**-60, 1e-9, 0.3, 1 - 2**-53], dtype=torch.float64)[:, None]
    z, ladj = Logit(0.0)(y)
    torch.testing.assert_close(z, torch.logit(y), rtol=1e-12, atol=0)
    assert ladj.isfinite().all()
    ends = Logit(0.05)(torch.tensor([[0.0], [1.0]]))[0]
    assert ends.flatten().tolist() == pytest.approx([-math.log(19), math.log(19)])
    for margin in (-0.01, 0.5):
        with pytest.raises(ValueError, match=f"at least 0 and below 0.5, not {margin}"):
            Logit(margin)


def test_a_squeeze_keeps_blocks_together() -> None:
    y = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4).float()
    z, _ = Squeeze()(y)
    assert z.shape == (1, 8, 2, 2)
    for row, column in itertools.product(range(2), repeat=2):
        block = y[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]  # (C, 2, 2)
        assert set(z[0, :, row, column].tolist()) == set(block.flatten().tolist())
        diagonal = {float(block[channel, i, i]) for channel in range(2) for i in range(2)}
        assert set(z[0, :4, row, column].tolist()) == diagonal


def test_masks() -> None:
    assert checkerboard(2, 3, odd=False).tolist() == [[[1, 0, 1], [0, 1, 0]]]
    assert torch.equal(checkerboard(2, 3, odd=True), 1 - checkerboard(2, 3, odd=False))
    assert half_of_the_channels(4, second=False).flatten().tolist() == [1, 1, 0, 0]
    assert half_of_the_channels(4, second=True).flatten().tolist() == [0, 0, 1, 1]
