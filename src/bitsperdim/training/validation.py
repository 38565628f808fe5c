"""The validation bound: the same samples and the same random numbers for every model and every epoch.

Invariants: it is that of the noise that was given, in every batch that of its own images
(``tests/training/test_training.py::test_the_validation_bound_is_that_of_the_noise_that_was_given``); classes stay with
their images too (``tests/test_own_rows.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitsperdim.config.families.base import TrainSection
from bitsperdim.core.randomness import stream
from bitsperdim.models import ImageModel
from bitsperdim.runtime import distributed
from bitsperdim.training.step import DTYPES, bound_of


@torch.no_grad()
def mean_bound(
    model: ImageModel,
    images: Tensor,
    labels: Tensor | None,
    noise: Tensor | None,
    settings: TrainSection,
    after_batch: Callable[[], None] = lambda: None,
) -> float:
    """Return the mean over images of the bound with ``validation_samples``, nats, always on the same random numbers.

    Several processes share each batch, and all get the same number.

    Args:
        model: on the device of the images, which fit it (they are not checked again each epoch); left in evaluation
            mode.
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        noise: (N, C, H, W), the dequantization noise of the first sample.
        settings: batch size, samples and precision.
        after_batch: called after each batch.
    """
    model.eval()
    device = images.device
    generator = stream("validation", device=device)
    precision = DTYPES[settings.precision]
    total = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(images), settings.batch_size):
        mine = distributed.share(min(settings.batch_size, len(images) - start))
        rows = slice(start + mine.rows.start, start + mine.rows.stop)
        generator.share = (mine.rows.start, mine.n_whole)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            log_w = model.unchecked_log_weights(
                images[rows],
                settings.validation_samples,
                labels=None if labels is None else labels[rows],
                generator=generator,
                noise=None if noise is None else noise[rows],
            )
        total += bound_of(model, log_w.double())[: mine.n_own].sum()
        after_batch()
    return float(distributed.all_summed(total)) / len(images)
