"""`bitsperdim back` restores the files of the last commit, also those that git takes for unchanged; edits stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitsperdim.comparing.back import go_back
from bitsperdim.core.errors import InputError
from support import warm
from support.laboratory import Laboratory

SCRIPT = """
from pathlib import Path
number = Path("params.yaml").read_text().split(": ")[1].strip()
Path("results/vae").mkdir(parents=True, exist_ok=True)
Path("results/vae/metrics.json").write_text('{"bpd": %s}' % number)
Path("results/vae/per_image.csv").write_text(number)
Path("results/project_delay").mkdir(exist_ok=True)
Path("results/project_delay/metrics.json").write_text('{"mean": %s}' % number)
"""
PIPELINE = f"""
stages:
  preflight:
    cmd: mkdir -p data/code && printf '${{number}}' > data/code/vae.json && printf '${{number}}' > data/preflight.txt
    outs:
      - data/preflight.txt: {{cache: false, persist: true}}
      - data/code: {{cache: false, persist: true}}
  evaluate:
    cmd: {sys.executable} stage.py
    deps: [stage.py]
    params: [number]
    outs:
      - results/vae/per_image.csv
      - results/project_delay: {{cache: false}}
    metrics:
      - results/vae/metrics.json: {{cache: false}}
"""
COMMITTED = {
    "params.yaml": "number: 17\n",
    "data/code/vae.json": "17",
    "data/preflight.txt": "17",
    "results/project_delay/metrics.json": '{"mean": 17}',
    "results/vae/metrics.json": '{"bpd": 17}',
    "results/vae/per_image.csv": "17",
}


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    """A repository with one stage, run and committed. As in many builds, git ignores the change times of inodes."""
    laboratory = Laboratory(tmp_path / "laboratory")
    root = laboratory.root
    for name, text in (("stage.py", SCRIPT), ("dvc.yaml", PIPELINE), ("params.yaml", "number: 17\n")):
        (root / name).write_text(text)
    command = [warm.python(), "-m", "dvc", "repro", "--quiet"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    for name in (name for name in COMMITTED if not name.endswith(".csv")):
        os.utime(root / name, (1_000_000_000, 1_000_000_000))  # long before the time of git's index
    laboratory.git("config", "core.trustctime", "false")
    laboratory.git("add", "--all")
    laboratory.git("commit", "--quiet", "-m", "Run")
    return laboratory


def as_another_experiment_left_it(root: Path) -> None:
    """Write other numbers of the same size; files that git knows keep their inode and time."""
    for name in COMMITTED:
        path = root / name
        if name.endswith(".csv"):
            path.unlink()  # it may be a link into DVC's cache
        path.write_text(COMMITTED[name].replace("17", "99"))
        if not name.endswith(".csv"):
            os.utime(path, (1_000_000_000, 1_000_000_000))


def contents(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text() for name in COMMITTED}


def test_what_git_takes_for_unchanged_goes_back(laboratory: Laboratory) -> None:
    root = laboratory.root
    assert contents(root) == COMMITTED
    as_another_experiment_left_it(root)
    laboratory.git("checkout", ".")
    assert laboratory.git("status", "--porcelain") == ""
    assert json_of_another_experiment(root), "git has looked at the file: this test shows nothing"
    said = list(go_back(root))
    assert contents(root) == COMMITTED
    assert laboratory.git("status", "--porcelain") == ""
    assert said == [
        f"Going back to the last commit, {laboratory.git('rev-parse', '--short', 'HEAD')}:",
        "  params.yaml: number: 99 -> 17",
        "  restored: data/code/vae.json",
        "  restored: data/preflight.txt",
        "  restored: params.yaml",
        "  restored: results/project_delay/metrics.json",
        "  restored: results/vae/metrics.json",
        "  DVC: M results/vae/per_image.csv",
    ]
    assert list(go_back(root))[1:] == ["  nothing had to change."]


def json_of_another_experiment(root: Path) -> bool:
    return "99" in (root / "results" / "vae" / "metrics.json").read_text()


def test_results_come_and_go_and_edits_of_anything_else_stay(laboratory: Laboratory) -> None:
    """Staged edits stay, too; a params.yaml that is not valid YAML is restored."""
    root = laboratory.root
    (root / "params.yaml").write_text("number: [\n")
    (root / "results" / "vae" / "metrics.json").unlink()
    for name in ("new/metrics.json", "new/per_image.csv", "mine/metrics.json", "mine/notes.txt"):
        (root / "results" / name).parent.mkdir(exist_ok=True)
        (root / "results" / name).write_text("1")
    (root / "stage.py").write_text("edited, staged")
    laboratory.git("add", "--all")
    (root / "dvc.yaml").write_text(PIPELINE + "# edited\n")
    (root / "untracked.txt").write_text("mine")
    said = list(go_back(root))[1:]
    assert contents(root) == COMMITTED
    assert sorted(str(path.relative_to(root)) for path in (root / "results").rglob("*") if path.is_file()) == [
        *("results/mine/notes.txt", "results/project_delay/metrics.json"),
        *("results/vae/metrics.json", "results/vae/per_image.csv"),
    ]
    assert said == [
        "  restored: params.yaml",
        "  restored: results/vae/metrics.json",
        "  removed: the pipeline's files in results/mine",
        "  removed: the pipeline's files in results/new",
        "  kept, although different from the commit: dvc.yaml, stage.py",
    ]
    assert (root / "stage.py").read_text() == "edited, staged"
    assert (root / "dvc.yaml").read_text().endswith("# edited\n")
    assert (root / "untracked.txt").read_text() == "mine"
    assert laboratory.git("diff", "--cached", "--name-only").split() == ["stage.py"]


def test_outputs_that_the_cache_does_not_have_are_named(laboratory: Laboratory) -> None:
    root = laboratory.root
    as_another_experiment_left_it(root)
    laboratory.empty_the_cache()
    (root / "results" / "vae" / "per_image.csv").write_text("mine")
    said = "because DVC's cache lacks the committed version: results/vae/per_image.csv; `dvc repro` makes it again."
    assert list(go_back(root))[-1] == f"  not restored, {said}"
    assert (root / "results" / "vae" / "per_image.csv").read_text() == "mine"
    assert (root / "results" / "vae" / "metrics.json").read_text() == COMMITTED["results/vae/metrics.json"]


def test_without_a_commit_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a git repository: it has no revisions or experiments"):
        list(go_back(tmp_path))
    laboratory = Laboratory(tmp_path / "laboratory")
    with pytest.raises(InputError, match="laboratory has no commits, so there is nothing to restore"):
        list(go_back(laboratory.root))
    laboratory.commit()
    (laboratory.root / ".git" / "index.lock").touch()
    (laboratory.root / "params.yaml").write_text("other: 1\n")
    with pytest.raises(InputError, match=r"Not every file could be restored: git cannot tell about .*index\.lock"):
        list(go_back(laboratory.root))
    assert (laboratory.root / "params.yaml").read_text() == "other: 1\n"
