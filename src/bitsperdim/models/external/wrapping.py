r"""Wrappers that turn an external model into an :class:`~bitsperdim.models.base.ImageModel`; one class per method.

==================  =================================  =====================================================
method              class                              log w
==================  =================================  =====================================================
``log_prob``        :class:`ExternalMass`              log P(x), exact
``conditionals``    :class:`ExternalConditionals`      sum of log p(x_i given x_<i), exact
``encode``          :class:`ExternalLatent`            log p(x given z) + log p(z) - log q(z given x)
``log_weights``     :class:`ExternalWeights`           as the model gives them
``log_density``     :class:`.density.ExternalDensity`  log p(y) + D log((high - low) / L)
``bound``           :class:`ExternalBound`             draws of a bound, whose mean is a bound
``velocity``        :class:`.ode.ExternalOde`          log p(y), from an ordinary differential equation
``score``           :class:`.ode.ExternalOde`          the same
==================  =================================  =====================================================

Invariants (``tests/models/external/test_wrapping.py``): a model gives the same result through every method, within
Monte Carlo errors (``test_every_way_in_is_the_same_number``); a result of a method with a wrong shape, or with NaN,
raises an error in one sentence (``test_what_is_refused``).
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError, shown
from bitsperdim.likelihoods import DiagonalNormal, Likelihood
from bitsperdim.models.conditional import ConditionalModel, sub_pixel_order
from bitsperdim.models.external.codes import ExternalCode
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.density import ExternalDensity
from bitsperdim.models.external.external import External
from bitsperdim.models.external.methods import Offer
from bitsperdim.models.external.ode import TIMES, ExternalOde
from bitsperdim.models.latent import LatentModel

ORDERS = ("raster", "planes")
WITHOUT_LABELS = ("encode", "log_density")  # methods that do not take labels


class ExternalNumbers(External):
    """Base class for methods that return log-weights directly, so that nothing has to be computed from parts."""

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return the log-weights of :meth:`numbers`."""
        return self.numbers(x, n_samples, labels, generator)

    @abstractmethod
    def numbers(self, x: Tensor, n_samples: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return the log-weights of the model for K samples in nats, (K, B); (1, B) if it is exact."""


class ExternalMass(ExternalNumbers):
    """A model that returns log P(x) itself."""

    is_exact = True

    def numbers(self, x: Tensor, n_samples: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return log P(x) in nats, (1, B)."""
        given = self.asked("log_prob", x, labels=labels, generator=generator)
        return self.per_image(given, "log_prob", (len(x),))[None]


class ExternalConditionals(External, ConditionalModel):
    """A model that returns the distribution of each sub-pixel given the earlier ones in an order.

    Args:
        order: ``raster`` (pixel by pixel, channel by channel within a pixel), ``planes`` (channel by channel), or the
            position of each sub-pixel, (C, H, W) integers.
    """

    is_exact = True

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        offer: Offer,
        convention: Convention,
        *,
        n_classes: int | None = None,
        order: str | Tensor = "raster",
    ) -> None:
        """Store the arguments, also the order."""
        super().__init__(image_shape, n_levels, offer, convention, n_classes=n_classes)
        self._order = places(order, image_shape)

    @property
    def order(self) -> Tensor:
        """The position of every sub-pixel in the order of the model, (C, H, W) int64."""
        return self._order.to(self.device)

    def conditionals(
        self, x: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return p(x_i given x_<i), batch shape (B, C, H, W)."""
        name = self.offer.method
        given = self.asked(name, x, labels=labels, generator=generator)
        return self.likelihood_of(given, name, (len(x),))


class ExternalLatent(External, LatentModel):
    """A model with a latent code: a prior, an encoder and a decoder."""

    @property
    def can_sample(self) -> bool:
        """True: without a method ``sample``, a code is drawn from the prior, and then an image given this code."""
        return True

    @cached_property
    def has_derivatives(self) -> bool:
        """Whether log p(x, z) has derivatives with respect to z; it has none if the code is discrete or bounded."""
        black = torch.zeros(1, *self.image_shape, dtype=torch.int64, device=self.device)
        prior = self.prior()
        with torch.enable_grad():
            z = prior.expand(1).rsample(1).detach()
            if not z.is_floating_point() or not prior.is_anywhere:
                return False
            z.requires_grad_()
            terms = (self.log_p_x_given_z(black, z), prior.log_prob(z))
            # a term may have derivatives with respect to the weights, but not with respect to the code
            return all(
                term.requires_grad and torch.autograd.grad(term.sum(), z, allow_unused=True)[0] is not None
                for term in terms
            )

    def prior(self) -> ExternalCode:  # type: ignore[override]  # it has the methods of a normal that are needed
        """Return p(z), shape (Z,)."""
        return ExternalCode(self.called("prior"), "prior", (), self.device, self.event)

    def encode(self, x: Tensor) -> ExternalCode:  # type: ignore[override]
        """Return q(z given x), shape (B, Z)."""
        return ExternalCode(self.asked("encode", x), "encode", (len(x),), self.device)

    def encode_as_normal(self, x: Tensor) -> DiagonalNormal:
        """Return the normal with the means and standard deviations of q(z given x), shape (B, Z)."""
        return self.encode(x).as_normal()

    def decode(self, z: Tensor) -> Likelihood:
        """Return p(x given z) for z (K, B, Z), batch shape (K, B, C, H, W)."""
        leading = tuple(z.shape[:-1])
        given = self.called("decode", z.reshape(-1, *self.event))
        return self.likelihood_of(given, "decode", leading)

    @cached_property
    def event(self) -> tuple[int, ...]:
        """The shape of a code in the model."""
        black = torch.zeros(1, *self.image_shape, dtype=torch.int64, device=self.device)
        return self.encode(black).event

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw images with the model's own ``sample(n)``, or else draw codes from the prior and images given them."""
        of = External if "sample" in self.offer.functions else LatentModel
        drawn: Tensor = of.unchecked_sample(self, n_images, labels=labels, generator=generator)
        return drawn


class ExternalWeights(ExternalNumbers):
    """A model that returns log-weights itself."""

    def numbers(self, x: Tensor, n_samples: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return log w in nats, (K, B)."""
        given = self.asked("log_weights", x, n_samples, labels=labels, generator=generator)
        return self.per_image(given, "log_weights", (n_samples, len(x)))


class ExternalBound(ExternalNumbers):
    """A model that returns draws of a lower bound on log P(x), whose mean is a lower bound too.

    ``bound(x, n_levels)`` is called with the number of levels, ``bound(x)`` without it.
    """

    draws_bounds = True

    def numbers(self, x: Tensor, n_samples: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return K draws of the bound in nats, (K, B)."""
        more = (self.n_levels,) if takes(self.offer.functions["bound"], "n_levels") else ()
        drawn = [self.asked("bound", x, *more, labels=labels, generator=generator) for _ in range(n_samples)]
        return torch.stack([self.per_image(each, "bound", (len(x),)) for each in drawn])


CLASSES: dict[str, Callable[..., External]] = {
    "conditionals": ExternalConditionals,
    "logits": ExternalConditionals,
    "log_prob": ExternalMass,
    "encode": ExternalLatent,
    "log_weights": ExternalWeights,
    "log_density": ExternalDensity,
    "bound": ExternalBound,
    "velocity": ExternalOde,
    "score": ExternalOde,
}


def wrap(
    offer: Offer,
    image_shape: tuple[int, int, int],
    n_levels: int,
    *,
    convention: Convention | None = None,
    n_classes: int | None = None,
    interval: tuple[float, float] | None = None,
    ode: object = None,
    order: str | Tensor = "raster",
) -> External:
    """Wrap an external model as an ImageModel that calls one of its methods.

    Args:
        offer: method that the model offers (:func:`.methods.offers_of`).
        image_shape: (C, H, W).
        n_levels: number of levels L.
        convention: form of the images that the model takes.
        n_classes: number of classes; None: the model is not conditioned on labels.
        interval: interval (low, high) of a density.
        ode: settings of the differential equation (:func:`.ode.settings_of`), for a velocity or a score.
        order: order of the sub-pixels, for conditionals.

    Raises:
        InputError: an argument does not fit the method or the images.
    """
    options: dict[str, Any] = {"n_classes": n_classes}
    if n_classes is not None and offer.method in WITHOUT_LABELS:
        raise InputError(
            f"labels are not given to {offer.method}; a model with labels must offer log_prob, logits or log_weights."
        )
    if offer.method in ("log_density", *TIMES):
        options["interval"] = interval
    if offer.method in TIMES:
        options["ode"] = ode
    elif ode is not None:
        raise InputError(f"ode is not allowed for a model that offers {offer.method}; it is for velocity and score.")
    if offer.method in ("conditionals", "logits"):
        options["order"] = order
    modes = {} if offer.module is None else {part: part.training for part in offer.module.modules()}
    wrapped = CLASSES[offer.method](image_shape, n_levels, offer, convention or Convention(), **options).eval()
    for part, is_training in modes.items():  # wrapping does not change the mode of any part
        part.training = is_training
    return wrapped


def places(order: str | Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Return the position of every sub-pixel in an order, (C, H, W) int64.

    Raises:
        InputError: the name of the order is unknown, or the tensor does not hold every position once.
    """
    n_places = math.prod(image_shape)
    if isinstance(order, str):
        if order not in ORDERS:
            raise InputError(
                f"order = {shown(order)} is not allowed; choose raster (pixel by pixel, channels inside), "
                f"planes (channel by channel), or a tensor with the position of each sub-pixel."
            )
        cpu = torch.device("cpu")
        raster = order == "raster"
        return sub_pixel_order(image_shape, cpu) if raster else torch.arange(n_places).reshape(image_shape)
    order = torch.as_tensor(order)
    if tuple(order.shape) != tuple(image_shape) or order.flatten().sort().values.tolist() != list(range(n_places)):
        raise InputError(
            f"order must hold each of 0..{n_places - 1} once, in the shape {tuple(image_shape)} (C, H, W)."
        )
    return order.long()


def takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function has an argument of this name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # functions written in C have no signature
        return False
