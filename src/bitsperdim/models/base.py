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
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from bitsperdim.core.units import n_dims
from bitsperdim.likelihoods import DiagonalNormal, Head, Likelihood, NormalChain
from bitsperdim.models.inputs import check_classes, check_counts, check_images, check_noise, check_place
from bitsperdim.models.parts.causal import CausalConv2d, Memory
from bitsperdim.models.parts.dequantization import MAX_LEVELS, Dequantizer, dequantize

Kind = Literal["exact", "lower", "density"]
LatentNormal = DiagonalNormal | NormalChain
Proposal = Literal["encoder", "prior"]
COUNTED_AT_ONCE = 2**22  # sub-pixels, 8 bytes each


class ImageModel(nn.Module, ABC):
    """A mass function over images of shape (C, H, W) with values 0..L-1.

    Attributes:
        image_shape: (C, H, W).
        n_levels: L.
        is_exact: whether ``log_weights`` is log P(x) itself, without variance.
        n_classes: of labels, one of which the model is given with each image; None: it is given none.
    """

    is_exact: ClassVar[bool] = False
    n_classes: int | None = None

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
        dtype = next(self.parameters()).dtype
        return x.to(dtype) * (2 / (self.n_levels - 1)) - 1


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


class AutoregressiveModel(ImageModel):
    r"""Each sub-pixel given the ones before it: exact.

    .. math:: \log P(x) = \sum_{i=1}^{D} \log p(x_i \mid x_{<i})

    The order is row by row, pixel by pixel, and inside a pixel channel by channel. The network gives the outputs of
    each pixel, and the head makes a likelihood of them; where that couples the channels of a pixel itself, the outputs
    depend on earlier pixels only.

    Attributes:
        head: from outputs to a likelihood.
    """

    is_exact = True
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
        """Return what the network says of p(x_i given x_<i), (B, G * n, H, W), for all i at once or at one place.

        Args:
            x: (B, C, H, W), 0..L-1.
            labels: (B,) int64.
            memory: of the places before the one that is asked for (``causal.py``); the result is of that place only,
                (B, G * n, 1, 1), or (B, G * n, 1, W) for a row, and no later value in ``x`` matters.
            generator: of dropout, in training mode.
        """

    def likelihood(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood that outputs (B, G * n, H, W) stand for, batch shape (B, C, H, W)."""
        grouped = outputs.unflatten(1, (self.head.n_groups, self.head.n_outputs))  # (B, G, n, H, W)
        return self.head(grouped.permute(0, 1, 3, 4, 2))

    def conditionals(
        self, x: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return p(x_i given x_<i) for all i at once, batch shape (B, C, H, W); arguments as of :meth:`outputs`."""
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
        """Return log P(x), exact, (1, B) in nats."""
        return self.likelihood(self.outputs(x, labels, generator=generator)).log_prob_of_images(x)[None]

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw images one pixel after the other."""
        from bitsperdim.models.sampling import ancestral_sample  # sampling knows the models, not the other way round

        return ancestral_sample(self, n_images, labels=labels, generator=generator)


class LatentModel(ImageModel):
    r"""A latent variable z with prior p(z), likelihood p(x given z) and proposal q(z given x).

    .. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x), \qquad z_k \sim q(z \mid x)

    or, with the prior as the proposal, :math:`\log w_k = \log p(x \mid z_k)` with :math:`z_k \sim p(z)`.
    z is (K, B, Z), flat over all stochastic layers.

    In training the derivative of the bound in the weights of the proposal may be taken in the doubly reparameterized
    way (Tucker et al. 2019, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives"):

    .. math:: \nabla_\phi \log \frac1K \sum_k w_k
              \;\to\; \sum_k \tilde w_k^2 \, \frac{\partial \log w_k}{\partial z_k} \, \nabla_\phi z_k,
              \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    It has the same mean, and its signal does not drown in its noise as K grows. The other derivatives are as they were.

    Attributes:
        doubly_reparameterized: whether it is.
    """

    doubly_reparameterized: bool = False

    @abstractmethod
    def prior(self) -> LatentNormal:
        """Return p(z), of shape (Z,)."""

    @abstractmethod
    def encode(self, x: Tensor) -> LatentNormal:
        """Return q(z given x), of shape (B, Z)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Likelihood:
        """Return p(x given z) for z (K, B, Z), batch shape (K, B, C, H, W)."""

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x given z) for z (K, B, Z), (K, B) in nats."""
        return self.decode(z).log_prob_of_images(x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x given z) + log p(z), (K, B) in nats."""
        return self.log_p_x_given_z(x, z) + self.prior().log_prob(z)

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        proposal: Proposal = "encoder",
        encoded: LatentNormal | None = None,
    ) -> Tensor:
        """Return log w, (K, B) in nats, differentiable in all parameters that it depends on.

        Args:
            x: (B, C, H, W) uint8, values 0..L-1.
            n_samples: K.
            labels: of no use here.
            generator: of all randomness; on a CPU the k-th row does not depend on K.
            noise: of no use here.
            proposal: ``encoder`` draws z from q(z given x), ``prior`` from p(z): naive Monte Carlo, each image with
                draws of its own.
            encoded: q(z given x) of these images, where it is known already.

        Raises:
            ValueError: a proposal of another name.
        """
        if proposal not in get_args(Proposal):
            raise ValueError(f"proposal must be one of {', '.join(get_args(Proposal))}, not {proposal!r}")
        if proposal == "prior":
            return self.log_p_x_given_z(x, self.draw_latents(n_samples, len(x), generator=generator))
        q_z_given_x = self.encode(x) if encoded is None else encoded
        z = q_z_given_x.rsample(n_samples, generator=generator)  # (K, B, Z)
        if not (self.doubly_reparameterized and self.training and z.requires_grad):
            return self.log_joint(x, z) - q_z_given_x.log_prob(z)
        log_w = self.log_joint(x, z) - q_z_given_x.detach().log_prob(z)
        # the bound's own derivative brings one factor of these to z; the second is put on there
        shares = torch.softmax(log_w.detach(), dim=0)[..., None]  # (K, B, 1)
        z.register_hook(lambda gradient: gradient * shares)
        return log_w

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw z from the prior, then x from p(x given z)."""
        return self.sample_joint(n_images, generator=generator)[1]

    def sample_joint(self, n_images: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw z (B, Z) from the prior, then x (B, C, H, W) from p(x given z): z is then a draw from p(z given x)."""
        z = self.prior().rsample(n_images, generator=generator)  # (B, Z)
        return z, self.decode(z[None]).sample(generator=generator)[0]

    def draw_latents(self, n_samples: int, n_images: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw z from the prior, (K, B, Z), independent for each image; on a CPU the k-th does not depend on K."""
        return self.prior().expand(n_images).rsample(n_samples, generator=generator)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the middle of p(x given z) at the mean of q(z given x), (B, C, H, W) in level units, to be looked at.

        It is the mean, but for coupled channels: see ``central`` there.

        Raises:
            ValueError: x is not images of the model.
        """
        self.check(x)
        self.check_places(x)
        return self.decode(self.encode(x).mean[None]).central[0]


class DensityModel(ImageModel):
    r"""A density p(y) of dequantized images y = (x + u) / L in [0, 1)^D.

    .. math:: \log w_k = \log p\Big(\frac{x + u_k}{L}\Big) - D \log L - \log r(u_k \mid x), \qquad u_k \sim r(u \mid x)

    Raises:
        ValueError: more levels than float32 can tell noise within.
    """

    dequantizer: Dequantizer

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int) -> None:
        """Refuse more than 4,096 levels."""
        super().__init__(image_shape, n_levels)
        if n_levels > MAX_LEVELS:
            raise ValueError(f"a density model takes at most {MAX_LEVELS} levels, not {n_levels}")

    @property
    def kind(self) -> Kind:
        """``density`` without dequantization noise, else ``lower``."""
        return "lower" if self.dequantizer.is_noise else "density"

    @property
    def keeps_noise(self) -> bool:
        """Whether the dequantizer is of fixed noise."""
        return self.dequantizer.is_fixed

    def check(self, x: Tensor, labels: Tensor | None = None, noise: Tensor | None = None) -> None:
        """Refuse what is not images of this model, or not noise for them: see :meth:`ImageModel.check`."""
        super().check(x, labels, noise)
        if noise is not None:
            check_noise(noise, x.shape)

    @abstractmethod
    def log_density(self, y: Tensor) -> Tensor:
        """Return log p(y), (B,) in nats, of y (B, C, H, W) float64 in (0, 1)."""

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return log w for u ~ r(u given x), (K, B) in nats; without noise the density at the middle of the cell."""
        n_samples = n_samples if self.dequantizer.is_noise else 1
        u, log_r_u_given_x = self.dequantizer(x, n_samples, generator=generator, noise=noise)
        y = dequantize(x, u, self.n_levels)  # (K, B, C, H, W)
        log_density = self.log_density(y.flatten(0, 1)).unflatten(0, y.shape[:2])  # (K, B)
        return log_density - self.n_dims * math.log(self.n_levels) - log_r_u_given_x
