"""The yardsticks as the report shows them, with notes on the errors that come from the number of images.

Invariant (``tests/report/test_report.py``): with fewer images than levels, the entropy is marked as no yardstick and
is not drawn (``test_the_entropy_of_few_images_is_no_yardstick``).
"""

from __future__ import annotations

import math

from bitsperdim.core.yardsticks import YARDSTICKS, ImagesMetrics
from bitsperdim.results.formatting import plain, two_digits


def yardsticks(images: ImagesMetrics, *, drawn: bool = False) -> list[tuple[str, str, float]]:
    """Return name, meaning and bits per dimension of every yardstick, the smallest first.

    Args:
        images: metrics of the images.
        drawn: whether the result is for the chart; then a yardstick that is useless for these images is left out.
    """
    rows = []
    for yardstick in YARDSTICKS:
        value = getattr(images, yardstick.key)
        meaning = yardstick.meaning
        if value is None:
            continue
        if images.truth_bpd_standard_error is not None and yardstick.key == "truth_bpd":
            meaning += f"; \N{PLUS-MINUS SIGN} {two_digits(images.truth_bpd_standard_error)} over test images"
        if yardstick.key == "entropy_bpd":
            if images.n_test >= images.n_levels:
                meaning += f"; too small by about {two_digits(-images.entropy_bias_bpd)}"
            elif drawn:
                continue
            else:
                most = plain(math.log2(images.n_test), 2)
                meaning += f"; no yardstick here: the entropy of {images.n_test} images cannot exceed {most}"
        rows.append((yardstick.name, meaning, float(value)))
    return sorted(rows, key=lambda row: row[2])
