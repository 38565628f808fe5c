"""Small trainings of every kind, and the data that they are of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import TrainSection
from bitsperdim.data.prepared import Description, PreparedImages
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.training import trainer
from bitsperdim.training.trained import Trained
from bitsperdim.training.trainer import Follow, train

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "epochs": 4,
    "seconds": None,
    "batch_size": 16,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "final_learning_rate": 0.0,
    "warmup_steps": 2,
    "kl_warmup_steps": 0,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "initial_second_moment": 0.0,
    "weight_decay": 0.0,
    "gradient_clip": 5.0,
    "average_decay": 0.0,
    "patience": None,
    "validation_samples": 4,
    "precision": "float32",
    "compile": False,
    "capture": False,
}
LATENT: dict[str, Any] = {"deeper": [], "doubly_reparameterized": False, "finetune": None}
SECTIONS: dict[str, dict[str, Any]] = {
    "histogram": {"family": "histogram", "pseudocount": 1.0},
    "gaussian": {"family": "gaussian"},
    "vae": {
        "family": "vae",
        "latent_size": 2,
        "hidden_sizes": [8],
        "likelihood": "categorical",
        "n_mixtures": 1,
        "train_samples": 1,
        **LATENT,
    },
    "conv_vae": {
        "family": "conv_vae",
        "latent_maps": 2,
        "n_scales": 2,
        "n_filters": 6,
        "n_blocks": 1,
        "likelihood": "categorical",
        "n_mixtures": 1,
        "train_samples": 2,
        "doubly_reparameterized": True,
        "finetune": None,
    },
    "iwae": {
        "family": "vae",
        "latent_size": 2,
        "hidden_sizes": [8],
        "likelihood": "categorical",
        "n_mixtures": 1,
        "train_samples": 5,
        **LATENT,
    },
    "pixelcnn": {
        "family": "pixelcnn",
        "n_filters": 8,
        "n_blocks": 1,
        "kernel_size": 3,
        "likelihood": "categorical",
        "n_mixtures": 1,
    },
    "gated_pixelcnn": {
        "family": "gated_pixelcnn",
        "n_filters": 8,
        "n_layers": 1,
        "kernel_size": 3,
        "n_classes": None,
        "dropout": 0.3,
        "likelihood": "categorical",
        "n_mixtures": 1,
    },
    "pixelcnn_pp": {
        "family": "pixelcnn_pp",
        "n_filters": 6,
        "n_blocks": 1,
        "n_scales": 2,
        "dropout": 0.3,
        "likelihood": "categorical",
        "n_mixtures": 1,
    },
    "flow": {
        "family": "flow",
        "transform": "nsf",
        "n_transforms": 1,
        "hidden_sizes": [16],
        "n_bins": 4,
        "logit_margin": 0.0,
        "dequantization": "variational",
        "variational": {"n_couplings": 1, "n_filters": 4, "n_blocks": 0},
        "train_samples": 2,
    },
    "realnvp": {
        "family": "realnvp",
        "n_scales": 1,
        "n_filters": 8,
        "n_blocks": 1,
        "logit_margin": 0.0,
        "dequantization": "uniform_fixed",
        "variational": {"n_couplings": 1, "n_filters": 4, "n_blocks": 0},
        "train_samples": 2,
    },
}


def images(n: int, seed: int) -> np.ndarray:
    """One of four levels everywhere, but for one sub-pixel in ten that is drawn on its own."""
    rng = np.random.default_rng(seed)
    level = rng.integers(4, size=(n, 1, 1, 1), dtype=np.uint8)
    stray = rng.integers(4, size=(n, 1, 2, 3), dtype=np.uint8)
    return np.where(rng.random(stray.shape) < 0.1, stray, level)


def prepared(binarization: str = "none", n_levels: int = 4, n_train: int = 75) -> PreparedImages:
    splits = {"train": images(n_train, 0), "validation": images(20, 1)}
    noise = {"validation": np.random.default_rng(2).random((20, 1, 2, 3), dtype=np.float32)}
    counts = {name: len(array) for name, array in splits.items()}
    description = Description((1, 2, 3), n_levels, 4, binarization, counts, "-", "-")
    return PreparedImages(description, splits, noise=noise)


def run(
    model: str = "vae",
    data: PreparedImages | None = None,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    follow: Follow | None = None,
    **changes: Any,
) -> Trained:
    content = SECTIONS[model] | {key: changes.pop(key) for key in changes.keys() - SETTINGS.keys()}
    section = FAMILIES[content["family"]].model_validate(content)
    shared = TrainSection.model_validate({**SETTINGS, **changes})
    return train(
        model, section, shared, data or prepared(), seed=seed, device=CPU, checkpoint=checkpoint, follow=follow
    )


def weights(trained: Trained) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in trained.model.state_dict().values()])


class PowerCutError(Exception):
    """Stops a training where nothing may stop it, and it saves nothing more."""


@contextmanager
def power_cut(step: int, method: str = "take_step") -> Iterator[None]:
    """Cut off the training inside before a step, which is taken by this method of the trainer."""
    take_step = getattr(trainer._Trainer, method)

    def stopping(self: Any, *arguments: Any) -> Tensor:
        if self.state.step == step:
            raise PowerCutError
        return take_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._Trainer, method, stopping)
        with pytest.raises(PowerCutError):
            yield


def spied(patch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list to which each step of a training adds all weights that it comes to."""
    seen: list[Tensor] = []
    take_step = trainer._Trainer.take_step

    def spy(self: Any, *batch: Any) -> Tensor:
        loss = take_step(self, *batch)
        seen.append(torch.cat([p.detach().flatten() for p in self.model.parameters()]).clone())
        return loss

    patch.setattr(trainer._Trainer, "take_step", spy)
    return seen
