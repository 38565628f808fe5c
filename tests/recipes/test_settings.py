"""``-S KEY=VALUE``: applied as DVC does it, and every mistake a sentence."""

from pathlib import Path
from typing import Any

import pytest

from bitsperdim.errors import InputError
from bitsperdim.recipes.recipe import merged, read_yaml
from bitsperdim.recipes.settings import applied


@pytest.fixture(scope="module")
def params(repository: Path) -> dict[str, Any]:
    return read_yaml(repository / "params.yaml")


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
    "nonsense=3": r"-S nonsense=3 cannot be applied: there is no parameter 'nonsense'; \+ before it adds one\.",
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
    "novalue": r"-S novalue is not a setting; write KEY=VALUE, \+KEY=VALUE to add a key, or ~KEY to remove one\.",
    "": r"-S '' is not a setting",
    "train.epochs=[" + "[" * 5000: r"-S 'train\.epochs=\[+\.\.\. is not a setting",
    "train.epochs=3\nx: 4": r"is not a setting",
    "train.epochs=\ud800": r"is not a setting",
    "train.epochs=1,2": r"-S train\.epochs=1,2 stands for several values; give each to a command of its own\.",
    "train.epochs=choice(1,2)": r"stands for several values",
    "train.epochs=range(1,3)": r"stands for several values",
    "train.epochs=glob(*)": r"stands for several values",
    "other.yaml:a=3": r"-S can only change params\.yaml, not 'other\.yaml'\.",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_mistake_in_a_setting_is_a_sentence(setting: str, params: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=MISTAKES[setting]) as caught:
        applied(params, ["vae.latent_size=9", setting])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
