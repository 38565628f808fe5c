"""The essay's experiment: which networks fit three predicates on 300 points of the plane.

The numbers in :data:`PUBLISHED` are those of Keng's essay "Universal ResNet: The One-Neuron Approximator": accuracy on
the training points, mean and spread of five training runs, in percent. This study uses other points, drawn by the same
rule.

**Differences from the essay**: initially, kinks lie among the data and the one-neuron columns are small; each step uses
all points; and the learning rate follows a half cosine. Besides the training points, fresh points drawn by the same
rule are scored, because the essay reports only how well a network fits.

Invariants (``tests/studies/universal_resnet/test_universal_resnet.py``): a network that gives the same answer for all
points gets the share of the larger class (``test_a_constant_scores_the_larger_class``); every network of the essay is
included with its published number (``test_every_network_of_the_essay_is_there``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitsperdim.studies.universal_resnet.jobs import Architecture, side_by_side, streams, torch_generator
from bitsperdim.studies.universal_resnet.nets import DenseNet, OneNeuronResNet
from bitsperdim.studies.universal_resnet.predicates import PREDICATES, labelled_points
from bitsperdim.studies.universal_resnet.training import cross_entropy, fit

Percent = tuple[float, float | None]

N_FRESH = 4_000
N_PIXELS = 80  # pixels of a decision region along each side
SOFT = 1 / 8  # scale of the log-odds in tanh, so that the border can be interpolated between pixels
DEPTHS, WIDTHS, SINGLE = (5, 10, 40), (2, 6), (5, 10, 40, 100, 300)

# mean and spread of five training runs for each predicate; None if the essay gives no spread
PUBLISHED: dict[str, tuple[Percent, Percent, Percent]] = {
    "resnet_5": ((98, 1), (85, 8), (67, 3)),
    "resnet_10": ((99, 0), (95, 3), (73, 3)),
    "resnet_40": ((98, 2), (98, 2), (88, 4)),
    "dense_2_5": ((86, None), (77, None), (62, None)),
    "dense_2_10": ((86, None), (77, None), (62, None)),
    "dense_2_40": ((86, None), (77, None), (62, None)),
    "dense_6_5": ((99, 0), (99, 1), (85, 5)),
    "dense_6_10": ((99, 1), (97, 6), (75, 8)),
    "dense_6_40": ((88, 6), (77, 0), (62, 0)),
    "single_5": ((99, 1), (79, 2), (66, 2)),
    "single_10": ((100, None), (86, 8), (68, 4)),
    "single_40": ((100, None), (97, 3), (77, 3)),
    "single_100": ((100, None), (99, 1), (81, 1)),
    "single_300": ((99, None), (97, 2), (78, 1)),
}
ARCHITECTURES = [
    *(Architecture("resnet", 1, depth) for depth in DEPTHS),
    *(Architecture("dense", width, depth) for width in WIDTHS for depth in DEPTHS),
    *(Architecture("single", width, 1) for width in SINGLE),
]
DRAWN = ("resnet_5", "resnet_40", "dense_2_10", "dense_6_10", "single_100")


@dataclass(frozen=True)
class Outcome:
    """The results of the experiment.

    Attributes:
        x: (N, 2) points.
        labels: (3, N) bool labels of each predicate.
        train: (nets, 3, seeds) accuracy on the training points.
        fresh: (nets, 3, seeds) accuracy on fresh points.
        n_parameters: number of parameters of each network.
        regions: (drawn nets, 3, pixels, pixels) tanh of an eighth of the log-odds on the square, for the seed that fits
            best.
    """

    x: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    fresh: np.ndarray
    n_parameters: list[int]
    regions: np.ndarray


def grid(n_pixels: int, reach: float) -> np.ndarray:
    """Return (n_pixels^2, 2) points evenly spread over [-reach, reach]^2 including its border, rows from below."""
    along = np.linspace(-reach, reach, n_pixels)
    return np.stack([axis.ravel() for axis in np.meshgrid(along, along)], -1)


def accuracy(y: Tensor, labels: Tensor) -> np.ndarray:
    """Return the share of correctly classified points, (B,), for log-odds y (B, N) and labels 0 or 1 (B, N)."""
    return ((y > 0) == (labels > 0.5)).double().mean(-1).cpu().numpy()


def run(
    seed: int, n_points: int, n_seeds: int, n_steps: int, rates: Mapping[str, float], device: torch.device
) -> Outcome:
    """Train every network of the essay for every predicate and seed.

    Args:
        seed: seed of points and networks.
        n_points: number of points; the essay has 300.
        n_seeds: number of networks that differ only in their initial weights; the essay has 5.
        n_steps: number of steps of each training run.
        rates: learning rate for each kind of network.
        device: device for training.
    """
    x, inside = labelled_points(n_points, np.random.default_rng(streams(seed, 0)))
    fresh_x, fresh_inside = labelled_points(N_FRESH, np.random.default_rng(streams(seed, 1)))
    points, fresh_points = _tensor(x, device), _tensor(fresh_x, device)
    labels = [_tensor(np.stack(list(sides.values())), device) for sides in (inside, fresh_inside)]
    stacked = [each.repeat_interleave(n_seeds, 0) for each in labels]  # (3 seeds, N)
    pixels = _tensor(grid(N_PIXELS, 1.0), device)

    def one(index: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
        architecture = ARCHITECTURES[index]
        generator = torch_generator(streams(seed, 2, index))
        nets = architecture.build(2, len(stacked[0]), generator).to(device)
        fit(nets, points, stacked[0], cross_entropy, n_steps, rates[architecture.kind])
        with torch.no_grad():
            train = accuracy(nets(points), stacked[0]).reshape(-1, n_seeds)
            fresh = accuracy(nets(fresh_points), stacked[1]).reshape(-1, n_seeds)
        return train, fresh, nets.n_parameters, _regions(nets, pixels, train)

    outcomes = side_by_side(one, range(len(ARCHITECTURES)))
    drawn = [index for index, architecture in enumerate(ARCHITECTURES) if architecture.name in DRAWN]
    return Outcome(
        x=x,
        labels=np.stack(list(inside.values())),
        train=np.stack([outcome[0] for outcome in outcomes]),
        fresh=np.stack([outcome[1] for outcome in outcomes]),
        n_parameters=[outcome[2] for outcome in outcomes],
        regions=np.stack([outcomes[index][3] for index in drawn]),
    )


def summary(outcome: Outcome) -> dict[str, dict[str, object]]:
    """Return accuracies in percent for each network and predicate, with those of the essay.

    Spreads are standard deviations.
    """
    found: dict[str, dict[str, object]] = {}
    for index, architecture in enumerate(ARCHITECTURES):
        row: dict[str, object] = {"n_parameters": outcome.n_parameters[index]}
        for place, predicate in enumerate(PREDICATES):
            train, fresh = 100 * outcome.train[index, place], 100 * outcome.fresh[index, place]
            published = PUBLISHED[architecture.name][place]
            row[predicate] = {
                "mean": float(train.mean()),
                "spread": float(train.std(ddof=1)),
                "best": float(train.max()),
                "fresh_mean": float(fresh.mean()),
                "essay_mean": published[0],
                **({} if published[1] is None else {"essay_spread": published[1]}),
            }
        found[architecture.name] = row
    return found


def rows(outcome: Outcome) -> Sequence[Mapping[str, object]]:
    """Return one row for each training run."""
    return [
        {
            "net": architecture.name,
            "predicate": predicate,
            "seed": seed,
            "train_accuracy": float(outcome.train[index, place, seed]),
            "fresh_accuracy": float(outcome.fresh[index, place, seed]),
        }
        for index, architecture in enumerate(ARCHITECTURES)
        for place, predicate in enumerate(PREDICATES)
        for seed in range(outcome.train.shape[-1])
    ]


def _regions(nets: OneNeuronResNet | DenseNet, pixels: Tensor, train: np.ndarray) -> np.ndarray:
    """Return the decision regions (predicates, pixels, pixels) of the seed that fits best (the first if several do)."""
    with torch.no_grad():
        y = torch.tanh(SOFT * nets(pixels)).cpu().numpy().reshape(*train.shape, N_PIXELS, N_PIXELS)
    return y[np.arange(len(train)), train.argmax(-1)]


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)
