"""Blocks: each is computed once and put in its place, by any process and after any number of interruptions."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitsperdim.runtime import shards
from bitsperdim.runtime.checkpoints import NEWER, OLDER, Checkpoint
from bitsperdim.runtime.shards import in_blocks
from support import sharded, warm, workspace
from support.sharded import CPU, MISTAKES, N_IMAGES, STOPS_AT, counted, interrupted, kept

LAUNCHER = ("torch.distributed.run", "--standalone", "--nproc-per-node")
ROWS = torch.cat([counted([])(range(first, first + 2)) for first in range(0, N_IMAGES, 2)])  # the expected rows


def resumed(place: Checkpoint) -> tuple[Tensor, list[int], list[int]]:
    """Resume and finish the work.

    Returns:
        the rows, the first rows of the blocks that were computed, and the number of rows in each call of ``progress``.
    """
    calls: list[int] = []
    told: list[int] = []
    rows = in_blocks(
        "work",
        N_IMAGES,
        2,
        2,
        counted(calls),
        device=CPU,
        checkpoint=place,
        progress=lambda new: told.append(len(new)),
    )
    return rows, calls, told


def together(n_processes: int, folder: Path, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a script in several processes."""
    source = Path(shards.__file__).parents[2]
    return subprocess.run(
        [warm.python(), "-m", *LAUNCHER, str(n_processes), str(script), *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{source}{os.pathsep}{Path(__file__).parents[1]}",
            "BITSPERDIM_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("n_processes", [2, 4])
def test_sharded_is_the_same_bit_for_bit(n_processes: int, tmp_path: Path) -> None:
    """Four models, two seeds, with and without noise, and annealing give the bits of one process.

    Four processes are more than there are blocks. Each mistake in sharing is caught, an error in one process stops all,
    and several processes can resume the work of one, and one the work of several.
    """
    interrupted(kept(tmp_path / "of one"))
    done = together(n_processes, tmp_path, Path(sharded.__file__), str(tmp_path))
    assert done.returncode == 0, done.stderr  # no process waits for ever, even if one stops
    outcome: dict[str, Any] = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["world"] == n_processes
    assert len(outcome["same"]) == 8
    assert all(outcome["same"].values()), outcome["same"]
    assert outcome["annealed"]

    found = outcome["mistakes"]
    assert set(found) == set(MISTAKES)
    for name in ("an image twice", "every block by everyone"):
        assert "computed rows are not the 10 expected rows, each exactly once" in found[name]
        assert int(found[name].split()[1]) > N_IMAGES
    assert found["a block dropped"].startswith("the 6 computed rows")
    assert found["wrong order"] == "other numbers"
    assert found["a generator of each process"] == "other numbers"

    assert outcome["one is not finite"] == "FloatingPointError: image 3"
    assert outcome["another stops"] == f"InputError: Process 1 of {n_processes} stopped: no more"
    assert outcome["all stop"] == "ValueError: mine"
    assert (tmp_path / "all fail").read_text() == "FloatingPointError: of 0"  # all processes have the same error

    assert outcome["rows"] == ROWS.tolist()
    assert outcome["calls"] == [4, 8][: 4 // n_processes]  # blocks of the first process; 0 and 2 were done before
    rows, calls, _ = resumed(kept(tmp_path / "of many"))
    assert torch.equal(rows, ROWS)
    assert calls == ([4, 6, 8] if n_processes == 2 else [8])  # each process had done one block


def test_the_stage_writes_the_same_files(tmp_path: Path, repository: Path) -> None:
    """Two processes write the files of one, with two seeds, annealing and pictures; only the first process prints."""
    workspace.prepare(tmp_path, repository, {}, n_images=100)
    workspace.make_models(tmp_path)
    done = workspace.run(tmp_path, repository, *workspace.EVALUATE, BITSPERDIM_CHECKPOINT_SECONDS="100000")
    assert done.returncode == 0, done.stderr
    expected = workspace.written(tmp_path, "results")
    assert {"results/vae/metrics.json", "results/vae/pictures/samples.png"} <= expected.keys()
    shutil.rmtree(tmp_path / "results")
    both = workspace.run(tmp_path, repository, *workspace.EVALUATE, launcher=("-m", *LAUNCHER, "2"))
    assert both.returncode == 0, both.stderr
    assert both.stdout == done.stdout
    found = workspace.written(tmp_path, "results")
    for files in (found, expected):
        # this file differs, since it contains the number of processes
        assert b'"n_processes": ' in files.pop("results/vae/evaluated_with.json")
    assert found == expected


def test_what_is_done_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows have the same bits; saved blocks are not computed again, and progress counts them."""
    place = kept(tmp_path / "one")
    assert interrupted(place) == [0, 2]
    assert capsys.readouterr().out == ""
    rows, calls, told = resumed(place)
    assert torch.equal(rows, ROWS)
    assert calls == [4, 6, 8]
    assert told == [4, 2, 2, 2]
    assert capsys.readouterr().out == "work: resumes from a checkpoint with 4 of 10 images done.\n"
    rows, calls, told = resumed(place)  # a finished checkpoint stays until the caller removes it
    assert (torch.equal(rows, ROWS), calls, told) == (True, [], [10])
    shutil.rmtree(place.folder)
    assert resumed(place)[1] == [0, 2, 4, 6, 8]


def test_nothing_is_written_of_work_that_takes_no_time(tmp_path: Path) -> None:
    """Longer work leaves no more than two files, and not one for each block."""
    resumed(Checkpoint(tmp_path / "one", "one", interval=60.0))
    assert not (tmp_path / "one").exists()
    resumed(kept(tmp_path / "one"))
    assert {path.name for path in (tmp_path / "one").iterdir()} == {NEWER, OLDER}
    interrupted(Checkpoint(tmp_path / "two", "two", interval=60.0))  # finished blocks are always saved then
    assert (tmp_path / "two" / NEWER).exists()


def test_it_is_written_once_in_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With five blocks of 40 s, it is written after the second block, after the fourth, and at the end."""
    clock, saved = [0.0], []
    monkeypatch.setattr(shards.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        Checkpoint, "save", lambda self, tensors, values: saved.append((clock[0], len(tensors["rows"])))
    )
    slow = counted([])

    def work(block: range) -> Tensor:
        clock[0] += 40.0
        return slow(block)

    in_blocks("work", N_IMAGES, 2, 2, work, device=CPU, checkpoint=Checkpoint(tmp_path, "one", interval=60.0))
    assert saved == [(80.0, 4), (160.0, 8), (200.0, 10)]


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
    assert torch.equal(shards.in_place(rows[[3, 0, 4, 1, 2]], 5), rows[:, 1:])
    for wrong in ([0, 1, 2, 3], [0, 1, 2, 3, 3], [0, 1, 2, 3, 4, 4], []):
        with pytest.raises(RuntimeError, match=f"the {len(wrong)} computed rows are not the 5"):
            shards.in_place(rows[wrong], 5)


def test_blocks_are_a_partition_of_the_rows() -> None:
    assert shards.blocks(STOPS_AT + 3, 3) == [range(3), range(3, 6), range(6, 7)]
    assert shards.blocks(0, 3) == []
