"""The command line, with an experiment that DVC itself runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from bitsperdim.comparing import commands
from bitsperdim.comparing.cache import locked_params, md5_of
from bitsperdim.core.errors import InputError
from support import warm
from support.laboratory import PARAMS, Laboratory

Drawn = Callable[..., np.ndarray]
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from ruamel.yaml import YAML
sys.path.insert(0, {tests!r})
from support.laboratory import Laboratory
class Here(Laboratory):
    def __init__(self):
        self.root = Path(".")
params = YAML(typ="safe").load(Path("params.yaml").read_text())
log_p = -np.arange(40.0) + np.random.default_rng(params["vae"]["latent_size"]).normal(0, 0.1, 40)
Here().write(sys.argv[1], log_p + 0.01 * params["vae"]["latent_size"], n_samples=params["evaluate"]["n_samples"])
"""


def call(root: Path, repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm.python(), "-m", "bitsperdim.cli", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(repository / "src"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_an_experiment_of_dvc_is_compared(laboratory: Laboratory, repository: Path) -> None:
    """DVC runs the experiment, and writes its lock and its cache, which are then read."""
    root = laboratory.root
    (root / "stage.py").write_text(SCRIPT.format(tests=str(repository / "tests")))
    with (root / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(PARAMS, file)
    (root / "dvc.yaml").write_text(
        f"""
stages:
  evaluate:
    matrix:
      model: [vae]
    cmd: PYTHONPATH={repository / "src"} {sys.executable} stage.py ${{item.model}}
    params: [evaluate, seeds, "${{item.model}}"]
    outs: ["results/${{item.model}}/per_image.csv"]
    metrics:
      - "results/${{item.model}}/metrics.json":
          cache: false
"""
    )

    def dvc(*arguments: str) -> None:
        command = [warm.python(), "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    laboratory.git("add", "--all")
    laboratory.git("commit", "--quiet", "-m", "Code")
    dvc("repro", "--quiet")
    laboratory.git("add", "--all")
    laboratory.git("commit", "--quiet", "-m", "Run")
    dvc("exp", "run", "--quiet", "--name", "wide", "-S", "vae.latent_size=64")
    laboratory.git("reset", "--quiet", "--hard")
    lock = laboratory.git("show", "HEAD:dvc.lock")
    assert md5_of(lock, "results/vae/per_image.csv") is not None
    assert locked_params(lock, "vae")["vae"] == PARAMS["vae"]
    (root / "results" / "vae" / "per_image.csv").unlink()

    done = call(root, repository, "compare", "HEAD", "wide", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["models"]
    assert row["verdict"] == "better"
    assert row["parameters"] == [{"key": "vae.latent_size", "a": 16, "b": 64}]
    expected = -(0.48 + np.mean(np.subtract(*(np.random.default_rng(n).normal(0, 0.1, 40) for n in (64, 16)))))
    assert row["difference_bpd"] == pytest.approx(expected / (4 * np.log(2)))
    board = call(root, repository, "leaderboard", "--csv").stdout.splitlines()
    assert [line.split(",")[2:4] for line in board[1:]] == [["1", "False"], ["2", "False"]]
    assert ",paired,experiment" not in board[1]
    assert ",paired,commit" in board[2]

    shutil.copytree(root / ".dvc" / "cache", root.parent / "remote")  # a remote has the layout of a cache
    laboratory.empty_the_cache()
    alone = json.loads(call(root, repository, "compare", "HEAD", "wide", "--json").stdout)["models"][0]
    assert (alone["error_is"], alone["verdict"]) == ("unpaired", "cannot tell")
    assert any("nor on a remote" in note for note in alone["notes"])
    dvc("remote", "add", "--quiet", "--local", "--default", "copy", str(root.parent / "remote"))
    fetched = call(root, repository, "compare", "HEAD", "wide", "--json")
    assert (fetched.stdout, fetched.stderr) == (done.stdout, "")


def test_mistakes_are_one_sentence_and_status_1(laboratory: Laboratory, repository: Path, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    for arguments, words in (
        (("compare", "nowhere"), "There is no revision, recipe result or experiment 'nowhere'"),
        (("compare", "HEAD:uae"), "There is no model 'uae' in revision HEAD"),
    ):
        done = call(laboratory.root, repository, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(words)
        assert done.stderr.count("\n") == 1
    elsewhere = laboratory.root.parent / "elsewhere"
    elsewhere.mkdir()
    done = call(elsewhere, repository, "leaderboard")
    assert done.returncode == 1
    assert "is not inside a bitsperdim repository" in done.stderr


def test_arguments(laboratory: Laboratory, drawn: Drawn) -> None:
    assert commands.split("HEAD") == ("HEAD", None)
    assert commands.split("feature/x:vae") == ("feature/x", "vae")
    assert commands.split(":vae") == ("", "vae")
    laboratory.write("vae", drawn(1))
    laboratory.write("iwae", drawn(2))
    laboratory.commit()
    root = laboratory.root
    assert "iwae" not in commands.compare(root, "HEAD", "workspace", "vae", "text")
    assert "vae -> iwae" in commands.compare(root, ":vae", ":iwae", None, "text")
    assert commands.leaderboard(root, "markdown").startswith("**tiny/none")
    with pytest.raises(InputError, match="either by --models or as A:MODEL B:MODEL"):
        commands.compare(root, ":vae", ":iwae", "vae", "text")
    with pytest.raises(InputError, match="--models is empty"):
        commands.compare(root, "HEAD", "workspace", ",", "text")


def test_neither_command_imports_torch(repository: Path) -> None:
    """Importing torch would take longer than the commands themselves."""
    code = (
        "import sys, bitsperdim.cli, bitsperdim.comparing.output, bitsperdim.comparing.leaderboard; "
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
