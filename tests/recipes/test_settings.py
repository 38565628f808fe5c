"""``-S KEY=VALUE`` is applied as by DVC, and every mistake gives one sentence."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.config.params import STUDIES
from bitsperdim.core.errors import InputError
from bitsperdim.recipes.recipe import merged, read, read_yaml
from bitsperdim.recipes.settings import applied


@pytest.fixture(scope="module")
def params(repository: Path) -> dict[str, Any]:
    """The whole file."""
    return read_yaml(repository / "params.yaml")


@pytest.fixture(scope="module")
def few(params: dict[str, Any]) -> dict[str, Any]:
    """A short file: a wrong setting is tried in up to a dozen other ways, each of which DVC writes into the file."""
    kept = {name: params[name] for name in ("dataset", "seeds", "train", "histogram", "gaussian", "vae", "iwae")}
    return {**kept, "models": ["vae", "iwae"], **{name: {} for name in ("dequantize", "evaluate", *STUDIES)}}


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (["vae.latent_size=9"], {"vae": {"latent_size": 9}}),
        (["train.learning_rate=1e-05", "seeds=[3,4]"], {"train": {"learning_rate": 1e-5}, "seeds": [3, 4]}),
        (["+vae.train.epochs=3", "vae.train.epochs=4"], {"vae": {"train": {"epochs": 4}}}),
        (["++vae.train.epochs=3", "++vae.latent_size=2"], {"vae": {"train": {"epochs": 3}, "latent_size": 2}}),
        (["params.yaml:dataset.path='a: b'"], {"dataset": {"path": "a: b"}}),
        (["train.epochs=${vae.latent_size}", "vae.latent_size=9"], {"train": {"epochs": 9}, "vae": {"latent_size": 9}}),
    ],
)
def test_settings_are_applied_as_dvc_does(settings: list[str], changes: dict[str, Any], params: dict[str, Any]) -> None:
    before = merged(params, {})
    assert applied(params, settings) == merged(params, changes)
    assert params == before


def test_a_key_is_removed(params: dict[str, Any]) -> None:
    left = applied(params, ["models=[vae]", "~iwae"])
    assert set(params) - set(left) == {"iwae"}


MISTAKES = {
    "xyz=3": r"-S xyz=3 cannot be applied: there is no parameter 'xyz'; write \+ before the key to add it\.",
    "vae.laten_size=9": r"there is no parameter 'vae\.laten_size', did you mean vae\.latent_size or ",
    "+vae.laten_size=9": r"-S \+vae\.laten_size=9: params\.yaml: vae\.laten_size is not a known key, did you mean 'lat",
    "+vae.train.epochs=-1": r"params\.yaml: vae\.train\.epochs = -1 is not allowed; it must be at least ",
    "train.epochs=abc": r"params\.yaml: train\.epochs = 'abc' is not allowed; it must be an integer\.",
    "+train.epochs=3": r"cannot be applied: Could not append to config\. An item is already at 'train\.epochs'\.",
    "vae={a:1}": r"cannot be applied: Could not override 'vae'\.",
    "~vae": r"-S ~vae: params\.yaml: models names 'vae', which has no section",
    "~vae.x": r"cannot be applied: Could not delete from config\. 'vae\.x' does not exist\.",
    "train.epochs=${x}": r"cannot be applied: Interpolation key 'x' not found\.",
    "train.epochs=${train.epochs}": r"cannot be applied: Recursive interpolation detected\.",
    "train.epochs=???": r"cannot be applied: Missing mandatory value: epochs\.",
    "train@x=3": r"cannot be applied: Override train@x=3 looks like a config group override",
    "models=[vae,": r"-S 'models=\[vae,' is not a setting; a value with spaces needs quotes: -S 'KEY=",
    "novalue": r"-S novalue is not a setting; write KEY=VALUE, \+KEY=VALUE to add a key, or ~KEY to remove one\.",
    "": r"-S '' is not a setting",
    "train.epochs=[" + "[" * 5000: r"-S 'train\.epochs=\[+\.\.\. is not a setting",
    "train.epochs=3\nx: 4": r"is not a setting",
    "train.epochs=\ud800": r"is not a setting",
    "train.epochs=1,2": r"-S train\.epochs=1,2 means several values; run a separate command for each value\.",
    "train.epochs=choice(1,2)": r"means several values",
    "train.epochs=range(1,3)": r"means several values",
    "train.epochs=glob(*)": r"means several values",
    "other.yaml:a=3": r"-S can only change params\.yaml, not 'other\.yaml'\.",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_mistake_in_a_setting_is_a_sentence(setting: str, few: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=MISTAKES[setting]) as caught:
        applied(few, ["vae.latent_size=9", setting])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


OTHER_WAYS: dict[str, tuple[str, str, Any]] = {
    "models=vae": ("models=[vae]", "models", ["vae"]),
    "models=histogram,gaussian": ("models=[histogram,gaussian]", "models", ["histogram", "gaussian"]),
    "seeds=3": ("seeds=[3]", "seeds", [3]),
    "train.patience=None": ("train.patience=null", "train.patience", None),
    "vae.train.epochs=3": ("++vae.train.epochs=3", "vae.train.epochs", 3),
    "vae.train.patience=none": ("++vae.train.patience=null", "vae.train.patience", None),
    "dataset.path=data/own/größe": ('dataset.path="data/own/größe"', "dataset.path", "data/own/größe"),
    "dataset.path=data/own/new (1)": ('dataset.path="data/own/new (1)"', "dataset.path", "data/own/new (1)"),
    "dataset.path=own/[x], {y}": ('dataset.path="own/[x], {y}"', "dataset.path", "own/[x], {y}"),
    'dataset.path=it\'s "it"\\': ('dataset.path="it\'s \\"it\\"\\\\"', "dataset.path", 'it\'s "it"\\'),
    "dataset.path=a,b": ('dataset.path="a,b"', "dataset.path", "a,b"),
    "dataset.path=123": ('dataset.path="123"', "dataset.path", "123"),
    "dataset.path=~/pictures": ("dataset.path=/home/me/pictures", "dataset.path", "/home/me/pictures"),
    "dataset.path=~/größe": ('dataset.path="/home/me/größe"', "dataset.path", "/home/me/größe"),
}


@pytest.mark.parametrize("setting", OTHER_WAYS)
def test_what_the_sentence_says_to_type_does_it(
    setting: str, few: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suggestion works through a shell, Hydra and DVC."""
    monkeypatch.setenv("HOME", "/home/me")
    other, key, value = OTHER_WAYS[setting]
    with pytest.raises(InputError) as caught:
        applied(few, [setting])
    assert str(caught.value).endswith(f"; type `-S {shlex.quote(other)}`.")
    assert str(caught.value).count("; type ") == 1
    typed = str(caught.value).split("`")[1]
    command = ["sh", "-c", f"printf '%s\\n' {typed}"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"}, check=True)
    flag, received = done.stdout.decode("utf-8").splitlines()
    assert (flag, received) == ("-S", other)
    found: Any = applied(few, [received])
    for part in key.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize("beside", ["vae.latent_size=9", "vae.latent_size=-1"])
def test_settings_beside_a_wrong_one_change_nothing_of_it(beside: str, few: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"; type `-S 'models=\[vae\]'`\.$"):
        applied(few, [beside, "models=vae"])


@pytest.mark.parametrize("setting", ["vae.latent_size=-8", "vae.likelihood=bernoulli,categorical", "dataset.path=null"])
def test_where_nothing_else_is_allowed_nothing_is_offered(setting: str, few: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        applied(few, [setting])
    assert "type" not in str(caught.value)


def test_what_stands_in_the_file_is_not_blamed_on_a_setting(params: dict[str, Any]) -> None:
    """A setting that corrects the file is allowed; a recipe is not blamed either."""
    left = merged(params, {"vae": {"latent_size": -8}})
    sentence = r"^params\.yaml: vae\.latent_size = -8 is not allowed; it must be at least 1\."
    for settings in (["iwae.latent_size=4"], ["models=vae"], []):
        with pytest.raises(InputError, match=sentence):
            applied(left, settings)
    assert applied(left, ["vae.latent_size=8"])["vae"]["latent_size"] == 8
    root = Path(__file__).resolve().parents[2]
    with pytest.raises(InputError, match=sentence):
        read(root, "cifar10-baselines").parameters(left, "cpu")
