"""Checks of the inputs of a model: images, labels, noise, counts, and the device of tensors and generators.

A network returns numbers for any input of the right shape. For floats in [0, 1], for too large levels or for a batch
without channels, these numbers are meaningless. Each public function that takes images therefore calls these checks
first (:meth:`bitsperdim.models.ImageModel.check`). A failed check raises one ``ValueError`` that names the allowed and
the given value.

Checks of types, shapes and devices cost nothing. Checks of values have to read them, and reading them from a GPU makes
the host wait.

Whether an autoregressive model looks ahead is checked in :mod:`bitsperdim.models.look_ahead`.

Invariants (``tests/models/test_inputs.py``): every family and every function refuses all inputs that do not fit
(``test_what_is_not_an_input_of_the_model_is_refused``); every integer type gives the same result
(``test_every_integer_type_is_the_same_image``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bitsperdim.core.errors import InputError

if TYPE_CHECKING:
    from bitsperdim.models.base import ImageModel

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ANY_INTEGER = "torch.uint8, int8, int16, int32 or int64"


def check_images(x: Tensor, image_shape: tuple[int, int, int], n_levels: int) -> None:
    """Check a batch of images.

    Args:
        x: images (B, C, H, W) of an integer type, B at least 1, values 0..L-1.
        image_shape: (C, H, W).
        n_levels: number of levels L.

    Raises:
        ValueError: type, shape or values do not fit.
    """
    values = f"values from 0 to {n_levels - 1}"
    check_type("images", x, INTEGERS, f"{ANY_INTEGER}, with {values}")
    if x.shape[1:] != image_shape or len(x) == 0:
        shape = ", ".join(map(str, image_shape))
        raise ValueError(f"images must have shape (B, {shape}), B at least 1, not {tuple(x.shape)}")
    if x.dtype == torch.uint8 and n_levels >= 256:
        return
    lowest, highest = range_of(x)
    if lowest < 0 or highest >= n_levels:
        raise ValueError(f"images must have {values}, not from {lowest:.0f} to {highest:.0f}")


def check_classes(labels: Tensor | None, n_images: int, n_classes: int) -> None:
    """Check that there is a valid label for each image.

    Args:
        labels: class labels, (B,) int64, values 0..n_classes - 1.
        n_images: number of images B.
        n_classes: number of classes of the model.

    Raises:
        ValueError: labels are missing, or their type, shape or values do not fit.
    """
    if labels is None:
        raise ValueError(
            f"a model of {n_classes} classes needs labels of shape ({n_images},), type torch.int64 and "
            f"values from 0 to {n_classes - 1}, but no labels are given"
        )
    check_type("labels", labels, (torch.int64,), "torch.int64")
    if labels.shape != (n_images,):
        raise ValueError(f"labels of {n_images} images must have shape ({n_images},), not {tuple(labels.shape)}")
    lowest, highest = range_of(labels)
    if lowest < 0 or highest >= n_classes:
        raise ValueError(f"labels must be from 0 to {n_classes - 1}, not from {lowest:.0f} to {highest:.0f}")


def check_noise(noise: Tensor, shape: torch.Size) -> None:
    """Check dequantization noise for a batch of images.

    Args:
        noise: (B, C, H, W) or (M, B, C, H, W) float32 or float64, in [0, 1).
        shape: shape of the images, (B, C, H, W).

    Raises:
        ValueError: type, shape or values do not fit.
    """
    check_type("noise", noise, (torch.float32, torch.float64), "torch.float32 or torch.float64")
    if noise.ndim not in (4, 5) or noise.shape[-4:] != shape or len(noise) == 0:
        raise ValueError(f"noise for images of shape {tuple(shape)} cannot have the shape {tuple(noise.shape)}")
    lowest, highest = range_of(noise)
    if not (lowest >= 0 and highest < 1):  # NaN too
        raise ValueError(f"noise must be at least 0 and below 1, not from {lowest:g} to {highest:g}")


def check_labels(model: ImageModel, labels: Mapping[str, np.ndarray]) -> None:
    """Check the labels of all splits (split -> (N,) int64), if the model is conditioned on labels.

    Raises:
        InputError: labels are missing, or a label is not a class of the model.
    """
    if model.n_classes is None:
        return
    if not labels:
        raise InputError(f"A model with n_classes = {model.n_classes} needs labels, but these images have no labels.")
    for split, classes in labels.items():
        lowest, highest = int(classes.min()), int(classes.max())
        if lowest < 0 or highest >= model.n_classes:
            raise InputError(
                f"A model with n_classes = {model.n_classes} takes labels from 0 to {model.n_classes - 1}, but those "
                f"of the {split} images go from {lowest} to {highest}."
            )


def check_type(name: str, value: object, types: tuple[torch.dtype, ...], allowed: str) -> None:
    """Check that a value is a dense tensor of one of the types; ``allowed`` names them for the message."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor of type {allowed}, not {type(value).__name__}")
    if value.dtype not in types:
        raise ValueError(f"{name} must be of type {allowed}, not {value.dtype}")
    if value.layout != torch.strided or value.is_meta:
        raise ValueError(f"{name} must be a dense tensor that holds its values")


def check_place(name: str, device: torch.device, of_model: torch.device) -> None:
    """Check that a tensor or generator is on the device of the model."""
    if device.type != of_model.type or (None not in (device.index, of_model.index) and device != of_model):
        raise ValueError(f"{name} must be on the device of the model, {of_model}, not on {device}")


def check_counts(**counts: int) -> None:
    """Check that counts are integers of at least 1."""
    for name, value in counts.items():
        if type(value) is not int:
            raise ValueError(f"{name} must be an integer of type int, not {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def range_of(values: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value; for a tensor on a GPU, the host waits for them."""
    lowest, highest = torch.stack(values.detach().aminmax()).tolist()
    return lowest, highest
