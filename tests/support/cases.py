"""The table of small models to which the laws apply, and small runs of the studies."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitsperdim.config.families.base import TrainSection
from bitsperdim.config.known import KnownSection
from bitsperdim.config.params import (
    DensityAndMassSection,
    DequantizingSection,
    ProjectDelaySection,
    UniversalResnetSection,
)
from bitsperdim.models import ImageModel, build
from bitsperdim.studies import density_and_mass, known, project_delay
from bitsperdim.studies.known import estimators, excess
from bitsperdim.studies.universal_resnet import study as oneneuron_study
from support import mistake_rows

NOISE = {"n_couplings": 2, "n_filters": 4, "n_blocks": 1}
UNIFORM = {"logit_margin": 0.0, "dequantization": "uniform", "variational": NOISE}
LEARNED = {"logit_margin": 0.0, "dequantization": "variational", "variational": NOISE}
FLOW = {"transform": "maf", "n_transforms": 2, "hidden_sizes": [8], "n_bins": 4}
REALNVP = {"n_scales": 1, "n_filters": 8, "n_blocks": 1}
GATED = {
    "n_filters": 12,
    "n_layers": 1,
    "kernel_size": 3,
    "n_classes": None,
    "likelihood": "categorical",
    "n_mixtures": 1,
}
PLUS = {
    "n_filters": 6,
    "n_blocks": 1,
    "n_scales": 2,
    "dropout": 0.5,
    "likelihood": "coupled_logistic",
    "n_mixtures": 2,
}
PIXELCNN = {"n_filters": 12, "n_blocks": 1, "kernel_size": 3, "likelihood": "categorical", "n_mixtures": 1}
ONCE = {"likelihood": "categorical", "n_mixtures": 1, "doubly_reparameterized": False}
VAE = {"latent_size": 2, "hidden_sizes": [6, 5], "deeper": [], **ONCE}
TWO_LAYERS = {**VAE, "latent_size": 1, "deeper": [{"latent_size": 1, "hidden_sizes": [4, 3]}]}
CONV_VAE = {"latent_maps": 2, "n_scales": 2, "n_filters": 6, "n_blocks": 1, **ONCE}
COUPLED = {"likelihood": "coupled_logistic", "n_mixtures": 2}
SMALL: dict[str, tuple[str, dict, tuple[int, int, int], int]] = {
    "histogram-grey": ("histogram", {"pseudocount": 0.5}, (1, 2, 3), 3),
    "histogram-rgb": ("histogram", {"pseudocount": 1.0}, (3, 1, 2), 2),
    "pixelcnn-binary-3x3": ("pixelcnn", PIXELCNN, (1, 3, 3), 2),
    "pixelcnn-three-levels": ("pixelcnn", PIXELCNN, (1, 2, 3), 3),
    "pixelcnn-rgb": ("pixelcnn", PIXELCNN, (3, 2, 2), 2),
    "pixelcnn-two-channels": ("pixelcnn", PIXELCNN, (2, 2, 1), 4),
    "pixelcnn-bernoulli": ("pixelcnn", {**PIXELCNN, "likelihood": "bernoulli"}, (1, 3, 3), 2),
    "pixelcnn-normal": ("pixelcnn", {**PIXELCNN, "likelihood": "normal"}, (2, 1, 2), 4),
    "pixelcnn-logistics": ("pixelcnn", {**PIXELCNN, "likelihood": "logistic", "n_mixtures": 2}, (1, 2, 3), 3),
    "pixelcnn-coupled-rgb": ("pixelcnn", {**PIXELCNN, **COUPLED}, (3, 1, 2), 3),
    "pixelcnn-coupled-two-channels": ("pixelcnn", {**PIXELCNN, **COUPLED, "n_mixtures": 1}, (2, 2, 1), 4),
    "gated-binary-3x3": ("gated_pixelcnn", GATED, (1, 3, 3), 2),
    "gated-rgb": ("gated_pixelcnn", GATED, (3, 2, 2), 2),
    "gated-coupled-two-channels": ("gated_pixelcnn", {**GATED, **COUPLED}, (2, 2, 1), 4),
    "gated-logistics": ("gated_pixelcnn", {**GATED, "likelihood": "logistic", "n_mixtures": 2}, (1, 2, 3), 3),
    "plus-binary-3x3": ("pixelcnn_pp", {**PLUS, "likelihood": "bernoulli", "n_mixtures": 1}, (1, 3, 3), 2),
    "plus-three-levels": ("pixelcnn_pp", {**PLUS, "likelihood": "categorical", "n_mixtures": 1}, (1, 2, 3), 3),
    "plus-rgb": ("pixelcnn_pp", PLUS, (3, 1, 2), 3),
    "plus-rgb-three-scales": ("pixelcnn_pp", {**PLUS, "n_scales": 3, "dropout": 0.0}, (3, 2, 2), 2),
    "vae-bernoulli": ("vae", {**VAE, "likelihood": "bernoulli"}, (1, 2, 2), 2),
    "vae-categorical": ("vae", VAE, (1, 2, 2), 3),
    "vae-logistic": ("vae", {**VAE, "likelihood": "logistic"}, (1, 2, 2), 3),
    "vae-normal": ("vae", {**VAE, "likelihood": "normal"}, (3, 1, 1), 4),
    "vae-logistics": ("vae", {**VAE, "likelihood": "logistic", "n_mixtures": 2}, (1, 2, 2), 3),
    "vae-coupled-rgb": ("vae", {**VAE, **COUPLED}, (3, 1, 1), 4),
    "vae-two-layers": ("vae", {**TWO_LAYERS, "likelihood": "bernoulli"}, (1, 2, 2), 2),
    "vae-two-layers-logistic": ("vae", {**TWO_LAYERS, "likelihood": "logistic"}, (1, 1, 2), 3),
    "conv-vae-grey": ("conv_vae", {**CONV_VAE, "likelihood": "bernoulli"}, (1, 2, 2), 2),
    "conv-vae-three-levels": ("conv_vae", {**CONV_VAE, "likelihood": "logistic"}, (1, 1, 2), 3),
    "conv-vae-coupled-rgb": ("conv_vae", {**CONV_VAE, **COUPLED}, (3, 1, 2), 2),
    "vae-rgb": ("vae", VAE, (3, 1, 1), 4),
    "gaussian-grey": ("gaussian", {}, (1, 1, 2), 3),
    "gaussian-rgb": ("gaussian", {}, (3, 1, 1), 4),
    "flow-maf": ("flow", {**FLOW, **UNIFORM}, (1, 1, 2), 3),
    "flow-nsf": ("flow", {**FLOW, **UNIFORM, "transform": "nsf"}, (1, 2, 1), 4),
    "flow-variational": ("flow", {**FLOW, **LEARNED}, (1, 1, 2), 4),
    "flow-margin-plane": ("flow", {**FLOW, **UNIFORM, "logit_margin": 0.05}, (1, 1, 2), 3),
    "flow-no-logit-plane": ("flow", {**FLOW, **UNIFORM, "logit_margin": None}, (1, 2, 1), 3),
    "flow-margin": ("flow", {**FLOW, **UNIFORM, "logit_margin": 0.05}, (1, 2, 2), 3),
    "flow-no-logit": ("flow", {**FLOW, **UNIFORM, "logit_margin": None, "transform": "nsf"}, (3, 1, 1), 3),
    "realnvp-plane": ("realnvp", {**REALNVP, **UNIFORM}, (1, 1, 2), 3),
    "realnvp-grey": ("realnvp", {**REALNVP, **LEARNED, "n_scales": 2}, (1, 2, 4), 3),
    "realnvp-rgb": ("realnvp", {**REALNVP, **UNIFORM, "n_scales": 2}, (3, 4, 2), 2),
    "realnvp-three-scales": ("realnvp", {**REALNVP, **UNIFORM, "n_scales": 3}, (1, 4, 8), 2),
}


def small_model(name: str, seed: int = 0) -> ImageModel:
    """Build a case in float64, initialised on random images, with weights far from their start."""
    family, params, shape, n_levels = SMALL[name]
    generator = torch.Generator().manual_seed(seed)
    model = build(family, params, shape, n_levels, seed=seed).double()
    images = torch.randint(n_levels, (50, *shape), generator=generator).to(torch.uint8)
    model.initialise(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.eval()


TINY_FLOW = DequantizingSection(
    n_images=40,
    transform="maf",
    n_transforms=1,
    hidden_sizes=[8],
    n_bins=4,
    logit_margin=0.0,
    variational={"n_couplings": 1, "n_filters": 4, "n_blocks": 0},  # type: ignore[arg-type]
    train_samples=3,
    n_samples=5,
    train={"epochs": 3, "validation_samples": 2},  # type: ignore[arg-type]
)
TINY_STUDY = DensityAndMassSection(
    seed=0,
    max_pixels=1_000,
    n_steps=30,
    step_size=0.1,
    n_replicates=20,
    n_samples=16,
    n_symbols=300,
    dequantizing=TINY_FLOW,
)
WAYS = [
    {
        "way": way,
        "train_samples": k,
        "n_parameters": 77,
        "train_bpd": 1.9,
        "best_epoch": 3,
        "validation_bpd": 2.0,
        "elbo_bpd": 2.2,
        "bias_bpd": -0.002,
        "ess_median": 12.3,
        "too_few_samples": int(way == "importance_weighted"),
        **numbers,
    }
    for way, k, numbers in (
        ("uniform", 1, {"bpd": 2.1, "difference_bpd": 0.0, "difference_bpd_standard_error": 0.0}),
        ("uniform_fixed", 1, {"bpd": 2.15, "difference_bpd": 0.05, "difference_bpd_standard_error": 0.01}),
        ("variational", 1, {"bpd": 2.0, "difference_bpd": -0.1, "difference_bpd_standard_error": 0.004}),
        ("importance_weighted", 3, {"bpd": 2.09, "difference_bpd": -0.01, "difference_bpd_standard_error": 0.02}),
    )
]
DEQUANTIZING = {
    "kind": "lower",
    "n_train": 30,
    "n_test": 10,
    "n_test_distinct": 10,
    "n_test_of_all": 10,
    "n_samples": 5,
    "epochs": 3,
    "transform": "maf",
}


@functools.cache
def _tiny_study(counts: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, density_and_mass.Rows]]:
    levels = density_and_mass.Levels(np.array(counts), 1, sum(counts))
    return density_and_mass.study(TINY_STUDY, levels)


def write_study(folder: Path, counts: Sequence[int] = (40, 3, 0, 7, 50)) -> None:
    """Write the results of the study of these counts of levels, computed once for each, flows made up."""
    metrics, tables = _tiny_study(tuple(counts))
    rows = [{**row, "bpd_standard_error": 0.03} for row in WAYS]
    density_and_mass.write(folder, {**metrics, "dequantizing": DEQUANTIZING}, {**tables, "dequantizing": rows})


TINY_DELAY = ProjectDelaySection.model_validate(
    {
        "seed": 0,
        "deadline": 70.0,
        "n_samples": [100, 2_000],
        "scale_all": 4.0,
        "scale_critical": [2.0, 3.5],
        "mistake": {"scale_critical": 3.0, "scale_others": 0.4},
        "n_replicates": 5,
        "replicate_samples": [10, 100],
        "cross_entropy": {"n_samples": 1_000, "elite_share": 0.1, "n_final": 1, "max_rounds": 20},
    }
)
DELAYS: dict[str, tuple[dict[str, Any], dict[str, project_delay.Rows]]] = {}  # the study takes half a second


def write_delay(folder: Path) -> None:
    """Write the results of the study of a delay, small."""
    if not DELAYS:
        DELAYS["tiny"] = project_delay.study(TINY_DELAY)
    project_delay.write(folder, *DELAYS["tiny"])


TINY_RESNET = UniversalResnetSection(
    seed=0,
    n_steps=2,
    n_seeds=2,
    n_points=20,
    learning_rates={"resnet": 0.1, "dense": 0.03, "single": 0.1, "approximation": 0.05},  # type: ignore[arg-type]
    depths=[1, 3],
    cells_line=[2, 5],
    cells_plane=[2, 3],
)


@functools.cache
def _tiny_resnet() -> oneneuron_study.Results:
    return oneneuron_study.study(TINY_RESNET, torch.device("cpu"))


def write_resnet(folder: Path) -> None:
    """Write the results of the study of the one-neuron ResNet at its smallest, computed once."""
    oneneuron_study.write(folder, _tiny_resnet())


def tiny_families(*names: str) -> dict[str, Any]:
    """Sections of models that are trained for an epoch."""
    sections = {"histogram": {}, "vae": {"latent_size": 2, "hidden_sizes": [8], "train": {"validation_samples": 1}}}
    return {
        name: {"family": name, **sections[name], "train": {"epochs": 1, **sections[name].get("train", {})}}
        for name in names
    }


TINY_KNOWN = KnownSection.model_validate(
    {
        "excess": {
            "sources": ["hidden_markov", "templates"],
            "height": 3,
            "width": 2,
            "n_levels": 3,
            "n_train": 60,
            "n_validation": 10,
            "n_test": 30,
            "n_samples": 5,
            "families": tiny_families("histogram", "vae"),
        },
        "estimators": {
            "n_images": 3,
            "n_replicates": 4,
            "n_samples": [4, 1000],
            "n_epochs": 1,
            "annealed": {"n_images": 2, "n_replicates": 3, "n_chains": 2, "n_steps": [2, 3], "n_leapfrog": 1},
        },
    }
)


@functools.cache
def _tiny_known() -> tuple[dict[str, Any], dict[str, known.Rows]]:
    cpu, train = torch.device("cpu"), TrainSection()
    of_excess = excess.study(TINY_KNOWN.excess, train, TINY_KNOWN.seed, cpu)
    of_estimators = estimators.study(TINY_KNOWN.estimators, TINY_KNOWN.seed)
    metrics = {"excess": of_excess[0], "estimators": of_estimators[0], "mistakes": mistake_rows.METRICS}
    return metrics, {**of_excess[1], **of_estimators[1], "mistakes": mistake_rows.ROWS}


def write_known(folder: Path) -> None:
    """Write the results of the study of known truths, small, computed once."""
    known.write(folder, *_tiny_known())


def write_studies(results: Path) -> None:
    """Write the results of every study into their folders."""
    write_known(results / "known")
    write_study(results / "density_and_mass")
    write_delay(results / "project_delay")
    write_resnet(results / "universal_resnet")
