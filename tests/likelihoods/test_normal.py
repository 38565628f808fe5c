"""Draws of normals: on a CPU one call for each sample, on other devices one call for all."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitsperdim.core.randomness import stream
from bitsperdim.likelihoods import normal
from bitsperdim.likelihoods.normal import draw_each
from support import laws
from support.cases import small_model

pytestmark = pytest.mark.processor

LIKE = torch.empty(7, 2, 3, dtype=torch.float64)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw all samples in one call, as on a GPU."""
    monkeypatch.setattr(normal, "ONE_BY_ONE", ())


@pytest.mark.parametrize("how", [torch.rand, torch.randn])
def test_on_a_cpu_a_draw_does_not_depend_on_how_many_there_are(how: Callable[..., Tensor]) -> None:
    generator = stream("training", 1)
    parts = [draw_each(how, n, LIKE, generator) for n in (1, 3, 1)]
    assert torch.equal(torch.cat(parts), draw_each(how, 5, LIKE, stream("training", 1)))


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("how", [torch.rand, torch.randn])
def test_draws_in_one_call_are_shared_by_rows(how: Callable[..., Tensor]) -> None:
    """Two processes together draw the same numbers as one process, each number once."""
    whole = draw_each(how, 4, LIKE, stream("training", 1))
    assert whole.is_contiguous()
    assert whole.dtype == torch.float64
    expected = how((7, 4, 2, 3), generator=stream("training", 1), dtype=torch.float64)
    assert torch.equal(whole.movedim(1, 0), expected)
    shares = []
    for first, n_rows in ((0, 3), (3, 4)):
        generator = stream("training", 1)
        generator.share = (first, 7)
        shares.append(draw_each(how, 4, LIKE[:n_rows], generator))
    assert torch.equal(torch.cat(shares, dim=1), whole)


@pytest.mark.usefixtures("together")
@torch.no_grad()
def test_weights_of_draws_in_one_call_average_to_the_mass(generator: torch.Generator) -> None:
    """``laws.py`` states the false-alarm rate."""
    model = small_model("gaussian-grey")
    images = laws.all_images(model.image_shape, model.n_levels)
    laws.weights_average_to(model, images, laws.masses_of_cells(model), generator)
    laws.images_are_independent(small_model("vae-two-layers"), generator)
