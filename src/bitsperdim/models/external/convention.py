"""What a model takes: how it counts levels, and how it lays out images, each declared in one word.

Images are integers 0..L-1 of shape (B, C, H, W) everywhere in this package. A model that was made elsewhere may want
other numbers or another layout, and gives what it says of sub-pixels in that layout.

Invariants (``tests/models/external/test_convention.py``): what a model gives in its layout comes back in ours
(``test_layouts_come_back``); levels are where they are declared to be (``test_levels_are_where_they_are_declared``).
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
    """What a model takes.

    Attributes:
        inputs: how levels are numbered.
        layout: of images.

    Raises:
        InputError: there is no such word; the sentence lists those that there are.
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
        """Return levels as the model wants them; of floating-point levels the derivative is kept where it can be."""
        if self.inputs == "integers":
            return x.long()
        scaled = x.to(dtype) / (n_levels - 1)
        return scaled if self.inputs == "unit" else 2 * scaled - 1

    def arranged(self, values: Tensor) -> Tensor:
        """Return values of sub-pixels (B, C, H, W) in the layout of the model."""
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
        """Return values (B, *inner_shape, ...) of sub-pixels as (B, C, H, W, ...): what :meth:`arranged` undoes."""
        if self.layout == "channels_last":
            return values.movedim(3, 1)
        if self.layout == "flat":
            return values.unflatten(1, tuple(image_shape))
        return values[:, None] if self.layout == "plane" else values
