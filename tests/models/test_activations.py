"""The fused functions of the PixelCNN++, compared with torch's own."""

import pytest
import torch
from torch.nn import functional as F

from bitsperdim.models.parts.activations import add_gated, concatenated_elu, dropped_out

pytestmark = pytest.mark.processor

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 2e-7), (torch.bfloat16, 4e-3)]
)
def test_they_are_the_formulas(
    layout: torch.memory_format, dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    """Values agree, relative to 1 for values near zero; large, tiny and zero values are included."""
    x = 3 * torch.randn(3, 5, 4, 6, generator=generator, dtype=torch.float64)
    x[0, 0, 0] = torch.tensor([0.0, 1e-9, -1e-9, 90.0, -90.0, -1e-3])
    gated = torch.randn(3, 10, 4, 6, generator=generator, dtype=torch.float64)
    x, gated = (each.to(dtype).contiguous(memory_format=layout) for each in (x, gated))
    exact = F.elu(torch.cat([x, -x], 1).double())
    found = concatenated_elu(x)
    assert found.dtype == dtype
    assert ((found.double() - exact).abs() <= tolerance * exact.abs().clamp(min=1)).all()
    small = exact.abs() < 0.1
    assert ((found.double() - exact).abs()[small] <= 2 * tolerance * exact.abs()[small] + 1e-7).all()
    change, gate = gated.double().chunk(2, 1)
    expected = x.double() + change * torch.sigmoid(gate)
    torch.testing.assert_close(add_gated(x, gated).double(), expected, rtol=4 * tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives(layout: torch.memory_format, generator: torch.Generator) -> None:
    """Derivatives agree with differences, also for a map that is part of a larger one."""
    x = torch.randn(2, 3, 2, 3, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    gated = torch.randn(2, 6, 2, 3, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    gated.requires_grad_()
    assert torch.autograd.gradcheck(concatenated_elu, (x,))
    assert torch.autograd.gradcheck(lambda x: concatenated_elu(x[:, 1:, :, 1:]), (x,))
    assert torch.autograd.gradcheck(add_gated, (x, gated))


def test_the_mean_stays_in_half_precision(generator: torch.Generator) -> None:
    """The mean of kept values in bfloat16 stays to 1e-4: each is rounded by itself, not all by the same scale."""
    x = (1 + torch.rand(10, 24, 20, 50, generator=generator)).bfloat16().contiguous(memory_format=torch.channels_last)
    dropped = dropped_out(x, 0.1, generator)
    kept = dropped != 0
    ratio = dropped[kept].double().mean() / x[kept].double().mean()
    assert ratio.item() == pytest.approx(256 / (256 - round(25.6)), rel=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_share_is_dropped(share: float) -> None:
    """The share among 240,000 values is beyond 4.9 standard errors once in a million seeds. The mean is kept."""
    x = torch.ones(10, 24, 20, 50).contiguous(memory_format=torch.channels_last)
    dropped = dropped_out(x, share, torch.Generator().manual_seed(0))
    rounded = round(share * 256) / 256
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - rounded)])
    share_found = (dropped == 0).double().mean().item()
    assert abs(share_found - rounded) < 4.9 * (rounded * (1 - rounded) / x.numel()) ** 0.5
    again = dropped_out(x.contiguous(), share, torch.Generator().manual_seed(0))
    assert torch.equal(dropped, again)  # for any layout
    # neighbours in memory share a word of random bits, but they are as independent as others
    flat = (dropped == 0).permute(0, 2, 3, 1).flatten().double()
    for distance in (1, 2, 8):
        products = (flat[distance:] - rounded) * (flat[:-distance] - rounded)
        assert abs(products.mean().item()) < 4.9 * rounded * (1 - rounded) / len(products) ** 0.5
