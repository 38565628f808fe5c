"""A stand-in for another processor: products and sums round by the shapes of their operands.

Processors do: which kernel computes a product, and in which order it adds up, depends on the sizes, and differs between
AVX2, AVX-512 and AMX. What is demanded to the last bit of two computations of different shapes (a batch and its images
one by one, a chunk of samples and two halves) therefore holds on some machines only. Under :class:`OtherRounding` such
a demand fails on any machine; the same shapes computed twice give the same bits, as they do on all.

``BITSPERDIM_ROUNDING=shapes python -m pytest`` runs the tests under it, and ``make portable`` those that depend on the
processor.

Each operand of a product or sum is moved by at most one unit in its last place, a factor of 1 - e, 1 or 1 + e, which
changes the result as another order of additions does. Whole numbers stay: their sums are exact in any order.

Products of bfloat16 are added up in float32, as processors do, and rounded at the end.

Not here: functions such as exp; threads other than the one that entered it, and processes that a test starts.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

VARIABLE = "BITSPERDIM_ROUNDING"
aten = torch.ops.aten
OF_OPERANDS = {  # whose terms are added up
    *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.mv, aten.addmv, aten.dot),
    *(aten.convolution, aten.convolution_backward),
    *(aten.sum, aten.mean, aten.var, aten.std, aten.cumsum, aten.linalg_vector_norm, aten.prod),
    *(aten.linalg_cholesky_ex, aten.linalg_solve_triangular),
}
OF_ONE = {aten.sum, aten.mean, aten.cumsum, aten.linalg_vector_norm, aten.prod}  # operand
OF_RESULTS = {aten.logsumexp, aten._softmax, aten._log_softmax}
SHORT = {torch.bfloat16}  # whose terms are added up in float32


class OtherRounding(TorchDispatchMode):
    """Rounds as another processor might, while it lasts."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute."""
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in OF_OPERANDS and packet not in OF_RESULTS:
            return func(*args, **kwargs)
        key = key_of(func, args)
        if packet in OF_RESULTS:
            result = func(*args, **kwargs)
            first = result[0] if isinstance(result, tuple) else result
            if packet is not aten.logsumexp or first.numel() < args[0].numel():
                first.copy_(moved(first, key))
            return result
        if packet in OF_ONE and (result := func(*args, **kwargs)).numel() == args[0].numel():
            return result  # sums of one term
        if any(value.dtype in SHORT for value in pytree.tree_leaves(args) if isinstance(value, Tensor)):
            wide = pytree.tree_map(lambda value: moved(cast(value, SHORT, torch.float32), key), args)
            return pytree.tree_map(lambda value: cast(value, {torch.float32}, torch.bfloat16), func(*wide, **kwargs))
        return func(*pytree.tree_map(lambda value: moved(value, key), args), **kwargs)


def key_of(func: Any, args: Sequence[Any]) -> int:
    """Return a number that stands for an operation and the shapes and places of its operands."""
    tensors = [value for value in pytree.tree_leaves(args) if isinstance(value, Tensor)]
    layouts = [(*value.shape, value.stride(), value.storage_offset() * value.element_size() % 64) for value in tensors]
    return zlib.crc32(repr((str(func), layouts)).encode())


def cast(value: Any, of: set[torch.dtype], to: torch.dtype) -> Any:
    """Return a tensor of one of some types as one of another type, and anything else as it is."""
    return value.to(to) if isinstance(value, Tensor) and value.dtype in of else value


def moved(value: Any, key: int) -> Any:
    """Return a tensor with each number that is not whole moved by at most one unit in its last place."""
    if not (isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0):
        return value
    factors, n = table(value.dtype), value.numel()
    start = key % 1009
    if start + n > len(factors):
        factors = factors.repeat(1 + (start + n) // len(factors))
    factors = factors[start : start + n].view(value.shape)
    return torch.where(value == value.round(), value, value * factors)


@lru_cache
def table(dtype: torch.dtype) -> Tensor:
    """Return a long list of 1 - e, 1 and 1 + e, at random."""
    signs = torch.randint(-1, 2, (100_003,), generator=torch.Generator().manual_seed(0))
    return 1 + signs.to(dtype) * torch.finfo(dtype).eps
