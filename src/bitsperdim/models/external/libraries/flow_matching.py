"""Models of flow_matching: a solver of ordinary differential equations, or a wrapped model. They give a velocity.

The library integrates from the base distribution at time 0 to the data at time 1. Its own ``compute_likelihood``
returns the log-density at the given points, from one random probe or with the exact divergence, on a grid or with
adaptive steps; it knows no levels and no noise.

Invariants (``tests/models/external/libraries/test_flow_matching.py``): on the same grid with the same method, the
log-density is that of the library (``test_it_is_the_number_of_flow_matching``); a model of discrete flow matching is
refused (``test_what_is_refused``).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bitsperdim.models.external.libraries import refusal

ALLOWED = "an ODESolver with a velocity model, or a ModelWrapper of such a model"


class Velocity:
    """The velocity of a model of flow_matching.

    Args:
        model: module that is called with ``x`` and ``t``.
    """

    def __init__(self, model: nn.Module) -> None:
        """Store the model."""
        self.model = model

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt at the times t (B,) for y (B, ...), in the shape of y."""
        velocity: Tensor = self.model(x=y, t=t)
        return velocity


def adapt(model: Any) -> Velocity:  # noqa: ANN401 - any model
    """Return the velocity of a model of flow_matching.

    Args:
        model: flow_matching.solver.ODESolver, or a flow_matching.utils.ModelWrapper that takes x and t.

    Raises:
        InputError: the model is something else, or its velocity model is not a module.
    """
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    if isinstance(model, ODESolver):
        inner = model.velocity_model
        if not isinstance(inner, nn.Module):
            raise refusal(model, "flow_matching", ALLOWED, "whose velocity model is not a torch.nn.Module")
        return Velocity(inner)
    if not isinstance(model, ModelWrapper):
        raise refusal(model, "flow_matching", ALLOWED)
    return Velocity(model)
