"""Adapters on stand-ins for libraries, which need not be installed: the masses, the refusals, and folders."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitsperdim
from bitsperdim.core.errors import InputError
from bitsperdim.models.external.libraries import adapted, opened
from bitsperdim.models.external.libraries.pythae import ALLOWED, REFUSED, Bits, Latent
from support.of_libraries import global_seed, images_and_noise, installed, wrapped

seeded = pytest.fixture(autouse=True)(global_seed)
SHAPE = (1, 2, 3)


class Config:
    def __init__(self, input_dim: Any = SHAPE, latent_dim: int = 2, reconstruction_loss: str = "bce", **_: Any) -> None:
        self.input_dim, self.latent_dim, self.reconstruction_loss = input_dim, latent_dim, reconstruction_loss

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Config:
        return cls(**content)


class BaseAE(nn.Module):
    """The interface of pythae: an encoder and a decoder that return named values."""

    def __init__(self, model_config: Config) -> None:
        super().__init__()
        self.model_config, self.latent_dim = model_config, model_config.latent_dim
        n_dims = torch.Size(model_config.input_dim).numel()
        self.inner, self.outer = nn.Linear(n_dims, 2 * self.latent_dim), nn.Linear(self.latent_dim, n_dims)

    def encoder(self, x: Tensor) -> Any:
        mean, log_covariance = self.inner(x.flatten(1)).chunk(2, dim=1)
        return SimpleNamespace(embedding=mean, log_covariance=log_covariance)

    def decoder(self, z: Tensor) -> Any:
        return SimpleNamespace(reconstruction=torch.sigmoid(self.outer(z)).reshape(-1, *self.model_config.input_dim))


@pytest.fixture
def of_pythae(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stand-in in the place of pythae, with all its names of classes."""
    pythae, models = ModuleType("pythae"), ModuleType("pythae.models")
    models.BaseAE = BaseAE  # type: ignore[attr-defined]
    for name in (*ALLOWED, *REFUSED):
        setattr(models, name, type(name, (BaseAE,), {"__module__": "pythae.models"}))
        setattr(models, f"{name}{'_' if '_' in name else ''}Config", Config)
    pythae.models, pythae.__version__ = models, "0.0"  # type: ignore[attr-defined]
    installed(monkeypatch, pythae, models)
    return models


def test_masses_are_those_of_cross_entropy() -> None:
    """Also for probabilities of 0 and 1, where both have the same floor; derivatives stay finite."""
    drawn = torch.Generator().manual_seed(0)
    p = torch.rand(500, 2, 3, generator=drawn)
    p[0], p[1], p[2, 0] = 0.0, 1.0, torch.tensor([1e-45, 1e-38, 1e-30])
    levels = torch.randint(2, p.shape, generator=drawn)
    p.requires_grad_()
    found = Bits(p).log_prob(levels)
    truth = -nn.functional.binary_cross_entropy(p, levels.float(), reduction="none")
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6)
    assert found.min() == -100
    (derivative,) = torch.autograd.grad(found.sum(), p)
    assert bool(derivative.isfinite().all())
    total = Bits(p).log_prob(torch.zeros_like(levels)).exp() + Bits(p).log_prob(torch.ones_like(levels)).exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=0)


def test_a_decoder_of_something_else_is_refused() -> None:
    levels = torch.zeros(2, 3, dtype=torch.long)
    for p in (torch.full((2, 3), 1.5), torch.full((2, 3), -0.1), torch.full((2, 3), torch.nan)):
        with pytest.raises(InputError, match="must return probabilities from 0 to 1 with reconstruction_loss = 'bce'"):
            Bits(p).log_prob(levels)
    with pytest.raises(InputError, match="of images of two levels, but these have level 3; binarize them"):
        Bits(torch.rand(2, 3)).log_prob(levels + 3)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_model_with_a_known_mass(name: str, of_pythae: Any) -> None:
    """The decoder ignores the code, so that P(x) is a product; encoder and prior are equal, so that it is exact."""
    model = getattr(of_pythae, name)(Config())
    with torch.no_grad():
        model.inner.weight.zero_()
        model.inner.bias.zero_()
        model.outer.weight.zero_()
    images = torch.randint(2, (20, *SHAPE), generator=torch.Generator().manual_seed(0))
    found = bitsperdim.evaluate(
        model.eval(), images.numpy(), n_levels=2, library="pythae", n_samples=3, proposal="encoder"
    )
    p = torch.sigmoid(model.outer.bias.detach()).double()
    truth = torch.where(images.flatten(1) == 1, p, 1 - p).log().sum(1)
    torch.testing.assert_close(torch.from_numpy(found.log_p), truth, rtol=1e-5, atol=1e-5)
    assert found.kind == "lower"
    assert "method:encode|inputs:unit|library:pythae " in found.signature


