"""What the audit finds: the classic mistakes, made in models of somebody else, and false alarms on right ones.

Usage: ``PYTHONPATH=src python benchmarks/audits.py [N_SEEDS]``; a minute, and half a minute for each seed.

The models are those of ``tests/auditing/classic.py``, on some of the digits. A right model is audited with each seed;
what fails then is a false alarm.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from pathlib import Path

import torch

import bitsperdim

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "auditing"))
import classic

SECONDS = 1.0  # of a check


def audited(case: classic.Audited, seed: int = 0) -> tuple[bitsperdim.auditing.report.Audit, float]:
    """Return an audit and the seconds that it took; what it prints meanwhile is not shown."""
    options = {"n_samples": 64, "seconds": SECONDS, "subset": classic.N_IMAGES, "seed": seed, **case.options}
    images = classic.digits()
    if "train" in options:
        images, options["n_levels"] = classic.digits().images, classic.L
    started = time.monotonic()
    with contextlib.redirect_stderr(io.StringIO()):
        found = bitsperdim.audit(case.model, images, **options)
    return found, time.monotonic() - started


def main(n_seeds: int) -> None:
    """Print a row for each mistake, and the false alarms."""
    torch.set_num_threads(1)
    print(f"{'model':<42} {'bits/dim':>8} {'s':>5}  failed checks and the size of the error, bits/dim")
    for name, make in {**classic.RIGHT, **classic.MISTAKES, **classic.OPEN}.items():
        found, seconds = audited(make())
        sizes = {check.name: check.size_bpd for check in (*found.failed, *found.warnings)}
        words = ", ".join(name if size is None else f"{name} {size:.3g}" for name, size in sizes.items())
        print(f"{name:<42} {found.estimate.bits_per_dim:8.3f} {seconds:5.1f}  {words or 'none'}", flush=True)
    n_checks, alarms = 0, []
    for seed in range(1, n_seeds + 1):
        for name, make in classic.RIGHT.items():
            found, _ = audited(make(), seed)
            n_checks += sum(check.status in ("passed", "failed") for check in found.checks)
            alarms += [f"{name}, seed {seed}: {check.name}" for check in found.failed]
    n_audits = n_seeds * len(classic.RIGHT)
    print(f"{len(alarms)} false alarms in {n_checks} checks of {n_audits} audits of right models")
    print("\n".join(alarms))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
