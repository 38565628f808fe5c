"""Result of an audit, as an object, as text, as JSON, as Markdown and as HTML.

Invariants (``tests/auditing/test_command.py``): an audit with a failed check is not passed, and the formats contain the
checks (``test_forms_and_exit_statuses``).
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitsperdim.auditing.check import Check
from bitsperdim.core.files import rounded
from bitsperdim.core.labels import ASCII_MARK
from bitsperdim.evaluation.result import Estimate

if TYPE_CHECKING:
    import pandas as pd

SIGNS = {"passed": "ok", "failed": "FAILED", "warning": "warn", "not applicable": "-"}
WIDTH = 110
SCHEMA = 1


@dataclass(frozen=True)
class Audit:
    """A number and the checks that were made of it.

    Attributes:
        estimate: the number; marked as verified if checks have verified its kind.
        checks: the checks, in the order in which they were made.
        seconds: time that scoring and all checks took.
    """

    estimate: Estimate
    checks: Sequence[Check]
    seconds: float = 0.0

    @property
    def failed(self) -> list[Check]:
        """The checks that found an error."""
        return [check for check in self.checks if check.is_failed]

    @property
    def passed(self) -> bool:
        """Whether no check failed. This is not a proof: see which errors each check would have caught."""
        return not self.failed

    @property
    def signature(self) -> str:
        """Signature of the number."""
        return self.estimate.signature

    @property
    def level(self) -> float:
        """Upper limit of the probability that a check fails although nothing is wrong."""
        return sum(check.level for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """Return the check with this name."""
        return next(check for check in self.checks if check.name == name)

    @property
    def warnings(self) -> list[Check]:
        """The checks that found something suspicious, which is not an error by itself."""
        return [check for check in self.checks if check.status == "warning"]

    def verdict(self) -> str:
        """Summarize the result of the audit in a few sentences."""
        counts = {status: sum(check.status == status for check in self.checks) for status in SIGNS}
        if self.failed:
            names = ", ".join(check.name for check in self.failed)
            return (
                f"{ASCII_MARK} Do not believe this number: {counts['failed']} of {len(self.checks)} checks failed "
                f"({names})."
            )
        text = f"The {counts['passed']} of {len(self.checks)} checks that apply found no error."
        if self.warnings:
            text = f"No error was found, but look at the warning: {', '.join(check.name for check in self.warnings)}."
        if self.level:
            text += f" (A correct model fails a check by chance in at most {self.level:.1g} of all audits.)"
        if (flags := self.estimate.flags) and self.estimate.metrics.is_sampled:
            text += (
                f" The number is an upper bound, but it may be far above the model's true number: {'; '.join(flags)}. "
                f"Raise the number of samples (n_samples) until the number does not become lower."
            )
        elif flags:
            text += f" But the number is suspicious: {'; '.join(flags)}."
        return text

    def summary(self) -> str:
        """Return the number, every check, the verdict and the signature, for a terminal."""
        lines = [str(self.estimate), ""]
        for check in self.checks:
            lines += textwrap.wrap(
                f"{SIGNS[check.status]:<7}{check.name:<20} {described(check)}", WIDTH, subsequent_indent=" " * 28
            )
        return "\n".join([*lines, "", *textwrap.wrap(self.verdict(), WIDTH), "", f"Signature: {self.signature}"])

    def __str__(self) -> str:
        """Return the summary."""
        return self.summary()

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each check."""
        import pandas as pd

        return pd.DataFrame([_row(check) for check in self.checks])

    def as_json(self) -> str:
        """Return the result as JSON; the keys are always the same, and unknown values are null."""
        numbers = self.estimate
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "name": numbers.name,
            "passed": self.passed,
            "kind": numbers.kind,
            "verified_by": list(numbers.verified_by),
            "bits_per_dim": numbers.bits_per_dim,
            "standard_error": numbers.standard_error,
            "monte_carlo_error": numbers.monte_carlo_error,
            "nats": numbers.nats,
            "n_samples": numbers.n_samples,
            "n_images": numbers.metrics.n_images,
            "flags": numbers.flags,
            "signature": self.signature,
            "level": self.level,
            "seconds": self.seconds,
            "checks": [_row(check) for check in self.checks],
        }
        return json.dumps(rounded(content), indent=2, ensure_ascii=False)

    def as_markdown(self) -> str:
        """Return the result as Markdown, for a page or a pull request."""
        rows = [f"| {SIGNS[check.status]} | {check.name} | {_cell(described(check))} |" for check in self.checks]
        head = ["|  | check | what was found |", "| --- | --- | --- |"]
        return "\n".join([_cell(str(self.estimate)), "", *head, *rows, "", self.verdict(), "", f"`{self.signature}`"])

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        colours = {"passed": "#2e7d32", "failed": "#c62828", "warning": "#b26a00", "not applicable": "#777777"}
        rows = "".join(
            f"<tr><td style='color:{colours[check.status]}'>{SIGNS[check.status]}</td>"
            f"<td style='text-align:left'>{html.escape(check.name)}</td>"
            f"<td style='text-align:left'>{html.escape(described(check))}</td></tr>"
            for check in self.checks
        )
        return (
            f"<p>{html.escape(str(self.estimate))}</p><table>{rows}</table><p>{html.escape(self.verdict())}</p>"
            f"<p><code>{html.escape(self.signature)}</code></p>"
        )


def described(check: Check) -> str:
    """Return the finding of a check, with the size of the error or the smallest size that it catches."""
    if check.status == "passed" and check.catches:
        bpd = "" if check.catches_bpd is None else f", from {check.catches_bpd:.2g} bits/dim"
        return f"{check.words} Catches {check.catches}{bpd}."
    if check.status in ("failed", "warning") and check.size_bpd is not None:
        size = f"{check.size_bpd:.2g}" if math.isfinite(check.size_bpd) else "infinitely many"
        return f"{check.words} Size: {size} bits/dim."
    return check.words


def _row(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "status": check.status,
        "words": check.words,
        "size_bpd": check.size_bpd,
        "catches_bpd": check.catches_bpd,
        "catches": check.catches,
        "level": check.level,
    }


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
