"""A stand-in for CUDA graphs on a CPU: work is recorded operation by operation, and done again on the same tensors.

As a graph does, it repeats the numbers of the host as they were when it was recorded, it writes its results where they
were written first, it draws new random numbers, and it refuses work that waits for the device. Unlike a graph it does
the work while it is being recorded; what that changes is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default}


def tensors_of(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class Recording(TorchDispatchMode):
    """Note each operation, its arguments and its results, and the first value of whatever is written over."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, Mapping[str, Any], Any]] = []
        self.own: set[int] = set()  # memory that was made while recording
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        if func._schema.is_mutable:
            for each in tensors_of((args, kwargs)):
                address = each.untyped_storage().data_ptr()
                if address not in self.own and id(each) not in self.before:
                    self.before[id(each)] = (each, each.detach().clone())
        results = func(*args, **(kwargs or {}))
        given = {each.untyped_storage().data_ptr() for each in tensors_of((args, kwargs))}
        self.own |= {each.untyped_storage().data_ptr() for each in tensors_of(results)} - given
        self.operations.append((func, args, kwargs or {}, results))
        return results


class RecordedGraph:
    """What :class:`bitsperdim.training.captured.Graph` is on a GPU."""

    n_launched = 0

    def __init__(self, work: Callable[[], Tensor], generator: torch.Generator) -> None:
        state = generator.get_state()
        with Recording() as recording:
            self.result = work()
        self.operations = recording.operations
        with torch.no_grad():
            for tensor, value in reversed(
                recording.before.values()
            ):  # of two views of the same memory the first counts
                tensor.copy_(value)
        generator.set_state(state)

    @torch.no_grad()
    def launch(self) -> None:
        type(self).n_launched += 1
        for func, args, kwargs, results in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tensors_of(results), tensors_of(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)
