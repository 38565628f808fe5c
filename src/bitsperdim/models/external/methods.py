"""The methods through which an external model can return a likelihood, and the search for them in a model.

Invariants (``tests/models/external/test_methods.py``): each method is found in a module, an object and a function; for
a model without any of them, the error message lists them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import distributions as td
from torch import nn

from bitsperdim.core.errors import InputError, shown
from bitsperdim.models.external.distributions import is_density

# the strongest method first; each text says what the method returns, and what kind of result follows
METHODS: Mapping[str, str] = {
    "conditionals": "conditionals(x): a distribution of every sub-pixel given those before it; exact",
    "logits": "logits(x): the same as logits of the levels; exact",
    "log_prob": "log_prob(x): log P(x) of images of integers, nats, shape (B,); exact",
    "encode": "encode(x), decode(z) and prior(): distributions; a bound by importance sampling",
    "log_weights": "log_weights(x, K): log-weights whose exponentials have the mean P(x), nats, shape (K, B); a bound",
    "log_density": "log_density(y): of values in the interval `range`, nats, shape (B,); a bound by dequantization",
    "bound": "bound(x): one draw, without bias, of a lower bound of log P(x), nats, shape (B,); a bound",
    "velocity": "velocity(t, y): dy/dt of values in the interval `range` at times t (B,), of the shape of y; a bound",
    "score": "score(t, y): the derivative of log p_t(y) with respect to y, with `ode` = its noise schedule; a bound",
}
OF_LATENT = ("encode", "decode", "prior")
EXACT = ("conditionals", "logits", "log_prob")
DECLARED = ("offers", "inputs", "layout", "range", "order", "ode")  # keys of the attribute `bitsperdim` of a model


@dataclass(frozen=True)
class Offer:
    """A method that a model offers.

    Attributes:
        method: one of :data:`METHODS`.
        functions: functions by name: the method itself, or ``encode``, ``decode`` and ``prior``; and ``sample`` and
            ``base`` if the model has them.
        module: module that holds the weights (:func:`module_of`); None: there are no weights known to torch.
    """

    method: str
    functions: Mapping[str, Callable[..., Any]]
    module: nn.Module | None


def declared(model: object, **given: object) -> dict[str, Any]:
    """Return the settings for calling a model: the given ones, or else those in its attribute ``bitsperdim``.

    Args:
        model: see :func:`offers_of`.
        given: given settings, some of :data:`DECLARED`; None: not given.

    Raises:
        InputError: the attribute is not a dict of these keys.
    """
    said = getattr(model, "bitsperdim", {})
    if not isinstance(said, Mapping) or not set(said) <= set(DECLARED):
        raise InputError(
            f"The attribute bitsperdim of {type(model).__name__} must be a dict with some of the keys "
            f"{', '.join(DECLARED)}, not {shown(said)}."
        )
    return {**said, **{key: value for key, value in given.items() if value is not None}}


def interval_of(given: object) -> tuple[float, float] | None:
    """Return the interval of a density as two numbers; None if no interval is given.

    Raises:
        InputError: the value is not a list or tuple of two numbers.
    """
    if given is None:
        return None
    values = list(given) if isinstance(given, list | tuple) else []
    if len(values) != 2 or not all(isinstance(value, int | float) for value in values):
        raise InputError(f"range = {shown(given)} is not allowed; it must be two numbers (low, high).")
    return float(values[0]), float(values[1])


def offers_of(model: object, offers: str | None = None) -> list[Offer]:
    """Return the methods that a model offers, the strongest first.

    Args:
        model: a module, another object with methods, a distribution, or a plain function.
        offers: name of the method to use. It is needed for a plain function and for the ``forward`` of a module, and
            it chooses one of several methods. None: all methods that are found.

    Raises:
        InputError: the model offers no method, or not the requested one; it is a class; or it is a density, but
            ``offers`` is not ``log_density``.
    """
    if offers is not None and (not isinstance(offers, str) or offers not in METHODS):
        raise InputError(f"offers = {shown(offers)} is not a method; choose one of {', '.join(METHODS)}.")
    if isinstance(model, type):
        raise InputError(f"{model.__name__} is a class; give a model that was made of it, {model.__name__}(...).")
    if isinstance(model, td.Distribution) and offers != "log_density" and is_density(model):
        raise InputError(
            f"{type(model).__name__} is a density and not a mass; set offers = 'log_density' and give its `range`."
        )
    module = module_of(model)
    optional = () if isinstance(model, td.Distribution) else ("sample", "base")
    further = {name: function for name in optional if (function := _function(model, name)) is not None}
    found = []
    for method in METHODS if offers is None else (offers,):
        functions = _functions(model, method)
        if functions is None and offers is not None:
            functions = _meant(model, method)
        if functions is not None:
            found.append(Offer(method, {**functions, **further}, module))
    if not found:
        what = "A plain function" if _is_function(model) else type(model).__name__
        asked = "none of the methods that give a likelihood" if offers is None else f"no {offers}"
        every = "; ".join(METHODS.values() if offers is None else [METHODS[offers]])
        raise InputError(
            f"{what} offers {asked}: {every}. For a function, or for forward, `offers` must name one of them."
        )
    return found


def _functions(model: object, method: str) -> dict[str, Callable[..., Any]] | None:
    names = OF_LATENT if method == "encode" else (method,)
    functions = {name: _function(model, name) for name in names}
    return None if None in functions.values() else functions  # type: ignore[return-value]  # mypy does not see it


def _function(model: object, name: str) -> Callable[..., Any] | None:
    """Return a method of a model by its name; a prior or a base may be a distribution itself."""
    value = getattr(model, name, None)
    if name in ("prior", "base") and value is not None and (not callable(value) or hasattr(value, "log_prob")):
        return lambda: value
    return value if callable(value) else None


def _meant(model: object, method: str) -> dict[str, Callable[..., Any]] | None:
    """Return the function that serves as a method without having its name.

    This is ``log_prob`` for ``log_density``, the ``forward`` of a module, or a plain function.
    """
    if method == "log_density" and (function := _function(model, "log_prob")) is not None:
        return {method: function}
    if method == "encode":
        return None
    if isinstance(model, nn.Module) and type(model).forward is not nn.Module.forward:  # the class defines forward
        return {method: model}
    return {method: model} if _is_function(model) and callable(model) else None


def _is_function(model: object) -> bool:
    return callable(model) and not isinstance(model, nn.Module | type | td.Distribution)


def module_of(model: object) -> nn.Module | None:
    """Return the module with the weights: the model itself, the owner of a bound method, or an object's modules."""
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, functools.partial):
        return module_of(model.func)
    if inspect.ismethod(model):
        return module_of(model.__self__)
    if isinstance(model, type):
        return None
    parts = [value for value in getattr(model, "__dict__", {}).values() if isinstance(value, nn.Module)]
    if not parts:  # variables that a function refers to are not searched
        return None
    whole = nn.ModuleList(parts)
    whole.training = any(part.training for part in parts)
    return whole


def is_training(model: object) -> bool:
    """Return whether any part of a model is in training mode."""
    module = module_of(model)
    return module is not None and any(part.training for part in module.modules())
