"""Models of zuko: a lazy distribution, such as a flow, or a distribution. They give a log-density.

A flow is called without a context. Its layout follows from the shape of its events.

Invariants (``tests/models/external/libraries/test_zuko.py``): the log-density is that of zuko, up to the volume of a
cell (``test_it_is_the_number_of_zuko``); a model with a context or without a density is refused
(``test_what_is_refused``).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.densities import FlowDensity
from bitsperdim.models.external.distributions import first_line
from bitsperdim.models.external.libraries import refusal

ALLOWED = "a flow or mixture of zuko, such as zuko.flows.MAF(...), or a distribution of continuous values"


def adapt(model: object) -> FlowDensity:
    """Return the log-density of a model of zuko.

    Args:
        model: zuko.lazy.LazyDistribution, such as zuko.flows.Flow; or a distribution of torch or zuko. A distribution
            hides its weights: give the flow itself if the number shall name them.

    Raises:
        InputError: the model is something else, needs a context, or is several distributions or one of discrete values.
    """
    from zuko.lazy import LazyDistribution

    if not isinstance(model, td.Distribution | LazyDistribution):
        raise refusal(model, "zuko", ALLOWED)
    try:
        given = model if isinstance(model, td.Distribution) else model()
    except Exception as error:
        why = f"which cannot be called without a context ({first_line(error)})"
        raise refusal(model, "zuko", f"{ALLOWED}, without a context", why) from error
    if _is_discrete(given):
        raise InputError(
            f"With library = 'zuko' the model cannot be the distribution {type(given).__name__} of discrete values; "
            f"it must be {ALLOWED}."
        )
    if batch := tuple(given.batch_shape):
        raise InputError(
            f"With library = 'zuko' the model cannot be {type(given).__name__} of batch shape {batch}, which is "
            f"several distributions; make one of them with torch.distributions.Independent(..., {len(batch)})."
        )

    def log_prob(y: Tensor) -> Tensor:
        return (model if isinstance(model, td.Distribution) else model()).log_prob(y)

    event = tuple(given.event_shape)
    return FlowDensity(model, log_prob, n_values=math.prod(event), n_dimensions=len(event))


def _is_discrete(given: td.Distribution) -> bool:
    try:
        support: Any = given.support
        return bool(support.is_discrete)
    except (AttributeError, NotImplementedError):  # flows do not state their support
        return False
