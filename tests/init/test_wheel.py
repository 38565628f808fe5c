"""The wheel, built and installed without network, works in folders outside of the repository; the pipeline as well."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from bitsperdim import __version__
from bitsperdim.config.families import code_of
from bitsperdim.core.code import digest, needed
from bitsperdim.init import files
from support.external_files import MADE, PARTS
from support.laboratory import NO_CONFIGURATION, git
from support.results import text_of
from support.small_params import made_small

BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
OFFLINE = ("--quiet", "--no-index", "--no-deps", "--disable-pip-version-check")
PYTHON_API = """
import pathlib, sys, torch, bitsperdim
from made import Made
assert pathlib.Path(bitsperdim.__file__).is_relative_to(sys.prefix), bitsperdim.__file__
data = bitsperdim.load_data("digits")
with torch.random.fork_rng():
    torch.manual_seed(0)
    one, two = (bitsperdim.evaluate(Made((1, 8, 8), 17, scale).eval(), data) for scale in (0.1, 1.0))
print(bitsperdim.compare(one, two))
"""
CHANGES = {
    "models": ["histogram", "mine"],
    "studies": [],
    "mine": {"family": "external", "file": "external/made.py", "fit": True},
}


class Elsewhere:
    """A virtual environment with the wheel, beside the packages of this one, and commands that run in it.

    Attributes:
        packages: where the wheel is installed.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        run([sys.executable, "-m", "venv", "--without-pip", folder])
        self.bin = folder / "bin"
        [self.packages] = folder.glob("lib/*/site-packages")
        run([sys.executable, "-m", "pip", "--python", self.bin / "python", "install", *OFFLINE, wheel])
        # after the installation; the .pth files of the other folder are not read, nor its editable installation
        (self.packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def __call__(self, folder: Path, *arguments: str) -> str:
        """Return what the installed command, or Python with these arguments, prints."""
        command = [str(self.bin / arguments[0]), *arguments[1:]]
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        return run(command, folder, PATH=path, BITSPERDIM_CACHE=str(folder / "cache"))


def run(command: list[str | Path], folder: Path | None = None, **variables: str) -> str:
    """Run a command to its end, without the code of the repository on Python's path; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "GIT_"))}
    environment |= {**NO_CONFIGURATION, "BITSPERDIM_DEVICE": "cpu", "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def built(repository: Path, folder: Path) -> Path:
    """Build a source distribution from what it needs and no more, and a wheel from the source distribution."""
    source = folder / "source"
    shutil.copytree(repository / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", *files.paths(repository)):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, source / name)
    run([sys.executable, "-c", BUILD, folder], source)
    [archive] = folder.glob("bitsperdim-*.tar.gz")
    command = [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", folder, archive]
    run(command)
    [wheel] = folder.glob("bitsperdim-*.whl")
    return wheel


def stages(said: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']*)'", said))


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Run")


def test_the_wheel_works_outside_of_the_repository(tmp_path: Path, repository: Path) -> None:
    elsewhere = Elsewhere(tmp_path / "environment", built(repository, tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, text in (("made.py", MADE), ("parts.py", PARTS), ("api.py", PYTHON_API)):
        (empty / name).write_text(text, encoding="utf-8")
    assert elsewhere(empty, "bitsperdim", "--version") == f"bitsperdim {__version__}\n"
    assert "A = Made, B = Made. B - A: " in elsewhere(empty, "python", "api.py")
    audit = ("audit", "made.py", "-a", "scale=0", "--data", "digits", "--subset", "50", "--seconds", "1")
    said = elsewhere(empty, "bitsperdim", *audit)
    assert "made: = 4.0875 +- 0.0000 bits/dim" in said  # log2 17: all images are equally likely
    assert "verified by masses sum to one, causality" in said

    lab = tmp_path / "lab"
    elsewhere(empty, "bitsperdim", "init", str(lab))
    for name in ("made.py", "parts.py"):
        shutil.copy(empty / name, lab / "external" / name)
    text = made_small((lab / "params.yaml").read_text(encoding="utf-8"), CHANGES)
    (lab / "params.yaml").write_text(text, encoding="utf-8")
    first = stages(elsewhere(lab, "python", "-m", "dvc", "repro"))
    both = {f"{stage}@{model}" for stage in ("train", "evaluate") for model in ("histogram", "mine")}
    assert {"preflight", "download", "dequantize", "report", *both} < first
    page = text_of((lab / "report" / "index.html").read_text(encoding="utf-8"))
    assert "Made elsewhere: external/made.py" in page
    commit(lab)
    recorded = json.loads((lab / "data" / "code" / "train" / "histogram.json").read_text(encoding="utf-8"))
    assert recorded["code"] == digest(needed(repository / "stages" / "train.py", *code_of("histogram")))

    # another version of the installed package reruns what it changes, as an edit does in the repository
    with (elsewhere.packages / "bitsperdim" / "models" / "histogram.py").open("a", encoding="utf-8") as file:
        file.write("\nEDITED = 1\n")
    said = elsewhere(lab, "python", "-m", "dvc", "exp", "run", "-S", "evaluate.n_contrast=4")
    assert stages(said) == {"preflight", "train@histogram", "evaluate@histogram", "evaluate@mine", "report"}
    said = elsewhere(lab, "bitsperdim", "compare", "HEAD")
    assert re.search(r"(?m)^mine .* the same$", said), said
    assert "evaluate.n_contrast: 3 -> 4" in said
    commit(lab)
    ranked = elsewhere(lab, "bitsperdim", "leaderboard")
    assert re.search(r"(?m)^1 +histogram ", ranked), ranked
    assert re.search(r"(?m)^2 +mine ", ranked), ranked
    assert stages(elsewhere(lab, "python", "-m", "dvc", "repro")) == {"preflight"}
    assert git(lab, "status", "--porcelain") == ""
