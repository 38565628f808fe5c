"""Comparisons and the leaderboard in a subfolder of a repository, in a shallow clone, and if git fails."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitsperdim.comparing import commands
from bitsperdim.comparing.cache import Cache
from bitsperdim.comparing.leaderboard import Board, as_text, leaderboard
from bitsperdim.core.errors import InputError
from support.laboratory import Laboratory, anothers, git

Drawn = Callable[..., np.ndarray]


def filled(root: Path, drawn: Drawn, top: Path | None = None) -> Laboratory:
    """Two commits, an experiment, and a model that only the workspace has."""
    laboratory = Laboratory(root, top)
    for n in (1, 2):
        laboratory.write("vae", drawn(n))
        laboratory.commit(f"Number {n}")
    laboratory.write("vae", drawn(3, 0.5))
    laboratory.experiment("tall-owl")
    laboratory.write("vae", drawn(2))  # the log-likelihoods of the images are not in git
    laboratory.write("new", drawn(4))
    return laboratory


def board(root: Path) -> Board:
    return leaderboard(root, Cache(root))


def told(found: Board) -> list[tuple[str, str, str, str]]:
    """Return the place of each number of the leaderboard without hashes, which differ between repositories."""
    return [(e.change.model, e.change.where.split()[0], e.change.subject, e.error_is) for e in found.entries]


@pytest.mark.parametrize("neighbour", [False, True])
def test_a_folder_of_a_larger_repository_is_like_a_repository(neighbour: bool, tmp_path: Path, drawn: Drawn) -> None:
    """This holds also if the folder beside it is another laboratory, whose results are ignored."""
    whole = filled(tmp_path / "whole", drawn)
    top = tmp_path / "larger"
    if neighbour:
        other = Laboratory(top / "a", top)
        for n in (7, 8):
            other.write("other", drawn(n))
            other.commit("Not ours")
        other.write("other", drawn(9))
        other.experiment("other-owl")
    part = filled(top / "folder" / "lab", drawn, top)
    assert told(board(part.root)) == told(board(whole.root))
    assert len(told(board(part.root))) == 4
    assert board(part.root).left_out == []
    for a, b in (("HEAD~1", "HEAD"), ("HEAD", "tall-owl"), ("HEAD~1", "workspace")):
        expected, found = whole.compare(a, b), part.compare(a, b)
        assert [row.bpd for row in found.rows] == [row.bpd for row in expected.rows]
        assert [row.error_is for row in found.rows] == ["paired"]
        assert (found.only_in_a, found.only_in_b) == (expected.only_in_a, expected.only_in_b)
    with pytest.raises(InputError, match=r"did you mean 'tall-owl'\?\); experiments are"):
        part.compare("tal-owl")


def test_a_workspace_that_git_has_is_no_row_of_its_own_in_a_folder(tmp_path: Path, drawn: Drawn) -> None:
    part = Laboratory(tmp_path / "larger" / "lab", tmp_path / "larger")
    part.write("vae", drawn(1))
    part.commit("First")
    assert [where for _, where, _, _ in told(board(part.root))] == ["commit"]


def test_where_history_is_cut_no_commit_is_credited_with_an_earlier_ones_numbers(tmp_path: Path, drawn: Drawn) -> None:
    origin = Laboratory(tmp_path / "origin")
    for model in ("vae", "iwae"):
        origin.write(model, drawn(len(model)))
        origin.commit(f"Made {model}")
    cut = origin.commit("Nothing new")
    origin.write("vae", drawn(9))
    last = origin.commit("Better")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=2", f"file://{origin.root}", str(clone))
    found = board(clone)
    rows = found.table().set_index("where")
    earlier = f"commit {cut[:7]} or earlier"
    assert rows["model"].to_dict().keys() == {earlier, f"commit {last[:7]}"}
    assert set(rows.loc[[earlier], "model"]) == {"vae", "iwae"}
    for column in ("commit", "date", "subject"):
        assert set(rows.loc[[earlier], column]) == {""}
    assert rows.loc[f"commit {last[:7]}", ["model", "commit", "subject"]].tolist() == ["vae", last, "Better"]
    sentence = "this is a shallow clone, whose history is cut off: `git fetch --unshallow` gets the earlier commits."
    assert found.left_out == [sentence]
    assert f"Left out: {sentence}" in as_text(found)
    with pytest.raises(InputError, match=r"'HEAD~2'; this is a shallow clone: `git fetch --unshallow` gets the"):
        commands.compare(clone, "HEAD~2", "HEAD", None, "text")
    assert "vae" in commands.compare(clone, "HEAD~1", "HEAD", None, "text")
    git(clone, "fetch", "--quiet", "--unshallow")
    whole = board(clone)
    assert whole.left_out == []
    assert sorted(whole.table()["subject"]) == ["Better", "Made iwae", "Made vae"]


def test_the_table_for_a_program_names_what_is_left_out_on_the_other_channel(
    tmp_path: Path, drawn: Drawn, capsys: pytest.CaptureFixture[str]
) -> None:
    laboratory = filled(tmp_path / "origin", drawn)
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{laboratory.root}", str(tmp_path / "clone"))
    assert commands.leaderboard(tmp_path / "clone", "csv").count("\n") == 1
    assert capsys.readouterr().err.startswith("Left out: this is a shallow clone")


def test_an_experiment_whose_baseline_is_not_there_is_not_credited_with_all(tmp_path: Path, drawn: Drawn) -> None:
    laboratory = Laboratory(tmp_path / "origin")
    for model in ("vae", "iwae"):
        laboratory.write(model, drawn(len(model)))
    laboratory.commit("Baseline")
    laboratory.write("vae", drawn(5))
    laboratory.experiment("tall-owl")
    laboratory.write("iwae", drawn(6))
    laboratory.commit("Last")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{laboratory.root}", str(clone))
    git(clone, "fetch", "--quiet", "--depth=1", "origin", "refs/exps/*:refs/exps/*")
    rows = board(clone).table()
    rows = rows[rows["where"].str.startswith("experiment")]
    assert set(zip(rows["model"], rows["where"], rows["commit"], rows["date"], strict=True)) == {
        (model, "experiment tall-owl or its baseline", "", "") for model in ("vae", "iwae")
    }
    git(clone, "fetch", "--quiet", "--unshallow", "origin", "refs/exps/*:refs/exps/*", "main")
    rows = board(clone).table()
    rows = rows[rows["where"] == "experiment tall-owl"]
    assert rows["model"].tolist() == ["vae"]


def test_what_git_cannot_tell_is_told_with_its_reason(
    tmp_path: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message never claims that there is no such revision or no commit."""
    laboratory = filled(tmp_path / "lab", drawn)
    for name, value in anothers().items():
        monkeypatch.setenv(name, value)
    reason = (
        rf"git cannot tell about {laboratory.root}: detected dubious .* git config --global --add safe\.directory /"
    )
    with pytest.raises(InputError, match=f"^'HEAD' is not a recipe result, and {reason}"):
        laboratory.compare("HEAD")
    with pytest.raises(InputError, match=f"^{reason}"):
        board(laboratory.root)
    assert laboratory.compare("workspace", "workspace").rows


def test_a_lost_commit_is_not_an_unknown_name(tmp_path: Path, drawn: Drawn) -> None:
    laboratory = filled(tmp_path / "lab", drawn)
    for file in (laboratory.root / ".git" / "objects").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(InputError, match="'HEAD' is not a recipe result, and git cannot tell about"):
        laboratory.compare("HEAD")
    with pytest.raises(InputError, match=r"git cannot tell about .*: bad object main"):
        board(laboratory.root)
    with pytest.raises(InputError, match="There is no revision, recipe result or experiment"):
        laboratory.compare("nowhere")
