"""dvc.yaml keeps its promises: one name for one thing, every module a dependency, every key there."""

import ast
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from bitsperdim.config.families import FAMILIES, code_of
from bitsperdim.config.params import RESERVED, STUDIES, SWITCHED_OFF, Params
from bitsperdim.core.code import needed
from bitsperdim.core.errors import InputError
from bitsperdim.data.prepared import SPLITS
from bitsperdim.recipes.running import commands
from bitsperdim.runtime import stage as runner
from bitsperdim.runtime.device import set_up_device
from support import warm
from support.cases import write_studies
from support.results import cells_of, row_of, rows_of
from support.small_params import made_small

START = "stages/start.sh"


@pytest.fixture(scope="module")
def pipeline(repository: Path) -> dict[str, Any]:
    stages: dict[str, Any] = YAML(typ="safe").load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


@pytest.fixture(scope="module")
def content(committed: Callable[[str], str]) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(committed("params.yaml"))
    return loaded


def test_a_stage_is_a_script_of_the_same_name(pipeline: dict[str, Any], repository: Path) -> None:
    assert set(pipeline) == {path.stem for path in (repository / "stages").glob("*.py")}
    for name, stage in pipeline.items():
        assert stage["cmd"].startswith(f"sh {START} {name} ")
        script = (repository / "stages" / f"{name}.py").read_text(encoding="utf-8")
        assert f'stage.run("{name}", ' in script
        assert len(script.splitlines()) <= 60


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish"])
@pytest.mark.parametrize("launcher", [None, "", "echo several words"])
def test_a_launcher_of_several_words_starts_a_stage(
    pipeline: dict[str, Any], repository: Path, tmp_path: Path, launcher: str | None, shell: str
) -> None:
    """The command as DVC hands it to the user's shell; without a launcher it is Python."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    params = {"models": ["vae"], "dataset": {"name": "digits", "path": "own"}}
    found = dict(commands({"stages": {"train": {"foreach": "${models}", "do": pipeline["train"]}}}, params))[
        "train@vae"
    ]
    arguments = ["stages/train.py", "vae", "data/dequantized", "models/vae", "results/vae/training_curve.csv"]
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "train.py").write_text("import sys; print('python', *sys.argv)")
    shutil.copy(repository / START, tmp_path / START)
    environment = {name: value for name, value in os.environ.items() if name != "BITSPERDIM_LAUNCHER"}
    if launcher is not None:
        environment["BITSPERDIM_LAUNCHER"] = launcher
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        [shell, "-c", found], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [*(launcher or "python").split()[launcher not in (None, "") :], *arguments]


def test_a_section_is_a_stage_or_a_model_or_shared(pipeline: dict[str, Any], content: dict[str, Any]) -> None:
    shared = {"dataset", "models", "seeds", "studies"}
    own = {name for name in Params.model_fields if name != "sections"}
    assert own - shared <= set(pipeline)
    assert set(content) - own == {
        name for name, value in content.items() if isinstance(value, dict) and "family" in value
    }
    assert set(RESERVED) >= own | set(pipeline)


def test_every_listed_parameter_exists(pipeline: dict[str, Any], content: dict[str, Any]) -> None:
    for stage in pipeline.values():
        for key in stage.get("params", []):
            if key == "${item}":
                assert set(content["models"]) <= set(content)
                continue
            section: Any = content
            for part in key.split("."):
                assert part in section, f"params.yaml has no {key}"
                section = section[part]


def test_every_parameter_is_a_dependency_of_some_stage(pipeline: dict[str, Any], content: dict[str, Any]) -> None:
    """A parameter that reruns nothing would be a number in the report that was never used; `models` is a list of
    stages, and `studies` changes the file of a study in data/code.
    """
    listed = {key for stage in pipeline.values() for key in stage.get("params", [])}
    assert {"dataset", "dequantize", "train", "seeds", "evaluate", "${item}"} <= listed
    of_models = {name for name in content if "family" in (content[name] if isinstance(content[name], dict) else {})}
    assert set(content) - of_models - {"models", "studies"} <= listed


def test_a_stage_depends_on_the_code_that_it_needs(pipeline: dict[str, Any]) -> None:
    """By one file that preflight writes: ``tests/core/test_code.py`` and ``test_reruns.py`` prove what is in it."""
    for name, stage in pipeline.items():
        of_code = [dep for dep in stage["deps"] if dep.startswith(("src", "stages", "data/code"))]
        expected = [f"data/code/{name}/${{item}}.json" if name in ("train", "evaluate") else f"data/code/{name}.json"]
        assert of_code == (["src/bitsperdim", "stages"] if name == "preflight" else expected), name


def start(folder: Path, path: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "BITSPERDIM_LAUNCHER"} | variables
    command = [str(shutil.which("sh")), START, *arguments]
    return subprocess.run(
        command, cwd=folder, env={**environment, "PATH": path}, capture_output=True, text=True, check=False
    )


def test_a_forgotten_environment_is_a_sentence(tmp_path: Path, repository: Path) -> None:
    """There is no `python`, or it is one without the packages, or one of another time; or no launcher."""
    for name in ("no", "other", "none"):
        (tmp_path / name).mkdir()
    for script, folder in (("exit 127", "no"), (f'exec {sys.executable} -S "$@"', "other")):
        python = tmp_path / folder / "python"
        python.write_text(f"#!{shutil.which('sh')}\n{script}\n")
        python.chmod(0o755)
    for folder, words in (
        ("none", "train: there is no command 'python' here"),
        ("no", f"train: this python ({tmp_path}/no/python) is not the one of bitsperdim, or lacks some of"),
        ("other", f"train: this python ({tmp_path}/other/python) is not the one of bitsperdim, or lacks some of"),
    ):
        done = start(repository, str(tmp_path / folder), "train", "vae")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(words)
        assert "; type 'source .venv/bin/activate' first ('make setup' creates it)." in done.stderr
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = start(repository, path, "train", BITSPERDIM_LAUNCHER="no-launcher --of-this name")
    assert (done.returncode, done.stderr.split(";")[0]) == (1, "train: there is no command 'no-launcher' here")
    done = start(repository, path, "train")
    assert done.stderr == "usage: python stages/train.py MODEL DEQUANTIZED FOLDER CURVE\n"


def test_the_packages_that_stages_import_are_looked_for(repository: Path) -> None:
    named = re.findall(r'names = "(.*)"', (repository / START).read_text(encoding="utf-8"))[0].split()
    source, imported = repository / "src", set()
    scripts = (repository / "stages").glob("*.py")
    for module in needed(*scripts, *(file for family in FAMILIES for file in code_of(family))):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    own = {path.name for path in source.iterdir()} | {"dvc", "pandas"}  # of functions that no stage calls
    assert {name.split(".")[0] for name in named} == imported - set(sys.stdlib_module_names) - own


@pytest.mark.parametrize("models", ["vae", "null", "3"])
def test_models_that_are_not_a_list_are_refused_by_dvc_in_a_sentence(
    models: str, tmp_path: Path, repository: Path, committed: Callable[[str], str]
) -> None:
    """Before any stage: which stages there are depends on the list."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    shutil.copy(repository / "dvc.yaml", tmp_path)
    text = re.sub(r"(?m)^models: .*", f"models: {models}", committed("params.yaml"))
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    command = [warm.python(), "-m", "dvc", "repro", "--dry", "preflight"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "'stages.train.foreach' in 'dvc.yaml': expected list/dictionary, got " in done.stderr
    assert "unexpected" not in done.stderr


def test_a_copy_of_the_workspace_runs_its_own_code(tmp_path: Path, repository: Path) -> None:
    """`dvc exp run --temp` works in a copy; an editable install alone would import the original."""
    copy = tmp_path / "src" / "bitsperdim"
    copy.mkdir(parents=True)
    (copy / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": "src"}
    command = [sys.executable, "-c", "import bitsperdim; print(bitsperdim.__file__)"]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).resolve() == (copy / "__init__.py").resolve()


def hashes_as_dvc_does(repository: Path) -> dict[str, str]:
    """Return path -> md5 of every file and folder of the last commit, folders as DVC hashes them."""
    command = ["git", "-C", str(repository), "archive", "--format=tar", "HEAD"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    files: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if (content := tar.extractfile(member)) is not None:
                files[member.name] = hashlib.md5(content.read()).hexdigest()
    md5s = dict(files)
    for folder in {str(parent) for name in files for parent in Path(name).parents}:
        inside = [
            {"md5": md5, "relpath": str(Path(name).relative_to(folder))}
            for name, md5 in files.items()
            if Path(folder) in Path(name).parents
        ]
        entries = json.dumps(sorted(inside, key=lambda entry: entry["relpath"]), sort_keys=True)
        md5s[folder] = hashlib.md5(entries.encode()).hexdigest() + ".dir"
    return md5s


def test_the_committed_lock_is_that_of_the_committed_code_and_numbers(
    repository: Path, committed: Callable[[str], str]
) -> None:
    """Every tracked file or folder that dvc.lock names, read or written, has the md5 that it names."""
    if not (repository / ".git").exists():
        pytest.skip("an unpacked archive has no commit to compare with")
    md5s = hashes_as_dvc_does(repository)
    stages = YAML(typ="safe").load(committed("dvc.lock"))["stages"]
    checked = set()
    for name, stage in stages.items():
        for entry in (*stage["deps"], *stage.get("outs", [])):
            tracked = entry["path"].startswith(("src", "stages", "data/code", "results", "params.yaml"))
            if tracked and entry["path"] in md5s and entry["path"] != "results":  # results/ has files of DVC too
                assert md5s[entry["path"]] == entry["md5"], f"{name}: {entry['path']} changed; run `dvc repro`"
                checked.add(entry["path"])
    assert {
        *("params.yaml", "src/bitsperdim", "stages", "data/code", "data/code/train/vae.json"),
        "results/vae/metrics.json",
    } <= checked


@pytest.mark.parametrize("settings", [("core.autocrlf=true",), ("core.autocrlf=false", "core.eol=crlf")])
def test_every_checkout_has_the_bytes_of_the_commit(
    settings: tuple[str, ...], tmp_path: Path, repository: Path
) -> None:
    """Whatever git is told of the ends of lines: hashes, checksums and `#!` lines depend on them."""
    if not (repository / ".git").exists():
        pytest.skip("an unpacked archive is no repository")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    options = [part for setting in settings for part in ("-c", setting)]

    def git(*arguments: str) -> str:
        command = ["git", *options, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    git("clone", "--quiet", "--depth", "1", f"file://{repository}", str(tmp_path / "clone"))
    kinds = [line.split()[:2] for line in git("-C", str(tmp_path / "clone"), "ls-files", "--eol").splitlines()]
    assert len(kinds) > 100
    assert all(index.removeprefix("i/") == tree.removeprefix("w/") for index, tree in kinds)
    assert git("-C", str(tmp_path / "clone"), "status", "--short") == ""


def test_compiled_files_are_no_dependencies(repository: Path) -> None:
    """They hold times and the version of Python: DVC's hashes of folders would differ everywhere."""
    ignored = (repository / ".dvcignore").read_text(encoding="utf-8").splitlines()
    assert {"__pycache__/", "*.pyc"} <= set(ignored)


def run_stage(name: str, folder: Path, repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm.python(), str(repository / "stages" / f"{name}.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository / "src"), "BITSPERDIM_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_stages_run_one_after_the_other_without_dvc(
    tmp_path: Path, repository: Path, committed: Callable[[str], str]
) -> None:
    """As plain scripts, on tiny parameters, with a model of each kind; nothing outside the named paths is written.

    `make smoke` runs all models by DVC.
    """
    text = made_small(committed("params.yaml"), {"seeds": [0, 1], "models": ["histogram", "vae", "pixelcnn", "flow"]})
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    commands = [
        ("preflight", "results", "data/preflight.txt", "data/code"),
        ("download", "raw"),
        ("dequantize", "raw", "images", "results/dequantize"),
    ]
    for model in YAML(typ="safe").load(text)["models"]:
        commands += [
            ("train", model, "images", f"models/{model}", f"results/{model}/training_curve.csv"),
            ("evaluate", model, f"models/{model}", "images", f"results/{model}"),
        ]
    commands += [(study, "images", f"results/{study}") for study in ("known", "density_and_mass")]
    commands += [("project_delay", "results/project_delay"), ("universal_resnet", "results/universal_resnet")]
    for name, *arguments in [*commands, ("report", "results", "report")]:
        result = run_stage(name, tmp_path, repository, *arguments)
        assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        *("params.yaml", "data", "raw", "images", "models", "results", "report", "logs")
    }
    assert {path.parent.name for path in (tmp_path / "images").glob("*/images.npy")} == set(SPLITS)
    metrics = json.loads((tmp_path / "results" / "vae" / "metrics.json").read_text())
    assert metrics["n_seeds"] == 2
    assert metrics["n_samples"] == 6
    assert metrics["bpd_seed_spread"] > 0
    assert 1 < metrics["bpd"] < 4.1
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


def test_a_test_set_of_one_image_has_a_report(
    tmp_path: Path, repository: Path, committed: Callable[[str], str]
) -> None:
    """And a validation set of one; every stage that sees the images, as a script. The error is unknown."""
    params = YAML(typ="safe").load(committed("params.yaml"))
    params["dataset"] |= {"name": "npz", "path": "own.npz"}
    params["models"], params["seeds"] = ["histogram", "vae"], [0, 1]
    params["train"] |= {"epochs": 1, "warmup_steps": 0}
    params["vae"] |= {"latent_size": 2, "hidden_sizes": [8]}
    annealed = {"n_images": 1, "n_simulated": 1, "n_chains": 2, "n_steps": 3, "n_leapfrog": 1}
    params["evaluate"] |= {"n_samples": 40, "n_pictures": 1, "annealed": annealed}
    params["density_and_mass"] |= {"n_steps": 3, "n_replicates": 2, "n_symbols": 50}
    params["density_and_mass"]["dequantizing"]["train"] |= {"epochs": 1}
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(params, file)
    images = np.random.default_rng(0).integers(256, size=(5, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", train=images[2:], validation=images[:1], test=images[1:2])
    write_studies(tmp_path / "results")
    commands = [("preflight", "results", "marker", "code"), ("download", "raw")]
    commands += [("dequantize", "raw", "images", "results/dequantize")]
    for model in params["models"]:
        commands += [("train", model, "images", f"models/{model}", f"results/{model}/training_curve.csv")]
        commands += [("evaluate", model, f"models/{model}", "images", f"results/{model}")]
    commands += [("density_and_mass", "images", "results/density_and_mass"), ("report", "results", "report")]
    for name, *arguments in commands:
        result = run_stage(name, tmp_path, repository, *arguments)
        assert result.returncode == 0, (name, result.stderr)
    for path in (
        *(tmp_path / "results").glob("*/metrics.json"),
        *(tmp_path / "results/density_and_mass").glob("*.csv"),
    ):
        assert "nan" not in path.read_text(encoding="utf-8").casefold(), path
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<svg.*?</svg>|data:[^\"]*", "", page, flags=re.DOTALL), re.I)
    of_ways = page.split("Bounds of one flow under several ways of dequantizing")[1].split("</table>")[0]
    rows = {model: cells_of(row_of(page, model)) for model in params["models"]}
    [rows["variational"]] = [row for row in rows_of(of_ways) if row[0].startswith("variational ")]
    unknown = {name: [index for index, cell in enumerate(row) if "± unknown" in cell] for name, row in rows.items()}
    # the columns of bits/dim, and of nats per image or of the paired difference
    assert unknown == {"histogram": [1, 4], "vae": [1, 4], "variational": [3, 4]}
    assert "no band is drawn" in page
    assert "Not drawn, as its error is unknown: uniform fixed, variational, importance weighted. " in page


def test_studies_that_are_switched_off_leave_no_results(
    tmp_path: Path, repository: Path, committed: Callable[[str], str]
) -> None:
    """As scripts: no study needs anything then, and what it left before goes, but for what is none of its own."""
    text = made_small(committed("params.yaml"), {"studies": []})
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    write_studies(tmp_path / "results")
    (tmp_path / "results" / "project_delay" / "notes.txt").write_text("mine")
    for study in STUDIES:
        reads = ("images",) if study in ("known", "density_and_mass") else ()
        arguments = (*reads, f"results/{study}")
        result = run_stage(study, tmp_path, repository, *arguments)
        assert (result.returncode, result.stdout) == (0, f"{study}: switched off by studies in params.yaml\n")
    left = {str(path.relative_to(tmp_path)): path.read_text() for path in (tmp_path / "results").glob("*/*")}
    assert left.pop("results/project_delay/notes.txt") == "mine"
    assert set(left) == {f"results/{study}/metrics.json" for study in STUDIES}
    assert {json.loads(content)["is_switched_off"] for content in left.values()} == {True}
    result = run_stage("preflight", tmp_path, repository, "results", "marker", "code")
    assert result.returncode == 0, result.stderr
    for study in STUDIES:
        assert json.loads((tmp_path / "code" / f"{study}.json").read_text()) == SWITCHED_OFF


def test_a_mistake_of_the_user_is_one_sentence_and_status_1(
    tmp_path: Path, repository: Path, committed: Callable[[str], str]
) -> None:
    text = committed("params.yaml")
    (tmp_path / "params.yaml").write_text(text.replace("latent_size: 16", "latent_size: -16", 1), encoding="utf-8")
    result = run_stage("preflight", tmp_path, repository, "results", "marker", "code")
    assert result.returncode == 1
    assert result.stderr == ("preflight: params.yaml: vae.latent_size = -16 is not allowed; it must be at least 1.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    result = run_stage("train", tmp_path, repository, "vae")
    assert result.returncode == 1
    assert result.stderr == "usage: python stages/train.py MODEL DEQUANTIZED FOLDER CURVE\n"


def test_stages_out_of_order_are_one_sentence(
    tmp_path: Path, repository: Path, committed: Callable[[str], str]
) -> None:
    """Each stage before the one that it needs; what a damaged file gets, the tests of the readers show."""
    (tmp_path / "params.yaml").write_text(committed("params.yaml"), encoding="utf-8")
    needs = {
        "dequantize": (("raw", "images", "results/dequantize"), "download"),
        "train": (("histogram", "images", "models/histogram", "curve.csv"), "dequantize"),
        "evaluate": (("histogram", "models/histogram", "images", "results/histogram"), "dequantize"),
        "density_and_mass": (("images", "results/density_and_mass"), "dequantize"),
        "report": (("results", "report"), ""),
    }
    for name, (arguments, advice) in needs.items():
        result = run_stage(name, tmp_path, repository, *arguments)
        assert result.returncode == 1, name
        assert result.stderr.startswith(f"{name}: "), result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
        assert not advice or f"run the stage '{advice}' first." in result.stderr


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:99", ""])
def test_an_unknown_device_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSPERDIM_DEVICE", name)
    with pytest.raises(InputError, match=f"BITSPERDIM_DEVICE = '{name}' is not a device of this machine"):
        set_up_device()
    monkeypatch.setenv("BITSPERDIM_DEVICE", "cpu")
    assert set_up_device().type == "cpu"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("params.yaml: a = 1 is not allowed."), "train: params.yaml: a = 1 is not allowed."),
        (
            OSError(28, "No space left on device", "models/x"),
            "train: models/x cannot be read or written: No space left",
        ),
        (MemoryError(), "train: there is not enough memory (allocation failed); try smaller batch or chunk sizes."),
        (
            RuntimeError("CUDA out of memory. Tried\nto allocate"),
            "train: there is not enough memory (CUDA out of memory.",
        ),
        (KeyboardInterrupt(), "130"),
    ],
)
def test_what_goes_wrong_in_a_stage_is_told_in_one_sentence(
    error: BaseException,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    committed: Callable[[str], str],
) -> None:
    (tmp_path / "params.yaml").write_text(committed("params.yaml"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def main(_: Params) -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        runner.run("train", main)
    assert sentence in str(caught.value.code)
    assert "\n" not in str(caught.value.code)
    assert not (tmp_path / "logs").exists()


def test_a_bug_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: Callable[[str], str]
) -> None:
    (tmp_path / "params.yaml").write_text(committed("params.yaml"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def main(_: Params) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        runner.run("train", main)


def test_dvc_sees_what_stands_beside_own_images(repository: Path) -> None:
    """A `.dvc` file in data/own that DVC's git takes for ignored would have its images removed by `dvc checkout`."""
    from dvc.scm import Git

    if not (repository / ".git").exists():
        pytest.skip("an unpacked archive is no repository")
    scm = Git(str(repository))
    assert not scm.is_ignored(f"{repository}/data/own/")
    assert not scm.is_ignored(f"{repository}/data/own/pictures.dvc")
    assert scm.is_ignored(f"{repository}/data/own/pictures.npz")
