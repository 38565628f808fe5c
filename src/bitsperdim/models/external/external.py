"""Base class of the wrappers of external models: how they are called, and what they may return.

Invariants (``tests/models/external/test_wrapping.py``): a result with a wrong shape, or with NaN, raises an error in
one sentence (``test_what_is_refused``).
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from bitsperdim.core.errors import InputError
from bitsperdim.likelihoods import Likelihood
from bitsperdim.likelihoods.base import as_levels
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.blame import where
from bitsperdim.models.external.codes import seeded
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.distributions import first_line, likelihood_of
from bitsperdim.models.external.methods import Offer

LONG = re.compile(r"\blong\b|\bLong\b|int64")  # words in the error messages of torch for integer inputs
MEANT = " Is inputs = 'unit' or 'symmetric' meant?"
PRECISE = (torch.float32, torch.float64)


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


def described(value: object) -> str:
    """Describe a value in a few words: ``float32 (8, 1, 28, 28)``."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value) if isinstance(value, int | float) else type(value).__name__
