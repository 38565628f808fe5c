"""The peak memory of a part of the work; it is only reported, and no result depends on it.

Invariants (``tests/runtime/test_memory.py``): memory that is allocated during the measurement counts, memory that was
freed before does not.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from bitsperdim.runtime.stage import peak_memory

STATUS = Path("/proc/self/status")  # only on Linux; on other systems an earlier peak may hide a later one
FORGET = Path("/proc/self/clear_refs")
PEAK = "5"  # resets the peak of resident memory on Linux


class Growth:
    """Measures the growth of memory, from its construction on.

    Args:
        device: device of the work; for the CPU the resident memory of this process counts, for a GPU that of tensors.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin to measure."""
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        with contextlib.suppress(OSError):
            FORGET.write_text(PEAK)
        self.before = _resident()

    def measured(self) -> tuple[int, int]:
        """Return the growth of memory up to its peak, and the peak itself, in bytes."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else peak_memory()
        return max(0, peak - self.before), peak


def _resident() -> int:
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    found = next((line for line in lines if line.startswith("VmRSS:")), None)
    return peak_memory() if found is None else int(found.split()[1]) * 1024
