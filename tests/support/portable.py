"""Run the tests that depend on the processor as other processors would: ``make portable``, in ten minutes at most.

Torch, MKL and oneDNN choose their kernels by what the processor has, and take orders by environment variables. One of
these is changed at a time; what this processor lacks cannot be asked of it. Then come one and four threads, and sums
that round by the shapes of their operands (``other_processor.py``), which finds what holds on this processor by luck.

Which tests: those that are marked ``processor``. Two processes instead of one (``test_distributed.py``) take too long
here; ``make test`` compares them on each machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from support import other_processor

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "ATen without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    "ATen with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "ATen with AVX-512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "MKL with SSE4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "MKL with AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "oneDNN with AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "4 threads": {"OMP_NUM_THREADS": "4"},
    "sums round by shapes": {other_processor.VARIABLE: "shapes"},
}


def marked() -> list[str]:
    """Return the files that have such tests; to collect the others would take seconds in each setting."""
    mark = re.compile(r"^(?:@|pytestmark = )pytest\.mark\.processor$", re.MULTILINE)
    return sorted(str(path) for path in Path("tests").rglob("test_*.py") if mark.search(path.read_text("utf-8")))


def outcome(variables: dict[str, str], arguments: list[str]) -> tuple[str, str]:
    """Run the tests under some environment variables; return their counts, and the rest of what pytest says."""
    command = [sys.executable, "-m", "pytest", "-m", "processor", "-n", "2", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", (done.stdout.splitlines() or [""])[-1])
    said = done.stdout + done.stderr
    return (", ".join(counts) or f"pytest ended with status {done.returncode}"), "" if done.returncode == 0 else said


def main() -> None:
    """Run all settings, print a line for each, and end with status 1 if a test failed."""
    os.chdir(Path(__file__).parents[2])
    failed = False
    for name, variables in SETTINGS.items():
        started = time.monotonic()
        counts, said = outcome(variables, sys.argv[1:] or marked())
        words = " ".join(f"{key}={value}" for key, value in variables.items())
        print(f"{name:22} {words:32} {counts} ({time.monotonic() - started:.0f} s)", flush=True)
        if said:
            failed = True
            print(said, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
