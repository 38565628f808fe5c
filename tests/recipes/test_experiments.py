"""A recipe as a DVC experiment: run at once, queued, or with other parameters. DVC itself runs a small pipeline."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from bitsperdim import __version__, cli
from bitsperdim.core.errors import InputError
from bitsperdim.core.git import Provenance
from bitsperdim.recipes.recipe import read
from bitsperdim.recipes.running import experiment_references, finished, run, run_name
from support import warm
from support.laboratory import Laboratory, anothers, git

RECIPE: dict[str, Any] = {
    "title": "Tiny",
    "params": {"models": ["vae"], "vae": {"latent_size": 5}},
    "sizes": {"cpu": {"minutes": 1, "params": {}}, "gpu": {"minutes": 1, "params": {"vae": {"latent_size": 7}}}},
    "published": [],
}
# writes all files that a result needs; the numbers depend on the parameters
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from ruamel.yaml import YAML
sys.path[:0] = [{src!r}, {tests!r}]
from support.metrics import HASH, SHAPE, images_of, metrics_of
params = YAML(typ="safe").load(Path("params.yaml").read_text())
log_p = np.linspace(-9, -1, 40)[None] - params["vae"]["latent_size"]
files = {{
    "results/dequantize/metrics.json": images_of("tiny/none/2x2x1/L256/test40/given-none", 40),
    "data/dequantized/description.json": {{
        "protocol": "tiny/none/2x2x1/L256/test40/given-none", "image_shape": SHAPE, "n_images": {{"test": 40}},
        **{{f"{{split}}_sha256": HASH for split in ("train", "validation", "test")}},
    }},
    "results/vae/metrics.json": metrics_of(
        log_p, n_distinct_images=40, n_training_images=0, ess_below_10_share=0.0
    ),
}}
for path, content in files.items():
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))
Path("models/vae/0").mkdir(parents=True, exist_ok=True)
Path("models/vae/0/weights.safetensors").write_bytes(b"weights")
Path("models/vae/0/model.json").write_text("{{}}")
Path("results/vae/training_curve.csv").write_text("seed,epoch,step,train_bpd,validation_bpd\\n0,1,5,2.0,2.1\\n")
rows = [f"0,{{n}},{{value!r}},{{n}}" for n, value in enumerate(log_p[0].tolist())]
Path("results/vae/per_image.csv").write_text("\\n".join(["seed,image,log_p,same_as", *rows]) + "\\n")
Path("results/vae/bound_against_k.csv").write_text(f"n_samples,nll_nats\\n8,{{-log_p.mean()}}\\n")
"""
PIPELINE = """
stages:
  evaluate:
    cmd: {python} stage.py
    deps: [stage.py]
    params: [models, vae]
    outs: [data/dequantized, models, results/vae/per_image.csv, results/vae/bound_against_k.csv,
      results/vae/training_curve.csv]
    metrics:
      - results/vae/metrics.json: {{cache: false}}
      - results/dequantize/metrics.json: {{cache: false}}
"""


@pytest.fixture
def root(tmp_path: Path, repository: Path) -> Path:
    """A repository with one stage that takes almost no time."""
    return filled(Laboratory(tmp_path / "laboratory"), repository)


