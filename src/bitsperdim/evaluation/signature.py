"""The signature of a number: one line with everything that must be equal for two numbers to be the same measurement.

It follows sacreBLEU (Post 2018, "A Call for Clarity in Reporting BLEU Scores"), which did this for translation scores,
and can be pasted into a paper. The signature identifies data by their protocol tag and a hash of their content, and
weights by a hash of their content.

Invariants (``tests/evaluation/test_signature.py``): whatever changes the number changes the signature
(``test_what_changes_the_number_changes_the_signature``); the signature shows whether the kind was verified.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping

import torch
from torch import nn

from bitsperdim import __version__
from bitsperdim.core.metrics import Metrics

DIGITS = 12
KINDS = {"exact": "exact", "lower": "upper-bound", "estimate": "estimate", "density": "density"}


def weights_sha256(module: nn.Module | None) -> str | None:
    """Return a hash of all weights and buffers of a module with their names; None if there are no weights."""
    state = {} if module is None else module.state_dict()
    if not state:
        return None
    whole = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if isinstance(tensor, torch.Tensor):
            values = tensor.detach().cpu().contiguous()
            whole.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
            whole.update(values.flatten().view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return whole.hexdigest()


def signature(metrics: Metrics, options: Mapping[str, object], verified_by: tuple[str, ...]) -> str:
    """Return the signature of a number.

    Args:
        metrics: metrics that contain the number.
        options: other settings that determine the number, by name, in order; values that are None are left out.
        verified_by: checks that verified the kind of the number; empty: the kind is only declared.
    """
    kind = KINDS[metrics.kind]
    fields = {
        "data": metrics.protocol,
        "test": metrics.test_sha256[:DIGITS],
        "kind": kind,
        "verified": "+".join(verified_by) if verified_by else "no",
        **options,
        "K": None if kind == "exact" else metrics.n_samples,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "bitsperdim": __version__,
    }
    return "|".join(f"{name}:{value}" for name, value in fields.items() if value is not None)
