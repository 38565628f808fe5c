"""Shared parts of the experiments: streams of random numbers, architectures by name, two training runs at a time.

Small networks leave most of a core idle between operations. Two training runs at the same time, each in its own thread
with its own generator, take about two thirds of the time of two runs one after the other, and give the same bytes.

Invariant (``tests/studies/universal_resnet/test_many_trainings.py``): the results do not depend on the order and the
number of threads (``test_threads_change_nothing``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch

from bitsperdim.studies.universal_resnet.nets import DenseNet, OneNeuronResNet

Kind = Literal["resnet", "dense", "single"]
Item = TypeVar("Item")
Result = TypeVar("Result")

N_THREADS = 2


@dataclass(frozen=True)
class Architecture:
    """A kind of network and its size; the kind ``single`` is a dense network with depth 1."""

    kind: Kind
    width: int
    depth: int

    @property
    def name(self) -> str:
        """Name in the keys of results: ``resnet_40``, ``dense_6_10``, ``single_300``."""
        sizes = {"resnet": (self.depth,), "dense": (self.width, self.depth), "single": (self.width,)}[self.kind]
        return "_".join([self.kind, *map(str, sizes)])

    def build(self, d: int, n_nets: int, generator: torch.Generator, reach: float = 1.0) -> OneNeuronResNet | DenseNet:
        """Return untrained networks for data within [-reach, reach]^d."""
        if self.kind == "resnet":
            return OneNeuronResNet(d, self.depth, n_nets=n_nets, generator=generator, reach=reach)
        return DenseNet(d, self.width, self.depth, n_nets=n_nets, generator=generator)


def streams(seed: int, *path: int) -> np.random.SeedSequence:
    """Return the source of randomness of one part of the study."""
    return np.random.SeedSequence([seed, *path])


def torch_generator(source: np.random.SeedSequence) -> torch.Generator:
    """Return a generator on the CPU, so that the initial weights do not depend on the training device."""
    return torch.Generator().manual_seed(int(source.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], n_threads: int = N_THREADS) -> list[Result]:
    """Apply ``work`` to all items in several threads, and return the results in the order of the items."""
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(work, items))