def test_the_layout_is_that_of_the_configuration(of_pythae: Any) -> None:
    for shape, layout in ((SHAPE, "channels_first"), ((2, 3), "plane"), ((6,), "flat"), (None, None)):
        model = of_pythae.VAE(Config())
        model.model_config.input_dim = shape
        adapter = adapted(model, "pythae")
        assert isinstance(adapter, Latent)
        assert adapter.bitsperdim.get("layout") == layout
    model = wrapped(of_pythae.VAE(Config(input_dim=(4, 4))).eval(), "pythae", None, n_levels=2)
    assert model.log_weights(images_and_noise(n_levels=2)[0], 2).shape == (2, 20)


def test_what_is_refused(of_pythae: Any) -> None:
    for name, why in REFUSED.items():
        with pytest.raises(InputError, match=rf"cannot be pythae\.models\.{name}, {why}; it must be one of VAE, Beta"):
            adapted(getattr(of_pythae, name)(Config()), "pythae")
    mine = type("Mine", (of_pythae.VAE,), {})
    for model, words in (
        (mine(Config()), "Mine, which is a class of your own; it must be one of VAE"),
        (nn.Linear(2, 2), "cannot be torch.nn.modules.linear.Linear; it must be one of VAE"),
        (of_pythae.VAE, "cannot be the class pythae.models.VAE itself"),
        (of_pythae.VAE(Config(reconstruction_loss="mse")), "'mse', a normal distribution of variance 1 around"),
        (of_pythae.VAE(Config(reconstruction_loss="l1")), "has reconstruction_loss = 'l1', which is not known; train"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            adapted(model, "pythae")
        assert "\n" not in str(caught.value)


def saved(folder: Path, model: nn.Module, **content: Any) -> None:
    folder.mkdir(exist_ok=True)
    whole = {"name": "VAEConfig", "input_dim": list(SHAPE), "latent_dim": 2, "reconstruction_loss": "bce", **content}
    (folder / "model_config.json").write_text(json.dumps(whole), encoding="utf-8")
    torch.save({"model_state_dict": model.state_dict()}, folder / "model.pt")


def test_a_folder_is_opened(of_pythae: Any, tmp_path: Path) -> None:
    model = of_pythae.VAE(Config())
    saved(tmp_path / "run", model)
    again: Any = opened(tmp_path / "run", "pythae")
    assert type(again) is of_pythae.VAE
    assert not again.training
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())


class Executed:
    """A pickle that creates a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_folder_that_is_refused(of_pythae: Any, tmp_path: Path) -> None:
    """No pickle is opened."""
    model, folder, executed = of_pythae.VAE(Config()), tmp_path / "run", tmp_path / "executed"

    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            opened(folder, "pythae")
        assert "\n" not in str(caught.value)
        assert not executed.exists()

    refused(
        r"is not a model of pythae: model_config\.json is missing or damaged \(FileNotFoundError\); give the folder"
    )
    for text in ("{", "[]", "{}", '{"name": 3}'):
        folder.mkdir(exist_ok=True)
        (folder / "model_config.json").write_text(text, encoding="utf-8")
        refused("is not a model of pythae: model_config.json|holds '3', whose encoder or prior is not the plain")
    for content, words in (
        ({"name": "VAMPConfig"}, "holds 'VAMP', whose prior is a mixture that is learned; it must be one of VAE"),
        ({"name": "VAE_IAF_Config"}, "holds 'VAE_IAF', whose posterior has a flow"),
        ({"name": "BaseAEConfig"}, "holds 'BaseAE', whose encoder or prior is not the plain normal distribution"),
        ({"latent_dim": "many"}, r"model_config\.json does not describe a VAE of this version of pythae \(TypeError"),
        ({"latent_dim": 10**12}, r"model_config\.json does not describe a VAE of this version of pythae"),
        ({"latent_dim": 3}, r"model\.pt does not fit VAE: inner\.bias has the shape \(4,\) there and \(6,\)"),
        ({"uses_default_encoder": False}, r"encoder\.pkl, a pickle, which could run any code and is not opened"),
        ({"uses_default_decoder": False}, r"decoder\.pkl, a pickle, .* build the model in a Python file, and load"),
    ):
        saved(folder, model, **content)
        refused(words)
    saved(folder, model)
    (folder / "decoder.pkl").write_bytes(pickle.dumps(Executed(executed)))
    refused(r"--weights .*run/model\.pt --weights-key model_state_dict\.")
    (folder / "decoder.pkl").unlink()
    (folder / "model.pt").write_bytes(pickle.dumps({"model_state_dict": Executed(executed)}))
    refused("holds Python objects|is damaged")
    (folder / "model.pt").unlink()
    refused("is not a file")
    pickle.loads(pickle.dumps(Executed(executed)))
    assert executed.exists()  # the pickle does what it says
