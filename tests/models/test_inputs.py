"""Inputs that do not fit a model are refused in one sentence, by every family and every function that takes them."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.evaluation.annealed import ais, bdmc
from bitsperdim.evaluation.estimate import estimate, estimated_rows
from bitsperdim.evaluation.latent_code import active_units
from bitsperdim.models import AutoregressiveModel, DensityModel, ImageModel, LatentModel, build
from bitsperdim.models.autoregressive import ancestral_sample, completed
from bitsperdim.models.inputs import check_place
from bitsperdim.models.look_ahead import (
    check_causality,
    largest_leaked_change,
    largest_leaked_gradient,
    receptive_field,
)
from support import cases, laws
from support.cases import SMALL, small_model

Function = Callable[..., Any]
GIVEN_CLASS = "gated, given the class"
NAMES = [*SMALL, GIVEN_CLASS]
DENSITIES = [name for name in SMALL if isinstance(small_model(name), DensityModel)]


def model_of(name: str) -> ImageModel:
    if name != GIVEN_CLASS:
        return small_model(name)
    return laws.scattered(build("gated_pixelcnn", {**cases.GATED, "n_classes": 3}, (1, 2, 3), 3))


def inputs(model: ImageModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Return three images, and labels if the model takes them."""
    return laws.some_images(model, 3), {} if model.n_classes is None else {"labels": torch.tensor([2, 0, 1])}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def with_value(value: int) -> Callable[[Tensor], Tensor]:
    """Return a function that changes one value of an image."""

    def changed(x: Tensor) -> Tensor:
        x = x.to(torch.int64 if value < 0 else x.dtype)
        x[1, 0, 0, 0] = value
        return x

    return changed


# all functions of images: the first argument is the images; ``labels`` are for models conditioned on labels
def scoring(model: ImageModel) -> dict[str, Function]:
    return {
        "log_weights": lambda x, **labels: model.log_weights(x, 2, **labels),
        "estimate": lambda x, **labels: estimate(model, x, 2, chunk_size=1, batch_size=2, **labels),
        "estimated_rows": lambda x, **labels: estimated_rows(model, x, 2, chunk_size=1, **labels),
    }


def others(model: ImageModel) -> dict[str, Function]:
    found: dict[str, Function] = {}
    if isinstance(model, AutoregressiveModel):
        found |= {
            "completed": lambda x, **labels: completed(model, x, 1, **labels),
            "check_causality": lambda x, **labels: check_causality(model, x, **labels),
            "gradient": lambda x, **labels: largest_leaked_gradient(model, x, generator=seeded(), **labels),
            "change": lambda x, **labels: largest_leaked_change(model, x, generator=seeded(), **labels),
            "receptive_field": lambda x, **labels: receptive_field(model, x, 0, 0, generator=seeded(), **labels),
        }
    if isinstance(model, LatentModel):
        found |= {
            "ais": lambda x: ais(model, x, 1, 1, generator=seeded()),
            "active_units": lambda x: active_units(model, x, seeded(), 2),
        }
    return found


def of_images_alone(model: ImageModel) -> dict[str, Function]:
    found: dict[str, Function] = {"initialise": model.initialise}
    return {**found, "reconstruct": model.reconstruct} if isinstance(model, LatentModel) else found


