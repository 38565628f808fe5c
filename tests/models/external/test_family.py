"""A model from a file is built, gets weights, is saved, loaded and trained, and draws pictures; and all mistakes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bitsperdim import models
from bitsperdim.config.params import EvaluateSection, model_section
from bitsperdim.core.errors import InputError
from bitsperdim.core.stopping import Interrupted
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.evaluation import latent_code, pictures
from bitsperdim.evaluation.estimate import estimate
from bitsperdim.evaluation.summary import origin_of
from bitsperdim.models import ImageModel
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.training import trainer
from bitsperdim.training.trained import Trained
from support.external_files import LATENT, MADE, PARTS
from support.training_cases import CPU, SETTINGS, TrainSection, prepared

SHAPE, N_LEVELS = (1, 2, 3), 4
SMALL = {"n_samples": 6, "n_pictures": 4, "annealed": {"n_images": 2, "n_simulated": 2, "n_chains": 2, "n_steps": 3}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder of the tests, which holds ``external/``."""
    (tmp_path / "external").mkdir()
    for name, text in {"made.py": MADE, "parts.py": PARTS, "latent.py": LATENT}.items():
        (tmp_path / "external" / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(file: str = "external/made.py", seed: int = 0, **keys: Any) -> ImageModel:
    hyperparameters = model_section("mine", {"family": "external", "file": file, **keys}).hyperparameters
    return models.build("external", hyperparameters, SHAPE, N_LEVELS, seed=seed)


def images(n: int = 5) -> torch.Tensor:
    return torch.randint(N_LEVELS, (n, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def train(seed: int = 0, checkpoint: Checkpoint | None = None, **keys: Any) -> Trained:
    changes = {key: keys.pop(key) for key in keys.keys() & SETTINGS.keys()}
    section = model_section("mine", {"family": "external", "file": "external/made.py", **keys})
    shared = TrainSection.model_validate({**SETTINGS, **changes})
    return trainer.train("mine", section, shared, prepared(), seed=seed, device=CPU, checkpoint=checkpoint)


def of_weights(model: ImageModel) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def test_a_saved_model_comes_back(folder: Path) -> None:
    """It loads without its weights file, and with shared tensors; the seed decides the initial weights."""
    state = {name: tensor.clone() for name, tensor in built(seed=5).module.state_dict().items()}
    save_file(state, "external/w.safetensors")
    keys = {"weights": "external/w.safetensors", "arguments": {"scale": 3.0}}
    model = built(**keys)
    assert torch.equal(of_weights(model), of_weights(built(seed=5)))
    assert not torch.equal(of_weights(model), of_weights(built(seed=6)))
    hyperparameters = model_section("mine", {"family": "external", "file": "external/made.py", **keys}).hyperparameters
    models.save(model, "external", hyperparameters, folder / "saved")
    Path("external/w.safetensors").unlink()
    loaded = models.load(folder / "saved", "external")
    assert torch.equal(loaded.log_weights(images()), model.eval().log_weights(images()))
    assert origin_of(loaded) == origin_of(model)
    assert origin_of(loaded)["verified"]
    assert set(origin_of(loaded)["origin"]) == {"file", "sha256", "offers", "weights", "weights_sha256"}


def test_another_file_is_refused(folder: Path) -> None:
    """A file that it imports is checked too; the message says what to do."""
    hyperparameters = model_section("mine", {"family": "external", "file": "external/made.py"}).hyperparameters
    models.save(built(), "external", hyperparameters, folder / "saved")
    Path("external/parts.py").write_text(PARTS + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"external/parts\.py has changed since the model in .* train the model again"):
        models.load(folder / "saved")
    Path("external/parts.py").unlink()
    with pytest.raises(InputError, match=r"external/parts\.py, with which the model in .* was made, is missing"):
        models.load(folder / "saved")


def test_weights_of_torch_are_read_and_not_executed() -> None:
    state = built(seed=5).module.state_dict()
    torch.save({"epoch": 3, "state_dict": state}, "external/w.ckpt")
    model = built(weights="external/w.ckpt", weights_key="state_dict")
    assert torch.equal(of_weights(model), of_weights(built(seed=5)))
    with pytest.raises(
        InputError, match=r"is not a state dict: it has the keys 'epoch', 'state_dict'; set `weights_key` to"
    ):
        built(weights="external/w.ckpt")
    with pytest.raises(InputError, match=r"weights_key = 'model' is not in external/w\.ckpt: it has the keys 'epoch'"):
        built(weights="external/w.ckpt", weights_key="model")
    torch.save(CPU, "external/w.pt")  # a device, which is not a dict
    with pytest.raises(InputError, match="is not a state dict: it holds device"):
        built(weights="external/w.pt")
    Path("external/w.pt").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(InputError, match="holds Python objects"):
        built(weights="external/w.pt")
    assert not Path("executed").exists()
    save_file({"other": torch.zeros(2)}, "external/w.safetensors")
    with pytest.raises(InputError, match=r"w\.safetensors does not fit Made: bias, tied, weight are missing and other"):
        built(weights="external/w.safetensors")


@pytest.mark.parametrize(
    ("text", "keys", "words"),
    [
        (
            "import no_such",
            {},
            r"external/m\.py cannot be loaded: external/m\.py:1: ModuleNotFoundError: No module named 'no_such'\.",
        ),
        ("\nraise SystemExit(3)", {}, r"external/m\.py:2: SystemExit: 3"),
        ("x = 1", {}, "defines no subclass of torch.nn.Module and no function load"),
        (
            "from torch import nn\nclass A(nn.Module): pass\nclass B(A): pass",
            {},
            r"2 subclasses of torch\.nn\.Module \(A, B\); choose one by its name",
        ),
        ("x = 1", {"name": "y"}, r"external/m\.py:y: there is no 'y' in it"),
        (
            "x = 1",
            {"name": "x"},
            r"external/m\.py:x is int; it must be a class of modules, a module object or a function",
        ),
        (
            "def load(a): pass",
            {},
            r"external/m\.py:load refuses the arguments \(none\): missing a required argument",
        ),
        (
            "def load(): pass",
            {"arguments": {"b": 1}},
            r"refuses the arguments \(b\): got an unexpected keyword argument 'b'",
        ),
        ("def load():\n    return 1 / 0", {}, r"m\.py:load cannot .*: external/m\.py:2: ZeroDivisionError"),
        ("def load(): return 3", {}, "int offers none of the methods that give a likelihood"),
        ("def load(): return lambda x: x", {"weights": "external/w.pt"}, "the model is function, not torch.nn.Module"),
        ("def load(): return lambda x: x", {"offers": "log_prob", "fit": True}, "has no weights to be trained"),
        ("def load():\n    f = lambda x: x\n    f.bitsperdim = 3\n    return f", {}, "must be a dict with some of the"),
        ("def load(): return lambda x: x", {"offers": "log_density"}, "log_density needs `range`"),
        ("def load(n_levels): return lambda x: x", {"offers": "bound", "layout": "plane"}, None),
    ],
)
def test_every_mistake_is_one_sentence(text: str, keys: dict[str, Any], words: str | None) -> None:
    Path("external/m.py").write_text(text, encoding="utf-8")
    if words is None:
        assert built("external/m.py", **keys).kind == "lower"
        return
    with pytest.raises(InputError, match=words) as caught:
        built("external/m.py", **keys)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith("..")


def test_a_module_of_the_file_itself_and_a_late_import_are_taken() -> None:
    Path("external/m.py").write_text(
        "from torch import nn\nimport torch\nclass A(nn.Module):\n    def log_prob(self, x):\n"
        "        from late_part import zeros\n        return zeros(len(x))\nmodel = A()\n"
    )
    Path("external/late_part.py").write_text("import torch\nzeros = torch.zeros\n")
    model = built("external/m.py", name="model")
    assert torch.equal(model.log_weights(images()), torch.zeros(1, 5))
    assert set(model.origin["files"]) == {"external/m.py", "external/late_part.py"}  # type: ignore[index]
    Path("external/late_part.py").write_text("import torch\nzeros = torch.ones\n")  # the file must be read again
    assert torch.equal(built("external/m.py", name="model").log_weights(images()), torch.ones(1, 5))


def test_it_is_trained_only_if_asked() -> None:
    """Without training: one row, initial weights of the seed. With training: better, also with averaged weights."""
    as_it_came = train()
    assert (len(as_it_came.curve), as_it_came.best_epoch) == (1, 0)
    assert torch.equal(of_weights(as_it_came.model), of_weights(built(seed=0)))
    for average_decay in (0.0, 0.5):
        trained = train(fit=True, learning_rate=0.05, average_decay=average_decay)
        assert len(trained.curve) == 4
        assert trained.validation_log_p > as_it_came.validation_log_p + 0.5
    images_of = prepared().images
    few = torch.from_numpy(images_of["train"][: len(images_of["validation"])])
    mean = float(as_it_came.model.log_weights(few).mean())
    assert as_it_came.curve[0]["train_bpd"] == pytest.approx(-mean / 6 / 0.6931471805599453)


def test_the_weights_of_an_object_are_trained_only_if_asked_too() -> None:
    Path("external/m.py").write_text(
        "from torch import nn\nclass Holder:\n    def __init__(self):\n        self.net = nn.Linear(6, 1)\n"
        "        self.log_prob = lambda x: self.net(x.flatten(1).float())[:, 0]\ndef load(): return Holder()\n"
    )
    for fit in (False, True):
        assert {each.requires_grad for each in built("external/m.py", fit=fit).parameters()} == {fit}


def test_an_interrupted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is byte-identical; an edit of the file, or of a file that it imports, restarts the training."""
    whole = train(fit=True)
    checkpoint, step = Checkpoint(tmp_path / "place", "place", interval=0.0), trainer._Trainer.take_step

    def stopped(self: Any, *arguments: Any) -> torch.Tensor:
        if self.state.step == 7:
            raise Interrupted(signal.SIGTERM, "stopped")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Trainer, "take_step", stopped)
        with pytest.raises(Interrupted):
            train(fit=True, checkpoint=checkpoint)
    resumed = train(fit=True, checkpoint=checkpoint)
    assert torch.equal(of_weights(resumed.model), of_weights(whole.model))
    assert resumed.curve == whole.curve

    section = model_section("mine", {"family": "external", "file": "external/made.py"})
    places = []
    for text in (PARTS, PARTS + "# edited\n"):
        Path("external/parts.py").write_text(text, encoding="utf-8")
        places.append(trainer.checkpoint_of(section, TrainSection(), prepared(), 0, CPU, 0).fingerprint)
    assert places[0] != places[1]


@pytest.mark.parametrize("discrete", [False, True])
def test_what_is_there_to_see_is_drawn(discrete: bool, tmp_path: Path) -> None:
    """A code without a mean is annealed and reconstructed; a discrete code without derivatives is not."""
    model = built("external/latent.py", arguments={"discrete": discrete}).eval()
    data = prepared()
    test = PreparedImages(data.description, {"test": data.images["validation"]})
    section = EvaluateSection.model_validate(SMALL)
    sizes = {"chunk_size": 6, "batch_size": 20, "generator": torch.Generator().manual_seed(0)}
    scores = estimate(model, torch.from_numpy(test.images["test"]), 6, **sizes)
    code = latent_code.of_the_code(model, test, scores, section, CPU)
    pictures.draw_pictures(tmp_path / "pictures", model, test, section, CPU)
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == ({"samples.png"} if discrete else {"samples.png", "reconstructions.png"})
    assert set(code) == (set() if discrete else {"n_units", "n_active_units", "annealed", "rate_distortion"})
    pictures.draw_pictures(tmp_path / "none", built().eval(), test, section, CPU)
    assert list((tmp_path / "none").iterdir()) == []


def test_samples_that_are_no_levels_are_refused() -> None:
    text = "import torch\nclass A:\n    def log_prob(self, x): return torch.zeros(len(x))\n"
    text += "    def sample(self, n): return torch.full((n, 1, 2, 3), {level})\ndef load(): return A()\n"
    for level, words in (
        ("4", "levels from 0 to 3, but returned some from 4 to 4"),
        ("0.5", "must return integers of"),
    ):
        Path("external/m.py").write_text(text.format(level=level), encoding="utf-8")
        with pytest.raises(InputError, match=words):
            built("external/m.py").eval().sample(2)
    Path("external/m.py").write_text(text.format(level="3"), encoding="utf-8")
    assert built("external/m.py").eval().sample(2).dtype == torch.uint8


def test_a_bound_is_averaged_in_training() -> None:
    """The mean of K draws of a bound is a bound; the logarithm of the mean of their exponentials may not be one."""
    Path("external/m.py").write_text("import torch\ndef load(): return lambda x: 5 * torch.randn(len(x))\n")
    section = model_section("mine", {"family": "external", "file": "external/m.py", "offers": "bound"})
    shared = TrainSection.model_validate({**SETTINGS, "validation_samples": 200})
    trained = trainer.train("mine", section, shared, prepared(), seed=0, device=CPU)
    assert abs(trained.validation_log_p) < 0.4  # 20 images: five errors


def test_the_example_of_the_readme_works(repository: Path) -> None:
    text = (repository / "external" / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    Path("external/my_model.py").write_text(text, encoding="utf-8")
    model = built("external/my_model.py", arguments={"n_hidden": 64})
    assert model.n_parameters == 2 * 64 + 65 * 24
    assert type(model.module).__name__ == "Mine"
    total = torch.cartesian_prod(*[torch.arange(4)] * 6).reshape(-1, *SHAPE)
    assert float(model.log_weights(total).exp().sum()) == pytest.approx(1, abs=1e-5)
