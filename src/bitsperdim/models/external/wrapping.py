r"""A model that was made elsewhere, as a mass function of ours: each method has its class.

==================  =================================  =====================================================
method              class                              log w
==================  =================================  =====================================================
``log_prob``        :class:`ExternalMass`              log P(x), exact
``conditionals``    :class:`ExternalConditionals`      sum of log p(x_i given x_<i), exact
``encode``          :class:`ExternalLatent`            log p(x given z) + log p(z) - log q(z given x)
``log_weights``     :class:`ExternalWeights`           as the model gives them
``log_density``     :class:`ExternalDensity`           log p(y) + D log((high - low) / L)
``bound``           :class:`ExternalBound`             draws of a bound, whose mean is one
==================  =================================  =====================================================

Invariants (``tests/models/external/test_wrapping.py``): one model gives the same number through every method, within
Monte Carlo errors (``test_every_way_in_is_the_same_number``); what a method returns in another shape, or as NaN, is
refused in one sentence (``test_what_is_refused``).
"""

from __future__ import annotations

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
LONG = re.compile(r"\blong\b|\bLong\b|int64")  # in what torch says of an input of integers
MEANT = " Is inputs = 'unit' or 'symmetric' meant?"
PRECISE = (torch.float32, torch.float64)
WITHOUT_LABELS = ("encode", "log_density")  # methods that are given none


class NoLevelsError(InputError):
    """A model draws integers that are not levels of an image."""


