"""The commands audit and evaluate: four ways to give a model, exit statuses, and errors of one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitsperdim import cli

CODE = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, image_shape, n_levels, scale: float = 1.0):
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(scale, -scale, n_levels))
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("one", torch.ones(image_shape))

    def log_prob(self, x):
        return (torch.log_softmax(self.logits, 0)[x] * self.dropout(self.one)).flatten(1).sum(1)

    def forward(self, x):
        return self.log_prob(x)
"""
DENSITY = """
import torch
from torch import nn

class Flow(nn.Module):
    def log_density(self, y):
        return torch.distributions.Normal(0.0, 1.0).log_prob(y).flatten(1).sum(1)
"""
VELOCITY = """
import torch
from torch import nn

class Contracting(nn.Module):
    bitsperdim = {"range": (-1, 1), "ode": {"n_steps": 16}}

    def velocity(self, t, y):
        return -1.5 * torch.tanh(y)
"""
SLOW = """
import os, torch
from pathlib import Path
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.drawn = nn.Linear(2, 2)  # its weights must be the same again, or the command would not resume

    def log_prob(self, x):
        with Path("calls").open("a") as file:
            file.write(f"{len(x)} ")
        if Path("stop").exists() and len(Path("calls").read_text().split()) > int(Path("stop").read_text()):
            raise KeyboardInterrupt
        return -x.flatten(1).sum(1).float() - 40.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITSPERDIM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "flow.py").write_text(DENSITY)
    np.savez("test.npz", images=drawn())
    return tmp_path


def drawn(n_images: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (n_images, 3, 5)).astype(np.uint8)


class Command:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit status, stdout and stderr."""
        short = ["--seconds", "0.2"] if arguments[:1] == ("audit",) and "--seconds" not in arguments else []
        self.monkeypatch.setattr(sys, "argv", ["bitsperdim", *arguments, *short])
        self.capsys.readouterr()
        status: Any = 0
        try:
            cli.main()
        except SystemExit as error:
            status = error.code
        out, err = self.capsys.readouterr()
        if isinstance(status, str):
            return 1, out, status
        return status, out, err

    def number(self, *arguments: str) -> dict[str, Any]:
        status, out, err = self(*arguments, "--json")
        assert status in (0, 2), err
        return json.loads(out)

    def refused(self, *arguments: str) -> str:
        status, out, sentence = self(*arguments)
        assert status == 1
        assert not out
        assert "\n" not in sentence
        assert sentence.endswith(".")
        return sentence


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


IMAGES = ("--images", "test.npz", "--n-levels", "4")


def mine(scale: float = 1.0) -> Any:
    space: dict[str, Any] = {}
    exec(compile(CODE, "mine.py", "exec"), space)
    return space["Mine"]((1, 3, 5), 4, scale).eval()


def test_the_settings_of_an_equation(folder: Path, command: Command) -> None:
    (folder / "contracting.py").write_text(VELOCITY)
    options = ("--samples", "2", *IMAGES)
    own = command.number("evaluate", "contracting.py", *options)
    assert "ode:rk4,16-steps,0-to-1,exact,uniform-noise" in own["signature"]
    given = command.number("evaluate", "contracting.py", "--ode", "n_steps=8", "--ode", "times=[0, 0.5]", *options)
    assert "ode:rk4,8-steps,0-to-0.5,exact,uniform-noise" in given["signature"]
    assert given["bits_per_dim"] != own["bits_per_dim"]
    assert "must be a multiple of 4" in command.refused("evaluate", "contracting.py", "--ode", "n_steps=9", *options)
    assert "such as --ode n_steps=64" in command.refused("evaluate", "contracting.py", "--ode", "n_steps", *options)
    assert "ode is not allowed for a model that offers log_prob" in command.refused(
        "evaluate", "mine.py", "--ode", "n_steps=8", *options
    )
    np.savez("scores.npz", log_p=np.zeros(40))
    assert "--ode is not allowed for arrays" in command.refused("evaluate", "scores.npz", "--ode", "n_steps=8", *IMAGES)


