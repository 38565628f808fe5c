"""Measure likelihoods by differential equations: their error against closed forms, and the time for images of 32 x 32.

The first table is for the score of a mixture of normals, one sub-pixel, whose density is known. It shows the largest
error of log p(y) on a grid of points, and the number of calls of the score. The second table is for a network with the
shape of a small U-Net and random weights, and colour images of 32 x 32: the time for 100 images is computed from a few.

    python benchmarks/equations.py
"""

from __future__ import annotations

import math
import time

import torch
from measuring import heading, table
from torch import Tensor, nn
from torch import distributions as td

from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.methods import offers_of
from bitsperdim.models.external.ode import ExternalOde, settings_of
from bitsperdim.models.external.wrapping import wrap
from bitsperdim.models.parts.noise_schedules import schedule_of
from bitsperdim.models.parts.ode import METHODS
from bitsperdim.runtime.device import set_up_device

END = 0.01  # time of the data
N_STEPS = (8, 16, 32, 64, 128)
N_IMAGES, N_COUNTED = 4, 100


class Mixture:
    """The score of a mixture of three normals in one dimension, with the noise schedule ``vp``."""

    weights = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    means = torch.tensor([-0.6, 0.1, 0.55], dtype=torch.float64)
    scales = torch.tensor([0.06, 0.12, 0.08], dtype=torch.float64)

    def __init__(self) -> None:
        """Count calls from zero; the weights make the computation float64."""
        self.n_calls = 0
        self.unit = nn.Linear(1, 1).double().eval()

    def at(self, t: Tensor) -> td.MixtureSameFamily:
        """Return the distribution at some times (B,)."""
        schedule = schedule_of("vp")
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        parts = td.Normal(alpha * self.means, (alpha.square() * self.scales.square() + sigma.square()).sqrt())
        return td.MixtureSameFamily(td.Categorical(self.weights.expand(len(t), 3)), parts)

    def score(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the score in the shape of y."""
        self.n_calls += 1
        at = y.flatten()
        (found,) = torch.autograd.grad(self.at(t).log_prob(at).sum(), at, create_graph=True)
        return found.reshape(y.shape)

    def base(self) -> td.Distribution:
        """Return the distribution at time 1, so that the error is that of the solver alone."""
        return self.at(torch.ones(1, dtype=torch.float64))


class SmallUNet(nn.Module):
    """Two scales with a skip connection, 0.7 million random weights."""

    def __init__(self, n: int = 96) -> None:
        """Build the layers."""
        super().__init__()
        self.first = nn.Conv2d(4, n, 3, padding=1)
        self.down = nn.Sequential(nn.SiLU(), nn.Conv2d(n, 2 * n, 3, stride=2, padding=1))
        self.middle = nn.Sequential(nn.SiLU(), nn.Conv2d(2 * n, 2 * n, 3, padding=1), nn.SiLU())
        self.up = nn.Sequential(nn.Conv2d(2 * n, 4 * n, 1), nn.PixelShuffle(2))
        self.last = nn.Sequential(nn.Conv2d(2 * n, n, 3, padding=1), nn.SiLU(), nn.Conv2d(n, 3, 3, padding=1))

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        """Return a velocity in the shape of y."""
        time_plane = t.reshape(-1, 1, 1, 1).expand(-1, 1, *y.shape[2:])
        first = self.first(torch.cat([y, time_plane], dim=1))
        moved: Tensor = self.last(torch.cat([first, self.up(self.middle(self.down(first)))], dim=1))
        return moved


def wrapped(model: object, shape: tuple[int, int, int], ode: dict[str, object]) -> ExternalOde:
    """Wrap a model with the settings of its equation."""
    (offer, *_) = offers_of(model)
    made = wrap(offer, shape, 256, convention=Convention(), interval=(-1.0, 1.0), ode=settings_of(ode, offer.method, 1))
    if not isinstance(made, ExternalOde):
        raise TypeError("the model offers no equation")
    return made


def errors() -> list[list[str]]:
    """Return the rows of the first table."""
    y = torch.linspace(0.03, 0.97, 200, dtype=torch.float64).reshape(-1, 1, 1, 1)
    alpha = schedule_of("vp").at(END)[0]
    rows = []
    for method in METHODS:
        for n_steps in N_STEPS:
            net = Mixture()
            settings = {"schedule": "vp", "times": [1.0, END], "n_steps": n_steps, "method": method, "noise": "uniform"}
            with torch.no_grad():
                found = wrapped(net, (1, 1, 1), settings).log_density(y)
            times = torch.tensor([END], dtype=torch.float64)
            truth = net.at(times).log_prob(alpha * (2 * y.flatten() - 1)) + math.log(2 * alpha)
            rows.append([method, str(n_steps), str(net.n_calls), f"{float((found - truth).abs().max()):.1e}"])
    return rows


def times() -> list[list[str]]:
    """Return the rows of the second table."""
    net = SmallUNet().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (N_IMAGES, 3, 32, 32), generator=generator)
    rows = []
    for method, n_steps in (("midpoint", 32), ("rk4", 16), ("rk4", 32)):
        model = wrapped(net, (3, 32, 32), {"n_steps": n_steps, "method": method, "probes": 1})
        with torch.no_grad():
            model.log_weights(images[:1], 1, generator=generator)
            started = time.monotonic()
            model.log_weights(images, 1, generator=generator)
            seconds = time.monotonic() - started
            for coarser in (2, 4):
                model.log_weights(images, 1, generator=generator, coarser=coarser)
            with_error = time.monotonic() - started
        scale = N_COUNTED / N_IMAGES
        rows.append([method, str(n_steps), f"{scale * seconds:.0f} s", f"{scale * with_error:.0f} s"])
    return rows


def main() -> None:
    """Print both tables."""
    device = set_up_device()
    heading("Likelihoods by differential equations", device)
    table(("method", "steps", "calls of the score", "largest error of log p(y), nats"), errors())
    n_weights = sum(each.numel() for each in SmallUNet().parameters())
    print(f"\n{N_COUNTED} colour images of 32 x 32, a network of {n_weights:,} weights, one sample, one probe")
    table(("method", "steps", "time", "time with the solver error"), times())


if __name__ == "__main__":
    main()
