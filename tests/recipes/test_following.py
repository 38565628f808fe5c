"""Display of a running recipe's training beside the committed curve."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitsperdim.cli import parser
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json, write_csv, write_json
from bitsperdim.recipes import following
from bitsperdim.recipes.following import at_presentations, follow
from bitsperdim.recipes.recipe import Recipe, merged, read, read_yaml
from bitsperdim.recipes.result import CURVE
from bitsperdim.runtime.curve import COLUMNS, SECONDS

CONTENT: dict[str, Any] = {
    "title": "Tiny",
    "params": {"models": ["vae"]},
    "sizes": {"cpu": {"minutes": 1, "params": {}}, "gpu": {"minutes": 1, "params": {}}},
    "published": [],
}


@pytest.fixture
def recipe(tmp_path: Path, repository: Path) -> Recipe:
    (tmp_path / "recipes").mkdir()
    shutil.copy(repository / "params.yaml", tmp_path)
    with (tmp_path / "recipes" / "tiny.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(CONTENT, file)
    return read(tmp_path, "tiny")


def row(epoch: int, bpd: float, seed: int = 0, seconds: float | str = 1.5, **more: Any) -> dict[str, Any]:
    content = dict.fromkeys({*COLUMNS, *CURVE}, 0) | {"epoch": epoch, "seed": seed, "n_presented": 1000 * epoch}
    return {**content, "train_bpd": bpd, "validation_bpd": bpd, SECONDS: seconds, **more}


def commit(root: Path, *rows: dict[str, Any], **changes: Any) -> None:
    """Write a curve as the result of the recipe with these changes of parameters."""
    write_csv(root / "recipes" / "results" / "tiny.csv", CURVE, [{**each, "model": "vae"} for each in rows])
    params = read(root, "tiny").parameters(read_yaml(root / "params.yaml"), "cpu")
    write_json(root / "recipes" / "results" / "tiny.json", {"params": merged(params, changes)})


def log(root: Path, model: str, *rows: dict[str, Any]) -> Path:
    path = root / "logs" / "recipes" / "tiny-cpu" / f"train-{model}.csv"
    write_csv(path, (*COLUMNS, SECONDS), rows)
    return path


def followed(root: Path, recipe: Recipe, *steps: Callable[[], object]) -> list[list[str]]:
    """Return the cells of the rows that are shown while a run takes these steps one by one and ends."""
    left = [*steps]
    folder = root / "logs" / "recipes" / "tiny-cpu"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "started").touch()
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def wait() -> None:
            if left:
                left.pop(0)()
            if not left:
                fcntl.flock(file, fcntl.LOCK_UN)

        title, head, *rows = follow(root, recipe, "cpu", wait=wait)
    assert title.startswith("tiny-cpu, and to the right of the line ")
    assert head.split()[:7] == ["model", "seed", "epoch", "presented", "seconds", "train", "validation"]
    return [line.split() for line in rows]


def test_each_row_is_shown_once(tmp_path: Path, recipe: Recipe) -> None:
    """Rows of an earlier run are not shown; rows that are written before the end are."""
    old = log(tmp_path, "pixelcnn", row(9, 1.0))
    os.utime(old, (1.0, 1.0))
    commit(tmp_path, row(1, 2.0), row(2, 1.5, seconds=""))
    found = followed(
        tmp_path,
        recipe,
        lambda: log(tmp_path, "vae", row(1, 2.25)),
        lambda: None,
        lambda: log(tmp_path, "vae", row(1, 2.25), row(2, 1.25, seconds=1234.4)),
        lambda: log(tmp_path, "vae", row(1, 2.25), row(2, 1.25, seconds=1234.4), row(1, 3.0, seed=7)),
    )
    assert found == [
        ["vae", "0", "1", "1,000", "2", "2.2500", "2.2500", "|", "1,000", "2", "2.0000", "+0.2500"],
        ["vae", "0", "2", "2,000", "1,234", "1.2500", "1.2500", "|", "2,000", "?", "1.5000", "-0.2500"],
        ["vae", "7", "1", "1,000", "2", "3.0000", "3.0000", "|"],
    ]


def test_what_is_written_as_it_ends_is_shown(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row is written and the run ends just when the display tests whether the run is still going."""
    folder = tmp_path / "logs" / "recipes" / "tiny-cpu"
    folder.mkdir(parents=True)
    (folder / "started").touch()
    answers = iter([True, True, False])

    def ending(_: Path) -> bool:
        if not (goes_on := next(answers)):
            log(tmp_path, "vae", row(1, 2.25))
        return goes_on

    monkeypatch.setattr(following, "is_running", ending)
    assert len(list(follow(tmp_path, recipe, "cpu", wait=lambda: None))) == 3


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({}, [], "tiny.csv: bits/dim"),
        (
            {"train": {"epochs": 3}, "evaluate": {"n_samples": 3}},
            [],
            "tiny.csv (made with other values in train): bits",
        ),
        ({"vae": {"train": {"epochs": 3}}}, [], "tiny.csv (made with other values in vae): bits/dim"),
        ({}, ["dataset.seed=3", "vae.latent_size=3"], "tiny.csv (made with other values in dataset, vae): bits/dim"),
        ({"vae": {"latent_size": 3}}, ["vae.latent_size=3"], "tiny.csv: bits/dim"),
    ],
)
def test_a_committed_curve_of_other_values_is_said_to_be_one(
    changes: dict[str, Any],
    settings: list[str],
    said: str,
    tmp_path: Path,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys that the result did not have count as having their present defaults."""
    commit(tmp_path, row(1, 2.0), **changes)
    path = tmp_path / "recipes" / "results" / "tiny.json"
    content = read_json(path)
    del content["params"]["train"]["betas"]
    write_json(path, content)
    monkeypatch.setattr(following, "is_running", lambda _: True)
    assert said in next(follow(tmp_path, recipe, "cpu", settings))


def test_without_a_committed_curve_the_training_is_shown_alone(tmp_path: Path, recipe: Recipe) -> None:
    found = followed(tmp_path, recipe, lambda: log(tmp_path, "vae", row(1, 2.25)))
    assert found == [["vae", "0", "1", "1,000", "2", "2.2500", "2.2500", "|"]]


def test_the_committed_row_is_that_of_as_many_presentations() -> None:
    rows = [
        {"model": model, "seed": seed, "epoch": str(epoch), "n_presented": str(n)}
        for model, seed, scale in (("vae", "0", 100), ("vae", "1", 10), ("iwae", "0", 1))
        for epoch, n in ((1, scale), (2, 2 * scale), (3, 3 * scale))
    ]
    assert at_presentations(rows, "vae", "0", 99) is None
    assert [at_presentations(rows, "vae", "0", n) for n in (100, 199, 200, 10**9)] == [rows[i] for i in (0, 0, 1, 2)]
    assert at_presentations(rows, "vae", "1", 99) is rows[5]
    assert at_presentations(rows, "iwae", "1", 99) is None


def test_what_does_not_run_is_not_followed(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(InputError, match=r"^tiny-cpu is not running here .* `bitsperdim recipe tiny --size cpu`"):
        next(follow(tmp_path, recipe, "cpu"))
    with pytest.raises(InputError, match=r"^tiny-cpu-[0-9a-f]{6} is not running"):
        next(follow(tmp_path, recipe, "cpu", ["vae.latent_size=3"]))


@pytest.mark.parametrize(
    "content", [b"model\n1\n", b"\xff", b"model,seed,n_presented,seconds,validation_bpd\na,0,x,1,2\n"]
)
def test_a_damaged_curve_is_a_sentence(content: bytes, tmp_path: Path, recipe: Recipe) -> None:
    commit(tmp_path, row(1, 2.0))
    (tmp_path / "recipes" / "results" / "tiny.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"tiny\.csv cannot be used"):
        next(follow(tmp_path, recipe, "cpu"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--follow"], "--follow needs the name of a recipe"),
        (["tiny", "--follow", "--queue"], "--follow and --queue exclude each other."),
        (["tiny", "--follow", "--temp"], "--follow and --temp exclude each other."),
        (["tiny", "--follow", "--collect"], "--follow and --collect exclude each other."),
        (["tiny", "--follow"], "tiny-cpu is not running here"),
    ],
)
def test_the_flag(
    arguments: list[str], sentence: str, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    given = parser().parse_args(["recipe", *arguments])
    with pytest.raises(InputError) as caught:
        given.run(given)
    assert sentence in str(caught.value)