def test_every_way_in_is_the_same_number(folder: Path, command: Command) -> None:
    model = mine(1.5)
    images = torch.from_numpy(drawn())[:, None].long()
    with torch.no_grad():
        log_p = model.log_prob(images)
    np.savez("scores.npz", log_p=log_p.numpy())
    np.savez("weights.npz", log_w=np.repeat(log_p.numpy()[None], 3, axis=0))
    torch.save(model.state_dict(), "w.pt")
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, "mine.pt2")
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text(f"{CODE}\n\ndef load(size): return Mine((1, 3, 5), 4, size)\n")
    expected = -float(log_p.double().mean()) / 15 / np.log(2)
    ways = (
        ("scores.npz",),
        ("weights.npz",),
        ("mine.py", "-a", "scale=1.5"),
        ("mine.py:Mine", "--weights", "w.pt"),
        ("package.module:load", "-a", "size=1.5"),
        ("mine.pt2", "--as", "log_prob"),
    )
    for way in ways:
        found = command.number("audit", *way, *IMAGES)
        assert found["bits_per_dim"] == pytest.approx(expected, abs=1e-6), way
        assert found["n_images"] == 40
        assert command.number("evaluate", *way, *IMAGES)["bits_per_dim"] == pytest.approx(expected, abs=1e-6), way


def test_data_by_name(folder: Path, command: Command) -> None:
    found = command.number("audit", "mine.py", "--data", "digits", "--subset", "30")
    assert found["n_images"] == 30
    assert "test30of359-seed0" in found["signature"]
    validation = command.number("evaluate", "mine.py", "--data", "digits", "--split", "validation")
    assert "digits-validation-" in validation["signature"]
    bits = command.number("evaluate", "mine.py", "--data", "digits", "--binarization", "threshold")
    assert "threshold" in bits["signature"]


def test_a_density(folder: Path, command: Command) -> None:
    status, out, _ = command("evaluate", "flow.py", *IMAGES, "--range", "-1", "1", "--samples", "8", "--name", "noise")
    assert status == 0
    assert out.startswith("noise: <= ")
    assert "K = 8" in out
    assert "range" in command.refused("evaluate", "flow.py", *IMAGES)
    assert "range" in command.refused("evaluate", "flow.py", *IMAGES, "--range", "1", "-1")


def test_forms_and_exit_statuses(folder: Path, command: Command) -> None:
    good = ("mine.py", "--images", "even.npz", "--n-levels", "4", "-a", "scale=0.5")
    p = torch.softmax(torch.linspace(0.5, -0.5, 4), 0).numpy().astype(float)
    np.savez("even.npz", np.random.default_rng(1).choice(4, (200, 3, 5), p=p / p.sum()).astype(np.uint8))
    status, out, err = command("audit", *good)
    assert status == 0, out
    assert "was in training mode; it is put into evaluation mode" in err
    assert "mine.py (sha256 " in err
    assert "MB) on cpu" in err
    assert "checks that apply found no error" in out
    status, out, _ = command("audit", *good, "--markdown")
    assert status == 0
    assert "| --- |" in out
    np.savez("wrong.npz", log_p=np.zeros(200))  # each image has probability 1
    status, out, _ = command("audit", "wrong.npz", *good[1:5])
    assert status == 2
    assert "FAILED" in out
    assert command("evaluate", "wrong.npz", *good[1:5])[0] == 0
    np.savez("images.npz", log_p=-np.linspace(20, 25, 200).astype(np.float32))
    assert command.number("evaluate", "images.npz", *good[1:5], "--kind", "lower")["kind"] == "lower"


def test_what_is_printed_meanwhile_is_not_in_the_json(folder: Path, command: Command) -> None:
    (folder / "loud.py").write_text(f"print('hello')\n{CODE.replace('return (', 'print(len(x)); return (')}")
    found = command.number("audit", "loud.py", *IMAGES, "--batch-size", "7")
    assert set(found) >= {"passed", "checks", "signature"}


