"""The validation bound, with the same number of samples and the same random numbers for every model and epoch.

Invariants: the bound uses the given noise, and every batch uses the noise of its own images
(``tests/training/test_training.py::test_the_validation_bound_is_that_of_the_noise_that_was_given``); class labels stay
with their images too (``tests/test_own_rows.py``).
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
    """Return the mean over images of the bound with ``validation_samples``, nats, always with the same random numbers.

    Several processes share each batch, and all get the same number.

    Args:
        model: model on the device of the images; it is left in evaluation mode. The images must fit the model: they are
            not checked again in each epoch.
        images: images, (N, C, H, W) uint8.
        labels: class labels, (N,) int64; None: the model is not conditioned on labels.
        noise: dequantization noise of the first sample, (N, C, H, W); None: the model draws it.
        settings: batch size, number of samples and precision.
        after_batch: function that is called after each batch.
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
