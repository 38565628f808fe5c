"""Models load from files, modules and exported programs; a mistake gives one sentence, and no pickle is run."""

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.loading import load_model, parsed_arguments

SHAPE = {"image_shape": (1, 2, 2), "n_levels": 3}
ONE = """
import torch
from torch import nn
from parts_of_it import scaled

class Mine(nn.Module):
    def __init__(self, image_shape, n_levels, scale: float = 1.0, checkpoint=None):
        super().__init__()
        self.logits = nn.Parameter(scaled(n_levels, scale))
        if checkpoint is not None:
            self.load_state_dict(torch.load(checkpoint, weights_only=True))

    def log_prob(self, x):
        return torch.log_softmax(self.logits, 0)[x.long()].flatten(1).sum(1)

    def forward(self, x):
        return self.log_prob(x)
"""
PART = "import torch\n\ndef scaled(n, scale):\n    return torch.linspace(-scale, scale, n)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(ONE)
    (tmp_path / "parts_of_it.py").write_text(PART)
    return tmp_path


def images() -> torch.Tensor:
    return torch.randint(3, (5, 1, 2, 2), generator=torch.Generator().manual_seed(0))


def refused(place: str, *words: str, **options: Any) -> str:
    arguments = options.pop("arguments", {})
    with pytest.raises(InputError) as caught:
        load_model(place, arguments, **{**SHAPE, **options})
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence
    return sentence