class External(ImageModel):
    """What all of them have: the functions of the model, its weights, what it takes.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        offer: of the model.
        convention: of the model.
        n_classes: of the labels that it is given; None: it is given none.
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
        """Remember how it is asked."""
        super().__init__(image_shape, n_levels)
        convention.inner_shape(image_shape)  # which refuses a layout that does not fit
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
        """Call a function of the model with images as it wants them."""
        given = self.convention.arranged(self.convention.numbered(x, self.n_levels, self.dtype))
        return self.called(name, given, *more, labels=labels, generator=generator)

    def called(
        self, name: str, *values: object, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Any:  # noqa: ANN401 - whatever the model returns
        """Call a function of the model; an error of its own becomes one sentence that names it."""
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
        """Return the masses that a method gave for images: see :func:`.distributions.likelihood_of`."""
        return likelihood_of(given, name, leading, self.image_shape, self.n_levels, self.convention, self.device)

    @property
    def words(self) -> str:
        """What the model is given, in words."""
        return f"inputs = {self.convention.inputs!r}, layout = {self.convention.layout!r}"

    def per_image(self, given: object, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return what a method gave, if it is numbers of the right shape.

        Raises:
            InputError: it is not.
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
                f"it must be added up and returned in float32 or float64."
            )
        return given

    @property
    def can_sample(self) -> bool:
        """Whether the model has a ``sample``."""
        return "sample" in self.offer.functions

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw images by the model's own ``sample(n)``, which gives integers in its layout.

        Raises:
            InputError: it has none, or that gives something else.
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
    """A model that gives what is asked for itself, and nothing that has to be put together."""

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return what :meth:`numbers` does."""
        return self.numbers(x, n_samples, labels, generator)

    @abstractmethod
    def numbers(self, x: Tensor, n_samples: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return what the model gives for K samples, (K, B) in nats; (1, B) where it is exact."""


class ExternalMass(ExternalNumbers):
    """log P(x) as the model gives it."""

    is_exact = True

    def numbers(self, x: Tensor, n_samples: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return log P(x), (1, B) in nats."""
        given = self.asked("log_prob", x, labels=labels, generator=generator)
        return self.per_image(given, "log_prob", (len(x),))[None]


class ExternalConditionals(External, ConditionalModel):
    """Each sub-pixel given those before it in an order.

    Args:
        order: ``raster`` (pixel by pixel, channels inside), ``planes`` (channel by channel), or (C, H, W) integers, the
            place of each sub-pixel.
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
        """Remember the order too."""
        super().__init__(image_shape, n_levels, offer, convention, n_classes=n_classes)
        self._order = places(order, image_shape)

    @property
    def order(self) -> Tensor:
        """The place of every sub-pixel in the order of the model, (C, H, W) int64."""
        return self._order.to(self.device)

    def conditionals(
        self, x: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return p(x_i given x_<i), batch shape (B, C, H, W)."""
        name = self.offer.method
        given = self.asked(name, x, labels=labels, generator=generator)
        return self.likelihood_of(given, name, (len(x),))


class ExternalLatent(External, LatentModel):
    """A latent code with a prior, an encoder and a decoder."""

    @property
    def can_sample(self) -> bool:
        """Whether it has; else a code is drawn, and an image given it."""
        return True

    @cached_property
    def has_derivatives(self) -> bool:
        """Whether log p(x, z) has derivatives in z, anywhere: not where the code is discrete or bounded."""
        black = torch.zeros(1, *self.image_shape, dtype=torch.int64, device=self.device)
        prior = self.prior()
        with torch.enable_grad():
            z = prior.expand(1).rsample(1).detach()
            if not z.is_floating_point() or not prior.is_anywhere:
                return False
            z.requires_grad_()
            terms = (self.log_p_x_given_z(black, z), prior.log_prob(z))
            # a number that has derivatives in the weights need have none in the code
            return all(
                term.requires_grad and torch.autograd.grad(term.sum(), z, allow_unused=True)[0] is not None
                for term in terms
            )

    def prior(self) -> ExternalCode:  # type: ignore[override]  # it does what a normal does
        """Return p(z), of shape (Z,)."""
        return ExternalCode(self.called("prior"), "prior", (), self.device, self.event)

    def encode(self, x: Tensor) -> ExternalCode:  # type: ignore[override]
        """Return q(z given x), of shape (B, Z)."""
        return ExternalCode(self.asked("encode", x), "encode", (len(x),), self.device)

    def encode_as_normal(self, x: Tensor) -> DiagonalNormal:
        """Return the normal that has the means and standard deviations of q(z given x), of shape (B, Z)."""
        return self.encode(x).as_normal()

    def decode(self, z: Tensor) -> Likelihood:
        """Return p(x given z) for z (K, B, Z), batch shape (K, B, C, H, W)."""
        leading = tuple(z.shape[:-1])
        given = self.called("decode", z.reshape(-1, *self.event))
        return self.likelihood_of(given, "decode", leading)

    @cached_property
    def event(self) -> tuple[int, ...]:
        """The shape of a code, as the model has it."""
        black = torch.zeros(1, *self.image_shape, dtype=torch.int64, device=self.device)
        return self.encode(black).event

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw images by the model's own ``sample(n)``, or else a code from the prior and an image given it."""
        of = External if "sample" in self.offer.functions else LatentModel
        drawn: Tensor = of.unchecked_sample(self, n_images, labels=labels, generator=generator)
        return drawn


class ExternalWeights(ExternalNumbers):
    """Log-weights as the model gives them."""

    def numbers(self, x: Tensor, n_samples: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return log w, (K, B) in nats."""
        given = self.asked("log_weights", x, n_samples, labels=labels, generator=generator)
        return self.per_image(given, "log_weights", (n_samples, len(x)))


class ExternalDensity(External, DensityModel):
    r"""A density of values in an interval, which uniform noise ties to masses.

    .. math:: y = low + (high - low) \frac{x + u}{L}, \qquad
              \log w = \log p(y) + D \log \frac{high - low}{L}

    Args:
        interval: (low, high), which holds the L cells of the levels side by side.
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
        """Remember the interval too."""
        if n_levels > MAX_LEVELS:
            raise InputError(f"log_density is not asked for images of more than {MAX_LEVELS:,} levels, as these are.")
        super().__init__(image_shape, n_levels, offer, convention, n_classes=n_classes)
        if interval is None:
            raise InputError(
                "log_density needs `range`, the interval of all values, such as (0, 1): level x has the cell from "
                "low + (high - low) x / L to low + (high - low) (x + 1) / L."
            )
        if self.dtype not in PRECISE:
            raise InputError(
                f"log_density is not asked of weights of type {self.dtype}, whose values cannot tell the cells of "
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
        """Return log w, (K, B) in nats; what the model itself draws, as traces may be, is seeded too."""
        options: dict[str, Any] = {"labels": labels, "generator": generator, "noise": noise, "noise_from": noise_from}
        with seeded(generator, self.device):
            return super().unchecked_log_weights(x, n_samples, **options)

    def log_density(self, y: Tensor) -> Tensor:
        """Return the log-density of y in (0, 1) that the model has of its own values, (B,) in nats."""
        width = self.high - self.low
        values = (self.low + width * y).to(self.dtype)
        limit = torch.tensor(self.high, dtype=self.dtype)
        values = values.clamp(self.low, float(torch.nextafter(limit, torch.tensor(self.low, dtype=self.dtype))))
        given = self.called("log_density", self.convention.arranged(values))
        return self.per_image(given, "log_density", (len(y),)).double() + self.n_dims * math.log(width)


class ExternalBound(ExternalNumbers):
    """Draws of a lower bound of log P(x), whose mean is a lower bound too."""

    draws_bounds = True

    def numbers(self, x: Tensor, n_samples: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return K draws of the bound, (K, B) in nats."""
        drawn = [self.asked("bound", x, labels=labels, generator=generator) for _ in range(n_samples)]
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
    """Return a mass function of ours that asks a model by one of its methods.

    Args:
        offer: the method (:func:`.methods.offers_of`).
        image_shape: (C, H, W).
        n_levels: L.
        convention: what the model takes.
        n_classes: of the labels that it is given; None: it is given none.
        interval: of a density, (low, high).
        order: of conditionals.

    Raises:
        InputError: an argument does not fit the method or the images.
    """
    options: dict[str, Any] = {"n_classes": n_classes}
    if n_classes is not None and offer.method in WITHOUT_LABELS:
        raise InputError(f"labels are not given to {offer.method}; offer log_prob, logits or log_weights for them.")
    if offer.method == "log_density":
        options["interval"] = interval
    if offer.method in ("conditionals", "logits"):
        options["order"] = order
    modes = {} if offer.module is None else {part: part.training for part in offer.module.modules()}
    wrapped = CLASSES[offer.method](image_shape, n_levels, offer, convention or Convention(), **options).eval()
    for part, is_training in modes.items():  # which stay as they were: whether they should is not decided here
        part.training = is_training
    return wrapped


def places(order: str | Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Return the place of every sub-pixel in an order, (C, H, W) int64.

    Raises:
        InputError: it is no order of these sub-pixels.
    """
    n_places = math.prod(image_shape)
    if isinstance(order, str):
        if order not in ORDERS:
            raise InputError(
                f"order = {shown(order)} is not allowed; choose raster (pixel by pixel, channels inside), "
                f"planes (channel by channel), or a tensor with the place of each sub-pixel."
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


def described(value: object) -> str:
    """Return what a value is, in a few words: ``float32 (8, 1, 28, 28)``."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value) if isinstance(value, int | float) else type(value).__name__
