"""Other digits from the same inputs are distinguished from those of another parameter, an edit or other images."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitsperdim.comparing.rerun import SAME, TRAINED
from bitsperdim.comparing.rounding import rounded_otherwise, sentence
from bitsperdim.core.files import write_json
from support.laboratory import git


def file(path: str, md5: str) -> dict[str, Any]:
    return {"path": path, "hash": "md5", "md5": md5, "size": 1}


def stage(deps: dict[str, str], outs: dict[str, str], **params: Any) -> dict[str, Any]:
    return {
        "cmd": "do it",
        "deps": [file(path, md5) for path, md5 in deps.items()],
        "params": {"params.yaml": params},
        "outs": [file(path, md5) for path, md5 in outs.items()],
    }


BEFORE = {
    "dequantize": stage({"src/data": "1"}, {"data": "d"}, bits=None),
    "train@vae": stage({"data": "d", "src/models": "1"}, {"models/vae": "v"}, lr=1),
    "train@other": stage({"data": "d", "src/models": "1"}, {"models/other": "o"}, lr=1),
    "evaluate@vae": stage({"data": "d", "models/vae": "v", "src/models": "1"}, {"results/vae/metrics.json": "m"}, k=8),
    "report": stage({"results": "r", "src/report": "1"}, {"report": "h"}),
}


def test_the_name_of_another_machine_is_no_digit() -> None:
    before, after = copy.deepcopy(BEFORE), copy.deepcopy(BEFORE)
    for lock, md5 in ((before, "1"), (after, "2")):
        lock["train@vae"]["outs"].append(file("results/vae/trained_with.json", md5))
        lock["evaluate@vae"]["outs"].append(file("results/vae/evaluated_with.json", md5))
    assert rounded_otherwise(before, after) == []
    after["train@vae"]["outs"][0]["md5"] = "w"
    assert rounded_otherwise(before, after) == ["train@vae"]


def test_nothing_is_told_of_the_same_lock() -> None:
    assert rounded_otherwise(BEFORE, BEFORE) == []


def elsewhere(**changes: str) -> dict[str, Any]:
    """Return the lock of a rerun in which models/vae and all that follows from it differ, with further changes."""
    changes = {"models/vae": "V", "results/vae/metrics.json": "M", "results": "R", "report": "H"} | changes
    after = copy.deepcopy(BEFORE)
    for content in after.values():
        for entry in (*content["deps"], *content["outs"]):
            entry["md5"] = changes.get(entry["path"], entry["md5"])
    return after


def test_other_outputs_of_the_same_inputs_are_told() -> None:
    """Later stages that change as a result are reported, too; a new stage is not."""
    assert rounded_otherwise(BEFORE, elsewhere()) == ["train@vae", "evaluate@vae", "report"]
    assert rounded_otherwise({}, elsewhere()) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"src/models": "2"}, []),  # an edit of the code for training and scoring also affects the report
        ({"src/report": "2"}, ["train@vae", "evaluate@vae"]),
        ({"data": "D"}, ["dequantize", "train@vae", "evaluate@vae", "report"]),  # for example a resampled image
        ({"src/data": "2", "data": "D"}, []),
        ({"src/data": "2"}, []),
    ],
)
def test_what_an_edit_has_changed_is_not_told(changed: dict[str, str], told: list[str]) -> None:
    assert rounded_otherwise(BEFORE, elsewhere(**changed)) == told


@pytest.mark.parametrize(("hashes", "told"), [(("1", "1"), ["train@vae", "evaluate@vae", "report"]), (("1", "2"), [])])
def test_another_installed_package_is_other_code(hashes: tuple[str, str], told: list[str]) -> None:
    """In a folder that `bitsperdim init` has laid out, only the files that preflight writes show it."""
    before, after = copy.deepcopy(BEFORE), elsewhere()
    for lock, md5 in zip((before, after), hashes, strict=True):
        for name, content in lock.items():
            content["deps"] = [entry for entry in content["deps"] if not entry["path"].startswith("src")]
            content["deps"].append(file(f"data/code/{name}.json", md5))
        lock["preflight"] = stage({"stages": "1"}, {"data/code": md5})
    assert rounded_otherwise(before, after) == told


def test_what_another_command_has_changed_is_not_told() -> None:
    after = elsewhere()
    after["evaluate@vae"]["cmd"] = "do it otherwise"
    assert rounded_otherwise(BEFORE, after) == ["train@vae"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dequantize", []),
        ("train@vae", []),
        ("train@other", ["train@vae", "evaluate@vae", "report"]),
        ("evaluate@vae", ["train@vae"]),
    ],
)
def test_what_another_parameter_has_changed_is_not_told(name: str, told: list[str]) -> None:
    """This holds for the stage itself and for earlier stages."""
    after = elsewhere()
    after[name]["params"] = {"params.yaml": {"another": 1}}
    assert rounded_otherwise(BEFORE, after) == told


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a lock and the results of one model, committed."""
    write_lock(tmp_path, BEFORE)
    metrics = {**dict.fromkeys(SAME, "x"), **dict.fromkeys(TRAINED, 2.0)}
    write_json(tmp_path / "results" / "vae" / "metrics.json", metrics)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "-m", "Results")
    return tmp_path


def write_lock(root: Path, stages: dict[str, Any]) -> None:
    with (root / "dvc.lock").open("w", encoding="utf-8") as opened:
        YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, opened)


def rerun(root: Path, moved_by: float) -> None:
    """Write the files that a rerun on another processor would write."""
    write_lock(root, elsewhere())
    path = root / "results" / "vae" / "metrics.json"
    write_json(path, {**json.loads(path.read_text()), "bpd": 2.0 + moved_by})


def test_the_sentence_says_what_moved_why_and_whether_it_may(root: Path) -> None:
    assert sentence(root) == ""
    rerun(root, 0.4 * TRAINED["bpd"])
    told = sentence(root)
    assert told.startswith(
        "The digits differ from the last commit, with the same code and parameters: evaluate@vae, report, train@vae. "
    )
    assert "These numbers agree with the committed ones, within the tolerances of bitsperdim.comparing.rerun." in told
    assert told.endswith("Number of tracked files modified by this: 2.")
    rerun(root, 2 * TRAINED["bpd"])
    told = sentence(root)
    assert "do NOT agree within the tolerances of bitsperdim.comparing.rerun: " in told
    assert ": vae: bpd is 2.10000, but the committed value is 2.0" in told


def test_a_model_with_another_parameter_is_not_judged(root: Path) -> None:
    """One model changed by rounding, another by a new parameter: only the first is judged."""
    rerun(root, 0.4 * TRAINED["bpd"])
    after = elsewhere(**{"models/other": "O"})
    after["train@other"]["params"] = {"params.yaml": {"lr": 2}}
    write_lock(root, after)
    write_json(root / "results" / "other" / "metrics.json", {"bpd": 9.0})
    assert "These numbers agree" in sentence(root)


@pytest.mark.parametrize("content", ["", "stages: 3", "{", "<<<<<<< HEAD\n"])
def test_nothing_is_said_of_what_is_not_a_lock(content: str, root: Path) -> None:
    (root / "dvc.lock").write_text(content)
    assert sentence(root) == ""


def test_nothing_is_said_where_git_cannot_tell(root: Path) -> None:
    rerun(root, 0.01)
    (root / ".git").rename(root / "elsewhere")
    assert sentence(root) == ""
