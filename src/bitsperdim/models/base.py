r"""What a model is: a probability mass function over images, asked one question.

.. math:: \texttt{log\_weights}(x, K) \to \log w \in \mathbb R^{K \times B},
          \qquad \mathbb E[w_k] = P(x) \text{ for every } k

==============================  =====================  ===============================================
kind of model                   latent                 log w
==============================  =====================  ===============================================
:class:`AutoregressiveModel`    none                   log P(x), exact, K is 1
:class:`LatentModel`            z ~ q(z given x)       log p(x given z) + log p(z) - log q(z given x)
:class:`DensityModel`           u ~ r(u given x)       log p((x+u)/L) - D log L - log r(u given x)
==============================  =====================  ===============================================

Training maximizes the log of the mean weight, evaluation estimates it with a larger K: a model
knows neither the trainer nor the estimator.

A model is asked by ``log_weights``, ``sample`` and ``initialise``, which refuse what is not images of the model
(:mod:`bitsperdim.models.inputs`), and answers in ``unchecked_log_weights``, ``unchecked_sample`` and
``unchecked_initialise``, which each model defines. A loop over many batches or chunks, as training is, checks its
images once and then asks the unchecked ones: reading the values of images on a GPU makes the host wait.

Invariants (``tests/models/``):

1. E[w] = P(x), against enumeration or quadrature (``test_vae.py``, ``test_gaussian.py``).
2. No image's log-weight depends on another image, in training mode either
   (``test_every_model.py::test_images_are_independent``).
3. P sums to one over all images (to the mass of the unit cube for a density on R^D).
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
    """A mass function over images of shape (C, H, W) with values 0..L-1.

    Attributes:
        image_shape: (C, H, W).
        n_levels: L.
        is_exact: whether ``log_weights`` is log P(x) itself, without variance.
        draws_bounds: whether ``log_weights`` draws lower bounds of log P(x), whose mean counts, and not logarithms of
            weights whose mean is P(x).
        n_classes: of labels, one of which the model is given with each image; None: it is given none.
        origin: of a model that was made elsewhere, its files and their hashes, and the method that it is asked by;
            None: it is of this package.
    """

    is_exact: ClassVar[bool] = False
    draws_bounds: ClassVar[bool] = False
    n_classes: int | None = None
    origin: Mapping[str, Any] | None = None

    @property
    def can_sample(self) -> bool:
        """Whether images can be drawn: of a model that was made elsewhere it may be unknown how."""
        return True

    @property
    def kind(self) -> Kind:
        """What the log of the mean weight is: ``exact``, a ``lower`` bound of log P(x), or only a ``density``."""
        return "exact" if self.is_exact else "lower"

    @property
    def keeps_noise(self) -> bool:
        """Whether each training image is to be presented with the same dequantization noise for ever."""
        return False

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int) -> None:
        """Remember what the images are."""
        super().__init__()
        self.image_shape = image_shape
        self.n_levels = n_levels

    @property
    def n_dims(self) -> int:
        """D = C*H*W."""
        return n_dims(self.image_shape)

    @property
    def n_parameters(self) -> int:
        """The number of free parameters: weights that a mask holds at zero do not count."""
        masked = sum(module.n_masked for module in self.modules() if isinstance(module, CausalConv2d))
        return sum(parameter.numel() for parameter in self.parameters()) - masked

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights: that of the first that holds floating-point numbers; float32 where there is none."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)

    def check(self, x: Tensor, labels: Tensor | None = None, noise: Tensor | None = None) -> None:
        """Refuse what is not images of this model, on whatever device they are; the values are read.

        Args:
            x: (B, C, H, W) uint8 or another integer type, values 0..L-1, B at least 1.
            labels: (B,) int64, 0..n_classes - 1, needed by models that are given the class. Others ignore labels,
                since the images of one data set are scored by models of both sorts.
            noise: as of :meth:`log_weights`; models that are not densities ignore it.

        Raises:
            ValueError: one sentence that says what is allowed and what was given.
        """
        check_images(x, self.image_shape, self.n_levels)
        if self.n_classes is not None:
            check_classes(labels, len(x), self.n_classes)

    def check_places(
        self, images: Tensor | None = None, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Refuse images, labels that are not ignored and a generator that are not on the device of the model.

        Raises:
            ValueError: saying where they are.
        """
        if not isinstance(generator, torch.Generator | None):
            raise ValueError(f"generator must be a torch.Generator, not {type(generator).__name__}")
        given = {"images": images, "labels": None if self.n_classes is None else labels, "generator": generator}
        for name, value in given.items():
            if value is not None:
                check_place(name, value.device, self.device)

    def check_mode(self, what: str) -> None:
        """Refuse a model any part of which is in training mode.

        Raises:
            ValueError: saying that ``what`` needs evaluation mode.
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
        """Return log w, (K, B) in nats, with E[w_k] = P(x).

        In training mode too, where dropout is on: then E[w_k] is another mass for each draw of what is dropped. Whether
        an autoregressive model looks ahead is not asked here: :func:`bitsperdim.evaluation.estimate.estimate` does.

        Args:
            x: (B, C, H, W) uint8 or another integer type, values 0..L-1, on the device of the model.
            n_samples: K; models without variance return one row whatever it is.
            labels: (B,) int64, for models that are given the class; others ignore them.
            generator: of all randomness; on a CPU the k-th row does not depend on K.
            noise: (B, C, H, W) in [0, 1), the dequantization noise of the first row, or (M, B, C, H, W)
                of the first M rows; only density models use it.
            **options: of the kind of model, see its ``unchecked_log_weights``.

        Raises:
            ValueError: these are not images of the model, or not such labels or noise; it says what is allowed.
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
        """Do what :meth:`log_weights` promises, for images that are checked; arguments likewise."""

    def sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw (B, C, H, W) images from the model, uint8 up to 256 levels and int32 beyond.

        Args:
            n_images: B, at least 1.
            labels: (B,) int64, for models that are given the class; others ignore them.
            generator: on the device of the model.

        Raises:
            ValueError: the model is in training mode, or an argument does not fit it.
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
        """Do what :meth:`sample` promises, for arguments that are checked."""

    def initialise(self, images: Tensor) -> None:
        """Start from training images, once, before training; a closed-form model is fitted here.

        Args:
            images: (N, C, H, W) uint8 or another integer type, values 0..L-1, on the device of the model.

        Raises:
            ValueError: these are not images of the model.
        """
        check_images(images, self.image_shape, self.n_levels)
        self.check_places(images)
        self.unchecked_initialise(images)

    def unchecked_initialise(self, images: Tensor) -> None:
        """Do what :meth:`initialise` promises, for images that are checked."""

    def scaled(self, x: Tensor) -> Tensor:
        """Map levels 0..L-1 to [-1, 1] in the dtype of the model, as the input of a network."""
        return x.to(self.dtype) * (2 / (self.n_levels - 1)) - 1


def in_full_precision(layer: nn.Module, x: Tensor, *more: object) -> Tensor:
    """Apply a layer in the precision of its weights, also under autocast: what a likelihood gets is not rounded.

    Args:
        layer: the last one, of the parameters of a likelihood.
        x: its input.
        *more: arguments of the layer.
    """
    with torch.autocast(x.device.type, enabled=False):
        result: Tensor = layer(x.to(next(layer.parameters()).dtype), *more)
    return result


def level_counts(images: Tensor, n_levels: int) -> Tensor:
    """Count how often each sub-pixel has each level in images (N, C, H, W): (C, H, W, L) int64."""
    shape = images.shape[1:]
    n_places = shape.numel()
    first = torch.arange(n_places, device=images.device) * n_levels  # of each sub-pixel's row of counts
    counts = torch.zeros(n_places * n_levels, dtype=torch.int64, device=images.device)
    for chunk in images.split(max(1, COUNTED_AT_ONCE // n_places)):
        counts += torch.bincount((first + chunk.flatten(1).long()).flatten(), minlength=len(counts))
    return counts.reshape(*shape, n_levels)