def test_layouts_of_images(folder: Path, command: Command) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (20, 3, 5, 6)).astype(np.uint8)
    np.savez("first.npz", test=colour)
    np.savez("last.npz", x=np.moveaxis(colour, 1, -1))
    np.savez("both.npz", images=colour[:, :, :, :2], other=colour)
    model = ("evaluate", "mine.py")
    first, last = (
        command.number(*model, "--images", name) for name in ("first.npz", "last.npz")
    )  # 256 levels are inferred from the values
    assert first["signature"] == last["signature"]
    assert command.number(*model, "--images", "both.npz:other")["signature"] == first["signature"]
    assert "ambiguous" in command.refused(*model, "--images", "both.npz")
    assert "5x2x3" in command.number(*model, "--images", "both.npz", "--channels", "first")["signature"]
    assert "no array 'none'" in command.refused(*model, "--images", "both.npz:none")
    np.savez("two.npz", a=colour, b=colour)
    assert "choose one of a, b as two.npz:NAME" in command.refused(*model, "--images", "two.npz")


def test_copies_and_labels(folder: Path, command: Command) -> None:
    np.savez("train.npz", train=drawn()[:5])
    found = command.number("audit", "mine.py", *IMAGES, "--train", "train.npz")
    assert next(check for check in found["checks"] if check["name"] == "copies")["status"] == "failed"
    assert "--train" in command.refused("audit", "mine.py", "--data", "digits", "--train", "train.npz")
    assert "no labels" in command.refused("audit", "mine.py", *IMAGES, "--labels")
    np.savez("labelled.npz", images=drawn(), labels=np.arange(40) % 3)
    code = CODE.replace("def log_prob(self, x)", "def log_prob(self, x, y)").replace(
        "forward(self, x)", "other(self, x)"
    )
    (folder / "mine.py").write_text(code.replace("return self.log_prob(x)", "return y"))
    assert (
        command.number("evaluate", "mine.py", "--images", "labelled.npz", "--n-levels", "4", "--labels")["n_images"]
        == 40
    )


