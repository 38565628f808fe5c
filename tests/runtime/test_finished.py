"""The checkpoints of a finished stage can be used until the next stage starts."""

from pathlib import Path

import pytest

from bitsperdim.runtime import finished
from bitsperdim.runtime.checkpoints import SECONDS, Checkpoint
from support import workspace
from support.workspace import EVALUATE, TRAIN


@pytest.fixture
def everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(finished.VARIABLE, str(tmp_path / "all"))
    return tmp_path / "all"


def test_what_is_finished_goes_unless_it_is_kept(everything: Path) -> None:
    """Its parts are removed with it, and the outer folder too if it is empty."""
    done, under_way, mine = (Checkpoint(everything / name, name) for name in ("done", "under way", "mine"))
    for place in (done, done.part("a"), under_way, mine):
        place.save({}, {"step": 1})
    for place in (done, mine):
        place.finish()
        assert place.load() is not None
    finished.clear(keep={mine.folder})
    assert set(everything.iterdir()) == {under_way.folder, mine.folder}
    assert under_way.load() is not None
    under_way.finish()
    finished.clear()
    assert not everything.exists()
    finished.clear()


@pytest.mark.parametrize("copy", [".dvc/tmp/exps/standalone/tmp1", ".dvc/tmp/exps/tmp2"])
def test_a_copy_of_the_repository_keeps_nothing(copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(finished.VARIABLE, raising=False)
    (tmp_path / copy).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / copy)
    assert finished.folder_of_all() == tmp_path / "checkpoints"
    monkeypatch.setenv(finished.VARIABLE, "elsewhere")
    assert finished.folder_of_all() == Path("elsewhere")
    monkeypatch.setenv(finished.VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    assert finished.folder_of_all() == Path("checkpoints")


def test_nothing_is_marked_where_nothing_was_saved(everything: Path) -> None:
    Checkpoint(everything / "one", "one").finish()
    assert not everything.exists()


def test_each_stage_removes_what_those_before_it_left(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage uses its own marked checkpoints: it may have been killed before its outputs were recorded."""
    short = {"n_samples": 20, "annealed": {"n_chains": 4, "n_steps": 3, "n_leapfrog": 1}, "refined": {"n_steps": 3}}
    workspace.prepare(tmp_path, repository, {"train": {"epochs": 4}, "evaluate": short}, n_images=100)
    monkeypatch.setenv(SECONDS, "0")

    def run(*stage: str) -> str:
        done = workspace.run(tmp_path, repository, *stage)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def marked() -> set[str]:
        return {path.parent.name for path in tmp_path.glob(f"checkpoints/*/{finished.MARK}")}

    assert "from a checkpoint" not in run(*TRAIN)
    trained, weights = marked(), workspace.written(tmp_path, "models")
    assert len(trained) == 2  # one for each seed
    assert run(*TRAIN).count("resumes from a checkpoint at its end, after") == 2
    assert (marked(), workspace.written(tmp_path, "models")) == (trained, weights)
    run(*EVALUATE)
    assert len(marked()) == 2
    assert not marked() & trained
    workspace.run(tmp_path, repository, "report.py", "results", "report")  # it fails, because some inputs are missing
    assert not (tmp_path / "checkpoints").exists()
