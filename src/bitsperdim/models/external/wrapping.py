r"""Wrappers that turn an external model into an :class:`~bitsperdim.models.base.ImageModel`; one class per method.

==================  =================================  =====================================================
method              class                              log w
==================  =================================  =====================================================
``log_prob``        :class:`ExternalMass`              log P(x), exact
``conditionals``    :class:`ExternalConditionals`      sum of log p(x_i given x_<i), exact
``encode``          :class:`ExternalLatent`            log p(x given z) + log p(z) - log q(z given x)
``log_weights``     :class:`ExternalWeights`           as the model gives them
``log_density``     :class:`ExternalDensity`           log p(y) + D log((high - low) / L)
``bound``           :class:`ExternalBound`             draws of a bound, whose mean is a bound
==================  =================================  =====================================================

Invariants (``tests/models/external/test_wrapping.py``): a model gives the same result through every method, within
Monte Carlo errors (``test_every_way_in_is_the_same_number``); a result of a method with a wrong shape, or with NaN,
raises an error in one sentence (``test_what_is_refused``).
"""

from __future__ import annotations

import inspect
import math
import re
from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bitsperdim.core.errors import InputError, shown
from bitsperdim.likelihoods import DiagonalNormal, Likelihood
from bitsperdim.likelihoods.base import as_levels
from bitsperdim.models.base import ImageModel
from bitsperdim.models.conditional import ConditionalModel, sub_pixel_order
from bitsperdim.models.density import DensityModel, NoiseFrom
from bitsperdim.models.external.blame import where
from bitsperdim.models.external.codes import ExternalCode, seeded
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.distributions import first_line, likelihood_of
from bitsperdim.models.external.methods import Offer
from bitsperdim.models.latent import LatentModel
from bitsperdim.models.parts.dequantization import MAX_LEVELS, UniformDequantizer

ORDERS = ("raster", "planes")
LONG = re.compile(r"\blong\b|\bLong\b|int64")  # words in the error messages of torch for integer inputs
MEANT = " Is inputs = 'unit' or 'symmetric' meant?"
PRECISE = (torch.float32, torch.float64)
WITHOUT_LABELS = ("encode", "log_density")  # methods that do not take labels


class NoLevelsError(InputError):
    """Raised when a model draws integers that are not levels of an image."""


class External(ImageModel):
    """Base class of the wrappers: the functions of the model, its weights, and the form of its inputs.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        offer: method that the model offers.
        convention: form of the images that the model takes.
        n_classes: number of classes; None: the model is not conditioned on labels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        offer: Offer,
        convention: Convention,
        *,
        n_classes: int | None = None,
    ) -> None:
        """Store the arguments, and refuse a layout that does not fit the images."""
        super().__init__(image_shape, n_levels)
        convention.inner_shape(image_shape)  # raises InputError if the layout does not fit
        self.module = offer.module if offer.module is not None else nn.Identity()
        self.offer, self.convention, self.n_classes = offer, convention, n_classes

    def asked(
        self,
        name: str,
        x: Tensor,
        *more: object,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the model returns
        """Call a function of the model with images in the form that it takes."""
        given = self.convention.arranged(self.convention.numbered(x, self.n_levels, self.dtype))
        return self.called(name, given, *more, labels=labels, generator=generator)

    def called(
        self, name: str, *values: object, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Any:  # noqa: ANN401 - whatever the model returns
        """Call a function of the model, and turn an error in it into an InputError of one sentence."""
        function = self.offer.functions[name]
        of_class = () if self.n_classes is None or labels is None else (labels,)
        try:
            with seeded(generator, self.device):
                return function(*values, *of_class)
        except (InputError, KeyboardInterrupt, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            shapes = ", ".join(described(value) for value in (*values, *of_class))
            at = where(error)
            raise InputError(
                f"{name}({shapes}) of the model raised {type(error).__name__}: {first_line(error)}"
                f"{f' ({at})' if at else ''}; it is given {self.words}."
                + (MEANT if self.convention.inputs == "integers" and LONG.search(str(error)) else "")
            ) from error

    def likelihood_of(self, given: object, name: str, leading: tuple[int, ...]) -> Likelihood:
        """Return the masses that a method returned for images: see :func:`.distributions.likelihood_of`."""
        return likelihood_of(given, name, leading, self.image_shape, self.n_levels, self.convention, self.device)

    @property
    def words(self) -> str:
        """The form of the inputs, in words."""
        return f"inputs = {self.convention.inputs!r}, layout = {self.convention.layout!r}"

    def per_image(self, given: object, name: str, shape: tuple[int, ...]) -> Tensor:
        """Check that a method returned numbers of the right shape and precision, and return them.

        Raises:
            InputError: the value is not a float32 or float64 tensor of this shape.
        """
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise InputError(f"{name} must return a tensor of floating-point numbers, but returned {described(given)}.")
        if tuple(given.shape) != shape:
            hint = ": a sum or mean over images loses them" if given.ndim == 0 else ""
            hint = ": sum over the sub-pixels of an image" if given.ndim > len(shape) else hint
            raise InputError(f"{name} must return shape {shape}, but returned {tuple(given.shape)}{hint}.")
        if given.dtype not in PRECISE:
            raise InputError(
                f"{name} returned {described(given)}, which is too coarse for a sum over sub-pixels; "
                f"compute the sum and return it in float32 or float64."
            )
        return given

    @property
    def can_sample(self) -> bool:
        """Whether the model has a method ``sample``."""
        return "sample" in self.offer.functions

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw images with the model's own ``sample(n)``, which returns integers in its layout.

        Raises:
            InputError: the model has no ``sample``, or it returns something else.
        """
        if "sample" not in self.offer.functions:
            raise InputError("The model has no method sample(n), so no images can be drawn.")
        drawn = self.called("sample", n_images, labels=labels, generator=generator)
        inner = self.convention.inner_shape(self.image_shape)
        if not isinstance(drawn, Tensor) or drawn.is_floating_point() or tuple(drawn.shape) != (n_images, *inner):
            raise InputError(
                f"sample({n_images}) must return integers of shape {(n_images, *inner)}, but returned "
                f"{described(drawn)}."
            )
        if int(drawn.min()) < 0 or int(drawn.max()) >= self.n_levels:
            raise NoLevelsError(
                f"sample({n_images}) must return levels from 0 to {self.n_levels - 1}, but returned some from "
                f"{int(drawn.min())} to {int(drawn.max())}."
            )
        return as_levels(self.convention.back(drawn, self.image_shape), self.n_levels)


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


