"""The results of the study of ways to be wrong, made up: a row of each outcome."""

from __future__ import annotations

from typing import Any

HOSTILE = "<script>alert('1')&`|*$x^2$]("
LAW = "evaluation/test_estimate.py::test_no_image_is_dropped"
NOTHING = dict.fromkeys(("wrong_bpd", "right_bpd", "off_bpd", "off_bpd_standard_error"), "")


def mistake_row(name: str, way: str, outcome: str, **changes: Any) -> dict[str, Any]:
    """A row as the stage writes it."""
    return {
        "group": "Counting",
        "name": name,
        "done": f"{name} is done.",
        "source": "",
        "way": way,
        "law": "",
        "wrong_bpd": 1.75,
        "right_bpd": 2.0,
        "off_bpd": -0.25,
        "off_bpd_standard_error": "",
        "outcome": outcome,
        "by": "",
        "words": "",
        **changes,
    }


ROWS = [
    mistake_row(
        "Dropped", "comparison", "caught", by="refused", words="They differ in test size.", source="a/b issue 1"
    ),
    mistake_row("Divided", "law", "caught", by=LAW, law=LAW, off_bpd=0.5, wrong_bpd=2.5),
    mistake_row(
        "Leaking",
        "audit",
        "caught",
        group="Networks",
        by="causality; codes",
        words=f"The model looks ahead {HOSTILE}.",
        off_bpd_standard_error=0.012,
    ),
    mistake_row("Missed", "audit", "not caught", group="Networks", off_bpd_standard_error=2e-9),
    mistake_row("Added", "open", "open", group="Networks", off_bpd=-3.5e-6, law=LAW),
    mistake_row("Colour", "law", "does not apply", group="Networks", words="Grey images.", **NOTHING),
]
METRICS: dict[str, Any] = {
    "protocol": "tiny/none/2x2x1/L4/test5/given-none",
    "is_cut": False,
    "n_train": 1_000,
    "n_right_models": 7,
    "false_alarms": [],
    "n_mistakes": len(ROWS),
    "n_caught": 3,
    "n_not_caught": 1,
    "n_open": 1,
    "n_not_applicable": 1,
}
