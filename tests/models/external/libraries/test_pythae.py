"""Variational autoencoders of pythae: its own estimate, and the folders in which it saves models."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import bitsperdim
from bitsperdim import cli
from bitsperdim.core.errors import InputError
from bitsperdim.models.external.libraries import adapted, opened
from bitsperdim.models.external.libraries.pythae import ALLOWED, REFUSED
from support.of_libraries import global_seed

models = pytest.importorskip("pythae.models", reason="pythae is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
seeded = pytest.fixture(autouse=True)(global_seed)
SEVERAL = {"number_samples": 3, "number_gradient_estimates": 2}
OPTIONS: dict[str, dict[str, int]] = {
    **dict.fromkeys(("MIWAE", "PIWAE"), SEVERAL),
    **{name: {"number_samples": 3} for name in ("IWAE", "CIWAE")},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bitsperdim.Data:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITSPERDIM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return bitsperdim.load_data("digits", binarization="threshold")


def built(name: str = "VAE", loss: str = "bce", shape: tuple[int, ...] = (1, 8, 8), **more: Any) -> Any:
    config = getattr(models, f"{name}Config", None) or getattr(models, f"{name}_Config")
    sizes = {"input_dim": shape, "latent_dim": 4, "reconstruction_loss": loss}
    return getattr(models, name)(config(**sizes, **OPTIONS.get(name, {}), **more))


def trained(model: Any, data: bitsperdim.Data, n_steps: int = 100) -> Any:
    images = torch.from_numpy(data.train).float()
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(n_steps):
        loss = model({"data": images[torch.randint(len(images), (100,))]}).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    return model.eval()


@pytest.mark.parametrize("name", ALLOWED)
def test_it_is_the_number_of_pythae(name: str, data: bitsperdim.Data) -> None:
    """Of 30 images with 1,000 samples: 5 errors of the difference, a false alarm in fewer than one of a million seeds.

    ``get_nll`` returns the mean of log P(x), in spite of its name, from ``batch_size * (n_samples // batch_size)``
    samples.
    """
    model = built(name).eval()
    if name in ("VAE", "IWAE", "BetaVAE"):
        trained(model.train(), data)
    few = data.subset(30, 0)
    with torch.no_grad():
        theirs = model.get_nll(torch.from_numpy(few.images).float(), n_samples=1000, batch_size=250)
    found = bitsperdim.evaluate(model, few, library="pythae", n_samples=1000, proposal="encoder")
    error = found.metrics.nll_nats_monte_carlo_error
    assert 0 < error < 0.05
    assert abs(-found.nats - theirs) < 5 * 2**0.5 * error
    assert "|library:pythae " in found.signature
    assert "weights:unknown" not in found.signature


@pytest.mark.parametrize(("n_samples", "batch_size", "n_used"), [(1, 100, 100), (250, 100, 200), (200, 100, 200)])
def test_get_nll_counts_its_samples_in_full_batches(n_samples: int, batch_size: int, n_used: int) -> None:
    """It uses another number of samples than the one that it is asked for, and gives the positive logarithm."""
    model = built().eval()
    seen: list[int] = []
    model.decoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    with torch.no_grad():
        found = model.get_nll(torch.zeros(1, 1, 8, 8), n_samples=n_samples, batch_size=batch_size)
    assert sum(seen) == n_used
    assert found < 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (64,)])
def test_refined_proposals_and_every_shape(shape: tuple[int, ...], data: bitsperdim.Data) -> None:
    model = trained(built(shape=shape), data.subset(10, 0)) if shape == (1, 8, 8) else built(shape=shape).eval()
    few = data.subset(10, 0)
    encoder, refined = (
        bitsperdim.evaluate(model, few, library="pythae", n_samples=64, proposal=proposal)
        for proposal in ("encoder", "refined")
    )
    assert "proposal:refined" in refined.signature
    layout = {1: "|layout:flat|", 2: "|layout:plane|"}.get(len(shape), "|library:")
    assert layout in refined.signature
    assert refined.metrics.ess_median > encoder.metrics.ess_median


def test_every_other_class_is_refused_by_name() -> None:
    other = {name for name in models.__all__ if isinstance(getattr(models, name), type) and "Config" not in name}
    other -= {"AutoModel", "BaseAE", *ALLOWED}
    assert other == set(REFUSED)
    for name in ("VAMP", "VAE_IAF", "VAE_LinNF"):
        with pytest.raises(InputError, match=f"{name}, {REFUSED[name]}; it must be one of VAE, "):
            adapted(built(name), "pythae")
    with pytest.raises(InputError, match=r"VAE has reconstruction_loss = 'mse', a normal distribution of variance 1"):
        adapted(built(loss="mse"), "pythae")

    class Mine(models.VAE):  # type: ignore[misc,name-defined]
        pass

    with pytest.raises(InputError, match="Mine, which is a class of your own"):
        adapted(Mine(built().model_config), "pythae")


def test_levels_beyond_two_are_refused(data: bitsperdim.Data) -> None:
    with pytest.raises(InputError, match="gives probabilities of images of two levels, but these have level 16"):
        bitsperdim.evaluate(built().eval(), 16 * data.images, n_levels=17, library="pythae", n_samples=2)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_saved_model_comes_back(name: str, tmp_path: Path) -> None:
    model = built(name, shape=(1, 2, 3))
    model.save(str(tmp_path / "final_model"))
    again: Any = opened(tmp_path / "final_model", "pythae")
    assert type(again) is type(model)
    assert not again.training
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())


def test_networks_of_the_user_are_not_unpickled(tmp_path: Path) -> None:
    class Own(type(built().decoder)):  # type: ignore[misc]
        pass

    config = models.VAEConfig(input_dim=(1, 2, 2), latent_dim=2, reconstruction_loss="bce")
    model = models.VAE(config, decoder=Own(config))
    model.save(str(tmp_path / "final_model"))
    with pytest.raises(InputError, match=r"decoder\.pkl, a pickle, .* --weights-key model_state_dict\."):
        opened(tmp_path / "final_model", "pythae")


def test_the_command_takes_the_folder(
    data: bitsperdim.Data,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the same weights with a Python file, as advised for networks of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITSPERDIM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    model = trained(built(), data)
    model.save("final_model")
    Path("mine.py").write_text(
        "from pythae.models import VAE, VAEConfig\n\n"
        "def load():\n    config = VAEConfig(input_dim=(1, 8, 8), latent_dim=4, reconstruction_loss='bce')\n"
        "    return VAE(config)\n"
    )
    expected = bitsperdim.evaluate(model, data.subset(20, 0), library="pythae", n_samples=16).bits_per_dim
    weights = ("--weights", "final_model/model.pt", "--weights-key", "model_state_dict")
    few = ("--data", "digits", "--binarization", "threshold", "--subset", "20", "--samples", "16", "--json")
    for place in (("final_model",), ("mine.py", *weights)):
        monkeypatch.setattr(sys, "argv", ["bitsperdim", "evaluate", *place, "--library", "pythae", *few])
        cli.main()
        out, err = capsys.readouterr()
        assert json.loads(out)["bits_per_dim"] == pytest.approx(expected, abs=1e-8)
        assert "final_model/model.pt (sha256 " in err
        assert "has the weights that its own code gives it" not in err
