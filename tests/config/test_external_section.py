"""The section of a user's own model: every mistake that can be found before any work gives one sentence."""

from pathlib import Path
from typing import Any

import pytest

from bitsperdim.config.families.base import FamilySection, Images, TrainSection
from bitsperdim.config.params import model_section
from bitsperdim.core.errors import InputError

FILE = "external/m.py"
LOOP: list[Any] = []
LOOP.append(LOOP)


def section(**keys: Any) -> FamilySection:
    return model_section("mine", {"family": "external", "file": FILE, **keys})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"file": "m.py"},
            "mine.file = 'm.py' is not allowed; it must be a path that begins with external/ and ends in",
        ),
        ({"file": "external/../m.py"}, "mine.file = 'external/../m.py' is not allowed"),
        ({"file": "external/m.pt2"}, "ends in .py, or null"),
        ({"file": 3}, "mine.file = 3 is not allowed; it must be text, or null"),
        ({"name": "a b"}, "mine.name = 'a b' is not allowed; it must be the name of a class or a function, or null"),
        ({"weights": "external/w.npz"}, "ends in .safetensors or .pt or .pth or .ckpt or .bin, or null"),
        ({"train_images": "train.npz"}, "must be a path that begins with external/ and ends in .npz, or null"),
        ({"arguments": [1]}, "mine.arguments = [1] is not allowed; it must be a mapping of keys to values"),
        ({"arguments": {"a": float("nan")}}, "it must be a mapping of plain values: text, finite numbers, true"),
        ({"arguments": {"a": {1: 2}}}, "it must be a mapping of plain values"),
        ({"arguments": {"a": LOOP}}, "nested at most 20 deep"),
        ({"arguments": {"a": [[0] * 200] * 200}}, "it must be a mapping of at most 10000 values"),
        ({"arguments": {"a b": 1}}, "it must be a mapping of names of arguments to their values"),
        ({"fit": 1}, "mine.fit = 1 is not allowed; it must be true or false"),
        ({"offers": "logit"}, "mine.offers = 'logit' is not allowed; it must be one of 'conditionals', 'logits'"),
        ({"range": [0]}, "mine.range = [0] is not allowed; it must be a list of at least 2 entries, or null"),
        ({"ode": {"n_steps": 10}}, "mine.ode.n_steps = 10 is not allowed; it must be a multiple of 4"),
        ({"ode": {"schedule": "cosine"}}, "mine.ode.schedule = 'cosine' is not allowed; it must be one of 'vp'"),
        ({"ode": {"probes": 0}}, "mine.ode.probes"),
        ({"ode": {"steps": 8}}, "mine.ode.steps is not a known key, did you mean 'n_steps'?"),
        ({"ode": [8]}, "mine.ode = [8] is not allowed"),
        ({"wights": "external/w.pt"}, "mine.wights is not a known key, did you mean 'weights'?"),
    ],
)
def test_what_is_no_value_is_one_sentence(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        section(**keys)
    assert str(caught.value).startswith("params.yaml: mine.")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "images", "words"),
    [
        ({"file": None}, Images(4), "mine.file = null is not allowed for a model that is in models"),
        ({"range": [1, 0.5]}, Images(4), "mine.range = [1.0, 0.5] is not allowed"),
        ({"weights_key": "a"}, Images(4), "mine.weights_key = 'a' is not allowed without mine.weights"),
        ({"weights_key": "a", "weights": "external/w.safetensors"}, Images(4), "without mine.weights from torch.save"),
        ({"layout": "plane"}, Images(4, (3, 2, 2)), "mine.layout = 'plane' is not allowed with images of 3 channels"),
        ({"n_classes": 3}, Images(4, None, 10), "mine.n_classes = 3 is not allowed with images whose labels have 10"),
    ],
)
def test_what_does_not_fit_the_images_is_one_sentence(keys: dict[str, Any], images: Images, words: str) -> None:
    with pytest.raises(InputError) as caught:
        section(**keys).check_images("mine", images)
    assert words in str(caught.value)
    section().check_images("mine", images)


def test_what_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "external").mkdir()

    def refused(binarization: str = "none", **keys: Any) -> str:
        with pytest.raises(InputError) as caught:
            section(**keys).check_files("mine", binarization)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refused() == f"params.yaml: mine.file = '{FILE}' is not a file; paths are relative to the repository."
    (tmp_path / FILE).write_text("def f(:")
    assert refused() == f"{FILE} is not valid Python (line 1: invalid syntax)."
    (tmp_path / FILE).write_text("raise SystemExit  # nothing is executed\nclass Mine: pass\n")
    section().check_files("mine", "none")
    assert "mine.name = 'Your' is not in external/m.py, which defines Mine; choose a class" in refused(name="Your")
    assert "mine.weights = 'external/w.pt' is not a file" in refused(weights="external/w.pt")
    assert "mine.train_images = 'external/t.npz' is not a file" in refused(train_images="external/t.npz")
    (tmp_path / "external" / "t.npz").write_text("")
    section(train_images="external/t.npz").check_files("mine", "threshold")
    assert "which draws different images each time" in refused("dynamic", train_images="external/t.npz")


@pytest.mark.parametrize("key", ["compile", "capture"])
def test_what_is_trained_is_not_compiled(key: str) -> None:
    settings = TrainSection.model_validate({key: True})
    section().check_training("mine", settings)
    with pytest.raises(InputError, match=rf"mine\.train\.{key} = true is not allowed with family = 'external'"):
        section(fit=True).check_training("mine", settings)
