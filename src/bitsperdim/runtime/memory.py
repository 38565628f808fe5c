"""How much memory a part of the work takes at its peak: it is told, and no result depends on it.

Invariants (``tests/runtime/test_memory.py``): what is allocated is measured, and what was freed before is not.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from bitsperdim.runtime.stage import peak_memory

STATUS = Path("/proc/self/status")  # of Linux; elsewhere an earlier peak may hide a later one
FORGET = Path("/proc/self/clear_refs")
PEAK = "5"  # makes Linux forget the peak of resident memory


class Growth:
    """Measures from its making on.

    Args:
        device: of the work: resident memory of this process for the CPU, tensors' memory for a GPU.
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
        """Return by how much memory grew at its peak, and that peak, in bytes."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else peak_memory()
        return max(0, peak - self.before), peak


def _resident() -> int:
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    found = next((line for line in lines if line.startswith("VmRSS:")), None)
    return peak_memory() if found is None else int(found.split()[1]) * 1024
