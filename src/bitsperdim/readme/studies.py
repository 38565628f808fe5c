"""The README's generated sections about studies and a comparison, as Markdown from committed files.

The numbers of ``project_delay`` and of the constructed networks are those of the committed run. The numbers of the
trained networks come from training with the full budget, in ``docs/universal_resnet.json``, which also has the essay's.

Invariants (``tests/readme/test_readme.py``): every number is that of the files, each in its row
(``test_the_delay_says_what_its_files_say``, ``test_the_networks_are_those_of_their_files``); the comparison is what the
command prints (``test_the_comparison_is_what_the_command_prints``).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from bitsperdim.comparing import commands
from bitsperdim.results.formatting import plain
from bitsperdim.results.project_delay import SUPERSCRIPTS, DelayMetrics, ProposalMetrics
from bitsperdim.results.reading import read_rows, read_stored
from bitsperdim.results.templates import markdown
from bitsperdim.results.universal_resnet import ERRORS, NETS, PREDICATES, ResnetMetrics

COMPARED = ("mnist-8bit-dequantization:flow_uniform", "mnist-8bit-dequantization:flow_iw")
ROLES = {"mistake": ": a mistake", "yardstick": " (a yardstick: it needs the answer)", "method": ""}
FULL_BUDGET = Path("docs") / "universal_resnet.json"


def comparison(root: Path) -> str:
    """Return a comparison as the command prints it, and the error that would follow from the two errors alone."""
    found = json.loads(commands.compare(root, *COMPARED, None, "json"))["models"][0]
    return markdown(
        "readme",
        "compare",
        compared=COMPARED,
        output=commands.compare(root, *COMPARED, None, "text"),
        error_alone=math.hypot(found["a"]["bpd_standard_error"], found["b"]["bpd_standard_error"]),
        error_paired=found["standard_error_bpd"],
    )


def delay(root: Path) -> str:
    """Return the table of each proposal's variance reduction in the study ``project_delay``, measured and exact."""
    study = read_stored(root / "results" / "project_delay" / "metrics.json", DelayMetrics)
    mantissa, exponent = f"{study.exact.probability:.4e}".split("e")
    methods = [item for item in study.proposals.values() if item.role == "method"]
    return markdown(
        "readme",
        "delay",
        study=study,
        mantissa=mantissa,
        exponent=str(int(exponent)).translate(SUPERSCRIPTS),
        proposals=sorted(study.proposals.values(), key=_order),
        looks=max(methods, key=lambda item: item.variance_reduction),
        best=max(methods, key=lambda item: item.variance_reduction_exact),
        ratio=_ratio,
        ROLES=ROLES,
    )


def _order(item: ProposalMetrics) -> tuple[bool, bool, float]:
    """Return the sort key: methods first, then the mistake, then the yardstick, each by increasing reduction."""
    return item.role == "yardstick", item.role == "mistake", item.variance_reduction


def _ratio(value: float) -> str:
    return plain(value, 0) if value >= 10 else plain(value, 1)


def disc(root: Path) -> str:
    """Return the table of errors of the networks constructed for the unit disc: those of the run, and the largest."""
    rows = read_rows(root / "results" / "universal_resnet" / "constructed.csv", "function", ("join", "cells", *ERRORS))
    errors = {(int(row["cells"]), bool(row["join"])): row for row in rows if row["function"] == "disc"}
    largest = read_stored(root / FULL_BUDGET, ResnetMetrics).constructed
    for name, join in (("disc", False), ("disc_joined", True)):
        errors[largest[name].cells, join] = dict(largest[name])
    return markdown("readme", "disc", networks=sorted(errors.items()))


def networks(root: Path) -> str:
    """Return the table of accuracies found by training, beside those that the essay reports."""
    study = read_stored(root / FULL_BUDGET, ResnetMetrics)
    return markdown("readme", "networks", study=study, NETS=NETS, PREDICATES=PREDICATES)
