"""The function ``bitsperdim.compare``, which compares two results of ``bitsperdim.evaluate`` image by image.

The comparison and its refusals are the same as for two results of the pipeline
(:mod:`bitsperdim.comparing.comparison`).

Invariants (``tests/comparing/test_estimates.py``): it agrees with the comparison of pipeline results that have the same
numbers (``test_it_is_the_comparison_of_results``); numbers for different images are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitsperdim.comparing.comparison import Row, rows_of
from bitsperdim.comparing.numbers import Images, Scored
from bitsperdim.comparing.output import cells
from bitsperdim.core.errors import InputError
from bitsperdim.evaluation.images import ARRAYS
from bitsperdim.evaluation.result import Estimate


@dataclass(frozen=True)
class Compared:
    """Difference between two results A and B on the same images.

    Attributes:
        a: the first result.
        b: the second result.
        row: their difference and the verdict.
    """

    a: Estimate
    b: Estimate
    row: Row

    @property
    def bits_per_dim(self) -> float:
        """B - A in bits/dim: negative if B is better."""
        return float("nan") if self.row.bpd is None else self.row.bpd

    @property
    def standard_error(self) -> float | None:
        """Standard error of the difference, paired over images; None if there is no error."""
        return self.row.standard_error

    @property
    def verdict(self) -> str:
        """Verdict on B: ``better``, ``worse``, ``same`` or ``cannot tell``."""
        return self.row.verdict

    def __str__(self) -> str:
        """Return the difference and the verdict in a few sentences."""
        _, _, _, difference, _, _, verdict = cells(self.row)
        said = "no verdict" if self.verdict == "cannot tell" else f"B is {verdict}"
        notes = [note.replace(" (†)", "").replace("evaluate.n_samples", "n_samples") for note in self.row.notes]
        return " ".join([f"A = {self.a.name}, B = {self.b.name}. B - A: {difference} bits/dim; {said}.", *notes])

    def __repr__(self) -> str:
        """Return the same text in angle brackets."""
        return f"<Compared {self}>"


def compare(a: Estimate, b: Estimate) -> Compared:
    """Compare two numbers image by image.

    Args:
        a: a result of :func:`bitsperdim.evaluate`.
        b: a result of :func:`bitsperdim.evaluate` for another model on the same images.

    Raises:
        InputError: the images or the protocols differ, or a number is a density.
    """
    for estimate in (a, b):
        if not isinstance(estimate, Estimate):
            raise InputError(f"compare takes two results of evaluate, not {type(estimate).__name__}.")
    row = rows_of([(_scored(a, b), _scored(b, a))])[0]
    if row.verdict == "refused":
        raise InputError(f"{a.name} and {b.name} are not compared: {row.reason}")
    return Compared(a, b, row)


def _scored(estimate: Estimate, other: Estimate) -> Scored:
    """Convert an estimate to a result; an array of images takes the name of the other's images if they are equal."""
    metrics, others = estimate.metrics, other.metrics
    names = [item.protocol.split("/", 2) for item in (metrics, others)]
    is_array = names[0][0].startswith(ARRAYS) and not names[1][0].startswith(ARRAYS)
    if is_array and metrics.test_sha256 == others.test_sha256 and names[0][2] == names[1][2]:
        metrics = metrics.model_copy(update={"protocol": others.protocol})
    same_as = estimate.data.prepared.same_as["test"]
    return Scored(estimate.name, metrics, {}, lambda: Images(estimate.log_p[None], same_as))
