"""The paper's experiment: can a network enclose the unit ball in a bounded region?

Lin and Jegelka (2018) show that a fully connected network of width d has decision regions that extend to infinity (or
are degenerate), however deep it is, while networks of one-neuron residual blocks can have bounded regions. Here both
kinds of networks are trained to separate the ball from a shell, at depths 1 to 5. Then each region is tested: it counts
as unbounded if a circle of radius :data:`FAR` around the origin has a point that the network classifies as the ball. A
network has *closed* the ball if no such point is found and most of the ball is inside the region.

One block is not enough, because a single bent line bounds its region. Two blocks can bound a triangle.

This is a test and not a proof. The circle is tested at :data:`N_DIRECTIONS` points. It misses an unbounded strip that
is thinner than the distance of these points. A bounded region that reaches beyond the circle counts as unbounded.

Invariants (``tests/studies/universal_resnet/test_universal_resnet.py``): a half-plane, a strip and a wedge are
unbounded, a triangle is not (``test_regions_that_go_to_infinity_are_told_from_closed_ones``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitsperdim.studies.universal_resnet.essay import SOFT, accuracy, grid
from bitsperdim.studies.universal_resnet.jobs import Architecture, side_by_side, streams, torch_generator
from bitsperdim.studies.universal_resnet.predicates import ball_and_shell
from bitsperdim.studies.universal_resnet.training import cross_entropy, fit

DEPTHS = (1, 2, 3, 4, 5)
FAR, N_DIRECTIONS = 100.0, 7_200
COVERED = 0.9  # share of the ball's points that a closed region must contain
N_PIXELS, REACH = 80, 4.0
ARCHITECTURES = [
    *(Architecture("dense", 2, depth) for depth in DEPTHS),
    *(Architecture("resnet", 1, depth) for depth in DEPTHS),
]


@dataclass(frozen=True)
class Outcome:
    """The results of the experiment.

    Attributes:
        x: (N, 2) points.
        inside: (N,) bool, whether each point is in the ball.
        rows: one row for each training run: kind, depth, seed, accuracy, share of the ball that is covered, share of
            the far circle that is classified as the ball, whether the ball is closed.
        regions: (nets, pixels, pixels) tanh of an eighth of the log-odds on the square, for the most accurate seed
            among those that closed the ball, or among all seeds if there are none.
    """

    x: np.ndarray
    inside: np.ndarray
    rows: list[dict[str, object]]
    regions: np.ndarray


def far_share(decide: Callable[[Tensor], Tensor], device: torch.device) -> np.ndarray:
    """Return the share of the far circle where y = ``decide(points)`` is positive, (B,); points (N, 2) -> y (B, N)."""
    angle = 2 * np.pi * (np.arange(N_DIRECTIONS) + 0.5) / N_DIRECTIONS
    circle = FAR * np.stack([np.cos(angle), np.sin(angle)], -1)
    return (decide(torch.from_numpy(circle.astype(np.float32)).to(device)) > 0).double().mean(-1).cpu().numpy()


def run(
    seed: int, n_points: int, n_seeds: int, n_steps: int, rates: Mapping[str, float], device: torch.device
) -> Outcome:
    """Train both kinds of networks at every depth.

    The arguments are those of :func:`bitsperdim.studies.universal_resnet.essay.run`.
    """
    x, inside = ball_and_shell(n_points, np.random.default_rng(streams(seed, 3)))
    points = torch.from_numpy(x.astype(np.float32)).to(device)
    labels = torch.from_numpy(inside.astype(np.float32)).to(device).expand(n_seeds, -1)
    pixels = torch.from_numpy(grid(N_PIXELS, REACH).astype(np.float32)).to(device)

    def one(index: int) -> tuple[list[dict[str, object]], np.ndarray]:
        architecture = ARCHITECTURES[index]
        nets = architecture.build(2, n_seeds, torch_generator(streams(seed, 4, index)), reach=3.0).to(device)
        fit(nets, points, labels, cross_entropy, n_steps, rates[architecture.kind])
        with torch.no_grad():
            y = nets(points)
            right, covered = accuracy(y, labels), accuracy(y[:, inside], labels[:, inside])
            far = far_share(nets, device)
            closed = (far == 0) & (covered >= COVERED)
            shown = int(np.lexsort((right, closed))[-1])
            region = torch.tanh(SOFT * nets(pixels)[shown]).cpu().numpy().reshape(N_PIXELS, N_PIXELS)
        rows: list[dict[str, object]] = [
            {
                "kind": architecture.kind,
                "depth": architecture.depth,
                "seed": number,
                "accuracy": float(right[number]),
                "covered": float(covered[number]),
                "far_share": float(far[number]),
                "is_closed": int(closed[number]),
            }
            for number in range(n_seeds)
        ]
        return rows, region

    outcomes = side_by_side(one, range(len(ARCHITECTURES)))
    rows = [row for found, _ in outcomes for row in found]
    return Outcome(x, inside, rows, np.stack([region for _, region in outcomes]))


def summary(outcome: Outcome) -> dict[str, dict[str, object]]:
    """Return for each kind and depth the number of networks that closed the ball, and accuracies in percent."""
    found: dict[str, dict[str, object]] = {}
    for architecture in ARCHITECTURES:
        chosen = [row for row in outcome.rows if (row["kind"], row["depth"]) == (architecture.kind, architecture.depth)]
        right = np.array([row["accuracy"] for row in chosen], dtype=np.float64)
        found[architecture.name] = {
            "n_nets": len(chosen),
            "n_closed": int(sum(np.array([row["is_closed"] for row in chosen], dtype=np.int64))),
            "best": float(100 * right.max()),
            "mean": float(100 * right.mean()),
        }
    return found
