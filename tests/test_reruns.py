"""What an edit reruns: one file of each kind is edited in a copy, and the stages that ``dvc repro`` runs are listed.

In the copy ``preflight`` is the real one, and every other stage writes its outputs from its dependencies at once, so
that DVC's decisions alone are measured.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from support import warm

MODELS = ("vae", "flow", "mine")
MINE = """
mine: {family: external, file: external/my_model.py, library: zuko,
  weights: external/w.pt, train_images: external/train.npz}
"""
# what a stage makes is a function of its name and of the outputs that it reads, and of the data set where it makes the
# images; code changes nothing here
STAND_IN = """
import json, os, pathlib, re, sys
name, *arguments = sys.argv[1:]
if name == "preflight":
    os.environ["PYTHONPATH"] = "src"
    os.execv({python!r}, [{python!r}, "stages/preflight.py", *arguments])
dataset = re.search("dataset:\\n  name: (\\w+)", open("params.yaml").read())[1]
stages = json.load(open("stages.json"))
stage = stages[name].get("do", stages[name])
for kind in ("outs", "metrics", "plots"):
    for out in stage.get(kind, []):
        place = out if isinstance(out, str) else next(iter(out))
        path = pathlib.Path(place.replace("${{item}}", arguments[0]).replace("${{dataset.name}}", dataset))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name + (dataset if name == "dequantize" else ""))
