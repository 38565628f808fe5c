"""Long parts of the work are announced, also in a log; short parts are not."""

from collections.abc import Iterator

import pytest

from bitsperdim.core.announcing import Announcement, announced, duration


def clock(seconds: float) -> Iterator[float]:
    """Yield the times at which steps of ``seconds`` end, one after another."""
    now = 0.0
    while True:
        yield now
        now += seconds


def test_a_long_part_is_announced_once(capsys: pytest.CaptureFixture[str]) -> None:
    times = clock(2.0)
    part = Announcement("draw 64 images", 100, "evaluate.n_pictures says how many", lambda: next(times))
    for _ in range(2):  # 4 s are too short for an estimate
        part.step()
    assert capsys.readouterr().out == ""
    part.step()
    assert capsys.readouterr().out == "draw 64 images: about 3 min in all; evaluate.n_pictures says how many.\n"
    for _ in range(97):
        part.step()
    assert capsys.readouterr().out == ""


def test_steps_of_several_count(capsys: pytest.CaptureFixture[str]) -> None:
    times = clock(6.0)
    Announcement("all", 1000, "less", lambda: next(times)).step(100)
    assert capsys.readouterr().out == "all: about 60 s in all; less.\n"


def test_a_short_part_is_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    times = clock(2.0)
    assert list(announced(range(14), "short", 14, "less", lambda: next(times))) == list(range(14))
    assert capsys.readouterr().out == ""
    assert list(announced(range(16), "long", 16, "less", lambda: next(times))) == list(range(16))
    assert capsys.readouterr().out == "long: about 32 s in all; less.\n"


def test_what_is_done_is_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    times = clock(60.0)
    Announcement("all", 10, "less", lambda: next(times)).step(10)
    assert capsys.readouterr().out == ""


def test_one_process_of_several_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    for rank, expected in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        times = clock(60.0)
        Announcement("all", 10, "less", lambda times=times: next(times)).step()  # type: ignore[misc]
        assert capsys.readouterr().out.count("about 10 min") == expected


def test_times_are_round() -> None:
    assert [duration(seconds) for seconds in (31.4, 89, 343, 5399, 9000)] == [
        "31 s",
        "89 s",
        "6 min",
        "90 min",
        "2.5 h",
    ]
