"""Image shapes so small that all images can be enumerated, and models of such images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from bitsperdim.auditing.chance import log_weights
from bitsperdim.auditing.check import Case
from bitsperdim.core.errors import InputError
from bitsperdim.core.randomness import stream
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.density import ExternalDensity
from bitsperdim.models.external.distributions import first_line
from bitsperdim.models.external.external import External
from bitsperdim.models.external.methods import Offer, offers_of
from bitsperdim.models.external.ode import ExternalOde
from bitsperdim.models.external.wrapping import ExternalConditionals, places, wrap

MOST = 100_000  # largest number of images
FEWER = 4096  # preferred number of images if log-weights are drawn many times for each image
FEW_LEVELS = (4, 3, 2)
N_TIMED = 64  # images
EXTRAPOLATED = 0.01  # tolerated relative error of an extrapolated logarithm
PURPOSE = 101  # purpose of random numbers
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Tiny:
    """A model of images that can be enumerated.

    Attributes:
        model: the model as a probability mass function with this package's interface.
        words: description of the model, for use in a sentence.
        is_smaller: whether it is the audited model itself, applied to images smaller than its own.
    """

    model: ImageModel
    words: str
    is_smaller: bool = False

    @property
    def n_images(self) -> int:
        """Number of all images, L^D."""
        return int(self.model.n_levels**self.model.n_dims)


def every_image(image_shape: Shape, n_levels: int) -> Tensor:
    """Return all images, (L^D, C, H, W) uint8, or int32 beyond 256 levels; the last sub-pixel changes fastest."""
    n_dims = math.prod(image_shape)
    powers = n_levels ** torch.arange(n_dims - 1, -1, -1)
    levels = torch.arange(n_levels**n_dims)[:, None] // powers % n_levels
    return levels.to(torch.uint8 if n_levels <= 256 else torch.int32).reshape(-1, *image_shape)


def tiny_model(case: Case) -> Tiny | str:
    """Return a model whose images can be enumerated, or a sentence that says why there is no such model.

    The first choice is the model itself, the second a model that ``build`` makes, the third the model itself applied to
    smaller images. In the third case the model must also accept larger images of another shape, which shows that it
    does not merely repeat sub-pixels to fit.
    """
    own = Tiny(case.model, "the model")
    if own.n_images <= MOST and _seconds(case, own.model) < case.seconds:
        return own
    reasons: list[str] = []
    for found in chain(_every_built(case, reasons), _every_smaller(case)):
        return found
    channels, height, width = case.data.image_shape
    built = f"build makes no tiny model that can be asked ({reasons[0]})" if reasons else "no build was given"
    return (
        f"There are {case.data.n_levels}^{channels * height * width} images, {built}, "
        f"and the model does not accept images so small that all of them can be scored in time."
    )


def is_of_its_size_only(case: Case, tiny: Tiny) -> bool:
    """Return whether a model that fails for smaller images seems to be right for images of its own size.

    A constant that counts the sub-pixels of its own images, such as 784 log 256, makes the total mass wrong for other
    sizes. The log of the total mass is then linear in the number of sub-pixels. So its value for the model's own size
    is extrapolated from two smaller sizes.
    """
    for other in _every_smaller(case):
        if other.model.n_dims != tiny.model.n_dims:
            (first, log_first), (second, log_second) = (
                (each.model.n_dims, _total(case, each)) for each in (tiny, other)
            )
            at_own = log_first + (log_second - log_first) / (second - first) * (case.model.n_dims - first)
            return abs(at_own) < EXTRAPOLATED * abs(log_first)
    return False


def _total(case: Case, tiny: Tiny) -> float:
    generator = stream("evaluation", case.seed, PURPOSE, 1, device=tiny.model.device)
    images = every_image(tiny.model.image_shape, tiny.model.n_levels)
    return float(torch.logsumexp(log_weights(case, images, generator, model=tiny.model), 0))


def _every_built(case: Case, reasons: list[str]) -> Iterator[Tiny]:
    """Yield the models that ``build`` makes for tiny shapes, and add the reasons of failures to ``reasons``."""
    if case.build is None:
        return
    n_channels, n_levels = case.data.image_shape[0], case.data.n_levels
    shapes = list(dict.fromkeys([(n_channels, 2, 2), (n_channels, 1, 2), (1, 2, 2), (1, 1, 2)]))
    for levels in (n_levels, *(few for few in FEW_LEVELS if few < n_levels)):
        for shape in _countable(case, shapes, levels):
            found = _built(case, shape, levels)
            if isinstance(found, str):
                reasons.append(found)
            elif _seconds(case, found.model) < case.seconds:
                yield found
            else:
                reasons.append(f"its model of {_words(shape, levels)} cannot be asked in time")


def _every_smaller(case: Case) -> Iterator[Tiny]:
    offer = None if case.asked is None else case.asked.offer
    sides = [(4, 4), (3, 3), (2, 4), (2, 2), (2, 1), (1, 2), (1, 1)]
    shapes = [(case.data.image_shape[0], *each) for each in sides]
    for shape in _countable(case, shapes, case.data.n_levels):
        found = None if offer is None else _smaller(case, offer, shape)
        if found is not None and _seconds(case, found.model) < case.seconds:
            yield found


def _countable(case: Case, shapes: list[Shape], n_levels: int) -> list[Shape]:
    """Return the shapes with at most :data:`MOST` images, the best first.

    Best is the largest number of images, or about 4,096 images if log-weights are drawn repeatedly.
    """
    counts = {shape: n_levels ** math.prod(shape) for shape in shapes}
    fitting = [shape for shape in shapes if counts[shape] <= MOST]
    best = FEWER if case.is_sampled else MOST
    return sorted(fitting, key=lambda shape: abs(math.log(counts[shape] / best)))


def _built(case: Case, shape: Shape, n_levels: int) -> Tiny | str:
    """Return the model that ``build`` makes for a shape, or why it fails."""
    try:
        made = case.build(image_shape=shape, n_levels=n_levels)  # type: ignore[misc]  # it is not None here
        if isinstance(made, nn.Module):
            made.eval()
        if isinstance(made, ImageModel) and not isinstance(made, External):
            model = made
        else:
            model = _like(case, offers_of(made, case.method)[0], shape, n_levels)
    except Exception as error:  # a user's function may raise anything for unexpected arguments
        return f"for {_words(shape, n_levels)} it raised {type(error).__name__}: {first_line(error)}"
    return Tiny(model, f"a model that build made for {_words(shape, n_levels)}")


def _smaller(case: Case, offer: Offer, shape: Shape) -> Tiny | None:
    n_levels = case.data.n_levels
    channels, height, width = shape
    try:
        larger = _like(case, offer, (channels, 3 * height, 5 * width), n_levels)
        if _seconds(case, larger) == math.inf:
            larger = _like(case, offer, (channels, 4 * height, 8 * width), n_levels)  # for models that halve the sides
            if _seconds(case, larger) == math.inf:
                return None
        model = _like(case, offer, shape, n_levels)
    except (InputError, ValueError):
        return None
    return Tiny(model, f"the model, asked for {_words(shape, n_levels)}", is_smaller=True)


def _seconds(case: Case, model: ImageModel) -> float:
    """Estimate the time in seconds for all images; infinity: the model gives no numbers for images of this shape."""
    generator = stream("evaluation", case.seed, PURPOSE, 0, device=model.device)
    try:
        for n_images in (3, N_TIMED):  # with two batch sizes, a model that regroups sub-pixels into images fails
            levels = torch.arange(n_images * model.n_dims) % model.n_levels
            images = levels.reshape(n_images, *model.image_shape)
            started = case.clock.now()
            log_weights(case, images, generator, model=model)
    except (InputError, ValueError, FloatingPointError):
        return math.inf
    return (case.clock.now() - started) / N_TIMED * float(min(model.n_levels**model.n_dims, MOST))


def _like(case: Case, offer: Offer, shape: Shape, n_levels: int) -> ImageModel:
    """Wrap a model in the same way as the audited model, for images of another shape."""
    model = case.model
    order = "raster"
    if isinstance(model, ExternalConditionals):
        known = [
            each for each in ("raster", "planes") if torch.equal(places(each, model.image_shape), model.order.cpu())
        ]
        if not known:
            raise InputError("The order of the conditionals is known only for images of the model's own shape.")
        order = known[0]
    return wrap(
        offer,
        shape,
        n_levels,
        convention=Convention() if case.asked is None else case.asked.convention,
        n_classes=model.n_classes,
        interval=(model.low, model.high) if isinstance(model, ExternalDensity) else None,
        ode=model.settings if isinstance(model, ExternalOde) else None,
        order=order,
    )


def _words(shape: Shape, n_levels: int) -> str:
    channels, height, width = shape
    return f"images of {height} x {width} x {channels} sub-pixels and {n_levels} levels"