def filled(laboratory: Laboratory, repository: Path) -> Path:
    """Write the pipeline and the recipe, and commit them."""
    root = laboratory.root
    shutil.copy(repository / "params.yaml", root / "params.yaml")
    script = SCRIPT.format(src=str(repository / "src"), tests=str(repository / "tests"))
    (root / "stage.py").write_text(script)
    (root / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (root / ".gitignore").write_text("/data\n/models\n/logs\n/results/*/*.csv\n/recipes/results\n")
    with (root / "recipes" / "tiny.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(RECIPE, file)
    laboratory.git("add", "--all")
    laboratory.git("commit", "--quiet", "-m", "Code")
    return root


@pytest.fixture
def command(repository: Path, root: Path) -> Any:
    return command_in(root, repository)


def command_in(root: Path, repository: Path, **others: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "PYTHONIOENCODING": "utf-8", **others}

    def call(*arguments: str, module: str = "bitsperdim.cli") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm.python(), "-m", module, *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    return call


def result(root: Path, name: str = "tiny") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "recipes" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return content


def nll(latent_size: int) -> float:
    return float(5 + latent_size)


def test_a_queued_recipe_is_collected_when_it_has_run(root: Path, command: Any) -> None:
    """Before that there is nothing to collect, and an earlier experiment with this name is not taken for it."""
    before = (root / "params.yaml").read_bytes()
    queued = command("recipe", "tiny", "--queue")
    assert queued.returncode == 0, queued.stderr
    assert "The experiment is tiny-cpu; it is queued: `dvc queue start` runs it" in queued.stdout
    assert "`bitsperdim recipe tiny --size cpu --collect` writes its result." in queued.stdout
    assert not list((root / "recipes" / "results").iterdir())
    for flags in ((), ("--queue",), ("--collect",)):
        early = command("recipe", "tiny", *flags)
        assert (early.returncode, early.stdout, early.stderr.count("\n")) == (1, "", 1)
        assert early.stderr.startswith("tiny-cpu is already in DVC's queue: `dvc queue start` runs it, ")
    done = command("exp", "run", "--run-all", module="dvc")
    assert done.returncode == 0, done.stderr
    collected = command("recipe", "tiny", "--collect")
    assert collected.returncode == 0, collected.stderr
    written = result(root)
    assert (written["experiment"], written["has_local_changes"]) == ("tiny-cpu", False)
    assert written["models"]["vae"]["metrics"]["nll_nats"] == pytest.approx(nll(5))
    assert written["params"]["vae"]["latent_size"] == 5
    assert np.load(root / "recipes" / "results" / "tiny.npz")["vae"].mean() == pytest.approx(-nll(5))
    assert (root / "params.yaml").read_bytes() == before

    again = command("recipe", "tiny", "--queue")
    assert again.returncode == 0, again.stderr
    assert "tiny-cpu" not in experiment_references(root)
    early = command("recipe", "tiny", "--collect")
    assert early.returncode == 1
    take_out = early.stderr.split("`")[3].split()
    assert take_out[:3] == ["dvc", "queue", "remove"]
    assert command(*take_out[1:], module="dvc").returncode == 0
    assert command("recipe", "tiny", "--collect").stderr.startswith("There is no finished run 'tiny-cpu'")


def test_a_recipe_that_runs_from_the_queue_is_not_run_again(root: Path, command: Any) -> None:
    running, goes_on = root / "running", root / "goes-on"
    wait = f"open({str(running)!r}, 'w').close()\nwhile not os.path.exists({str(goes_on)!r}): time.sleep(0.1)\n"
    (root / "stage.py").write_text(f"import os, time\n{wait}{(root / 'stage.py').read_text()}")
    assert command("recipe", "tiny", "--queue").returncode == 0
    start = [warm.python(), "-m", "dvc", "exp", "run", "--run-all"]
    worker = subprocess.Popen(start, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not running.exists() and time.monotonic() < until:
            time.sleep(0.1)
        for flags in ((), ("--queue",), ("--collect",)):
            early = command("recipe", "tiny", *flags)
            assert (early.returncode, early.stdout, early.stderr.count("\n")) == (1, "", 1)
            assert early.stderr.startswith("tiny-cpu is already running from DVC's queue: `dvc queue logs ")
    finally:
        goes_on.touch()
        worker.wait(120)
    collected = command("recipe", "tiny", "--collect")
    assert collected.returncode == 0, collected.stderr


def test_changed_parameters_never_pass_for_the_recipe(root: Path, command: Any) -> None:
    own = command("recipe", "tiny", "--temp")
    assert own.returncode == 0, own.stderr
    files = {path.name: path.read_bytes() for path in (root / "recipes" / "results").iterdir()}
    assert set(files) == {"tiny.json", "tiny.npz", "tiny.csv"}
    changed = command("recipe", "tiny", "-S", "vae.latent_size=9", "-S", "vae.hidden_sizes=[3]")
    assert changed.returncode == 0, changed.stderr
    name = run_name("tiny", "cpu", ["vae.latent_size=9", "vae.hidden_sizes=[3]"])
    assert f"The experiment is {name}." in changed.stdout
    words = (
        f"A run with -S does not change recipes/results/tiny.json. `bitsperdim compare tiny {name}` compares them.\n"
    )
    assert changed.stdout.endswith(words)
    assert {path.name: path.read_bytes() for path in (root / "recipes" / "results").iterdir()} == files
    assert set(experiment_references(root)) >= {"tiny-cpu", name}
    compared = command("compare", "tiny", name, "--json")
    assert compared.returncode == 0, compared.stderr
    (row,) = json.loads(compared.stdout)["models"]
    assert row["difference_bpd"] == pytest.approx(4 / 4 / np.log(2))
    queued = command("recipe", "tiny", "-S", "vae.latent_size=8", "--queue")
    name = run_name("tiny", "cpu", ["vae.latent_size=8"])
    assert f"The experiment is {name}; it is queued: " in queued.stdout
    assert f" Then `bitsperdim compare tiny {name}` compares them.\n" in queued.stdout


def test_no_result_that_is_not_there_is_offered(root: Path, command: Any) -> None:
    for size in ("cpu", "gpu"):
        changed = command("recipe", "tiny", "--size", size, "-S", "vae.latent_size=9", "--queue")
        assert changed.returncode == 0, changed.stderr
        assert "compare" not in changed.stdout
        assert changed.stdout.endswith(
            "A run with -S writes no file in recipes/results. To get a result of the recipe itself, type "
            f"`bitsperdim recipe tiny --size {size}`.\n"
        )


def test_the_version_is_that_of_the_package(command: Any) -> None:
    assert command("--version").stdout == f"bitsperdim {__version__}\n"


def test_a_run_that_fails_leaves_the_earlier_experiment(root: Path, command: Any) -> None:
    assert command("recipe", "tiny").returncode == 0
    before = experiment_references(root)["tiny-cpu"]
    with (root / "stage.py").open("a") as file:
        file.write("sys.exit(3)\n")
    failed = command("recipe", "tiny")
    assert failed.returncode == 1
    assert failed.stderr.endswith("Finished work is stored; run the same command again to resume.\n")
    assert experiment_references(root)["tiny-cpu"] == before
    (root / "dvc.yaml").write_text("stages: 3\n")
    failed = command("recipe", "tiny", "--queue")
    assert failed.returncode == 1
    assert failed.stderr.endswith("DVC did not queue the run (status 255).\n")
    assert experiment_references(root)["tiny-cpu"] == before


@pytest.mark.parametrize("flags", [(), ("--queue",)])
def test_a_wrong_setting_is_refused_before_anything_starts(flags: tuple[str, ...], root: Path, command: Any) -> None:
    for settings, words in (
        (["vae.latent_size=-1"], "-S vae.latent_size=-1: params.yaml: vae.latent_size = -1 is not allowed"),
        (
            ["vae.laten_size=9"],
            "-S vae.laten_size=9 cannot be applied: there is no parameter 'vae.laten_size', did you",
        ),
        (["vae.latent_size=9", "novalue"], "-S novalue is not a setting; write KEY=VALUE, "),
        (["vae.latent_size=5,9"], "-S vae.latent_size=5,9 means several values"),
    ):
        done = command("recipe", "tiny", *flags, *(part for setting in settings for part in ("-S", setting)))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(words)
    assert not (root / "logs").exists()


def test_a_recipe_runs_in_a_folder_of_a_larger_repository(tmp_path: Path, repository: Path) -> None:
    """Its result has the commit and the local changes of this folder, and ignores the folders beside it."""
    laboratory = Laboratory(tmp_path / "larger" / "lab", tmp_path / "larger")
    root = filled(laboratory, repository)
    (tmp_path / "larger" / "src").mkdir()  # belongs to another project
    (tmp_path / "larger" / "src" / "code.py").write_text("x = 1\n")
    laboratory.git("add", "--all")
    laboratory.git("commit", "--quiet", "-m", "Not code of this laboratory")
    head = laboratory.git("rev-parse", "HEAD")
    (tmp_path / "larger" / "src" / "code.py").write_text("x = 2\n")
    call = command_in(root, repository)
    done = call("recipe", "tiny")
    assert done.returncode == 0, done.stderr
    written = result(root)
    assert (written["experiment"], written["commit"]) == ("tiny-cpu", head)
    assert (written["has_local_changes"], written["provenance_unknown_because"]) == (False, None)
    assert "commit unknown" not in done.stdout
    assert np.load(root / "recipes" / "results" / "tiny.npz")["vae"].mean() == pytest.approx(-nll(5))


@pytest.mark.parametrize("top", ["laboratory", "."])
@pytest.mark.parametrize(
    ("edit", "changed"), [(None, False), ("src/code.py", True), ("dvc.yaml", True), ("../beside.py", False)]
)
def test_an_experiment_on_edited_code_says_so(top: str, edit: str | None, changed: bool, tmp_path: Path) -> None:
    """This holds also in a subfolder; an experiment contains edits, and new files that git knows."""
    laboratory = Laboratory(tmp_path / "laboratory", tmp_path / top)
    root = laboratory.root
    with (root / "recipes" / "tiny.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(RECIPE, file)
    (root / "src").mkdir()
    for path in ("src/code.py", "../beside.py"):
        (root / path).write_text("x = 1\n")
    head = laboratory.commit("Code")
    laboratory.params["models"] = ["vae"]
    laboratory.params["vae"]["latent_size"] = 5  # changes of the recipe itself
    if edit:
        with (root / edit).open("a") as file:
            file.write("# edited\n")
    laboratory.experiment("tiny-cpu")
    found = finished(root, read(root, "tiny"), "cpu", with_dvc=True)
    assert found.provenance == Provenance(head, changed)
    laboratory.params["train"]["epochs"] = 11  # not a change of the recipe
    laboratory.git("update-ref", "-d", f"refs/exps/{head[:2]}/{head[2:]}/tiny-cpu")
    laboratory.experiment("tiny-cpu")
    assert finished(root, read(root, "tiny"), "cpu", with_dvc=True).provenance == Provenance(head, True)


def test_a_recipe_is_not_run_where_its_result_would_be_lost(root: Path, command: Any, tmp_path: Path) -> None:
    """In a shallow clone DVC would succeed, but store no experiment."""
    (root / "more").write_text("more\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "More")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{root}", str(clone))
    recipe = read(clone, "tiny")
    for queue in (False, True):
        with pytest.raises(InputError, match=r"is a shallow clone, .*: `git fetch --unshallow` gets the earlier"):
            run(clone, recipe, "cpu", with_dvc=True, queue=queue)


def test_where_git_cannot_tell_a_recipe_needs_to_be_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It then runs without DVC, and its commit is unknown, with git's reason."""
    for part in ("src", "stages"):
        (root / part).mkdir()
    pipeline = (root / "dvc.yaml").read_text(encoding="utf-8")
    pipeline = pipeline.replace(" stage.py\n", f" {root}/stage.py\n").replace("  evaluate:", "  report:")
    (root / "dvc.yaml").write_text(pipeline, encoding="utf-8")
    monkeypatch.chdir(root)
    for name, value in anothers().items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> str:
        parsed = cli.parser().parse_args(arguments)
        parsed.run(parsed)
        return capsys.readouterr().out

    words = (
        rf"^git cannot tell about {root}: detected dubious ownership .* \(with --without-dvc the recipe can still run"
    )
    for flags in ((), ("--queue",), ("--collect",), ("-S", "vae.latent_size=9")):
        with pytest.raises(InputError, match=words):
            call("recipe", "tiny", *flags)
    assert "code: commit unknown: git cannot tell about " in call("recipe", "tiny", "--without-dvc")
    written = result(root)
    assert (written["commit"], written["has_local_changes"]) == (None, None)
    assert "git config --global --add safe.directory /" in written["provenance_unknown_because"]
    assert "A: recipe result tiny (commit unknown)\n" in call("compare", "tiny", "tiny")


def test_an_experiment_runs_once_its_settings_are_allowed(root: Path, command: Any) -> None:
    """`bitsperdim run` starts `dvc exp run`; refused settings are not written into params.yaml."""
    before = (root / "params.yaml").read_bytes()
    for flags, words in (
        (("-S", "vae.latent_size=-1"), "-S vae.latent_size=-1: params.yaml: vae.latent_size = -1 is not allowed"),
        (("--temp", "--set-param=models=vae"), "-S models=vae: params.yaml: models = 'vae' is not allowed; it must be"),
        (("-Svae.train.epochs=3", "evaluate"), "-S vae.train.epochs=3 cannot be applied: there is no parameter"),
    ):
        done = command("run", *flags)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(words)
    assert (root / "params.yaml").read_bytes() == before
    assert not experiment_references(root)
    done = command("run", "--name", "nine", "-S", "vae.latent_size=9", "-S", "models=[vae]", "evaluate")
    assert done.returncode == 0, done.stderr
    assert "nine" in experiment_references(root)
    assert json.loads((root / "results" / "vae" / "metrics.json").read_text())["nll_nats"] == pytest.approx(nll(9))
    assert command("run", "--no-such-flag").returncode == 254


def test_names_of_changed_runs() -> None:
    plain, one = run_name("tiny", "gpu"), run_name("tiny", "gpu", ["a=1"])
    assert plain == "tiny-gpu"
    assert one.startswith("tiny-gpu-")
    assert len({plain, one, run_name("tiny", "gpu", ["a=2"]), run_name("tiny", "gpu", ["a=1", "a=2"])}) == 4


def test_flags_that_say_nothing_together_are_refused(root: Path, command: Any) -> None:
    for arguments, words in (
        (("--queue",), "--queue needs the name of a recipe"),
        (("tiny", "--queue", "--collect"), "--queue and --collect exclude each other."),
        (("tiny", "-S", "a=1", "--without-dvc"), "-S and --without-dvc exclude each other."),
        (("tiny", "--temp", "--without-dvc"), "--temp and --without-dvc exclude each other."),
        (("tiny", "-S", "a=1", "--collect"), "-S and --collect exclude each other."),
    ):
        done = command("recipe", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(words)
    assert command("recipe", "tiny", "--queue", "--temp").returncode == 2
    shutil.rmtree(root / ".git")
    done = command("recipe", "tiny", "--temp")
    assert (done.returncode, done.stderr) == (
        1,
        "--temp makes a DVC experiment, which needs DVC and a git repository.\n",
    )
    for options in ({"queue": True}, {"settings": ["vae.latent_size=9"]}):
        with pytest.raises(InputError, match="which need DVC"):
            run(root, read(root, "tiny"), "cpu", with_dvc=False, **options)
