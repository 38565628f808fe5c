"""Measure the audit: which mistakes of the study ``known`` it finds, and its false alarms on correct models.

Usage: ``PYTHONPATH=src python benchmarks/audits.py [N_SEEDS]``. It takes a minute, plus 15 seconds for each seed.

The models come from :mod:`bitsperdim.studies.known.mistakes` and are audited on some of the digits. Each correct model
is audited with each seed; a failed check is then a false alarm.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from bitsperdim.studies.known.mistakes.mistake import DoesNotApplyError, audited
from bitsperdim.studies.known.mistakes.right import RIGHT

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support import benches


def main(n_seeds: int) -> None:
    """Print a row for each mistake that can be audited, and the false alarms."""
    torch.set_num_threads(1)
    bench = benches.digits()
    print(f"{'model':<46} {'bits/dim':>8} {'s':>5}  failed checks and the size of the error, bits/dim")
    for name, mistake in benches.EVERY.items():
        try:
            with torch.no_grad():
                foreign = mistake.make(bench).foreign
        except DoesNotApplyError:
            continue
        if foreign is None:
            continue
        started = time.monotonic()
        found = audited(bench, foreign)
        sizes = {check.name: check.size_bpd for check in (*found.failed, *found.warnings)}
        words = ", ".join(key if size is None else f"{key} {size:.3g}" for key, size in sizes.items())
        seconds = time.monotonic() - started
        print(f"{name:<46} {found.estimate.bits_per_dim:8.3f} {seconds:5.1f}  {words or 'none'}", flush=True)
    n_checks = 0
    alarms = []
    for seed in range(1, n_seeds + 1):
        for name, make in RIGHT.items():
            found = audited(bench, make(bench), seed)
            n_checks += sum(check.status in ("passed", "failed") for check in found.checks)
            alarms += [f"{name}, seed {seed}: {check.name}" for check in found.failed]
    n_audits = n_seeds * len(RIGHT)
    print(f"{len(alarms)} false alarms in {n_checks} checks in {n_audits} audits of correct models")
    print("\n".join(alarms))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
