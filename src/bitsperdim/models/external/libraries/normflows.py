"""Flows of normflows, which give a log-density.

The density of a flow that is conditioned on the class is the mean of its densities for all classes. That is the
distribution from which ``sample`` of normflows draws if it is given no classes.

Invariants (``tests/models/external/libraries/test_normflows.py``): the log-density is that of normflows, up to the
volume of a cell (``test_it_is_the_number_of_normflows``), also averaged over classes
(``test_classes_have_equal_weights``); what takes a context, or would change its weights, is refused
(``test_what_is_refused``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.densities import FlowDensity, sizes
from bitsperdim.models.external.libraries import refusal

ALLOWED = "normflows.NormalizingFlow, ClassCondFlow or MultiscaleFlow"


def adapt(model: object) -> FlowDensity:
    """Return the log-density of a flow of normflows.

    Raises:
        InputError: the model is something else, or is conditioned on a context.
    """
    from normflows import ClassCondFlow, ConditionalNormalizingFlow, MultiscaleFlow, NormalizingFlow

    if isinstance(model, ConditionalNormalizingFlow):
        raise refusal(model, "normflows", ALLOWED, "which needs a context")
    if isinstance(model, MultiscaleFlow):
        bases: Sequence[nn.Module] = list(model.q0)
        log_prob = _over_classes(model, bases) if model.class_cond else lambda y: model.log_prob(y, None)
    elif isinstance(model, ClassCondFlow):
        bases = [model.q0]
        log_prob = _over_classes(model, bases)
    elif isinstance(model, NormalizingFlow):
        bases, log_prob = [model.q0], model.log_prob
    else:
        raise refusal(model, "normflows", ALLOWED)
    n_values, n_dimensions = sizes([getattr(base, "shape", None) for base in bases])

    def check() -> None:
        _check_initialized(model)

    return FlowDensity(model, log_prob, n_values=n_values, n_dimensions=n_dimensions, check=check)


def _over_classes(model: Any, bases: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:  # noqa: ANN401 - see adapt
    n_classes = getattr(bases[0], "num_classes", None)
    if not isinstance(n_classes, int):
        why = "whose base distribution does not state its number of classes, num_classes"
        raise refusal(model, "normflows", ALLOWED, why)

    def log_prob(y: Tensor) -> Tensor:
        of_classes = [model.log_prob(y.clone(), y.new_full((len(y),), k, dtype=torch.long)) for k in range(n_classes)]
        return torch.stack(of_classes).logsumexp(0) - math.log(n_classes)

    return log_prob


def _check_initialized(model: nn.Module) -> None:
    """Refuse layers that take their weights from the first images that they see, also in evaluation mode."""
    from normflows.flows import ActNorm

    waiting = [part for part in model.modules() if isinstance(part, ActNorm) and not bool(part.data_dep_init_done)]
    if waiting:
        raise InputError(
            f"{len(waiting)} ActNorm layers of the flow have no weights yet: normflows would take them from the first "
            f"images that are scored, so that the number would depend on these; train the flow, or load its weights."
        )