class ExternalDensity(External, DensityModel):
    r"""A density of values in an interval; uniform noise connects it with masses.

    .. math:: y = low + (high - low) \frac{x + u}{L}, \qquad
              \log w = \log p(y) + D \log \frac{high - low}{L}

    Args:
        interval: interval (low, high), which is divided into L equal cells, one for each level.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        offer: Offer,
        convention: Convention,
        *,
        n_classes: int | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        """Store the arguments, and check the interval, the number of levels and the dtype of the weights."""
        if n_levels > MAX_LEVELS:
            raise InputError(f"log_density is allowed for at most {MAX_LEVELS:,} levels, and these images have more.")
        super().__init__(image_shape, n_levels, offer, convention, n_classes=n_classes)
        if interval is None:
            raise InputError(
                "log_density needs `range`, the interval of all values, such as (0, 1). Level x has the cell from "
                "low + (high - low) x / L to low + (high - low) (x + 1) / L."
            )
        if self.dtype not in PRECISE:
            raise InputError(
                f"log_density is not allowed with weights of type {self.dtype}, which is too coarse for the cells of "
                f"levels; call model.float() first."
            )
        self.low, self.high = interval
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"range = {interval} is not allowed; it must be two finite numbers, the smaller one first."
            )
        self.dequantizer = UniformDequantizer()

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        noise_from: NoiseFrom = "own",
    ) -> Tensor:
        """Return log w in nats, (K, B); random draws inside of the model, as for traces, are seeded too."""
        options: dict[str, Any] = {"labels": labels, "generator": generator, "noise": noise, "noise_from": noise_from}
        with seeded(generator, self.device):
            return super().unchecked_log_weights(x, n_samples, **options)

    def log_density(self, y: Tensor) -> Tensor:
        """Return the log-density of y in (0, 1) in nats, (B,), from the model's density of its own values."""
        width = self.high - self.low
        values = (self.low + width * y).to(self.dtype)
        limit = torch.tensor(self.high, dtype=self.dtype)
        values = values.clamp(self.low, float(torch.nextafter(limit, torch.tensor(self.low, dtype=self.dtype))))
        given = self.called("log_density", self.convention.arranged(values))
        return self.per_image(given, "log_density", (len(y),)).double() + self.n_dims * math.log(width)


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
}


def wrap(
    offer: Offer,
    image_shape: tuple[int, int, int],
    n_levels: int,
    *,
    convention: Convention | None = None,
    n_classes: int | None = None,
    interval: tuple[float, float] | None = None,
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
        order: order of the sub-pixels, for conditionals.

    Raises:
        InputError: an argument does not fit the method or the images.
    """
    options: dict[str, Any] = {"n_classes": n_classes}
    if n_classes is not None and offer.method in WITHOUT_LABELS:
        raise InputError(
            f"labels are not given to {offer.method}; a model with labels must offer log_prob, logits or log_weights."
        )
    if offer.method == "log_density":
        options["interval"] = interval
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


def described(value: object) -> str:
    """Describe a value in a few words: ``float32 (8, 1, 28, 28)``."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value) if isinstance(value, int | float) else type(value).__name__
