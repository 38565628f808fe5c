"""The histogram, compared with counts by hand."""

import pytest
import torch

from bitsperdim.models import base
from bitsperdim.models.histogram import Histogram

pytestmark = pytest.mark.processor


def test_it_counts() -> None:
    """Three images of two pixels; pixel 0 is 0, 0, 2 and pixel 1 is 1, 1, 1; pseudocount 1/2, three levels."""
    images = torch.tensor([[0, 1], [0, 1], [2, 1]], dtype=torch.uint8).reshape(3, 1, 1, 2)
    model = Histogram((1, 1, 2), 3, pseudocount=0.5).double()
    model.initialise(images)
    total = 3 + 1.5
    expected = [[2.5 / total, 0.5 / total, 1.5 / total], [0.5 / total, 3.5 / total, 0.5 / total]]
    assert model.log_masses.exp()[0, 0].tolist() == [pytest.approx(row) for row in expected]
    log_p = model.log_weights(torch.tensor([[2, 1]], dtype=torch.uint8).reshape(1, 1, 1, 2))
    assert log_p.exp().item() == pytest.approx(1.5 / total * 3.5 / total)


def test_counts_are_those_of_the_levels(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    images = torch.randint(5, (37, 2, 3, 2), generator=generator).to(torch.uint8)
    expected = torch.stack([(images == level).sum(0) for level in range(5)], dim=-1)
    assert torch.equal(base.level_counts(images, 5), expected)
    monkeypatch.setattr(base, "COUNTED_AT_ONCE", 50)  # four images at a time
    assert torch.equal(base.level_counts(images, 5), expected)


def test_samples_follow_the_counts(generator: torch.Generator) -> None:
    """20,000 images of two sub-pixels, five levels: a share is beyond 4.9 standard errors once in 100,000 seeds."""
    images = torch.randint(5, (40, 1, 1, 2), generator=generator).to(torch.uint8)
    model = Histogram((1, 1, 2), 5, pseudocount=1.0).eval()
    model.initialise(images)
    drawn = model.sample(20_000, generator=generator)
    assert drawn.shape == (20_000, 1, 1, 2)
    masses = model.log_masses.exp().double()
    shares = base.level_counts(drawn, 5).double() / 20_000
    assert ((shares - masses).abs() < 4.9 * (masses * (1 - masses) / 20_000).sqrt()).all()
