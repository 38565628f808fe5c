"""Blocks: each once and in its place, whoever computes them and however often the run was interrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sharded
from bitsperdim import blocks
from bitsperdim.blocks import in_blocks
from bitsperdim.checkpoints import NEWER, OLDER, Checkpoint
from sharded import CPU, MISTAKES, N_IMAGES, STOPS_AT, counted, interrupted, kept

ROWS = torch.cat([counted([])(range(first, first + 2)) for first in range(0, N_IMAGES, 2)])  # by definition


def resumed(place: Checkpoint) -> tuple[Tensor, list[int], list[int]]:
    """Go on to the end; return the rows, which blocks were done, and how many rows each call of ``progress`` had."""
    calls: list[int] = []
    told: list[int] = []
    rows = in_blocks(
        *("work", N_IMAGES, 2, 2, counted(calls)),
        device=CPU,
        checkpoint=place,
        progress=lambda new: told.append(len(new)),
    )
    return rows, calls, told


def together(n_processes: int, folder: Path, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a script in several processes."""
    source, launcher = Path(blocks.__file__).parents[1], ("-m", "torch.distributed.run", "--standalone")
    return subprocess.run(
        [sys.executable, *launcher, "--nproc-per-node", str(n_processes), str(script), *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{source}{os.pathsep}{Path(__file__).parent}",
            "BITSPERDIM_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module", params=[2, 4])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes say, and four: more than there are blocks."""
    folder = tmp_path_factory.mktemp("sharded")
    interrupted(kept(folder / "of one"))
    done = together(request.param, folder, Path(sharded.__file__), str(folder))
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    assert content["world"] == request.param
    rows, calls, _ = resumed(kept(folder / "of many"))
    return {**content, "then one": rows, "then one calls": calls}


def test_sharded_is_the_same_bit_for_bit(outcome: dict[str, Any]) -> None:
    """Three models, two seeds, with noise or without, and annealing: as one process alone."""
    assert len(outcome["same"]) == 6
    assert all(outcome["same"].values()), outcome["same"]
    assert outcome["annealed"]


def test_each_mistake_in_sharing_is_caught(outcome: dict[str, Any]) -> None:
    found = outcome["mistakes"]
    assert set(found) == set(MISTAKES)
    for name in ("an image twice", "every block by everyone"):
        assert "rows that were computed are not the 10 that were to be, each once" in found[name]
        assert int(found[name].split()[1]) > N_IMAGES
    assert found["a block dropped"].startswith("the 6 rows that were computed")
    assert found["wrong order"] == "other numbers"
    assert found["a generator of each process"] == "other numbers"


def test_what_stops_one_stops_all(outcome: dict[str, Any]) -> None:
    """What the first process gets; that no process waits for ever, the launcher's status says."""
    assert outcome["one is not finite"] == "FloatingPointError: image 3"
    assert outcome["another stops"] == f"InputError: Process 1 of {outcome['world']} stopped: no more"
    assert outcome["all stop"] == "ValueError: mine"


def test_several_processes_take_over_from_one_and_one_from_several(outcome: dict[str, Any]) -> None:
    assert outcome["rows"] == ROWS.tolist()
    assert outcome["calls"] == [4, 8][: 4 // outcome["world"]]  # of the first process; 0 and 2 were done
    assert torch.equal(outcome["then one"], ROWS)
    assert outcome["then one calls"] == ([4, 6, 8] if outcome["world"] == 2 else [8])  # those had done one block each


def test_what_is_done_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the bit; the kept blocks are not computed again, and progress counts them."""
    place = kept(tmp_path / "one")
    assert interrupted(place) == [0, 2]
    assert capsys.readouterr().out == ""
    rows, calls, told = resumed(place)
    assert torch.equal(rows, ROWS)
    assert calls == [4, 6, 8]
    assert told == [4, 2, 2, 2]
    assert capsys.readouterr().out == "work: goes on from a checkpoint, 4 of 10 images are done.\n"
    rows, calls, told = resumed(place)  # a finished one is kept until the caller removes it
    assert (torch.equal(rows, ROWS), calls, told) == (True, [], [10])
    place.remove()
    assert resumed(place)[1] == [0, 2, 4, 6, 8]


def test_nothing_is_written_of_work_that_takes_no_time(tmp_path: Path) -> None:
    """Nor one file for each block of work that does."""
    resumed(Checkpoint(tmp_path / "one", "one", interval=60.0))
    assert not (tmp_path / "one").exists()
    resumed(kept(tmp_path / "one"))
    assert {path.name for path in (tmp_path / "one").iterdir()} == {NEWER, OLDER}
    interrupted(Checkpoint(tmp_path / "two", "two", interval=60.0))  # what is done is kept, however short it took
    assert (tmp_path / "two" / NEWER).exists()


@pytest.mark.parametrize("damage", ["truncated", "changed", "foreign", "text"])
def test_a_bad_checkpoint_is_named_and_its_blocks_computed_again(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, other = kept(tmp_path / "one"), Checkpoint(tmp_path / "other", "other", interval=0.0)
    interrupted(place)
    interrupted(other)
    (place.folder / OLDER).unlink()
    path = place.folder / NEWER
    content = path.read_bytes()
    bad = {
        "truncated": content[:-9],
        "changed": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "foreign": (other.folder / NEWER).read_bytes(),
        "text": b"<html>",
    }
    path.write_bytes(bad[damage])
    rows, calls, _ = resumed(place)
    assert torch.equal(rows, ROWS)
    assert calls == [0, 2, 4, 6, 8]
    message = capsys.readouterr().err
    assert message.startswith(f"{path} cannot be used (")
    assert message.count("\n") == 1


def test_rows_that_are_missing_or_there_twice_are_an_error() -> None:
    rows = torch.cat([torch.arange(5, dtype=torch.float64)[:, None], torch.rand(5, 2, dtype=torch.float64)], dim=1)
    assert torch.equal(blocks.in_place(rows[[3, 0, 4, 1, 2]], 5), rows[:, 1:])
    for wrong in ([0, 1, 2, 3], [0, 1, 2, 3, 3], [0, 1, 2, 3, 4, 4], []):
        with pytest.raises(RuntimeError, match=f"the {len(wrong)} rows that were computed are not the 5"):
            blocks.in_place(rows[wrong], 5)


def test_blocks_are_a_partition_of_the_rows() -> None:
    assert blocks.blocks(STOPS_AT + 3, 3) == [range(3), range(3, 6), range(6, 7)]
    assert blocks.blocks(0, 3) == []
