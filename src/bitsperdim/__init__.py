"""bitsperdim: a reproducible laboratory for likelihoods of discrete images.

Every model is a probability mass function over images of integers. Its method ``log_weights(x, K)`` returns K
log-weights per image; the expected value of their exponentials is P(x). Training maximizes the logarithm of the
average weight, and evaluation estimates log P(x) by it. Start reading at :mod:`bitsperdim.models.base`.

Use the package from Python with your own model like this (``docs/your-own-model.md``)::

    import bitsperdim

    data = bitsperdim.load_data("digits")
    print(bitsperdim.evaluate(model, data, inputs="unit"))
    print(bitsperdim.audit(model, data, inputs="unit").summary())

The stable interface is :func:`load_data`, :func:`evaluate`, :func:`audit`, :func:`compare` and :class:`Estimate`.
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

# With this setting, threads of torch that wait for each other yield the CPU after some microseconds. If other processes
# use the CPU as well, small models train twice as fast as with libgomp's default; otherwise the speed is the same. The
# variable is read when torch is imported.
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
    """Import a public name at its first use, so that the command line starts without importing torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'bitsperdim' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """Return all public names, whether they are imported yet or not."""
    return sorted({*globals(), *__all__})
