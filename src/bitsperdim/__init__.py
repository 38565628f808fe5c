"""bitsperdim: a reproducible laboratory for likelihoods of discrete images.

Every model is a probability mass function over images of integers and answers one question,
``log_weights(x, K)``: K log-weights per image whose exponentials have the mean P(x). Training
maximizes, and evaluation estimates, the logarithm of their average. Start reading at
:mod:`bitsperdim.models.base`.

From Python, for a model of your own (``docs/your-own-model.md``)::

    import bitsperdim

    data = bitsperdim.load_data("digits")
    print(bitsperdim.evaluate(model, data, inputs="unit"))
    print(bitsperdim.audit(model, data, inputs="unit").summary())

These are stable: :func:`load_data`, :func:`evaluate`, :func:`audit`, :func:`compare`, :class:`Estimate`.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitsperdim.auditing.audit import audit
    from bitsperdim.comparing.estimates import compare
    from bitsperdim.evaluation.arrays import estimate_of_arrays
    from bitsperdim.evaluation.evaluate import evaluate
    from bitsperdim.evaluation.images import Data, load_data
    from bitsperdim.evaluation.result import Estimate

# Threads of torch that wait for each other give way to other work after some microseconds: beside it, small models
# train twice as fast as with libgomp's own patience, and alone as fast as ever. Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
__all__ = ["Data", "Estimate", "audit", "compare", "estimate_of_arrays", "evaluate", "load_data"]

_PLACES = {
    "Data": "bitsperdim.evaluation.images",
    "Estimate": "bitsperdim.evaluation.result",
    "audit": "bitsperdim.auditing.audit",
    "compare": "bitsperdim.comparing.estimates",
    "estimate_of_arrays": "bitsperdim.evaluation.arrays",
    "evaluate": "bitsperdim.evaluation.evaluate",
    "load_data": "bitsperdim.evaluation.images",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is: the command line does without torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'bitsperdim' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """List what there is, imported or not."""
    return sorted({*globals(), *__all__})
