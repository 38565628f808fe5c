"""Every committed recipe is valid at all its sizes, and every mistake in a recipe gives one sentence."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitsperdim.core.errors import InputError
from bitsperdim.recipes.recipe import SIZES, merged, names, overrides, read, read_yaml

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, Any] = {
    "title": "a title",
    "params": {"models": ["vae"], "vae": {"train": {"epochs": 3}}},
    "sizes": {"cpu": {"minutes": 1, "params": {}}, "gpu": {"minutes": 1, "params": {"vae": {"latent_size": 3}}}},
    "published": [
        {"model": "vae", "what": "w", "value": 1.5, "unit": "nats", "kind": "bound", "protocol": "p", "source": "s"}
    ],
}


def write(root: Path, content: Any) -> None:
    (root / "recipes").mkdir(exist_ok=True)
    with (root / "recipes" / "mine.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(content, file)


@pytest.mark.parametrize("name", names(ROOT))
def test_every_committed_recipe_is_allowed(name: str) -> None:
    recipe = read(ROOT, name)
    assert {"cpu", "gpu"} <= set(recipe.sizes) <= set(SIZES)
    for size in recipe.sizes:
        params = recipe.parameters(read_yaml(ROOT / "params.yaml"), size)
        assert all(model in params for model in params["models"])
    assert recipe.content.title


def test_some_recipe_has_a_long_size() -> None:
    """It takes hours, in several runs; other recipes name the sizes that they have."""
    found = {name: read(ROOT, name) for name in names(ROOT)}
    long = {name for name, recipe in found.items() if "long" in recipe.sizes}
    assert 0 < len(long) < len(found)
    for name, recipe in found.items():
        if name in long:
            assert recipe.content.sizes.long is not None
            assert recipe.content.sizes.long.minutes > 45
        else:
            with pytest.raises(
                InputError, match=rf"^recipes/{name}\.yaml does not have the size long; choose cpu, gpu"
            ):
                recipe.parameters(read_yaml(ROOT / "params.yaml"), "long")


def test_a_cpu_size_takes_at_most_45_minutes() -> None:
    assert names(ROOT)
    for name in names(ROOT):
        assert read(ROOT, name).content.sizes.cpu.minutes <= 45


def test_the_changes_of_a_size_come_last(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    base = read_yaml(ROOT / "params.yaml")
    recipe = read(tmp_path, "mine")
    cpu, gpu = recipe.parameters(base, "cpu"), recipe.parameters(base, "gpu")
    assert cpu["vae"]["latent_size"] == base["vae"]["latent_size"]
    assert gpu["vae"] == {**base["vae"], "latent_size": 3, "train": {"epochs": 3}}
    assert cpu["models"] == ["vae"]
    assert base == read_yaml(ROOT / "params.yaml")


def test_mappings_are_merged_and_lists_replaced() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merged(base, {"a": {"c": [3]}, "e": {"f": None}}) == {"a": {"b": 1, "c": [3]}, "d": 4, "e": {"f": None}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


def test_overrides_are_what_dvc_makes_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's parser, which DVC uses, gives the original value back for any override."""
    from dvc.utils.hydra import apply_overrides

    changes = {
        "a": {"b": None, "c": 1e-5, "new": {"deep": True}},
        "models": ["x", "y-z_1"],
        "sizes": [200, 100],
        "text": ["it's a \\ path\\", "a=b, {c}", "\\'", "", "\\\\"],
        "number_as_text": "1",
    }
    monkeypatch.chdir(tmp_path)
    path = Path("params.yaml")
    path.write_text("a: {b: 1, c: 2}\nkept: 3\n", encoding="utf-8")
    apply_overrides(path, overrides(changes))
    assert read_yaml(path) == merged({"a": {"b": 1, "c": 2}, "kept": 3}, changes)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no title": ({"title": ""}, r"recipes/mine\.yaml: title is not allowed"),
    "unknown key": ({"extra": 1}, r"recipes/mine\.yaml: extra is not allowed"),
    "no size": ({"sizes": {"cpu": GOOD["sizes"]["cpu"]}}, r"recipes/mine\.yaml: sizes\.gpu is not allowed"),
    "no source": (
        {"published": [{key: value for key, value in GOOD["published"][0].items() if key != "source"}]},
        r"recipes/mine\.yaml: published\.0\.source is not allowed",
    ),
    "another model": (
        {"published": [{**GOOD["published"][0], "model": "iwae"}]},
        r"recipes/mine\.yaml: published names the model 'iwae', which is not run; the models of this recipe are vae",
    ),
    "a parameter": (
        {"params": {"vae": {"latent_size": -1}}},
        r"recipes/mine\.yaml, size cpu: params\.yaml: vae\.latent_size = -1 is not allowed; it must be at least 1",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_recipe_is_a_sentence(mistake: str, tmp_path: Path) -> None:
    change, sentence = MISTAKES[mistake]
    write(tmp_path, {**GOOD, **change})
    with pytest.raises(InputError, match=sentence) as caught:
        read(tmp_path, "mine").parameters(read_yaml(ROOT / "params.yaml"), "cpu")
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_choices(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    for name in ("yours", "../recipes/mine", "", "x" * 100_000):
        with pytest.raises(InputError, match=r"There is no recipe '.*; choose mine\.") as caught:
            read(tmp_path, name)
        assert len(str(caught.value)) < 120
    with pytest.raises(InputError, match=r"There is no recipe 'mnie', did you mean mine\?; choose mine\."):
        read(tmp_path, "mnie")
    names_of_two = "mnist-static-vae or mnist-static-iwae"
    with pytest.raises(InputError, match=rf"There is no recipe 'mnist-static-vea', did you mean {names_of_two}\b"):
        read(ROOT, "mnist-static-vea")


@pytest.mark.parametrize("name", ["my recipe", "a..b", "Mine", "mine-cpu", "mine-long", "mine-gpu", "a_b"])
def test_a_name_that_cannot_name_an_experiment_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "recipes" / "mine.yaml").rename(tmp_path / "recipes" / f"{name}.yaml")
    with pytest.raises(InputError, match="cannot name a recipe; a name has lower-case letters"):
        read(tmp_path, name)


@pytest.mark.parametrize(
    "content", [b"[" * 5000, b"a: 1\na: 2\n", b"", b"- a\n", b"a: [", b"\xff\xfe", b"a: !!python/object:os.system {}"]
)
def test_a_file_that_is_no_recipe_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path, "mine")
    assert "\n" not in str(caught.value)