def test_what_is_given_is_refused_in_one_sentence(folder: Path, command: Command) -> None:
    log_p = np.linspace(-30, -25, 40)
    np.savez("scores.npz", log_p=log_p)
    arrays = {
        "objects": {"log_p": np.array([{}, None], dtype=object)},
        "both": {"log_p": log_p, "log_w": log_p[None]},
        "neither": {"nll": log_p},
        "nan": {"log_p": np.where(np.arange(40) == 7, np.nan, log_p)},
        "few": {"log_p": log_p[:7]},
        "integers": {"log_p": np.arange(40)},
    }
    for name, content in arrays.items():
        np.savez(f"{name}.npz", **content)
    np.savez("floats.npz", images=drawn() / 3)
    np.savez("words.npz", images=np.array([[["a"]]]))
    Path("text.npz").write_text("no archive")
    (folder / "fails.py").write_text("def load():\n    raise ValueError('no such run')\n")
    (folder / "no_method.py").write_text("from torch import nn\nclass A(nn.Module):\n    pass\n")
    (folder / "raises.py").write_text(CODE.replace("return (", "raise ValueError('bad shape'); return ("))
    cases = {
        ("objects.npz", *IMAGES): "Python objects",
        ("both.npz", *IMAGES): "either log_p",
        ("neither.npz", *IMAGES): "it has nll",
        ("nan.npz", *IMAGES): "log_p of image 7 is nan",
        ("few.npz", *IMAGES): "(40,)",
        ("integers.npz", *IMAGES): "must be floating-point",
        ("nowhere.npz", *IMAGES): "is not a file",
        ("text.npz", *IMAGES): "cannot be read as a .npz file",
        ("scores.npz",): "The images are missing",
        ("scores.npz", *IMAGES, "--data", "digits"): "exclude each other",
        ("scores.npz", *IMAGES, "--inputs", "unit"): "--inputs is not allowed for arrays",
        ("scores.npz", *IMAGES, "-a", "x=1"): "-a is not allowed for arrays",
        ("scores.npz", *IMAGES, "--as", "log_prob"): "--as is not allowed for arrays",
        ("scores.npz", "--images", "test.npz"): "--n-levels is missing: the images hold levels from 0 to 3",
        ("scores.npz", "--images", "floats.npz"): "images must be integers 0..255, not float64",
        ("scores.npz", "--images", "words.npz"): "images must be integers",
        ("mine.py", *IMAGES, "--seed", str(10**30)): "seed = ",
        ("scores.npz", "--images", "test.npz", "--n-levels", "3"): "from 0 to 2",
        ("scores.npz", "--data", "imagenet"): "is not a data set",
        ("scores.npz", *IMAGES, "--split", "train"): "--split is not allowed with --images",
        ("scores.npz", "--data", "digits", "--channels", "last"): "--channels is not allowed with --data",
        ("mine.py", *IMAGES, "--kind", "lower"): "--kind is not allowed for a model",
        ("mine.py", *IMAGES, "--device", "cuda:99"): "is not a device of this machine",
        ("mine.py", *IMAGES, "--device", "gpu"): "choose cpu",
        ("mine.py", *IMAGES, "--inputs", "pixels"): "choose one of integers",
        ("mine.py", *IMAGES, "--layout", "nhwc"): "channels_last",
        ("mine.py", *IMAGES, "--as", "likelihood"): "is not a method",
        ("mine.py", *IMAGES, "--subset", "41"): "from 1 to 40",
        ("mine.py", *IMAGES, "--batch-size", "0"): "batch_size = 0",
        ("mine.py", *IMAGES, "--samples", "0"): "n_samples = 0",
        ("mine.py", *IMAGES, "--seed", "-1"): "seed = -1",
        ("mine.py", *IMAGES, "--seconds", "0"): "seconds = 0",
        ("mine.py", *IMAGES, "--samples", "many"): "invalid int value",
        ("mine.py", *IMAGES, "--order", "spiral", "--as", "logits"): "raster",
        ("mine.py", *IMAGES, "--nonsense"): "--nonsense",
        ("mine.py", *IMAGES, "--json", "--markdown"): "not allowed with",
        ("fails.py", *IMAGES): "fails.py:2: ValueError: no such run",
        ("raises.py", *IMAGES): "ValueError: bad shape (raises.py:13); it is given",
        ("no_method.py", *IMAGES): "log_prob(x)",
        ("resnet", *IMAGES): "is not the place of a model",
        (): "PLACE",
    }
    for arguments, words in cases.items():
        sentence = command.refused("audit", *arguments)
        assert words in sentence, (arguments, sentence)


def test_it_goes_on_after_an_interruption(folder: Path, command: Command) -> None:
    """Stored images are not scored again; changed code does not reuse them."""
    (folder / "slow.py").write_text(SLOW)
    call = ("evaluate", "slow.py", *IMAGES, "--batch-size", "4", "--checkpoint", "kept")
    (folder / "stop").write_text("5")
    status, out, err = command(*call)
    assert (status, out) == (130, "")
    assert "Run the same command again to resume" in err
    n_first = len((folder / "calls").read_text().split())
    (folder / "stop").unlink()
    (folder / "calls").unlink()
    status, out, err = command(*call)
    assert status == 0
    assert "resumes from a checkpoint with 16 of 40 images done" in err
    n_second = len((folder / "calls").read_text().split())
    assert n_second == 10 - 4 + 1  # one batch is scored twice, to measure the memory
    assert n_first == 6
    expected = (drawn().reshape(40, -1).sum(1).mean() + 40) / 15 / np.log(2)
    assert f"{expected:.4f}" in out
    (folder / "stop").write_text("0")
    (folder / "slow.py").write_text(SLOW.replace("40.0", "50.0"))
    status, _, err = command(*call[:-2])
    assert status == 130
    assert "To be able to resume, use --checkpoint FOLDER" in err
    shutil.rmtree("kept")


def test_the_command_as_users_call_it(folder: Path, repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "bitsperdim.cli", "audit", "mine.py", *IMAGES, "--json", "--seconds", "0.2"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr
    assert json.loads(done.stdout)["n_images"] == 40
    assert "Traceback" not in done.stderr
