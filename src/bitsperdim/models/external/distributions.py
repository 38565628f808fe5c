"""Masses of sub-pixels that an external model returns: logits, ``torch.distributions`` or objects like them.

A mass of sub-pixels is given as logits, (B, ..., L) or (B, L, ...) with the sub-pixels in the layout of the model, or
as a distribution over the levels 0..L-1. Only the method ``log_prob`` of a distribution is called, with levels as int64
(as floating-point numbers for Bernoulli trials). The audit checks that the masses sum to one.

Invariants (``tests/models/external/test_distributions.py``): all accepted forms of one mass give the same mass
(``test_every_form_is_the_same_mass``); a density or a wrong shape raises an error in one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.likelihoods import Likelihood
from bitsperdim.likelihoods.base import as_levels, at_least_float32
from bitsperdim.models.external.convention import Convention

BERNOULLI = (td.Bernoulli, td.Binomial, td.Geometric)  # distributions whose log_prob needs floating-point numbers


class ExternalLikelihood(Likelihood):
    """Masses of sub-pixels or of whole images that a model returned, with batch shape (*leading, C, H, W).

    Args:
        ask: function of levels (B, C, H, W) int64, where B is the product of ``leading``; it returns log-masses of the
            same shape, or those of whole images, (B,).
        name: name of the method that returned them, for messages.
        leading: first dimensions of the batch.
        image_shape: (C, H, W).
        n_levels: number of levels L.
        device: device of the masses.
    """

    def __init__(
        self,
        ask: Callable[[Tensor], Tensor],
        name: str,
        leading: Sequence[int],
        image_shape: tuple[int, int, int],
        n_levels: int,
        device: torch.device,
    ) -> None:
        """Store the arguments."""
        self.ask, self.name, self.leading, self.image_shape = ask, name, tuple(leading), image_shape
        self.n_levels, self.device = n_levels, device

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, (*leading, C, H, W).

        Raises:
            InputError: there are no masses of single sub-pixels.
        """
        found = self._asked(x)
        if found.ndim == 1:
            raise InputError(
                f"log_prob of the distribution that {self.name} returned gives one number for each image, but masses "
                f"of single sub-pixels are needed here."
            )
        return found.reshape(*self.leading, *self.image_shape)

    def log_prob_of_images(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats for whole images, (*leading)."""
        found = self._asked(x)
        return (found if found.ndim == 1 else found.flatten(1).sum(1)).reshape(self.leading)

    def _asked(self, x: Tensor) -> Tensor:
        wide = x.long().to(self.device).expand(*self.leading, *self.image_shape)
        return at_least_float32(self.ask(wide.reshape(-1, *self.image_shape)))

    def log_masses(self) -> Tensor:
        """Return log p of every level, (*leading, C, H, W, L)."""
        level = torch.zeros(self.image_shape, dtype=torch.int64, device=self.device)
        return torch.stack([self.log_prob(level + value) for value in range(self.n_levels)], dim=-1)

    def cdf(self, x: Tensor) -> Tensor:
        """Return P(X <= x) as a sum of masses."""
        masses = self.log_masses().exp().cumsum(-1)
        wide = x.long().to(self.device).expand(masses.shape[:-1])
        return masses.gather(-1, wide[..., None])[..., 0]

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw each sub-pixel from its masses, independently of the other sub-pixels."""
        masses = self.log_masses().exp().double()
        total = masses.cumsum(-1)
        u = torch.rand(total.shape[:-1], generator=generator, dtype=total.dtype, device=total.device)
        drawn = (total < u[..., None] * total[..., -1:]).sum(-1)
        return as_levels(drawn, self.n_levels)

    @property
    def mean(self) -> Tensor:
        """The mean in level units, (*leading, C, H, W)."""
        masses = self.log_masses().exp()
        return masses @ torch.arange(self.n_levels, dtype=masses.dtype, device=masses.device)


def likelihood_of(
    given: Any,  # noqa: ANN401 - whatever somebody's model returns
    name: str,
    leading: Sequence[int],
    image_shape: tuple[int, int, int],
    n_levels: int,
    convention: Convention,
    device: torch.device,
) -> Likelihood:
    """Return the masses that a method of a model returned for images.

    Args:
        given: logits, a distribution, an object with a ``log_prob``, or a likelihood of this package.
        name: name of the method that returned it, for messages.
        leading: first dimensions of the batch; the model saw their product, B.
        image_shape: (C, H, W).
        n_levels: number of levels L.
        convention: form of the images that the model takes.
        device: device of the model.

    Raises:
        InputError: the value is not allowed; the message names the returned and the allowed values.
    """
    if isinstance(given, Likelihood):
        return given
    n_images = int(torch.Size(leading).numel())
    inner = convention.inner_shape(image_shape)
    if isinstance(given, Tensor):
        log_masses = normalized(given, name, n_images, inner, n_levels)  # (B, *inner, L)
        ours = convention.back(log_masses, image_shape)

        def look_up(levels: Tensor) -> Tensor:
            return ours.gather(-1, levels[..., None])[..., 0]

        return ExternalLikelihood(look_up, name, leading, image_shape, n_levels, given.device)
    if not callable(getattr(given, "log_prob", None)):
        raise InputError(
            f"{name} returned {type(given).__name__}; it must return logits, or a distribution over the levels "
            f"0..{n_levels - 1} with a method log_prob."
        )
    if is_density(given):
        raise InputError(
            f"{name} returned {type(_single(given)).__name__}, which is a density and not a mass: return a likelihood "
            f"of levels (a categorical or a discretized one), or offer log_density with its range."
        )
    asked = _single(given)
    wants_floats = isinstance(asked, BERNOULLI)
    batch = tuple(asked.batch_shape) if isinstance(asked, td.Distribution) else ()
    if batch not in ((), inner, (1, *inner), (n_images, *inner)):  # others may be broadcast over a wrong dimension
        raise InputError(
            f"{name} returned {type(asked).__name__} of batch shape {batch}; it must be one for each sub-pixel, "
            f"{(n_images, *inner)}."
        )

    def log_prob(levels: Tensor) -> Tensor:
        value = convention.arranged(levels)
        try:
            found = asked.log_prob(value.to(torch.get_default_dtype()) if wants_floats else value)
        except (InputError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"log_prob of {type(asked).__name__}, which {name} returned, raised {type(error).__name__} when it was "
                f"called with levels, integers 0..{n_levels - 1} of shape {tuple(value.shape)}: {first_line(error)}."
            ) from error
        if isinstance(found, Tensor) and tuple(found.shape) == (n_images,):
            return found
        if not isinstance(found, Tensor) or tuple(found.shape) != (n_images, *inner):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"log_prob of the distribution that {name} returned must give one number for each sub-pixel, shape "
                f"{(n_images, *inner)}, but gave {shape}."
            )
        return convention.back(found, image_shape)

    return ExternalLikelihood(log_prob, name, leading, image_shape, n_levels, device)


