"""Units, against numbers known by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bitsperdim.core.units import bits_per_dim, n_dims, nats_to_bits, nats_to_bits_per_dim


def test_a_fair_coin_costs_one_bit_per_dimension() -> None:
    assert nats_to_bits(math.log(2)) == pytest.approx(1)
    assert bits_per_dim(784 * math.log(0.5), (1, 28, 28)) == pytest.approx(1)


def test_colour_channels_count_as_dimensions() -> None:
    """256 equally likely values for each of 3072 sub-pixels cost 8 bits each, not 24 per pixel."""
    assert n_dims((3, 32, 32)) == 3072
    assert bits_per_dim(-3072 * math.log(256), (3, 32, 32)) == pytest.approx(8)


def test_a_published_pair_of_numbers() -> None:
    """87.08 nats on binarized MNIST are 0.16 bits/dim (Keng's essay on importance sampling prints both)."""
    assert bits_per_dim(-87.08, (1, 28, 28)) == pytest.approx(0.1602, abs=5e-5)


def test_an_error_keeps_its_sign_and_a_likelihood_turns() -> None:
    assert nats_to_bits_per_dim(2.0, (1, 1, 2)) == pytest.approx(1 / math.log(2))
    assert bits_per_dim(2.0, (1, 1, 2)) == pytest.approx(-1 / math.log(2))


def test_arrays_and_tensors_keep_their_kind() -> None:
    assert isinstance(bits_per_dim(np.zeros(3), (1, 1, 1)), np.ndarray)
    assert isinstance(bits_per_dim(torch.zeros(3), (1, 1, 1)), torch.Tensor)


def test_no_other_file_knows_log_2(repository: Path) -> None:
    """A second constant is how bits/dim go wrong by 1 % or by 8x."""
    for path in (repository / "src").rglob("*.py"):
        if path.name != "units.py":
            text = path.read_text(encoding="utf-8")
            for spelling in ("log(2)", "log(2.0)", "0.693", "1.4426", "np.log2(", "torch.log2("):
                assert spelling not in text, f"{path.name} contains {spelling}"
