"""Flows of nflows, which give a log-density.

Invariants (``tests/models/external/libraries/test_nflows.py``): the log-density is that of nflows, up to the volume of
a cell (``test_it_is_the_number_of_nflows``); a flow with a context is refused (``test_what_is_refused``).
"""

from __future__ import annotations

from torch import nn

from bitsperdim.models.external.densities import FlowDensity, sizes
from bitsperdim.models.external.libraries import refusal

ALLOWED = "a flow without a context, nflows.flows.Flow(...)"


def adapt(model: object) -> FlowDensity:
    """Return the log-density of nflows.flows.Flow.

    The layout is that of the base distribution; a transform that flattens images gives the layout of images.

    Raises:
        InputError: the model is something else, or is conditioned on a context. Without its context nflows would
            leave out some terms in silence.
    """
    from nflows.flows import Flow
    from nflows.transforms import MultiscaleCompositeTransform

    if not isinstance(model, Flow):
        raise refusal(model, "nflows", ALLOWED)
    parts = list(model.modules())
    if any(hasattr(part, "context_layer") for part in parts) or not isinstance(model._embedding_net, nn.Identity):
        raise refusal(model, "nflows", ALLOWED, "which is conditioned on a context")
    n_values, n_dimensions = sizes([getattr(model._distribution, "_shape", None)])
    if any(isinstance(part, MultiscaleCompositeTransform) for part in parts):
        n_dimensions = 3
    return FlowDensity(model, model.log_prob, n_values=n_values, n_dimensions=n_dimensions)
