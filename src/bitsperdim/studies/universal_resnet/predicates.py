"""Points of the plane and their labels: the essay's predicates, and the paper's ball.

The predicates are those of Keng's essay "Universal ResNet: The One-Neuron Approximator": sets of rings around the
origin. In the last predicate, a tenth of the points is also inside by chance. Points are uniform on the square; the
essay draws 300 points.

The ball is the experiment of Lin and Jegelka (2018): points of the unit ball against points of a shell around it. Here,
the shell has radii between 2 and 3, and as many points as the ball.

Invariants (``tests/studies/universal_resnet/test_predicates.py``): the shares are the areas of the rings
(``test_the_shares_are_the_areas_of_the_rings``); the same seed gives the same points (``test_points_follow_the_seed``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Predicate = Callable[[np.ndarray, np.ndarray], np.ndarray]

CHANCE = 0.1  # probability of being inside by chance in the hard predicate
SHELL = (2.0, 3.0)


def easy(radius: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return radius < 0.4."""
    return radius < 0.4


def medium(radius: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return radius < 0.4 or radius >= 0.7."""
    return (radius < 0.4) | (radius >= 0.7)


def hard(radius: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return radius < 0.3 or 0.6 <= radius < 0.8, or True with probability 0.1 for any radius."""
    return (radius < 0.3) | ((radius >= 0.6) & (radius < 0.8)) | (chance < CHANCE)


PREDICATES: dict[str, Predicate] = {"easy": easy, "medium": medium, "hard": hard}


def labelled_points(n_points: int, generator: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw points of the square and label them as inside or outside.

    Returns:
        (N, 2) points uniform on [-1, 1]^2, and (N,) bool by the name of each predicate.
    """
    x = generator.uniform(-1, 1, (n_points, 2))
    radius, chance = np.hypot(x[:, 0], x[:, 1]), generator.random(n_points)
    return x, {name: predicate(radius, chance) for name, predicate in PREDICATES.items()}


def ball_and_shell(n_points: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw half of the points in the unit disc and half in the shell around it, both uniform by area.

    Returns:
        (N, 2) points, and (N,) bool: whether each point is in the ball.
    """
    inside = np.arange(n_points) < n_points // 2
    low = np.where(inside, 0.0, SHELL[0] ** 2)
    high = np.where(inside, 1.0, SHELL[1] ** 2)
    radius = np.sqrt(generator.uniform(low, high))
    angle = generator.uniform(0, 2 * np.pi, n_points)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1), inside
