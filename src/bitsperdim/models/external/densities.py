"""The log-density of a flow of another library, as an external model offers it.

Invariants (``tests/models/external/test_densities.py``): a log-density that is estimated with random numbers, a wrong
number of values and an error inside of the flow are each refused in one sentence (``test_what_is_refused``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.distributions import first_line

LAYOUTS = {1: "flat", 2: "plane", 3: "channels_first"}  # by the number of dimensions of the values of one image
N_REPEATED = 2  # images whose log-density is computed twice
ROUNDING = 1e-6  # share of the log-density, plus as many nats per sub-pixel: float32 rounding on a GPU


class FlowDensity:
    """The log-density of a flow without a context.

    A log-density with random numbers in it, such as an estimate of a trace, is refused: it is right on average, but
    the average of its exponential, which importance sampling takes, is too high.

    Args:
        flow: flow or distribution; if it is a module, it holds the weights.
        log_prob: function of values (B, ...) that returns their log-densities in nats, (B,).
        n_values: number of values of one image; None: unknown.
        n_dimensions: number of dimensions of the values of one image, which gives the layout; None: unknown.
        check: function that is called once before the flow is used in evaluation mode; it raises InputError if the
            flow cannot be used.
    """

    def __init__(
        self,
        flow: object,
        log_prob: Callable[[Tensor], Tensor],
        *,
        n_values: int | None = None,
        n_dimensions: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Store the arguments."""
        self.flow, self._log_prob, self._n_values, self._check = flow, log_prob, n_values, check
        self._is_checked = False
        self.bitsperdim: dict[str, Any] = {"offers": "log_density"}
        if n_dimensions in LAYOUTS:
            self.bitsperdim["layout"] = LAYOUTS[n_dimensions]

    def log_density(self, y: Tensor) -> Tensor:
        """Return the log-density of values (B, ...) in nats, (B,).

        Raises:
            InputError: the flow takes another number of values, has a context, is random, or fails.
        """
        n_values = math.prod(y.shape[1:])
        if self._n_values not in (None, n_values):
            raise InputError(f"The flow takes {self._n_values} values for each image, but the images have {n_values}.")
        if not self._is_checked and not (isinstance(self.flow, nn.Module) and self.flow.training):
            self._check()
            self._check_repeated(y[:N_REPEATED])
            self._is_checked = True
        return self._asked(y)

    def _asked(self, y: Tensor) -> Tensor:
        try:
            return self._log_prob(y.clone())  # some layers change their input in place
        except (InputError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"log_prob of {type(self.flow).__name__} raised {type(error).__name__} for values of shape "
                f"{tuple(y.shape)}: {first_line(error)}. Does it need another `layout`, or a context, which is not "
                f"allowed?"
            ) from error

    def _check_repeated(self, y: Tensor) -> None:
        with torch.no_grad():
            first, second = self._asked(y), self._asked(y)
        if not isinstance(first, Tensor) or first.shape != (len(y),):  # the caller refuses it
            return
        allowed = ROUNDING * (first.abs() + math.prod(y.shape[1:]))
        differs = (first != second) & ((first - second).abs() > allowed)  # infinite values may be equal
        if bool(differs.any()):
            raise InputError(
                f"log_prob of {type(self.flow).__name__} gives {float(first[differs][0]):.4f} and then "
                f"{float(second[differs][0]):.4f} nats for the same values: it is estimated with random numbers, and "
                f"importance sampling would make the number too good; it must be exact."
            )


def sizes(shapes: Sequence[Sequence[int] | None]) -> tuple[int | None, int | None]:
    """Return the number of values and of dimensions of a flow's image, from the shapes of its base distributions.

    The number of dimensions is that of the first shape. Both are None if a shape is unknown.
    """
    known = [tuple(shape) for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known:
        return None, None
    return sum(math.prod(shape) for shape in known), len(known[0])
