"""The peak memory that is reported to users."""

import os
import subprocess
import sys
from pathlib import Path

# runs in a separate process: memory that earlier tests freed could be reused, and would not count as growth
PROGRAM = """
import torch
from bitsperdim.runtime.memory import Growth

torch.ones(64_000_000)  # 256 MB, freed before
growth = Growth(torch.device("cpu"))
values = torch.ones(16_000_000)  # 64 MB
del values
print(*growth.measured())
"""


def test_what_is_allocated_is_measured(repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    grown, whole = map(int, done.stdout.split())
    assert 55e6 < grown < 110e6
    assert whole > grown