"""


@pytest.fixture
def laboratory(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laboratory")
    for part in ("src", "stages"):
        shutil.copytree(repository / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", ".dvcignore", "params.yaml"):
        shutil.copy(repository / name, folder / name)
    (folder / "recipes").mkdir()
    (folder / "data" / "own").mkdir(parents=True)
    (folder / "data" / "own" / "README.md").write_text("Your own images.\n", encoding="utf-8")
    (folder / "recipes" / "a.yaml").write_text("a: 1\n", encoding="utf-8")
    (folder / "external").mkdir()
    (folder / "external" / "my_model.py").write_text("import parts\nclass Model: pass\n", encoding="utf-8")
    for name in ("parts.py", "not_imported.py", "w.pt", "train.npz"):
        (folder / "external" / name).write_text("", encoding="utf-8")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^models: .*", f"models: [{', '.join(MODELS)}]", text)
    (folder / "params.yaml").write_text(text + MINE, encoding="utf-8")
    stages = YAML(typ="safe").load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    (folder / "stages.json").write_text(json.dumps(stages), encoding="utf-8")
    (folder / "stand_in.py").write_text(STAND_IN.format(python=warm.python()), encoding="utf-8")
    start = f'exec {sys.executable} -I -S stand_in.py "$@"\n'
    (folder / "stages" / "start.sh").write_text(start, encoding="utf-8")
    ran(folder)
    return folder


def ran(folder: Path) -> set[str]:
    """Run the pipeline; return the stages that were run."""
    done = subprocess.run(
        [warm.python(), "-m", "dvc", "repro"],
        cwd=folder,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"Running stage '([^']*)'", done.stdout))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def a_new_family(folder: Path) -> None:
    config, models = folder / "src/bitsperdim/config/families", folder / "src/bitsperdim/models"
    section = (config / "histogram.py").read_text(encoding="utf-8").replace("histogram", "counts")
    (config / "counts.py").write_text(
        section.replace("models.counts.Histogram", "models.counts.Counts"), encoding="utf-8"
    )
    network = (models / "histogram.py").read_text(encoding="utf-8").replace("class Histogram", "class Counts")
    (models / "counts.py").write_text(network, encoding="utf-8")
    append(folder / "params.yaml", "counts: {family: counts, pseudocount: 1.0}\n")
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("models: [", "models: [counts, "), encoding="utf-8")


def a_new_data_set(folder: Path) -> None:
    sources = folder / "src/bitsperdim/sources"
    text = (sources / "digits.py").read_text(encoding="utf-8")
    (sources / "numerals.py").write_text(text.replace("class Digits", "class Numerals"), encoding="utf-8")
    append(sources / "__init__.py", "\nfrom bitsperdim.sources.numerals import Numerals  # noqa: E402\n")
    append(sources / "__init__.py", '\nSOURCES["numerals"] = Numerals()\n')


def edit(folder: Path, *paths: str) -> None:
    for path in paths:
        append(folder / "src/bitsperdim" / path, "\nEDITED = 1\n")


def set_parameter(folder: Path, before: str, after: str) -> None:
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    assert len(re.findall(before, text)) == 1
    (folder / "params.yaml").write_text(re.sub(before, after, text), encoding="utf-8")


def both(*models: str) -> set[str]:
    return {f"{stage}@{model}" for stage in ("train", "evaluate") for model in models}


ALL = ("counts", *MODELS)
EDITS: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "a comment in the trainer, and the weights of a model from elsewhere": (
        lambda folder: (
            append(folder / "src/bitsperdim/training/trainer.py", "# a comment\n"),
            append(folder / "external" / "w.pt", "1"),
        )[1],
        {"train@mine"},  # which writes the same outputs here
    ),
    "a new family": (a_new_family, {"report", *both("counts")}),
    "a family, a page, a study, and the images that a model from elsewhere was trained on": (
        lambda folder: (
            append(folder / "external" / "train.npz", "1"),
            edit(folder, "models/vae.py", "report/template.html", "studies/project_delay/chain.py"),
        )[1],
        {"report", "known", "project_delay", "evaluate@mine", *both("vae")},
    ),
    "a new data set, a family that a study trains, and what a model from elsewhere imports": (
        lambda folder: (
            a_new_data_set(folder),
            append(folder / "external" / "parts.py", "# 1\n"),
            append(folder / "external" / "not_imported.py", "# 1\n"),
            edit(folder, "models/flow.py"),
        )[-1],
        {"download", "dequantize", "report", "known", "density_and_mass", *both("flow", "mine")},
    ),
    "the trainer, and the comparison of commits": (
        lambda folder: edit(folder, "training/step.py", "comparing/leaderboard.py"),
        {"known", "density_and_mass", *(f"train@{model}" for model in ALL)},
    ),
    "the evaluator": (
        lambda folder: edit(folder, "evaluation/summary.py"),
        {"known", *(f"evaluate@{model}" for model in ALL)},
    ),
    "another data set": (
        lambda folder: set_parameter(folder, r"  name: digits ", "  name: mnist "),
        {"download", "dequantize", "known", "density_and_mass", "report", *both(*ALL)},
    ),
    "three studies are switched off": (
        lambda folder: set_parameter(folder, r"studies: \[.*?\]", "studies: [project_delay]"),
        {"known", "density_and_mass", "universal_resnet", "report"},
    ),
    "the code of a study that is, and of one that is not, and the same of libraries of models from elsewhere": (
        lambda folder: (
            edit(folder, "studies/universal_resnet/nets.py", "studies/project_delay/network.py"),
            edit(folder, "models/external/libraries/zuko.py", "models/external/libraries/nflows.py"),
        )[0],
        {"project_delay", *both("mine")},
    ),
    "no word of studies, which means all, and a section without a key": (
        lambda folder: (
            set_parameter(folder, r"studies: \[.*\].*\n", ""),
            set_parameter(folder, r"(?m)^evaluate:\n(  .*\n)+", "evaluate: {}\n"),
        )[0],
        {"known", "density_and_mass", "universal_resnet", "report", *(f"evaluate@{model}" for model in ALL)},
    ),
}


@pytest.mark.parametrize("n_edits", [3, len(EDITS)], ids=["three", "all"])
def test_an_edit_reruns_what_it_can_change(n_edits: int, laboratory: Path) -> None:
    """One after the other, each in what those before have left; preflight reads all code, and runs each time."""
    for name, (change, expected) in list(EDITS.items())[:n_edits]:
        change(laboratory)
        assert ran(laboratory) == {"preflight", *expected}, name
