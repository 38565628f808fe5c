"""Autoregressive networks, which model each sub-pixel given the earlier ones, and their sampling.

**Sampling** draws one pixel after the other and computes only the values that a new pixel changes.

The network returns its outputs at one position at a time and caches the values that it computed at earlier positions
(:class:`~bitsperdim.models.parts.causal.Memory`). A whole image then costs about as much as one forward pass, instead
of one pass for each pixel. Values are drawn from the likelihood at each position, with one generator, in the order of
the image. With or without the cache, the same generator draws the same images.

The cache of a layer is defined in ``causal.py``.

Invariants (``tests/models/test_sampling.py``): outputs at a position equal those of a full pass
(``test_cached_outputs_are_those_of_a_full_pass``); the images are the same with and without the cache
(``test_cached_images_are_naive_images``); the work is about that of one pass (``test_the_cache_saves_work``); given
rows do not change, and the other rows are drawn conditional on them (``test_given_rows_stay``).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from tqdm import tqdm

from bitsperdim.core.announcing import announced
from bitsperdim.likelihoods import Head, Likelihood
from bitsperdim.models.conditional import ConditionalModel
from bitsperdim.models.inputs import check_counts, check_type
from bitsperdim.models.parts.causal import Memory


class AutoregressiveModel(ConditionalModel):
    """A network with causal layers that models each sub-pixel given the earlier ones, and can draw images.

    The order is row by row, pixel by pixel, and channel by channel within a pixel. The network returns the outputs for
    each pixel, and the head turns them into a likelihood. If this likelihood itself couples the channels of a pixel,
    the outputs depend only on earlier pixels.

    Attributes:
        head: map from outputs to a likelihood.
    """

    head: Head

    @abstractmethod
    def outputs(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        memory: Memory | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the parameters of p(x_i given x_<i), (B, G * n, H, W), for all i at once or at one position.

        Args:
            x: images (B, C, H, W), values 0..L-1.
            labels: class labels, (B,) int64.
            memory: cache of the earlier positions (``causal.py``). With a memory the result is only for its position,
                (B, G * n, 1, 1), or for its row, (B, G * n, 1, W), and later values in ``x`` do not matter.
            generator: random number generator for dropout in training mode.
        """

    def likelihood(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood with parameters ``outputs`` (B, G * n, H, W); its batch shape is (B, C, H, W)."""
        grouped = outputs.unflatten(1, (self.head.n_groups, self.head.n_outputs))  # (B, G, n, H, W)
        return self.head(grouped.permute(0, 1, 3, 4, 2))

    def conditionals(
        self, x: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return p(x_i given x_<i) for all i at once, batch shape (B, C, H, W); arguments as for :meth:`outputs`."""
        return self.likelihood(self.outputs(x, labels, generator=generator)).given(x)

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return the exact log P(x) in nats, (1, B)."""
        return self.likelihood(self.outputs(x, labels, generator=generator)).log_prob_of_images(x)[None]

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw images one pixel after the other."""
        return ancestral_sample(self, n_images, labels=labels, generator=generator)


@torch.no_grad()
def ancestral_sample(
    model: AutoregressiveModel,
    n_images: int,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Draw images in the order of the model: row by row, pixel by pixel, channel by channel.

    Args:
        model: model in evaluation mode.
        n_images: number of images B, at least 1.
        labels: class labels, (B,) int64, for models that are conditioned on labels; other models ignore them.
        generator: random number generator on the device of the model.
        use_cache: False: compute a full forward pass for every pixel, for comparison.

    Returns:
        (B, C, H, W) uint8.

    Raises:
        ValueError: see :func:`completed`.
    """
    check_counts(n_images=n_images)
    x = torch.zeros(n_images, *model.image_shape, dtype=torch.uint8, device=model.device)
    return completed(model, x, 0, labels=labels, generator=generator, use_cache=use_cache)


@torch.no_grad()
def completed(
    model: AutoregressiveModel,
    images: Tensor,
    n_rows: int,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Keep the first rows of images, and draw the other rows conditional on them.

    Args:
        model: model in evaluation mode.
        images: (B, C, H, W) uint8, values 0..L-1, on the device of the model.
        n_rows: number of rows to keep.
        labels: class labels, (B,) int64, for models that are conditioned on labels; other models ignore them.
        generator: random number generator on the device of the model.
        use_cache: see :func:`ancestral_sample`.

    Returns:
        (B, C, H, W) uint8.

    Raises:
        ValueError: the model is not autoregressive, is in training mode or has more than 256 levels, or an argument
            does not fit the model.
    """
    if not isinstance(model, AutoregressiveModel):
        raise ValueError(f"only an autoregressive model completes images, not {type(model).__name__}")
    model.check_mode("sampling")
    check_type("images", images, (torch.uint8,), "torch.uint8")
    if model.n_levels > 256:
        raise ValueError(f"images are uint8, which holds 256 levels, but the model has {model.n_levels}")
    model.check(images, labels)
    model.check_places(images, labels, generator)
    _, height, width = model.image_shape
    if not 0 <= n_rows <= height:
        raise ValueError(f"n_rows must be from 0 to {height}, not {n_rows}")
    x = images.clone()
    memory = Memory(height, width) if use_cache else None
    x[:, :, n_rows:] = 0
    if memory is not None:
        for row in range(n_rows):
            model.outputs(x, labels, memory=memory.go_to(row))
    title = f"draw {len(images)} image{'' if len(images) == 1 else 's'}"
    rows = announced(range(n_rows, height), title, height - n_rows, "evaluate.n_pictures says how many are drawn")
    for row in tqdm(rows, total=height - n_rows, desc=title, unit="row", disable=None, leave=False):
        for column in range(width):
            draw_pixel(model, x, row, column, memory, labels, generator)
    return x


def draw_pixel(
    model: AutoregressiveModel,
    x: Tensor,
    row: int,
    column: int,
    memory: Memory | None,
    labels: Tensor | None,
    generator: torch.Generator | None,
) -> None:
    """Draw one pixel of all images in place, one group of channels after the other."""
    groups = model.head.n_groups
    per_group = model.image_shape[0] // groups
    for group in range(groups):
        drawn = model.likelihood(outputs_at(model, x, row, column, memory, labels)).sample(generator=generator)
        channels = slice(group * per_group, (group + 1) * per_group)
        x[:, channels, row, column] = drawn[:, channels, 0, 0].to(x.dtype)


def outputs_at(
    model: AutoregressiveModel, x: Tensor, row: int, column: int, memory: Memory | None, labels: Tensor | None
) -> Tensor:
    """Return the outputs of the network at a position, (B, G * n, 1, 1); without a memory, compute a full pass."""
    if memory is None:
        return model.outputs(x, labels)[:, :, row : row + 1, column : column + 1]
    return model.outputs(x, labels, memory=memory.go_to(row, column))
