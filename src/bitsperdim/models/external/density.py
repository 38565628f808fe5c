r"""Wrapper of a model that gives the log-density of continuous images, with the interval of their values.

Invariants (``tests/models/external/test_wrapping.py``): a density gives the same number as the masses of its cells,
within Monte Carlo errors (``test_every_way_in_is_the_same_number``).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError
from bitsperdim.models.density import DensityModel, NoiseFrom
from bitsperdim.models.external.codes import seeded
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.external import PRECISE, External
from bitsperdim.models.external.methods import Offer
from bitsperdim.models.parts.dequantization import MAX_LEVELS, UniformDequantizer


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
            raise InputError(
                f"{offer.method} is allowed for at most {MAX_LEVELS:,} levels, and these images have more."
            )
        super().__init__(image_shape, n_levels, offer, convention, n_classes=n_classes)
        if interval is None:
            raise InputError(
                f"{offer.method} needs `range`, the interval of all values, such as (0, 1). Level x has the cell from "
                "low + (high - low) x / L to low + (high - low) (x + 1) / L."
            )
        if self.dtype not in PRECISE:
            raise InputError(
                f"{offer.method} is not allowed with weights of type {self.dtype}, which is too coarse for the cells "
                f"of levels; call model.float() first."
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
