"""The result of ``bitsperdim.evaluate``: bits per dimension of one model on one set of images, always with its errors.

Invariants (``tests/evaluation/test_evaluate.py``): the printed text has the relation sign, both errors, K and the flag
(``test_a_number_is_never_bare``); the mean of ``log_p`` gives the number.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bitsperdim.core import labels
from bitsperdim.core.metrics import Metrics
from bitsperdim.core.units import bits_per_dim
from bitsperdim.evaluation.estimate import Estimate as Scores
from bitsperdim.evaluation.images import Data
from bitsperdim.evaluation.signature import signature

if TYPE_CHECKING:
    import pandas as pd

DECLARED = "its kind is declared by the model and not verified"


@dataclass(frozen=True)
class Estimate:
    """Estimates of -log P(x) of a model: the mean over the images, and the value of each image.

    Attributes:
        name: name of the model.
        metrics: metrics in the form of ``results/<model>/metrics.json``.
        scores: estimates of each image, in nats.
        data: scored images.
        options: other settings that determine the number, for the signature.
        verified_by: checks that verified the kind of the number; empty: the kind is only declared.
        seconds: time that scoring took, in seconds.
    """

    name: str
    metrics: Metrics
    scores: Scores
    data: Data
    options: Mapping[str, Any]
    verified_by: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """``exact``, ``lower`` (an upper bound of the bits), ``estimate`` (neither) or ``density`` (no likelihood)."""
        return self.metrics.kind

    @property
    def is_verified(self) -> bool:
        """Whether a check has verified the kind; otherwise it is only declared by the model."""
        return bool(self.verified_by)

    @property
    def bits_per_dim(self) -> float:
        """-log2 P(x) / D, the mean over images."""
        return self.metrics.bpd

    @property
    def standard_error(self) -> float:
        """Standard error of ``bits_per_dim`` over test images; it contains the Monte Carlo noise too."""
        return self.metrics.bpd_standard_error

    @property
    def monte_carlo_error(self) -> float:
        """Monte Carlo standard error of ``bits_per_dim``, the effect of another draw; 0 if nothing is sampled."""
        return self.metrics.bpd_monte_carlo_error

    @property
    def nats(self) -> float:
        """-log P(x), the mean over images."""
        return self.metrics.nll_nats

    @property
    def n_samples(self) -> int:
        """The number of samples K; 1 if nothing is sampled."""
        return self.metrics.n_samples

    @property
    def log_p(self) -> np.ndarray:
        """Log P(x) of each image, or a lower bound on it, (N,) float64 nats."""
        return self.scores.log_p.numpy()

    @property
    def flags(self) -> list[str]:
        """Reasons in words why the number cannot be trusted; empty if no reason is known."""
        return self.metrics.reasons

    @property
    def signature(self) -> str:
        """The signature in one line, for a paper: two numbers with equal signatures are the same measurement."""
        return signature(self.metrics, self.options, self.verified_by)

    def verified(self, *checks: str) -> Estimate:
        """Return the same number with its kind verified by these checks."""
        return replace(self, verified_by=checks)

    def __str__(self) -> str:
        """Return the number with its errors and flags in one sentence."""
        known = f"verified by {', '.join(self.verified_by)}" if self.is_verified else DECLARED
        sentence, mark, why = self.metrics.sentence.partition(f". {labels.ASCII_MARK} ")
        n_images = f"{self.metrics.n_images:,}"
        of_images = "" if f"of {n_images} test images" in sentence else f", {n_images} images"
        return f"{self.name}: {sentence}{of_images}; {known}{mark}{why}."

    def __repr__(self) -> str:
        """Return the sentence."""
        return f"<Estimate {self}>"

    def summary(self) -> str:
        """Return the number with all errors, diagnostics and the signature, in a few lines."""
        return "\n".join([str(self), *(f"  {name:<14}  {value}" for name, value in self._rows().items())])

    def _rows(self) -> dict[str, str]:
        """Return the lines of the summary as names and values, in order."""
        numbers = self.metrics
        of_samples = {
            "Monte Carlo": f"{numbers.bpd_monte_carlo_error:.6f} (error from drawing the samples, bits/dim)",
            "bias": f"{numbers.log_p_bias_nats:.4f} (estimated bias of the bound, nats per image)",
            "samples": f"K = {numbers.n_samples:,}; effective sample size, median {numbers.ess_median:.4g}",
        }
        of_solver = {}
        if (solver := numbers.solver) is not None:
            observed = f"order {solver.observed_order:.1f} of {solver.order}"
            of_solver["solver"] = f"{solver.error_bpd:.2g} (error from the length of the steps, bits/dim; {observed})"
        truth = numbers.truth
        of_truth = {}
        if truth is not None:
            error = f"{truth.excess_bpd_standard_error:.6f}"
            of_truth["above truth"] = f"{truth.excess_bpd:.6f} +- {error} (paired, bits/dim)"
        return {
            "bits/dim": f"{numbers.bpd:.6f}",
            "test-set error": f"{numbers.bpd_standard_error:.6f} (one standard error over images, bits/dim)",
            **(of_samples if self.metrics.is_sampled else {}),
            **of_solver,
            **of_truth,
            "nats per image": f"{numbers.nll_nats:.4f} +- {numbers.nll_nats_standard_error:.4f}",
            "images": repr(self.data).strip("<>"),
            "time": f"{self.seconds:.1f} s",
            "signature": self.signature,
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row for each image and the columns ``image``, ``log_p_nats``, ``bits_per_dim``,
        ``monte_carlo_error_nats``, ``bias_nats``, ``ess`` and ``pareto_k``.
        """
        import pandas as pd

        scores, log_p = self.scores, self.log_p
        columns = {
            "image": np.arange(len(log_p)),
            "log_p_nats": log_p,
            "bits_per_dim": bits_per_dim(log_p, self.data.image_shape),
            "monte_carlo_error_nats": scores.standard_error.numpy(),
            "bias_nats": scores.bias.numpy(),
            "ess": scores.ess.numpy(),
            "pareto_k": scores.pareto_k.numpy(),
        }
        return pd.DataFrame(columns)

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._rows().items()
        )
        return f"<p>{html.escape(str(self))}</p><table>{cells}</table>"
