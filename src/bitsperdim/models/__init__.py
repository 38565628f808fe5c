"""The models: one paper per file, a registry, and how they are built, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bitsperdim.config.families import FAMILIES
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json, reading, remove_leftovers, write_bytes, write_json
from bitsperdim.core.foreign import refuse_changed
from bitsperdim.core.randomness import stream_seed
from bitsperdim.models.autoregressive import AutoregressiveModel
from bitsperdim.models.base import ImageModel
from bitsperdim.models.density import DensityModel
from bitsperdim.models.inputs import check_labels
from bitsperdim.models.latent import LatentModel


class _Models(Mapping[str, type[ImageModel]]):
    """The class of each model family, imported at its first use (:mod:`bitsperdim.config.families` says why)."""

    def __getitem__(self, family: str) -> type[ImageModel]:
        module, _, name = FAMILIES[family].network.rpartition(".")
        network: type[ImageModel] = getattr(import_module(module), name)
        return network

    def __iter__(self) -> Iterator[str]:
        return iter(FAMILIES)

    def __len__(self) -> int:
        return len(FAMILIES)


MODELS = _Models()
MODEL_FILES = ("model.json", "weights.safetensors")  # files of a saved model

__all__ = [
    "MODELS",
    "MODEL_FILES",
    "AutoregressiveModel",
    "DensityModel",
    "ImageModel",
    "LatentModel",
    "build",
    "check_labels",
    "load",
    "save",
]


def build(
    family: str, params: Mapping[str, Any], image_shape: tuple[int, int, int], n_levels: int, *, seed: int = 0
) -> ImageModel:
    """Build a model whose initial weights depend only on ``seed``; torch's global generator does not change.

    Args:
        family: model family, a key of :data:`MODELS`.
        params: keyword arguments for the class of the family.
        image_shape: (C, H, W).
        n_levels: number of levels L.
        seed: seed for the initial weights.

    Raises:
        InputError: the family is unknown, or its parameters do not fit the images.
    """
    if family not in MODELS:
        raise InputError(f"There is no model family {family!r}; choose {', '.join(MODELS)}.")
    with torch.random.fork_rng(devices=[]):  # initial weights are always drawn on the CPU
        torch.manual_seed(stream_seed("weights", seed))
        try:
            model = MODELS[family](image_shape, n_levels, **params)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(
                f"A model of family {family!r} cannot be built for images of shape {image_shape}: {error}."
            ) from error
    if model.origin is not None:  # external code may rely on the memory format of its tensors
        return model
    return model.to(memory_format=torch.channels_last)  # faster convolutions; the values do not change


def save(model: ImageModel, family: str, params: Mapping[str, Any], folder: Path) -> None:
    """Write ``weights.safetensors`` and ``model.json`` for :func:`load`.

    No other process may write to the folder at the same time.
    """
    from safetensors.torch import save as serialized

    remove_leftovers(folder)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_bytes(folder / "weights.safetensors", serialized(weights))
    description = {
        "family": family,
        "hyperparameters": dict(params),
        "image_shape": list(model.image_shape),
        "n_levels": model.n_levels,
    }
    if model.origin is not None:
        description["origin"] = dict(model.origin)
    write_json(folder / "model.json", description)


def load(folder: Path | str, family: str | None = None) -> ImageModel:
    """Read a model that :func:`save` wrote, in evaluation mode.

    Args:
        folder: folder of the saved model.
        family: expected model family; None: any family.

    Raises:
        InputError: there is no model, its files are damaged, it belongs to another family, or it is an external model
            whose code has changed since it was saved.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    with reading(folder / "model.json", "train"):
        description = read_json(folder / "model.json")
        if family not in (None, description["family"]):
            raise InputError(f"{folder} is a model of family {description['family']!r}, not {family!r}.")
        shape = tuple(description["image_shape"])
        params = description["hyperparameters"]
        if (origin := description.get("origin")) is not None:
            refuse_changed(origin["files"], folder)
            params = {**params, "weights": None}  # the weights are read below
        model = build(description["family"], params, shape, description["n_levels"])
        model.origin = origin
    with reading(folder / "weights.safetensors", "train"):
        model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()