def _single(given: Any) -> Any:  # noqa: ANN401 - a distribution
    """Return the distribution of single sub-pixels inside of :class:`torch.distributions.Independent`."""
    while isinstance(given, td.Independent):
        given = given.base_dist
    return given


def is_density(given: Any) -> bool:  # noqa: ANN401 - a distribution
    """Return whether the support of a distribution is continuous, so that it has a density and no masses."""
    try:
        return not _single(given).support.is_discrete
    except Exception:  # the distribution does not state its support
        return False


def first_line(error: Exception) -> str:
    """Return the first line of the message of an exception, without a full stop."""
    return (str(error).strip().splitlines() or [""])[0].rstrip(". :")


def normalized(logits: Tensor, name: str, n_images: int, inner: tuple[int, ...], n_levels: int) -> Tensor:
    """Return log-masses (B, *inner, L) for logits in any of the accepted shapes.

    Raises:
        InputError: the logits have another shape, or an ambiguous shape.
    """
    last, first = (n_images, *inner, n_levels), (n_images, n_levels, *inner)
    shape = tuple(logits.shape)
    accepted = {last: "last", first: "first"}
    if len(inner) == 3 and inner[0] == 1:
        accepted[n_images, n_levels, *inner[1:]] = "plane"
    if n_levels == 2:
        accepted[n_images, *inner] = "bernoulli"
    if shape == last == first:
        raise InputError(
            f"{name} returned logits of shape {shape}, which may be read in two ways, with the levels first or last; "
            f"return a torch.distributions.Categorical instead."
        )
    if shape not in accepted:
        allowed = " or ".join(str(each) for each in accepted if each != last or last != first)
        raise InputError(
            f"{name} returned logits of shape {shape}; for a batch of {n_images} and {n_levels} levels allowed are "
            f"{f'{allowed}, or' if allowed else 'only distributions:'} a torch.distributions.Categorical."
        )
    kind = accepted[shape]
    if not logits.is_floating_point():
        raise InputError(f"{name} returned logits of type {logits.dtype}; they must be floating-point numbers.")
    logits = at_least_float32(logits)
    if kind == "bernoulli":
        return torch.stack([torch.nn.functional.logsigmoid(-logits), torch.nn.functional.logsigmoid(logits)], dim=-1)
    if kind == "first":
        logits = logits.movedim(1, -1)
    elif kind == "plane":
        logits = logits[:, :, None].movedim(1, -1)
    return torch.log_softmax(logits, dim=-1)
