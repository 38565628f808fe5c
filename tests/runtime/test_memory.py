"""Memory at its peak, as it is told to users."""

import torch

from bitsperdim.runtime.memory import Growth


def test_what_is_allocated_is_measured() -> None:
    torch.ones(64_000_000)  # 256 MB, freed before
    growth = Growth(torch.device("cpu"))
    values = torch.ones(16_000_000)  # 64 MB
    del values
    grown, whole = growth.measured()
    assert 55e6 < grown < 110e6
    assert whole > grown
