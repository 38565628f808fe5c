"""A stand-in for a GPU: a device of its own whose tensors hold tensors of the CPU, and which does not mix with it.

What runs on it gives the bits of the CPU, so that every place where a tensor or a generator is on the wrong device is
an error, and every wait for the device is counted, on machines without a GPU. It says nothing about kernels, half
precision and speed.

As on a GPU, a tensor without dimensions may come from the CPU. Importing this registers the device for good: only
processes of its own do (``on_accelerator.py``).
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from bitsperdim.core import randomness
from bitsperdim.likelihoods import normal

NAME = "standin"
CPU = torch.device("cpu")
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}  # which may be between devices
READS = {  # whose result is a number, or has a shape that depends on numbers
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
waits: Counter[str] = Counter()  # of the host for the device, or the other way round, by what made it wait
launches: Counter[Any] = Counter()  # of work on the device, each of which takes the host some microseconds


class Registered(backend_registration._DummyBackendModule):
    """What torch asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Those of autocast."""
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend(NAME, Registered())
DEVICE = torch.device(NAME, 0)


class Placed(Tensor):
    """A tensor on the device.

    Attributes:
        held: its numbers, on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls: type[Placed], held: Tensor) -> Placed:
        """Wrap a tensor of the CPU."""
        layout: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        placed = Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, device=DEVICE, **layout)
        placed.held = held
        return placed

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """Say what it is made of: so modules know how to exchange their weights for it."""
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], *_: Any) -> Placed:
        """Make it of that again."""
        return Placed(inner["held"])

    def tolist(self) -> Any:
        """Copy the numbers to the host."""
        waits["tolist"] += 1
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute."""
        return computed(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class Computing(TorchDispatchMode):
    """Sees also what has no tensor to begin with: numbers that are drawn, zeros, copies from the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute."""
        return computed(func, args, kwargs or {})


class PlacedStream(randomness.Stream):
    """A stream of random numbers for the device: those that the CPU would have."""

    places: dict[int, torch.device] = {}  # noqa: RUF012 - of all streams, by address: torch passes on no more of them
    of_device: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> PlacedStream:
        """Make it on the CPU, and remember for which device it is."""
        stream = super().__new__(cls, "cpu")
        stream.of_device = cls.places[stream._cdata] = torch.device(device)
        weakref.finalize(stream, cls.places.pop, stream._cdata, None)
        return stream

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Do no more."""

    @property
    def device(self) -> torch.device:
        """For which it is."""
        return self.of_device


def computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Compute on the CPU what was asked of either device.

    Raises:
        RuntimeError: tensors and generator are not all of one device.
    """
    tensors: list[Tensor] = []
    low_args = each(args, functools.partial(lowered, tensors))
    low_kwargs = {name: each(value, functools.partial(lowered, tensors)) for name, value in kwargs.items()}
    place = DEVICE if any(isinstance(tensor, Placed) for tensor in tensors) else CPU
    strays = [tensor for tensor in tensors if tensor.device != DEVICE and tensor.dim() > 0]
    if place == DEVICE and strays and func not in COPIES:
        raise RuntimeError(f"{func} has tensors of {DEVICE} and of the CPU, {[tuple(stray.shape) for stray in strays]}")
    asked, generator = kwargs.get("device"), kwargs.get("generator")
    target = place if asked is None else torch.device(asked)
    if func is aten.copy_.default:
        target = args[0].device
    if generator is not None and PlacedStream.places.get(generator._cdata, CPU).type != target.type:
        raise RuntimeError(f"{func} of {target} has a generator of another device")
    count_waits(func, args, place, target)
    result = func(*low_args, **low_kwargs)
    if target.type != NAME:
        return result
    launches[func] += not is_view(func)
    placed = each(result, lambda value: Placed(value) if isinstance(value, Tensor) else value)
    return return_and_correct_aliasing(func, args, kwargs, placed) if may_alias(func) else placed


def each(value: Any, do: Callable[[Any], Any]) -> Any:
    """Do something with each value in lists and tuples: what PyTorch's own trees do, in a tenth of the time."""
    return type(value)([each(item, do) for item in value]) if type(value) in (list, tuple) else do(value)


def lowered(tensors: list[Tensor], value: Any) -> Any:
    """Return for the CPU what is on the device, and note which tensors there are."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.held if isinstance(value, Placed) else value
    return CPU if isinstance(value, torch.device) else value


@functools.cache
def may_alias(func: Any) -> bool:
    """Return whether what an operation returns may be an argument, or a view of one."""
    return any(item.alias_info is not None for item in (*func._schema.arguments, *func._schema.returns))


@functools.cache
def is_view(func: Any) -> bool:
    """Return whether an operation computes nothing."""
    aliases = [item.alias_info for item in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases) or "empty" in str(func)


def count_waits(func: Any, args: Sequence[Any], place: torch.device, target: torch.device) -> None:
    """Count one where host and device wait for one another."""
    if func in COPIES and args[0].device.type + args[-1].device.type + target.type != 3 * target.type:
        waits[f"{func} between devices"] += 1
    elif place == DEVICE and func in READS:
        waits[str(func)] += 1
    elif place == DEVICE and func in INDEXING:
        waits[f"{func} by a mask"] += any(index is not None and index.dtype == torch.bool for index in args[1])


@contextlib.contextmanager
def plugged_in(*, one_by_one: bool = True) -> Iterator[None]:
    """Have the device, while this lasts.

    Args:
        one_by_one: whether samples are drawn as on the CPU, to have the same numbers.
    """
    tensor = torch.tensor

    def placed_tensor(data: Any, *, device: torch.device | str | None = None, **options: Any) -> Tensor:
        made = tensor(data, **options)  # torch would ask the device for memory
        return made if device is None else made.to(device)

    with pytest.MonkeyPatch.context() as patch, Computing():
        patch.setattr(torch, "tensor", placed_tensor)
        patch.setattr(randomness, "Stream", PlacedStream)
        if one_by_one:
            patch.setattr(normal, "ONE_BY_ONE", ("cpu", NAME))
        yield
