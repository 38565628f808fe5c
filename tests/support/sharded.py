"""What several processes say of the same small models as one: ``torch.distributed.run ... sharded.py FOLDER``.

Each process first computes everything alone, then all share it out. The first writes ``outcome.json``: for each case,
and for each mistake in sharing, what came of it.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from bitsperdim.config.params import EvaluateSection
from bitsperdim.core.randomness import stream
from bitsperdim.data.prepared import Description, PreparedImages
from bitsperdim.evaluation import latent_code, scoring
from bitsperdim.evaluation.estimate import Estimate
from bitsperdim.models import LatentModel
from bitsperdim.runtime import shards
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.distributed import is_first, joined, rank, world_size
from bitsperdim.runtime.shards import in_blocks
from support.cases import SMALL, small_model

CPU = torch.device("cpu")
CASES = ("vae-categorical", "pixelcnn-three-levels", "flow-maf", "gaussian-grey")
N_IMAGES = 10  # of three shards, the last of them smaller
STOPS_AT = 4  # so many are done when a run is interrupted
SECTION = EvaluateSection(
    n_samples=12,
    chunk_size=5,
    batch_size=4,
    n_pictures=1,
    seed=0,
    proposal="refined",
    refined={"n_steps": 3, "n_samples": 8, "n_pilot": 32, "n_rounds": 1},  # type: ignore[arg-type]
    annealed={"n_images": 7, "n_simulated": 5, "n_chains": 4, "n_steps": 3, "n_leapfrog": 2},  # type: ignore[arg-type]
)


def prepared(name: str) -> PreparedImages:
    """Ten test images, at random."""
    _, _, shape, n_levels = SMALL[name]
    rng = np.random.default_rng(0)
    images = rng.integers(n_levels, size=(N_IMAGES, *shape), dtype=np.uint8)
    noise = rng.random((N_IMAGES, *shape), dtype=np.float32)
    description = Description(shape, n_levels, n_levels, "none", {"test": N_IMAGES}, "hash", "tag")
    return PreparedImages(description, {"test": images}, noise={"test": noise})


def evaluated(name: str, seed: int) -> Estimate:
    """One model under one seed, by as many processes as there are."""
    return scoring.evaluate_seed(small_model(name, seed).float(), prepared(name), SECTION, seed, CPU)


def annealed(estimated: Estimate) -> dict:
    """Three blocks of chains, both of test images and of drawn ones."""
    model = small_model(CASES[0]).float()
    assert isinstance(model, LatentModel)
    with mock.patch.object(latent_code, "CHAINS_AT_ONCE", 12):
        return latent_code.annealing(
            model, prepared(CASES[0]), estimated, SECTION.annealed, 0, CPU, refining=SECTION.refined
        )


def same(one: Estimate, other: Estimate) -> bool:
    """Whether two estimates are the same: every number, and NaN where the other has it."""

    def alike(a: object, b: object) -> bool:
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return a == b
        return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())

    return all(alike(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))


def counted(calls: list[int]) -> Callable[[range], Tensor]:
    """Work that says which blocks it did."""

    def work(block: range) -> Tensor:
        calls.append(block.start)
        generator = stream("evaluation", block.start)
        return torch.rand(len(block), 2, generator=generator, dtype=torch.float64)

    return work


def interrupted(place: Checkpoint) -> list[int]:
    """Stop in the middle, as by Ctrl-C; return which blocks this process did."""
    calls: list[int] = []
    done: list[int] = []

    def stop(rows: Tensor) -> None:
        done.append(len(rows))
        if sum(done) >= STOPS_AT:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        in_blocks("work", N_IMAGES, 2, 2, counted(calls), device=CPU, checkpoint=place, progress=stop)
        raise AssertionError("it was not interrupted")
    return calls


def kept(folder: Path) -> Checkpoint:
    """Where interrupted work is kept."""
    return Checkpoint(folder, "one", interval=0.0)


def fails(process: int | None, error: Exception) -> str:
    """What each process gets where one of them fails; all of them where it is None."""

    def work(block: range) -> Tensor:
        if process in (None, rank()):
            raise error
        return torch.zeros(len(block), 2, dtype=torch.float64)

    try:
        in_blocks("work", N_IMAGES, 1, 2, work, device=CPU)
    except Exception as caught:
        return f"{type(caught).__name__}: {caught}"
    return "nothing"


@contextlib.contextmanager
def mistake(name: str) -> Iterator[None]:
    """Make one mistake in all processes."""
    one_generator = stream("evaluation", 0, 0)
    share = shards.share
    twins = {
        "an image twice": (shards, "share", lambda waiting: share(waiting[:1]) or waiting[:1] + share(waiting)),
        "a block dropped": (shards, "share", lambda waiting: share(waiting[1:])),
        "every block by everyone": (shards, "share", lambda waiting: waiting),
        "wrong order": (shards, "in_place", lambda rows, _: rows.flip(0)[:, 1:]),
        "a generator of each process": (scoring, "stream", lambda *_, **__: one_generator),
    }
    with mock.patch.object(*twins[name]):
        yield


MISTAKES = (
    "an image twice",
    "a block dropped",
    "every block by everyone",
    "wrong order",
    "a generator of each process",
)


def made(name: str, alone: Estimate) -> str:
    """What comes of a mistake."""
    with mistake(name):
        try:
            return "nothing" if same(alone, evaluated(CASES[0], 0)) else "other numbers"
        except RuntimeError as error:
            return str(error)


def main(folder: Path) -> None:
    """Compute alone, then together; compare."""
    torch.set_num_threads(1)
    alone = {(name, seed): evaluated(name, seed) for name in CASES for seed in (0, 1)}
    alone_annealed = annealed(alone[CASES[0], 0])
    calls: list[int] = []
    with joined(CPU):
        outcome = {
            "world": world_size(),
            "same": {f"{name} {seed}": same(one, evaluated(name, seed)) for (name, seed), one in alone.items()},
            "annealed": annealed(alone[CASES[0], 0]) == alone_annealed,
            "mistakes": {name: made(name, alone[CASES[0], 0]) for name in MISTAKES},
            "one is not finite": fails(world_size() - 1, FloatingPointError("image 3")),
            "another stops": fails(1, MemoryError("no more")),
            "all stop": fails(0, ValueError("mine")),
        }
        rows = in_blocks("work", N_IMAGES, 2, 2, counted(calls), device=CPU, checkpoint=kept(folder / "of one"))
        interrupted(kept(folder / "of many"))
        all_fail = fails(None, FloatingPointError(f"of {rank()}"))
        first, last = is_first(), rank() == world_size() - 1
    if last:
        (folder / "all fail").write_text(all_fail)
    outcome |= {"rows": rows.tolist(), "calls": calls}
    if first:
        (folder / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
