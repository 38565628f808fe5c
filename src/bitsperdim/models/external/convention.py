"""The form of the images that an external model takes: how levels are numbered, and the layout of the tensor.

The user declares each of the two by one word. Everywhere in this package, images are integers 0..L-1 of shape
(B, C, H, W). An external model may take other numbers or another layout; it then returns values of sub-pixels in its
own layout.

Invariants (``tests/models/external/test_convention.py``): values in the layout of the model are converted back to ours
(``test_layouts_come_back``); levels have the declared numbers (``test_levels_are_where_they_are_declared``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError, shown

Inputs = Literal["integers", "unit", "symmetric"]
Layout = Literal["channels_first", "channels_last", "flat", "plane"]
WORDS = {
    "integers": "levels 0..L-1 as int64",
    "unit": "x / (L-1), from 0 to 1, as floating-point numbers",
    "symmetric": "2 x / (L-1) - 1, from -1 to 1, as floating-point numbers",
    "channels_first": "(B, C, H, W)",
    "channels_last": "(B, H, W, C)",
    "flat": "(B, C*H*W), row by row inside a channel",
    "plane": "(B, H, W), of images of one channel",
}


@dataclass(frozen=True)
class Convention:
    """The form of the images that a model takes.

    Attributes:
        inputs: numbering of the levels.
        layout: layout of the images.

    Raises:
        InputError: a word is unknown; the message lists the allowed words.
    """

    inputs: Inputs = "integers"
    layout: Layout = "channels_first"

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        for key, value, allowed in (("inputs", self.inputs, Inputs), ("layout", self.layout, Layout)):
            if value not in get_args(allowed):
                choices = "; ".join(f"{word} ({WORDS[word]})" for word in get_args(allowed))
                raise InputError(f"{key} = {shown(value)} is not allowed; choose one of {choices}.")

    def numbered(self, x: Tensor, n_levels: int, dtype: torch.dtype) -> Tensor:
        """Return the levels in the numbering of the model, with the derivative of floating-point levels if possible."""
        if self.inputs == "integers":
            return x.long()
        scaled = x.to(dtype) / (n_levels - 1)
        return scaled if self.inputs == "unit" else 2 * scaled - 1

    def arranged(self, values: Tensor) -> Tensor:
        """Convert values of sub-pixels (B, C, H, W) to the layout of the model."""
        if self.layout == "channels_last":
            return values.movedim(1, -1)
        if self.layout == "flat":
            return values.flatten(1)
        return values[:, 0] if self.layout == "plane" else values

    def inner_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of one image in the layout of the model.

        Raises:
            InputError: ``plane`` is declared for images of several channels.
        """
        channels, height, width = image_shape
        if self.layout == "plane" and channels != 1:
            raise InputError(f"layout = 'plane' is not allowed for images of {channels} channels; choose another.")
        shapes = {
            "channels_first": (channels, height, width),
            "channels_last": (height, width, channels),
            "flat": (channels * height * width,),
            "plane": (height, width),
        }
        return shapes[self.layout]

    def back(self, values: Tensor, image_shape: Sequence[int]) -> Tensor:
        """Convert values of sub-pixels (B, *inner_shape, ...) to (B, C, H, W, ...): the inverse of :meth:`arranged`."""
        if self.layout == "channels_last":
            return values.movedim(3, 1)
        if self.layout == "flat":
            return values.unflatten(1, tuple(image_shape))
        return values[:, None] if self.layout == "plane" else values
