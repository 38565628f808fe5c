"""The result of training: a model, its curve and its times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitsperdim.core import labels
from bitsperdim.core.units import bits_per_dim
from bitsperdim.data.prepared import Description
from bitsperdim.models import ImageModel


@dataclass(frozen=True)
class Trained:
    """A trained model and the record of its training.

    Attributes:
        model: model with the best weights by validation, in evaluation mode.
        curve: one row per epoch, with the keys :data:`bitsperdim.runtime.curve.COLUMNS`.
        best_epoch: epoch of the weights; 0 for a closed-form model.
        validation_log_p: mean validation bound in that epoch, nats per image.
        seconds: training time over all runs, without the work that was lost in interruptions.
        n_presented: number of images that all processes presented in the steps of this run.
        step_seconds: time that these steps took, in seconds.
        times: training time at the end of each row of the curve, in seconds, with interrupted runs included.
    """

    model: ImageModel
    curve: list[dict[str, float | int]]
    best_epoch: int
    validation_log_p: float
    seconds: float = 0.0
    n_presented: int = 0
    step_seconds: float = 0.0
    times: Sequence[float] = ()

    def in_words(self, description: Description, n_samples: int) -> str:
        """Return which weights were kept, and their validation result.

        Args:
            description: description of the images.
            n_samples: K of the validation bound.
        """
        if self.best_epoch:
            kept = f"epoch {self.best_epoch} of {len(self.curve)}"
        else:
            kept = "closed form" if self.model.origin is None else "external model, not trained here"
        bpd = bits_per_dim(self.validation_log_p, description.image_shape)
        nats = -self.validation_log_p
        found = labels.of_validation(self.model.kind, bpd, nats, description.protocol, n_samples)
        return f"{kept}, validation {found}"