def refused(function: Function, words: str, *args: object, **options: object) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_an_input_of_the_model_is_refused(name: str) -> None:
    """Each function accepts the images of the model, and refuses every other input."""
    model = model_of(name)
    (x, labels), top = inputs(model), model.n_levels
    shape = re.escape(f"must have shape (B, {', '.join(map(str, model.image_shape))}), B at least 1, not (")
    wrong: dict[str, tuple[Callable[[Tensor], Any], str]] = {
        "floats in [0, 1]": (lambda x: x / (top - 1), "^images must .*torch.uint8.*, not torch.float32$"),
        "whole floats": (lambda x: x.double(), "^images must .*, not torch.float64$"),
        "truth values": (lambda x: x.bool(), "^images must .*, not torch.bool$"),
        "NumPy": (lambda x: x.numpy(), "^images must be a tensor of type .*, not ndarray$"),
        "no channels": (lambda x: x[:, 0], shape),
        "one image": (lambda x: x[0], shape),
        "another channel": (lambda x: torch.cat([x, x[:, :1]], 1), shape),
        "another row": (lambda x: torch.cat([x, x[:, :, :1]], 2), shape),
        "another column": (lambda x: torch.cat([x, x[..., :1]], 3), shape),
        "no image": (lambda x: x[:0], shape),
        "a level more": (with_value(top), f"^images must have values from 0 to {top - 1}, not from [01] to {top}$"),
        "a level less": (with_value(-1), "not from -1 to|uint8, not torch.int64$"),
    }
    functions = scoring(model) | others(model)
    for function in functions.values():
        function(x, **labels)
    for change, words in wrong.values():
        for function in functions.values():
            refused(function, words, change(x.clone()), **labels)
        for function in of_images_alone(model).values():
            refused(function, words, change(x.clone()))
    for function in of_images_alone(model).values():
        function(x)


def test_labels_that_are_not_those_of_the_images_are_refused() -> None:
    model = model_of(GIVEN_CLASS)
    assert isinstance(model, AutoregressiveModel)
    x, given = inputs(model)
    labels = given["labels"]
    functions = scoring(model) | others(model)
    functions |= {
        "sample": lambda _, **options: model.sample(3, **options),
        "ancestral_sample": lambda _, **options: ancestral_sample(model, 3, **options),
    }
    for function in functions.values():
        function(x, labels=labels)
        none = "and values from 0 to 2, but no labels are given"
        refused(function, rf"needs labels of shape \(3,\), type torch.int64 {none}", x)
        for wrong, words in (
            (labels[:2], r"of 3 images must have shape \(3,\), not \(2,\)$"),
            (labels[:, None], r"must have shape \(3,\), not \(3, 1\)$"),
            (labels + 1, "must be from 0 to 2, not from 1 to 3$"),
            (labels - 1, "must be from 0 to 2, not from -1 to 1$"),
            (labels.float(), "must be of type torch.int64, not torch.float32$"),
            (labels.to(torch.uint8), "must be of type torch.int64, not torch.uint8$"),
            (labels.tolist(), "must be a tensor of type torch.int64, not list$"),
        ):
            refused(function, f"^labels .*{words}", x, labels=wrong)


@pytest.mark.parametrize("name", [name for name in NAMES if name != GIVEN_CLASS])
def test_a_model_that_is_given_no_class_ignores_labels(name: str) -> None:
    """Models of both sorts are evaluated on the same data set."""
    model = small_model(name)
    x, _ = inputs(model)
    with_and_without = [
        torch.cat([model.log_weights(x, 2, labels=labels, generator=generator).flatten(), drawn.flatten().double()])
        for labels in (None, torch.tensor([99]))
        for generator in [seeded()]
        for drawn in [model.sample(2, labels=labels, generator=generator)]
    ]
    assert torch.equal(*with_and_without)


@pytest.mark.parametrize("name", DENSITIES)
def test_noise_that_is_not_that_of_the_images_is_refused(name: str) -> None:
    model = small_model(name)
    x, _ = inputs(model)
    noise = torch.rand(x.shape, generator=seeded())
    for function in scoring(model).values():
        function(x, noise=noise)
        for wrong, words in (
            (noise[:, :, :0], r"cannot have the shape"),
            (noise[0], r"cannot have the shape"),
            ((noise * 255).to(torch.uint8), "must be of type torch.float32 or torch.float64, not torch.uint8"),
            (torch.ones_like(noise), "must be at least 0 and below 1, not from 1 to 1"),
            (noise - 1, "must be at least 0 and below 1, not from -"),
            (torch.where(noise == noise.max(), torch.nan, noise), "must be at least 0 and below 1, not from nan"),
        ):
            refused(function, f"^noise .*{words}", x, noise=wrong)


