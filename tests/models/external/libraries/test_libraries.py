"""Models of other libraries by one word: from Python, from the command line and in a section of params.yaml."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import zuko

import bitsperdim
from bitsperdim import cli, models
from bitsperdim.config.params import model_section
from bitsperdim.core.errors import InputError
from bitsperdim.core.metrics import OriginMetrics
from bitsperdim.models.external import libraries
from bitsperdim.models.external.libraries import LIBRARIES, adapted, opened, versioned
from support.of_libraries import global_seed, installed

FILE = """
import zuko

def load(hidden=8, context=0):
    return zuko.flows.MAF(64, context, transforms=1, hidden_features=[hidden])
"""
ZUKO = f"zuko {zuko.__version__}" if hasattr(zuko, "__version__") else versioned("zuko")
seeded = pytest.fixture(autouse=True)(global_seed)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the current folder of the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITSPERDIM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    (tmp_path / "external").mkdir()
    (tmp_path / "external" / "maf.py").write_text(FILE, encoding="utf-8")
    return tmp_path


def maf() -> Any:
    return zuko.flows.MAF(64, transforms=1, hidden_features=[8]).eval()


def score(model: object, **options: Any) -> bitsperdim.Estimate:
    few: dict[str, Any] = {"subset": 20, "n_samples": 4, "range": (0, 1)}
    return bitsperdim.evaluate(model, bitsperdim.load_data("digits"), **{**few, **options})


def test_without_a_word_the_model_is_unchanged() -> None:
    """A word adds only itself, and the weights, to the signature of the same numbers."""
    flow = maf()
    assert adapted(flow, None) is flow
    plain = score(flow(), offers="log_density", layout="flat")
    found = score(flow, library="zuko")
    assert found.log_p.tolist() == plain.log_p.tolist()
    assert "library" not in plain.signature
    assert f"|library:{ZUKO}|" in found.signature
    fields = [dict(each.split(":", 1) for each in item.signature.split("|")) for item in (plain, found)]
    assert {key for key in fields[1] if fields[0].get(key) != fields[1][key]} == {"library", "weights"}
    assert (found.name, fields[0]["weights"]) == ("MAF", "unknown")
    other = score(zuko.flows.MAF(64, transforms=1, hidden_features=[8]).eval(), library="zuko")
    assert other.signature.split("weights:")[1] != found.signature.split("weights:")[1]


def test_every_adapter_has_its_line() -> None:
    files = {path.stem for path in Path(libraries.__file__).parent.glob("[!_]*.py")}
    assert files == set(LIBRARIES)


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("torch", "", "Zuko", ["zuko"], 3, "__init__"):
        with pytest.raises(InputError, match=r"library = .* is not allowed; it must be one of .*; zuko \(flows"):
            score(maf(), library=word)
        with pytest.raises(InputError, match="is not allowed; it must be one of"):
            opened(Path(), word)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "nflows", None)
    with pytest.raises(InputError, match=r"needs the Python package nflows, .*install it with `pip install nflows`\."):
        score(maf(), library="nflows")
    with pytest.raises(InputError, match=r"cannot be torch\.nn\.modules\.linear\.Linear; it must be a flow"):
        bitsperdim.audit(torch.nn.Linear(2, 2).eval(), bitsperdim.load_data("digits"), library="zuko")
    with pytest.raises(InputError, match="MAF is in training mode"):
        score(maf().train(), library="zuko")
    with pytest.raises(InputError, match="log_density needs `range`"):
        score(maf(), library="zuko", range=None)
    with pytest.raises(InputError, match="labels are not given to log_density"):
        score(maf(), library="zuko", labels=bitsperdim.load_data("digits").labels)


def test_a_version_is_always_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, words in ((ModuleType("from_a_folder"), "of unknown version"), (ModuleType("another"), "3.1")):
        if words == "3.1":
            module.__version__ = words  # type: ignore[attr-defined]
        installed(monkeypatch, module)
        assert versioned(module.__name__) == f"{module.__name__} {words}"


class Dropped(zuko.flows.MAF):
    """A flow whose log-density is random in training mode."""

    def forward(self, c: torch.Tensor | None = None) -> Any:
        given = super().forward(c)
        if self.training:
            given.base.base_dist.scale = given.base.base_dist.scale * (1 + torch.rand(64))
        return given


def test_the_audit_sees_training_mode() -> None:
    """The number is that of evaluation mode."""
    data = bitsperdim.load_data("digits").subset(10, 0)
    options: dict[str, Any] = {"library": "zuko", "range": (0, 1), "n_samples": 2}
    flow = Dropped(64, transforms=1, hidden_features=[8])
    found = bitsperdim.audit(flow.train(), data, n_asked=100, **options)
    check = {each.name: each for each in found.checks}["evaluation mode"]
    assert check.status == "failed"
    assert "in training mode, in which 10 images have a number" in check.words
    assert not flow.training
    assert found.estimate.log_p.tolist() == bitsperdim.evaluate(flow, data, **options).log_p.tolist()


def test_a_checkpoint_is_that_of_the_library(folder: Path) -> None:
    flow = maf()
    for _ in range(2):
        first = score(flow, library="zuko", checkpoint=folder / "kept", batch_size=5)
    assert first.log_p.tolist() == score(flow, library="zuko", batch_size=5).log_p.tolist()
    with pytest.raises(InputError, match="checkpoint is not allowed with"):
        score(flow(), library="zuko", checkpoint=folder / "kept")


class Command:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[object, str, str]:
        """Return the exit status, or the sentence of an error; stdout; and stderr."""
        self.monkeypatch.setattr(sys, "argv", ["bitsperdim", *arguments])
        status: object = 0
        try:
            cli.main()
        except SystemExit as error:
            status = error.code
        return status, *self.capsys.readouterr()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_the_command_gives_the_same_number(folder: Path, command: Command) -> None:
    flow = maf()
    torch.save(flow.state_dict(), "w.pt")
    call = ("external/maf.py", "--library", "zuko", "--weights", "w.pt", "--data", "digits", "--range", "0", "1")
    few = ("--subset", "20", "--samples", "4", "--json")
    status, out, err = command("evaluate", *call, *few)
    assert status == 0, err
    assert json.loads(out)["bits_per_dim"] == pytest.approx(score(flow, library="zuko").bits_per_dim, abs=1e-8)
    assert "maf was in training mode; it is put into evaluation mode" in err
    status, out, _ = command("audit", *call, *few, "--seconds", "0.2")
    assert status in (0, 2)
    assert f"library:{ZUKO}" in json.loads(out)["signature"]


def test_a_folder_needs_a_library_that_saves_folders(folder: Path, command: Command) -> None:
    (folder / "run").mkdir()
    for more, words in (
        ((), "'run' is a folder; say with --library which library saved it, such as pythae."),
        (("--library", "zuko"), "run is a folder, but zuko does not save models as folders; give the Python file"),
        (("--library", "zuko", "-a", "x=1"), "run is a folder of zuko, which holds its weights and takes no arguments"),
        (("--library", "zuko", "--weights", "w.pt"), "run is a folder of zuko, which holds its weights"),
        (("--library", "keras"), "library = 'keras' is not allowed; it must be one of diffusers"),
    ):
        status, out, _ = command("audit", "run", "--data", "digits", *more)
        assert str(status).startswith(words)
        assert not out
    status, *_ = command("audit", "scores.npz", "--data", "digits", "--library", "zuko")
    assert status == "--library is not allowed for arrays, which are not a model."


def section(**keys: Any) -> Any:
    whole = {"family": "external", "file": "external/maf.py", "library": "zuko", "range": [0.0, 1.0], **keys}
    return model_section("mine", whole)


def test_a_section_names_a_library(folder: Path) -> None:
    """It is built, saved and loaded; the origin names the library, and its adapter is part of the code."""
    params = section(arguments={"hidden": 4}).hyperparameters
    model = models.build("external", params, (1, 8, 8), 17)
    assert model.origin is not None
    assert model.origin["library"] == ZUKO
    x = torch.randint(17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    models.save(model, "external", params, folder / "saved")
    loaded = models.load(folder / "saved", "external")
    again = [each.eval().log_weights(x, 3, generator=torch.Generator().manual_seed(1)) for each in (model, loaded)]
    assert torch.equal(*again)
    assert not any(weight.requires_grad for weight in model.parameters())
    fitted = models.build("external", section(fit=True).hyperparameters, (1, 8, 8), 17)
    assert all(weight.requires_grad for weight in fitted.parameters())
    assert fitted.n_parameters > model.n_parameters
    assert [path.name for path in section().code] == ["zuko.py"]
    assert section(library=None).code == []
    kept = {key: value for key, value in model.origin.items() if key != "files"}
    assert f"asked by log_density, a model of {ZUKO}" in OriginMetrics.model_validate(kept).in_words


def test_a_section_refuses_other_words() -> None:
    with pytest.raises(
        InputError, match=r"mine\.library = 'keras' is not allowed; it must be one of diffusers, flow_matching, nflows"
    ):
        section(library="keras")
    wrong = section(arguments={"context": 2}).hyperparameters
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match="a context, which is not allowed"):
        models.build("external", wrong, (1, 8, 8), 17).eval().log_weights(x)
    unlike = "def load():\n    return lambda x: x\n"
    Path("external/maf.py").write_text(unlike, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be function; it must be a flow"):
        models.build("external", section().hyperparameters, (1, 8, 8), 17)
