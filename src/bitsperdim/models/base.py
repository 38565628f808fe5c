r"""Base class of all models: a probability mass function over images that returns log-weights.

.. math:: \texttt{log\_weights}(x, K) \to \log w \in \mathbb R^{K \times B},
          \qquad \mathbb E[w_k] = P(x) \text{ for every } k

==============================  =====================  ===============================================
kind of model                   latent                 log w
==============================  =====================  ===============================================
:class:`AutoregressiveModel`    none                   log P(x), exact, K is 1
:class:`LatentModel`            z ~ q(z given x)       log p(x given z) + log p(z) - log q(z given x)
:class:`DensityModel`           u ~ r(u given x)       log p((x+u)/L) - D log L - log r(u given x)
==============================  =====================  ===============================================

Training maximizes the log of the mean weight, and evaluation estimates it with a larger K. A model
depends neither on the trainer nor on the estimator.

The public methods ``log_weights``, ``sample`` and ``initialise`` check their arguments
(:mod:`bitsperdim.models.inputs`). Then they call ``unchecked_log_weights``, ``unchecked_sample`` and
``unchecked_initialise``, which each model defines. A loop over many batches or chunks, such as training, checks its
images once and then calls the unchecked methods, because reading the values of images on a GPU makes the host wait.

Invariants (``tests/models/``):

1. E[w] = P(x), compared with enumeration or quadrature (``test_vae.py``, ``test_gaussian.py``).
2. The log-weight of an image does not depend on the other images, not even in training mode
   (``test_every_model.py::test_images_are_independent``).
3. P sums to one over all images (for a density on R^D, to its mass in the unit cube).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bitsperdim.core.units import n_dims
from bitsperdim.models.inputs import check_classes, check_counts, check_images, check_place
from bitsperdim.models.parts.causal import CausalConv2d

Kind = Literal["exact", "lower", "density"]
COUNTED_AT_ONCE = 2**22  # sub-pixels, 8 bytes each


class ImageModel(nn.Module, ABC):
    """A probability mass function over images of shape (C, H, W) with values 0..L-1.

    Attributes:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        is_exact: whether ``log_weights`` returns log P(x) itself, without variance.
        draws_bounds: whether ``log_weights`` draws lower bounds on log P(x), whose mean is the result. Otherwise it
            draws logarithms of weights whose mean is P(x).
        solver_order: order of the method by which an equation is solved on a grid, which leaves a solver error; None:
            there is no such equation.
        n_classes: number of classes if the model is conditioned on a label for each image; None: it is not conditioned
            on labels.
        origin: for an external model, its files with their hashes and the method that is called; None: the model
            belongs to this package.
    """

    is_exact: ClassVar[bool] = False
    draws_bounds: bool = False
    solver_order: int | None = None
    n_classes: int | None = None
    origin: Mapping[str, Any] | None = None

    @property
    def can_sample(self) -> bool:
        """Whether images can be drawn; an external model may lack a method for it."""
        return True

    @property
    def kind(self) -> Kind:
        """Kind of the log of the mean weight: ``exact``, a ``lower`` bound on log P(x), or only a ``density``."""
        return "exact" if self.is_exact else "lower"

    @property
    def keeps_noise(self) -> bool:
        """Whether a training image always has the same dequantization noise."""
        return False

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int) -> None:
        """Store the shape and the number of levels of the images."""
        super().__init__()
        self.image_shape = image_shape
        self.n_levels = n_levels

    @property
    def n_dims(self) -> int:
        """The number of dimensions, D = C*H*W."""
        return n_dims(self.image_shape)

    @property
    def n_parameters(self) -> int:
        """The number of free parameters, without the weights that a mask sets to zero."""
        masked = sum(module.n_masked for module in self.modules() if isinstance(module, CausalConv2d))
        return sum(parameter.numel() for parameter in self.parameters()) - masked

    @property
    def device(self) -> torch.device:
        """The device of the weights; the CPU if there are no weights."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first weight with floating-point numbers; float32 if there is no such weight."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)

    def check(self, x: Tensor, labels: Tensor | None = None, noise: Tensor | None = None) -> None:
        """Check that the arguments are images and labels for this model, on any device; this reads their values.

        Args:
            x: (B, C, H, W) uint8 or another integer type, values 0..L-1, B at least 1.
            labels: class labels, (B,) int64, values 0..n_classes - 1. Models that are conditioned on labels need them;
                other models ignore them, because both sorts of models are evaluated on the same data set.
            noise: see :meth:`log_weights`; models that are not densities ignore it.

        Raises:
            ValueError: an argument does not fit; the message states the allowed and the given value.
        """
        check_images(x, self.image_shape, self.n_levels)
        if self.n_classes is not None:
            check_classes(labels, len(x), self.n_classes)

    def check_places(
        self, images: Tensor | None = None, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Check that images, generator and labels (unless ignored) are on the device of the model.

        Raises:
            ValueError: an argument is on another device; the message names both devices.
        """
        if not isinstance(generator, torch.Generator | None):
            raise ValueError(f"generator must be a torch.Generator, not {type(generator).__name__}")
        given = {"images": images, "labels": None if self.n_classes is None else labels, "generator": generator}
        for name, value in given.items():
            if value is not None:
                check_place(name, value.device, self.device)

    def check_mode(self, what: str) -> None:
        """Check that all parts of the model are in evaluation mode.

        Raises:
            ValueError: a part is in training mode, but ``what`` needs evaluation mode.
        """
        if any(module.training for module in self.modules()):
            raise ValueError(f"{what} needs a model in evaluation mode; call model.eval() first")

    def log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        **options: Any,  # noqa: ANN401 - they differ between the kinds of models
    ) -> Tensor:
        """Return the log-weights log w in nats, (K, B), with E[w_k] = P(x).

        This also holds in training mode with dropout; E[w_k] is then a different mass for each draw of the dropped
        values. This method does not check whether an autoregressive model looks ahead;
        :func:`bitsperdim.evaluation.estimate.estimate` does.

        Args:
            x: (B, C, H, W) uint8 or another integer type, values 0..L-1, on the device of the model.
            n_samples: number of samples K; models without variance always return one row.
            labels: class labels, (B,) int64, for models that are conditioned on labels; other models ignore them.
            generator: random number generator for all draws; on a CPU the k-th row does not depend on K.
            noise: dequantization noise in [0, 1), (B, C, H, W) for the first row or (M, B, C, H, W) for the first M
                rows; only density models use it.
            **options: further options of this kind of model, see its ``unchecked_log_weights``.

        Raises:
            ValueError: the images, labels or noise do not fit the model; the message states the allowed values.
        """
        check_counts(n_samples=n_samples)
        self.check(x, labels, noise)
        self.check_places(x, labels, generator)
        return self.unchecked_log_weights(x, n_samples, labels=labels, generator=generator, noise=noise, **options)

    @abstractmethod
    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return the result of :meth:`log_weights` for arguments that are already checked; same arguments."""

    def sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw images (B, C, H, W) from the model; uint8 for up to 256 levels, int32 for more.

        Args:
            n_images: number of images B, at least 1.
            labels: class labels, (B,) int64, for models that are conditioned on labels; other models ignore them.
            generator: random number generator on the device of the model.

        Raises:
            ValueError: the model is in training mode, or an argument does not fit the model.
        """
        self.check_mode("sampling")
        check_counts(n_images=n_images)
        if self.n_classes is not None:
            check_classes(labels, n_images, self.n_classes)
        self.check_places(labels=labels, generator=generator)
        return self.unchecked_sample(n_images, labels=labels, generator=generator)

    @abstractmethod
    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the result of :meth:`sample` for arguments that are already checked."""

    def initialise(self, images: Tensor) -> None:
        """Initialise the model with training images, once, before training; a closed-form model is fitted here.

        Args:
            images: (N, C, H, W) uint8 or another integer type, values 0..L-1, on the device of the model.

        Raises:
            ValueError: the images do not fit the model.
        """
        check_images(images, self.image_shape, self.n_levels)
        self.check_places(images)
        self.unchecked_initialise(images)

    def unchecked_initialise(self, images: Tensor) -> None:
        """Do the work of :meth:`initialise` for images that are already checked."""

    def scaled(self, x: Tensor) -> Tensor:
        """Map levels 0..L-1 to [-1, 1] in the dtype of the model, as the input of a network."""
        return x.to(self.dtype) * (2 / (self.n_levels - 1)) - 1


def in_full_precision(layer: nn.Module, x: Tensor, *more: object) -> Tensor:
    """Apply a layer in the precision of its weights, also under autocast, so that autocast rounds no likelihood.

    Args:
        layer: last layer, whose outputs are the parameters of a likelihood.
        x: input of the layer.
        *more: further arguments of the layer.
    """
    with torch.autocast(x.device.type, enabled=False):
        result: Tensor = layer(x.to(next(layer.parameters()).dtype), *more)
    return result


def level_counts(images: Tensor, n_levels: int) -> Tensor:
    """Count how often each sub-pixel of images (N, C, H, W) has each level, (C, H, W, L) int64."""
    shape = images.shape[1:]
    n_places = shape.numel()
    first = torch.arange(n_places, device=images.device) * n_levels  # index of the first count of each sub-pixel
    counts = torch.zeros(n_places * n_levels, dtype=torch.int64, device=images.device)
    for chunk in images.split(max(1, COUNTED_AT_ONCE // n_places)):
        counts += torch.bincount((first + chunk.flatten(1).long()).flatten(), minlength=len(counts))
    return counts.reshape(*shape, n_levels)