def test_every_way_is_the_same_model(folder: Path) -> None:
    found = load_model("mine.py", {"scale": 2}, **SHAPE)
    model: Any = found.model
    assert model.training  # loading does not change the mode
    torch.save(model.state_dict(), "w.pt")
    save_file(model.state_dict(), "w.safetensors")
    torch.save({"epoch": 3, "ema": model.state_dict()}, "nested.pt")
    program = torch.export.export(model.eval(), (images(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, "mine.pt2")
    (folder / "a_package").mkdir()
    (folder / "a_package" / "of_it.py").write_text(
        "from mine import Mine\n\ndef load(scale): return Mine((1, 2, 2), 3, scale)\n"
    )
    (folder / "function.py").write_text(
        "from mine import Mine\n\ndef load(**more): return Mine((1, 2, 2), 3, **more).log_prob\n"
    )
    (folder / "ready.py").write_text("from mine import Mine\nmodel = Mine((1, 2, 2), 3, 2.0)\n")
    expected = model.log_prob(images())
    others: list[Any] = [
        load_model("mine.py:Mine", {}, "w.pt", **SHAPE).model,
        load_model("mine.py", {}, folder / "w.safetensors", **SHAPE).model,
        load_model("mine.py", {}, "nested.pt", weights_key="ema", **SHAPE).model,
        load_model("mine.py", {"checkpoint": "w.pt"}, **SHAPE).model,
        load_model("mine.py", {"image_shape": (1, 2, 2), "n_levels": 3, "scale": 2}).model,
        load_model("a_package.of_it:load", {"scale": 2.0}).model,
        load_model("function.py", {"scale": 2.0}).model,
        load_model("ready.py:model", {}).model,
        load_model("mine.pt2", {}, device=torch.device("cpu")).model,
    ]
    for other in others:
        ask = getattr(other, "log_prob", other)
        assert torch.allclose(ask(images()), expected), other
    assert not others[-1].training
    assert not others[-1].train().training  # an exported program has only one mode


def test_files_are_named_by_content(folder: Path) -> None:
    torch.save({"logits": torch.zeros(3)}, "w.pt")
    loaded = load_model("mine.py", {}, "w.pt", **SHAPE)
    names = {Path(name).name: digest for name, digest in loaded.files.items()}
    assert set(names) == {"mine.py", "parts_of_it.py", "w.pt"}
    assert names["mine.py"] == hashlib.sha256(ONE.encode()).hexdigest()
    assert loaded.name == "mine"
    (folder / "a_package").mkdir()
    for name, text in {"of_it": "from a_package import inner\ndef load(): return inner", "inner": ""}.items():
        (folder / "a_package" / f"{name}.py").write_text(text)
    loaded = load_model("a_package.of_it:load", {})
    assert {Path(name).name for name in loaded.files} == {"of_it.py", "inner.py"}


def test_code_is_read_anew(folder: Path) -> None:
    """Also after an edit that keeps size and time, and with a file of the same name in another folder."""
    for name in ("one", "two"):
        (folder / name).mkdir()
        text = f"def load(given):\n    import its_late\n    given.append('{name}')\n"
        text = f"import its_part\n{text}    return lambda: (given, its_part.x, its_late.x)\n"
        (folder / name / "m.py").write_text(text)
        for part in ("its_part", "its_late"):
            (folder / name / f"{part}.py").write_text(f"x = '{name}'\n")
    given: list[str] = []
    models: list[Any] = [load_model(f"{name}/m.py", {"given": given}).model for name in ("one", "two", "one")]
    assert [model() for model in models] == [([name], name, name) for name in ("one", "two", "one")]
    assert given == []
    assert len({model.__module__ for model in models}) == 2
    file = folder / "one" / "m.py"
    times = file.stat()
    file.write_text(file.read_text().replace("'one'", "'six'"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    edited: Any = load_model("one/m.py", {"given": []}).model
    assert edited()[0] == ["six"]
    (folder / "torch.py").write_text("raise ValueError\n")
    assert load_model("mine.py", SHAPE).model is not None  # modules in use by this package are not reloaded


def test_a_tiny_one_is_built_without_weights(folder: Path) -> None:
    torch.save({"logits": torch.full((3,), 7.0)}, "w.pt")
    for loaded in (
        load_model("mine.py", {"scale": 2}, "w.pt", **SHAPE),
        load_model("mine.py", {"scale": 2, "checkpoint": "w.pt"}, **SHAPE),
    ):
        assert loaded.build is not None
        built: Any = loaded.build(image_shape=(1, 1, 2), n_levels=2)
        assert built.logits.tolist() == [-2.0, 2.0]
        assert not built.training
        assert getattr(loaded.model, "logits").tolist() == [7.0] * 3  # noqa: B009 - it is an object
    assert load_model("mine.py", {"n_levels": 3}, image_shape=(1, 2, 2)).build is None
    (folder / "needs.py").write_text("def load(checkpoint, image_shape, n_levels): return lambda x: x\n")
    assert load_model("needs.py", {"checkpoint": "w.pt"}, **SHAPE).build is None


def test_arguments_are_yaml() -> None:
    given = ["a=3", "b=1e-3", "c=true", "d=[1, 2.5, x]", "e=run7", "f=", "g='3'", "h=a=b", "i=/w/x.pt"]
    assert parsed_arguments(given) == {
        "a": 3,
        "b": 1e-3,
        "c": True,
        "d": [1, 2.5, "x"],
        "e": "run7",
        "f": None,
        "g": "3",
        "h": "a=b",
        "i": "/w/x.pt",
    }
    for wrong in (["a"], ["=3"], ["a b=3"], ["a={x: 1}"], ["a=[1"], ["a=1", "a=2"], ["a=!!python/name:os.system"]):
        with pytest.raises(InputError, match="-a "):
            parsed_arguments(wrong)


def test_what_is_no_place_is_refused(folder: Path) -> None:
    refused("nothing.py", "is not a file")
    refused("nothing.pt2", "is not a file")
    refused("w.pt", "holds weights and no model")
    refused("resnet50", "package.module:NAME")
    refused("no_such_package:load", "no_such_package", "ModuleNotFoundError")
    refused("mine.py:Nobody", "there is no 'Nobody'")
    refused("mine.py:torch", "is module; it must be a class")
    refused(
        "mine.py", "unexpected keyword argument 'size'; it takes image_shape, n_levels, scale", arguments={"size": 3}
    )
    refused("mine.py", "missing a required argument: 'n_levels'", n_levels=None)
    (folder / "two.py").write_text("from torch import nn\nclass A(nn.Module): ...\nclass B(nn.Module): ...\n")
    refused("two.py", "2 subclasses", "A, B", "two.py:B", "function load")
    (folder / "none.py").write_text("from torch.nn import Linear\n")
    refused("none.py", "defines no subclass", "load")
    (folder / "ready.py").write_text("from torch import nn\nmodel = nn.Linear(1, 1)\n")
    refused("ready.py:model", "takes no arguments", arguments={"size": 3})
    (folder / "nothing_back.py").write_text("def load(): pass\n")
    refused("nothing_back.py", "returned nothing")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import torch\n\nimport no_such_module\n", ("mine.py:3", "ModuleNotFoundError", "no_such_module")),
        ("x = 1\ndef f(:\n", ("mine.py:2", "SyntaxError")),
        ("def load():\n    return inner()\n\ndef inner():\n    return 1 / 0\n", ("mine.py:5", "ZeroDivisionError")),
        ("import torch\ndef load():\n    torch.zeros(2) @ torch.zeros(3)\n", ("mine.py:3", "RuntimeError")),
        ("import sys\nsys.exit('no GPU')\n", ("mine.py:2", "SystemExit", "no GPU")),
        ("raise ValueError('one\\ntwo')\n", ("mine.py:1", "ValueError: one.")),
    ],
)
def test_an_error_in_the_code_is_told_with_its_place(folder: Path, code: str, words: tuple[str, ...]) -> None:
    (folder / "mine.py").write_text(code)
    refused("mine.py", *words)


class Opened:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.write_text, (Path("ran"), "it ran")


def test_a_pickle_is_not_opened(folder: Path) -> None:
    torch.save({"logits": torch.zeros(3), "more": Opened()}, "w.pt")
    refused("mine.py", "w.pt", "holds Python objects", "state_dict", weights="w.pt")
    Path("w.pkl").write_bytes(pickle.dumps(Opened()))
    refused("mine.py", "w.pkl", weights="w.pkl")
    assert not Path("ran").exists()


def test_weights_of_another_module_are_refused(folder: Path) -> None:
    good = {"logits": torch.zeros(3)}
    for name, content, words in (
        ("missing", {"other": torch.zeros(3)}, ("logits is missing", "other is not in the model")),
        ("shape", {"logits": torch.zeros(4)}, ("logits has the shape (4,)", "(3,) in the model")),
        ("more", {**good, **{f"x{i}": torch.zeros(1) for i in range(5)}}, ("x0, x1, x2 and 2 more are not",)),
        ("nested", {"epoch": 3, "model": good, "ema": good}, ("'model', 'ema'", "`weights_key`")),
        ("list", [torch.zeros(3)], ("not a state dict", "list")),
    ):
        torch.save(content, f"{name}.pt")
        refused("mine.py", *words, weights=f"{name}.pt")
    refused("mine.py", "'net'", "'epoch', 'model', 'ema'", weights="nested.pt", weights_key="net")
    refused("mine.py", "weights_key", weights_key="net")
    Path("damaged.pt").write_bytes(b"PK\x03\x04 and no more")
    refused("mine.py", "is damaged", weights="damaged.pt")
    Path("damaged.safetensors").write_bytes(b"{}")
    refused("mine.py", "is damaged", weights="damaged.safetensors")
    refused("mine.py", "is not a file", weights="nowhere.pt")
    (folder / "function.py").write_text("def load(): return lambda x: x\n")
    torch.save(good, "w.pt")
    refused("function.py", "not torch.nn.Module", weights="w.pt")


def test_a_module_may_name_its_weights_anew(folder: Path) -> None:
    """Weights that hooks rename, and weights without a known shape, are loaded as torch loads them."""
    (folder / "mine.py").write_text(
        "from torch import nn\nfrom torch.nn.utils.parametrizations import weight_norm\n"
        "def load(): return nn.Sequential(weight_norm(nn.Linear(2, 2)), nn.LazyLinear(3))\n"
    )
    state = {"0.weight_g": torch.ones(2, 1), "0.weight_v": torch.ones(2, 2), "0.bias": torch.ones(2)}
    save_file({**state, "1.weight": torch.ones(3, 2), "1.bias": torch.ones(3)}, "w.safetensors")
    model: Any = load_model("mine.py", {}, "w.safetensors").model
    assert model[1].weight.tolist() == [[1.0] * 2] * 3
    save_file(state, "w.safetensors")
    refused("mine.py", "does not fit Sequential", weights="w.safetensors")


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 1)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.inner(y.flatten(1))[:, 0] + y.shape[0] * 0.0


def exported(path: str, batches: tuple | None = ({0: torch.export.Dim("batch")},)) -> None:
    program = torch.export.export(Linear().eval(), (torch.rand(3, 1, 2, 2),), dynamic_shapes=batches)
    torch.export.save(program, path)


def rewritten(path: str, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> str:
    """Write a copy of an exported program with other contents."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile("changed.pt2", "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in (more or {}).items():
            new.writestr(f"{Path(old.namelist()[0]).parts[0]}/{name}", content)
    return "changed.pt2"


def in_program(change: Callable[[dict], object]) -> Callable[[str, bytes], bytes]:
    def changed(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return changed


def test_an_exported_program_runs_nothing(folder: Path) -> None:
    """Contents that torch.export.load would open, evaluate or call are refused here."""
    exported("good.pt2")
    unchanged = rewritten("good.pt2", lambda _, content: content)
    assert load_model(unchanged, {}).model is not None  # the rewritten archive itself is valid
    opened = io.BytesIO()
    torch.save(({"x": Opened()},), opened)
    code = "__import__('pathlib').Path('ran').write_text('it ran')"

    def call(program: dict) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.serialization.os.getcwd"

    def size(program: dict) -> None:
        program["graph_module"]["graph"]["tensor_values"]["y"]["sizes"][0]["as_expr"]["expr_str"] = code

    def name(program: dict) -> None:
        program["graph_module"]["graph"]["nodes"][0]["name"] = f"x = {code}"

    def guard(program: dict) -> None:
        program["guards_code"] = [code]

    def pickled(of: str) -> Callable[[str, bytes], bytes]:
        return lambda name, content: opened.getvalue() if name.endswith(of) else content

    def marked(name: str, content: bytes) -> bytes:
        if name.endswith("weights/weight_0"):
            return opened.getvalue()
        return content.replace(b'"use_pickle": false', b'"use_pickle": true')

    refused(rewritten("good.pt2", pickled("sample_inputs/model.pt")), "cannot be loaded", "UnpicklingError")
    refused(rewritten("good.pt2", marked), "is pickled")
    refused(rewritten("good.pt2", in_program(call)), "a call of 'torch.serialization.os.getcwd'")
    refused(rewritten("good.pt2", in_program(size)), "the size")
    refused(rewritten("good.pt2", in_program(name)), "the name")
    more = {"data/aotinductor/model/x.so": b"", "data/weights/model.pt": opened.getvalue()}
    for member, content in more.items():
        refused(rewritten("good.pt2", lambda _, content: content, {member: content}), "changed.pt2")
    model: Any = load_model(rewritten("good.pt2", in_program(guard)), {}).model
    assert model(torch.rand(2, 1, 2, 2)).shape == (2,)
    assert not Path("ran").exists()


def test_an_exported_program_that_does_not_fit_is_refused(folder: Path) -> None:
    exported("fixed.pt2", batches=None)
    refused("fixed.pt2", "3 images at a time", "dynamic_shapes")
    exported("good.pt2")
    refused("good.pt2", "takes no arguments", arguments={"scale": 2})
    Path("text.pt2").write_text("no archive")
    refused("text.pt2", "cannot be loaded as a program")
    with zipfile.ZipFile("other.pt2", "w") as archive:
        archive.writestr("other/version", "8.8")
    refused("other.pt2", "cannot be loaded as a program")
