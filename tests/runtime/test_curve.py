"""The files of a training curve grow during training, and a full disk does not stop training."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.core.files import write_csv
from bitsperdim.runtime import curve
from bitsperdim.runtime.curve import COLUMNS, EVERY, CurveFiles, read_rows, seconds_of
from support.training_cases import run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Replace the clock; return a function that sets its time."""
    now = [1000.0]
    monkeypatch.setattr(curve, "monotonic", lambda: now[0])
    return lambda value: now.__setitem__(0, value)


@pytest.fixture
def files(tmp_path: Path) -> CurveFiles:
    return CurveFiles(tmp_path / "curve.csv", tmp_path / "logs" / "train-vae.csv")


def rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    return [dict.fromkeys(COLUMNS, 0.5) | {"epoch": number, "seed": seed} for number in range(1, n + 1)]


def read(path: Path) -> list[tuple[int, int]]:
    """Return the seed and the epoch of each row of a file."""
    return [(int(row["seed"]), int(row["epoch"])) for row in read_rows(path.read_text())]


def test_they_grow_with_the_training(files: CurveFiles, clock: Callable[[float], None]) -> None:
    """They are written at most once per interval, keep the rows of earlier seeds, and one of them has seconds."""
    files.follow(rows(1), [2.0])
    assert read(files.curve) == read(files.log) == [(0, 1)]
    clock(1000 + EVERY * 0.9)
    files.follow(rows(2), [2.0, 3.0])
    assert read(files.curve) == [(0, 1)]
    clock(1000 + EVERY)
    files.follow(rows(3), [2.0, 3.0, 4.0])
    assert read(files.curve) == [(0, 1), (0, 2), (0, 3)]
    files.add(rows(3), [2.0, 3.0, 4.0])
    clock(1100)
    files.follow(rows(1, seed=7), [1.25])
    expected = [(0, 1), (0, 2), (0, 3), (7, 1)]
    assert read(files.curve) == read(files.log) == expected
    assert files.curve.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert [row["seconds"] for row in read_rows(files.log.read_text())] == ["2", "3", "4", "1.25"]
    files.add(rows(2, seed=7), [1.25, 2.5])
    files.finish()
    assert read(files.curve) == read(files.log) == [*expected, (7, 2)]


def test_a_full_disk_stops_no_training(
    files: CurveFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However, the stage fails if its output cannot be written at the end."""

    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(curve, "write_csv", full)
        files.follow(rows(1), [2.0])
        expected = f"{files.curve} cannot be written (No space left on device); training continues without it.\n"
        assert capsys.readouterr().err == expected
        files.add(rows(1), [2.0])
        with pytest.raises(OSError, match="No space left"):
            files.finish()

    def no_logs(path: Path, *content: Any) -> None:
        full(path) if path == files.log else write_csv(path, *content)

    monkeypatch.setattr(curve, "write_csv", no_logs)
    files.finish()
    assert read(files.curve) == [(0, 1)]
    assert capsys.readouterr().err == f"{files.log} cannot be written (No space left on device).\n"


def test_seconds_are_those_of_the_same_training() -> None:
    of_curve = read_rows("epoch,train_bpd\n1,0.5\n2,0.25\n")
    assert seconds_of(of_curve, read_rows("epoch,train_bpd,seconds\n1,0.5,3.5\n2,0.25,7\n")) == ["3.5", "7"]
    for other in ("epoch,train_bpd,seconds\n1,0.5,3\n2,0.26,7\n", "epoch,train_bpd,seconds\n1,0.5,3\n", "", "\x00{"):
        assert seconds_of(of_curve, read_rows(other)) == ["", ""]


def test_a_training_is_followed() -> None:
    """``follow`` is called after each epoch, with the rows of all epochs so far and, separately, their seconds."""
    seen: list[tuple[list[Any], list[float]]] = []
    trained = run("vae", follow=lambda rows, seconds: seen.append((list(rows), list(seconds))))
    assert [len(rows) for rows, _ in seen] == [1, 2, 3, 4]
    assert seen[-1] == (trained.curve, trained.times)
    assert all(tuple(row) == COLUMNS for row in trained.curve)
    assert [row["n_presented"] for row in trained.curve] == [75, 150, 225, 300]
    assert 0 < trained.times[0] < trained.times[1] < trained.times[2] < trained.times[3] <= trained.seconds
    assert len(run("gaussian").times) == 1
