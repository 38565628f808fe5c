"""Fixtures: a repository, and log-likelihoods for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.laboratory import Laboratory


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path / "laboratory")


@pytest.fixture(scope="session")
def drawn() -> Callable[[int], np.ndarray]:
    """Return a function that draws log-likelihoods of 40 images, with larger spread over images than over models."""
    images = np.random.default_rng(0).normal(-8, 3, 40)

    def draw(seed: int, shift: float = 0.0) -> np.ndarray:
        return images + shift + np.random.default_rng(seed).normal(0, 0.2, 40)

    return draw