@pytest.mark.parametrize("name", NAMES)
def test_training_mode_is_refused(name: str) -> None:
    """All functions without a meaning in training mode refuse it, also in one part; log-weights are allowed."""
    model = model_of(name)
    x, labels = inputs(model)
    functions = {name: function for name, function in (scoring(model) | others(model)).items() if name != "log_weights"}
    functions["sample"] = lambda _, **options: model.sample(3, **options)
    if isinstance(model, LatentModel):
        functions["bdmc"] = lambda _: bdmc(model, 3, 1, 1, generator=seeded())
    parts = [part for part in model.modules() if part is not model]
    for part in (model, *parts[-1:]):
        part.train()
        for function in functions.values():
            refused(function, r"needs a model in evaluation mode; call model.eval\(\) first$", x, **labels)
        assert model.log_weights(x, **labels).isfinite().all()
        model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_every_integer_type_is_the_same_image(name: str) -> None:
    model = model_of(name)
    x, labels = inputs(model)
    expected = model.log_weights(x, 2, generator=seeded(), **labels)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        assert torch.equal(model.log_weights(x.to(dtype), 2, generator=seeded(), **labels), expected)


def test_counts_are_at_least_one() -> None:
    model = small_model("vae-rgb")
    x, _ = inputs(model)
    whole = {"n_samples": 1, "chunk_size": 1, "batch_size": 1}
    for key in whole:
        with pytest.raises(ValueError, match=f"^{key} must be at least 1, not 0$"):
            estimate(model, x, **{**whole, key: 0})
    refused(model.log_weights, "^n_samples must be at least 1, not 0$", x, 0)
    refused(model.sample, "^n_images must be at least 1, not -1$", -1)
    refused(lambda: bdmc(model, 0, 1, 1, generator=seeded()), "^n_images must be at least 1, not 0$")


def test_what_is_on_another_device_is_refused() -> None:
    model = model_of(GIVEN_CLASS).to("meta")
    assert isinstance(model, AutoregressiveModel)
    x, labels = inputs(model)
    sentence = "must be on the device of the model, meta, not on cpu$"
    refused(model.log_weights, f"^images {sentence}", x, **labels)
    refused(model.initialise, f"^images {sentence}", x)
    refused(lambda: completed(model, x, 1, **labels), f"^images {sentence}")
    refused(model.sample, f"^labels {sentence}", 3, **labels)
    model.n_classes = None
    refused(model.sample, f"^generator {sentence}", 3, generator=seeded())
    with pytest.raises(ValueError, match=f"^generator {sentence}"):
        estimate(model, x, 1, chunk_size=1, batch_size=1, generator=seeded())


def test_a_device_without_a_number_is_any_of_its_sort() -> None:
    cuda, first, second = (torch.device(name) for name in ("cuda", "cuda:0", "cuda:1"))
    for one, other in ((cuda, first), (first, cuda), (first, first), (second, cuda)):
        check_place("images", one, other)
    for one, other in ((first, second), (cuda, torch.device("cpu"))):
        with pytest.raises(ValueError, match=r"^images must be on the device"):
            check_place("images", one, other)


def test_a_level_beyond_a_byte_is_refused_too() -> None:
    """With 256 levels, uint8 values need no check, but values of other types do."""
    model = build("pixelcnn", {**cases.PIXELCNN, "likelihood": "logistic"}, (1, 2, 2), 256).eval()
    x = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    assert model.log_weights(x).isfinite().all()
    refused(model.log_weights, "values from 0 to 255, not from 256 to 256$", x.short() + 1)
    wide = build("pixelcnn", {**cases.PIXELCNN, "likelihood": "logistic"}, (1, 2, 2), 300).eval()
    assert wide.log_weights(x.short() + 44).isfinite().all()
    refused(wide.log_weights, "values from 0 to 299, not from 300 to 300$", x.short() + 45)
    assert np.isfinite(estimate(wide, x.int() + 44, 1, chunk_size=1, batch_size=1).log_p.item())
