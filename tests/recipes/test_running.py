"""A small recipe from its name to its result, in seconds and without DVC; `make smoke` tests it with DVC."""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from bitsperdim.comparing.source import of_recipe
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_json
from bitsperdim.core.git import Provenance
from bitsperdim.core.units import bits_per_dim
from bitsperdim.recipes import result, running, table
from bitsperdim.recipes.recipe import read, read_yaml
from bitsperdim.recipes.result import SAME_AS
from bitsperdim.recipes.running import Finished, commands, finished
from bitsperdim.runtime.curve import read_rows
from support.recipe_runs import call, copied, write_recipe

TINY: dict[str, Any] = {
    "title": "Tiny",
    "params": {
        "models": ["histogram", "vae"],
        "seeds": [0, 1],
        "studies": ["project_delay"],
        "vae": {"train": {"epochs": 2}},
        "evaluate": {"n_samples": 8, "n_pictures": 4},
    },
    "sizes": {"cpu": {"minutes": 1, "params": {}}, "gpu": {"minutes": 1, "params": {}}},
    "published": [
        {
            "model": "histogram",
            "what": "Theirs",
            "value": 2.5,
            "unit": "bits/dim",
            "kind": "exact",
            "protocol": "theirs",
            "source": "Them, table 1",
        }
    ],
}
STAGES = ["preflight", "download", "dequantize", "train@histogram", "train@vae"]
STAGES += [
    "evaluate@histogram",
    "evaluate@vae",
    "known",
    "density_and_mass",
    "project_delay",
    "universal_resnet",
    "report",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the code with one small recipe, run to its end."""
    folder = tmp_path_factory.mktemp("copy")
    copied(repository, folder)
    write_recipe(folder, "tiny", TINY)
    before = (folder / "params.yaml").read_bytes()
    done = call(folder, "tiny", "--without-dvc")
    assert done.returncode == 0, done.stderr
    assert [line[8:-1] for line in done.stdout.splitlines() if line.startswith("Running ")] == STAGES
    assert (
        "Wrote recipes/results/tiny.json, recipes/results/tiny.npz and recipes/results/tiny.csv; commit them."
        in done.stdout
    )
    assert (folder / "params.yaml").read_bytes() == before
    return folder


@pytest.fixture(scope="module")
def written(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "recipes" / "results" / "tiny.json").read_text(encoding="utf-8"))
    return content


def test_the_result_says_what_was_run(written: dict[str, Any], root: Path) -> None:
    assert (written["recipe"], written["size"], written["seeds"]) == ("tiny", "cpu", [0, 1])
    assert set(written["models"]) == {"histogram", "vae"}
    assert set(written["params"]) == {
        *("dataset", "dequantize", "models", "seeds", "train", "evaluate", "histogram", "vae")
    }
    assert written["params"]["vae"]["train"] == {"epochs": 2}
    assert written["data"]["protocol"] == "digits/none/8x8x1/L17/test359/given-none"
    assert written["data"]["n_images"] == {"train": 1294, "validation": 144, "test": 359}
    assert {len(digest) for digest in written["data"]["sha256"].values()} == {64}
    assert written["published"] == TINY["published"]
    assert written["yardsticks"]["uniform_bpd"] == pytest.approx(np.log2(17))
    origin = Provenance.recorded(written)  # the copy is not a git repository
    assert origin == Provenance(None, None, f"{root} is not a git repository: it has no revisions or experiments.")
    assert {key: written[key] for key in origin.as_record()} == origin.as_record()
    for model in written["models"].values():
        assert {len(digest) for digest in model["weights_sha256"].values()} == {64}
        assert set(model["weights_sha256"]) == {"0", "1"}


def test_the_result_says_what_it_cost(written: dict[str, Any]) -> None:
    without_numbers = {
        "preflight",
        "known",
        "density_and_mass",
        "project_delay",
        "universal_resnet",
        "report",
    }  # published by the recipe
    assert set(written["stages"]) == set(STAGES) - without_numbers
    assert written["device"].startswith("CPU, ")
    seconds = [log["seconds"] for log in written["stages"].values()]
    assert min(seconds) > 0
    of_models = [log["seconds"] for stage, log in written["stages"].items() if "@" in stage]
    assert written["wall_seconds"] == pytest.approx(sum(of_models), abs=0.06)
    assert all(log["peak_memory_mib"] > 10 for log in written["stages"].values())
    assert "torch" in written["stages"]["train@vae"]


def test_what_an_interrupted_stage_took_before_counts_too(tmp_path: Path) -> None:
    """The time of a stage that ran with other parameters does not count, and the sum is then unknown."""
    digest = hashlib.sha256(b"params").hexdigest()
    done = Finished("tiny-cpu", lambda _: b"params", {}, tmp_path, Provenance(None, None, ""))
    for stage, log in (("train-vae", {"seconds": 3.0, "earlier_seconds": 4.5}), ("evaluate-vae", {"seconds": 1.0})):
        write_json(tmp_path / f"{stage}.json", {"stage": stage, "params_sha256": digest, "device": "CPU", **log})
    stages = ["download", "train-vae", "evaluate-vae"]
    costs = result._costs(done, stages)
    assert costs["stages"]["train@vae"] == {"seconds": 7.5, "device": "CPU"}
    assert (costs["wall_seconds"], costs["device"]) == (8.5, "CPU")
    write_json(tmp_path / "train-pixelcnn.json", {"stage": "x", "params_sha256": "another", "seconds": 9.0})
    assert result._costs(done, [*stages, "train-pixelcnn"])["wall_seconds"] is None


def test_log_likelihoods_are_in_the_order_of_the_seeds() -> None:
    """The order is that of the parameters, as in the result, not the numerical order or the order of the file."""
    per_image = "seed,image,log_p\n2,0,-1\n2,1,-2\n7,0,-3\n7,1,-4\n"
    assert result.of_images(per_image, "log_p", [7, 2]).tolist() == [[-3, -4], [-1, -2]]


def test_the_kept_log_likelihoods_are_those_of_the_metrics(written: dict[str, Any], root: Path) -> None:
    with np.load(root / "recipes" / "results" / "tiny.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert set(arrays) == {"histogram", "vae"}
    for name, log_p in arrays.items():
        assert log_p.shape == (2, 359)
        assert log_p.dtype == np.float32
        metrics = written["models"][name]["metrics"]
        assert bits_per_dim(float(log_p.astype(float).mean()), (1, 8, 8)) == pytest.approx(metrics["bpd"], rel=1e-6)
    assert not np.array_equal(arrays["vae"][0], arrays["vae"][1])
    by_samples = written["models"]["vae"]["nll_nats_by_n_samples"]
    assert list(map(int, by_samples)) == [1, 2, 4, 8]
    assert by_samples["8"] == written["models"]["vae"]["metrics"]["nll_nats"]
    assert by_samples["1"] == pytest.approx(-written["models"]["vae"]["metrics"]["elbo_nats"])


def test_copies_are_kept(root: Path, tmp_path: Path) -> None:
    """They are stored only if there are copies, and `compare` finds them."""
    with np.load(root / "recipes" / "results" / "tiny.npz", allow_pickle=False) as file:
        assert SAME_AS not in file.files
    recipe = read(root, "tiny")
    run = finished(root, recipe, "cpu", with_dvc=False)

    def with_a_copy(path: str) -> bytes:
        if not path.endswith("per_image.csv"):
            return run.read(path)
        rows = [line.split(",") for line in run.read(path).decode().splitlines()]
        place = rows[0].index("same_as")
        for row in rows[1:]:
            row[place] = "0" if row[rows[0].index("image")] == "3" else row[place]
        return "\n".join(",".join(row) for row in rows).encode()

    path = result.collect(tmp_path, recipe, "cpu", dataclasses.replace(run, read=with_a_copy))
    found = of_recipe(tmp_path, path.stem).read("vae").images()
    assert found.same_as is not None
    assert found.same_as.tolist() == [0, 1, 2, 0, *range(4, 359)]


def test_the_curve_is_kept(root: Path, tmp_path: Path) -> None:
    """The curve has all rows of every model and seed, with seconds if the log belongs to the same training run."""

    def rows(path: Path) -> list[dict[str, str]]:
        return read_rows(path.read_text())

    kept = rows(root / "recipes" / "results" / "tiny.csv")
    assert list(kept[0]) == ["model", "seed", "epoch", "step", "n_presented", "seconds", "train_bpd", "validation_bpd"]
    assert [(row["model"], row["seed"], row["epoch"]) for row in kept] == [
        *(("histogram", "0", "0"), ("histogram", "1", "0")),
        *(("vae", "0", "1"), ("vae", "0", "2"), ("vae", "1", "1"), ("vae", "1", "2")),
    ]
    assert [row["n_presented"] for row in kept] == ["0", "0", "1294", "2588", "1294", "2588"]
    for model in ("histogram", "vae"):
        mine = [row for row in kept if row["model"] == model]
        of_run = rows(root / "runs" / "tiny-cpu" / "results" / model / "training_curve.csv")
        for one, other in zip(mine, of_run, strict=True):
            assert {**one, **other} == {**other, **one}  # common keys have the same values
    seconds = [float(row["seconds"]) for row in kept]
    assert min(seconds) > 0
    assert seconds[2] < seconds[3]
    assert seconds[4] < seconds[5]
    copy = tmp_path / "logs"
    shutil.copytree(root / "logs" / "recipes" / "tiny-cpu", copy)
    (copy / "train-histogram.csv").unlink()
    text = (copy / "train-vae.csv").read_text()
    (copy / "train-vae.csv").write_text(text.replace("\n2,", "\n3,"))  # log of another training run
    recipe = read(root, "tiny")
    run = dataclasses.replace(finished(root, recipe, "cpu", with_dvc=False), logs=copy)
    path = result.collect(tmp_path, recipe, "cpu", run).with_suffix(".csv")
    assert rows(path) == [{**row, "seconds": ""} for row in kept]


def test_a_second_run_does_nothing_and_writes_the_same(root: Path) -> None:
    files = [root / "recipes" / "results" / f"tiny.{suffix}" for suffix in ("json", "npz", "csv")]
    before = [file.read_bytes() for file in files]
    done = call(root, "tiny", "--without-dvc")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith("is already done.")] == [
        f"{stage} is already done." for stage in STAGES
    ]
    assert "Running" not in done.stdout
    assert [file.read_bytes() for file in files] == before
    assert call(root, "tiny", "--without-dvc", "--collect").returncode == 0
    assert [file.read_bytes() for file in files] == before


def test_a_run_of_an_earlier_version_is_collected_as_unknown(root: Path, tmp_path: Path) -> None:
    """That version wrote `false` if it did not know."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    based_on = copy / "runs" / "tiny-cpu" / "based-on.json"
    content = json.loads(based_on.read_text(encoding="utf-8"))
    del content["provenance_unknown_because"]
    based_on.write_text(json.dumps({**content, "has_local_changes": False}), encoding="utf-8")
    assert call(copy, "tiny", "--without-dvc", "--collect").returncode == 0
    written = json.loads((copy / "recipes" / "results" / "tiny.json").read_text(encoding="utf-8"))
    assert (written["commit"], written["has_local_changes"]) == (None, None)


def test_an_interrupted_run_goes_on_and_an_edit_starts_anew(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (copy / "runs" / "tiny-cpu" / "done" / "report").unlink()
    none = call(copy, "tiny", "--without-dvc", "--collect")
    assert none.returncode == 1
    assert none.stderr == "There is no finished run 'tiny-cpu'; run `bitsperdim recipe tiny --size cpu`.\n"
    done = call(copy, "tiny", "--without-dvc")
    assert [line for line in done.stdout.splitlines() if line.startswith("Running ")] == ["Running report:"]
    (copy / "stages" / "preflight.py").write_text('raise SystemExit("preflight: a reason.")\n')
    failed = call(copy, "tiny", "--without-dvc")
    assert failed.returncode == 1
    assert failed.stderr == (
        "preflight: a reason.\n"
        "The run stopped (status 1). Finished work is stored; run the same command again to resume.\n"
    )
    assert "already done" not in failed.stdout


def test_other_parameters_are_another_run(root: Path, tmp_path: Path) -> None:
    """A finished run is not collected if the recipe has changed since."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    path = copy / "recipes" / "tiny.yaml"
    path.write_text(path.read_text().replace("n_samples: 8", "n_samples: 9"), encoding="utf-8")
    refused = call(copy, "tiny", "--without-dvc", "--collect")
    assert refused.returncode == 1
    assert refused.stderr == (
        "The finished run 'tiny-cpu' has other parameters than recipes/tiny.yaml has now; run the recipe again.\n"
    )


def test_own_images_stay_where_they_are_and_are_watched(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    content = {**TINY, "published": []}
    content["params"] = {
        "models": ["histogram"],
        "studies": [],
        "dataset": {"name": "npz", "path": "data/own/mine.npz"},
        "evaluate": {"n_pictures": 1},
    }
    with (copy / "recipes" / "own.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(content, file)
    (copy / "data" / "own").mkdir(parents=True)
    images = np.random.default_rng(0).integers(256, size=(60, 3, 4), dtype=np.uint8)
    results = []
    for shift in (0, 1):
        np.savez(copy / "data" / "own" / "mine.npz", train=images // 2 + shift)
        done = call(copy, "own", "--without-dvc")
        assert done.returncode == 0, done.stderr
        results.append(json.loads((copy / "recipes" / "results" / "own.json").read_text(encoding="utf-8")))
    assert results[0]["data"]["sha256"]["test"] != results[1]["data"]["sha256"]["test"]
    assert results[0]["params"]["dataset"]["path"] == "data/own/mine.npz"


def test_own_models_and_the_installed_package_are_code_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no `src`, the stages run the installed package."""
    root, site = tmp_path / "lab", tmp_path / "site"
    for path in (
        root / "external" / "mine.py",
        root / "dvc.yaml",
        site / "bitsperdim" / "a.py",
        root / "stages" / "a.py",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    monkeypatch.setattr(running, "SOURCE", site)
    params = {"dataset": {"path": "data/own"}}
    found = [running._fingerprint(root, params, None)]
    for path in (root / "external" / "mine.py", site / "bitsperdim" / "a.py", root / "src" / "bitsperdim" / "a.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{} # edited\n")
        found.append(running._fingerprint(root, params, None))
    (site / "bitsperdim" / "a.py").write_text("{} # edited twice\n")
    assert running._fingerprint(root, params, None) == found[-1], "the repository's own code is what runs"
    assert len(set(found)) == len(found)


def test_a_second_run_beside_the_first_is_refused(root: Path) -> None:
    with (root / "logs" / "recipes" / "tiny-cpu" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = call(root, "tiny", "--without-dvc")
    assert refused.returncode == 1
    assert refused.stderr == "tiny-cpu is already running; wait for it, or stop it.\n"


@pytest.mark.parametrize(
    "path",
    [
        "recipes/results/tiny.json",
        "runs/tiny-cpu/based-on.json",
        "runs/tiny-cpu/results/vae/per_image.csv",
        "runs/tiny-cpu/results/vae/training_curve.csv",
        "logs/recipes/tiny-cpu/train-vae.json",
    ],
)
@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b"\xff"])
def test_a_damaged_file_is_a_sentence(path: str, content: bytes, root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (copy / path).write_bytes(content)
    before = {file.name: file.read_bytes() for file in (copy / "recipes" / "results").iterdir()}

    def use() -> None:
        if "results/tiny.json" in path:
            text, broken = table.listing(copy)
            assert not text  # there are no other recipes
            raise broken[0]
        recipe = read(copy, "tiny")
        result.collect(copy, recipe, "cpu", finished(copy, recipe, "cpu", with_dvc=False))

    if (path, content) == ("logs/recipes/tiny-cpu/train-vae.json", b"{}"):
        use()  # with the log of other parameters, the time is unknown
        return
    with pytest.raises(InputError, match="cannot be used") as caught:
        use()
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in (copy / "recipes" / "results").iterdir()} == before


def test_the_list_shows_published_and_ours(root: Path) -> None:
    done = call(root)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "tiny: Tiny (cpu 1 min, gpu 1 min)"
    assert lines[1] == "    published: = 2.50 bits/dim (Theirs; theirs; Them, table 1)"
    assert lines[2].startswith("    ours, cpu: histogram = 2.426 ± 0.010 bits/dim")
    assert lines[3].startswith("    ours, cpu: vae ≤ ")
    assert "ours, cpu, code: commit unknown:" in " ".join(" ".join(lines[4:]).split())


def test_a_broken_recipe_hides_no_other(root: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for path in ("recipes/tiny.yaml", "dvc.yaml", "params.yaml"):
        shutil.copy(root / path, tmp_path / path)
    (tmp_path / "recipes" / "a.yaml").write_text("title: [")
    (tmp_path / "recipes" / "z.yaml").write_text("title: ''\n")
    shutil.copytree(root / "src", tmp_path / "src")
    done = call(tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("tiny: Tiny (cpu 1 min, gpu 1 min)\n    published: ")
    first, second = done.stderr.splitlines()
    assert "/recipes/a.yaml is not valid YAML at line 1, column " in first
    assert second.startswith("recipes/z.yaml: title is not allowed: ")


def test_mistakes_on_the_command_line_are_sentences(root: Path, tmp_path: Path) -> None:
    unknown = call(root, "huge")
    assert unknown.returncode == 1
    assert unknown.stderr == "There is no recipe 'huge'; choose tiny.\n"
    assert call(root, "tiy").stderr == "There is no recipe 'tiy', did you mean tiny?; choose tiny.\n"
    size = call(root, "tiny", "--size", "tpu")
    assert size.returncode == 2
    assert "invalid choice: 'tpu' (choose from" in size.stderr
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-c", "from bitsperdim.cli import main; main()", "recipe"]
    outside = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert outside.returncode == 1
    assert "is not inside a bitsperdim repository" in outside.stderr


def test_the_commands_are_those_of_the_pipeline(repository: Path) -> None:
    pipeline, params = read_yaml(repository / "dvc.yaml"), read_yaml(repository / "params.yaml")
    found = dict(commands(pipeline, params))
    assert list(found)[:3] == ["preflight", "download", "dequantize"]
    assert list(found)[-1] == "report"
    assert found["download"] == "sh stages/start.sh download data/downloaded/digits"
    assert found["train@iwae"].startswith("sh stages/start.sh train iwae data/dequantized ")
    assert not any(r"\$" in command or "${item" in command for command in found.values())
    broken = {"stages": {"x": {"cmd": "echo ${dataset.nothing}"}}}
    with pytest.raises(InputError, match=r"\$\{dataset\.nothing\} is not a parameter"):
        commands(broken, params)
