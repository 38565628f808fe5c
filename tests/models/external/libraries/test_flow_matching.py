"""Models of flow_matching: the log-density of the library's own solver on the same grid, and what is refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitsperdim import evaluate
from bitsperdim.core.errors import InputError
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.libraries import adapted
from bitsperdim.models.external.methods import offers_of
from bitsperdim.models.external.wrapping import wrap

pytest.importorskip("flow_matching", reason="flow_matching is not installed")
from flow_matching.solver import MixtureDiscreteEulerSolver, ODESolver
from flow_matching.utils import ModelWrapper


class Net(nn.Module):
    """A velocity of vectors of four values."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.layers = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        moved: Tensor = self.layers(torch.cat([x, t.reshape(-1, 1).expand(len(x), 1)], dim=1))
        return moved


def log_p0(y: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).log_prob(y).sum(1)


@pytest.mark.parametrize("form", ["a solver", "a wrapped model"])
def test_it_is_the_number_of_flow_matching(form: str) -> None:
    """Both use the midpoint rule with 16 steps; float32 leaves 1e-5 of numbers of size 10."""
    net = Net().eval()
    solver = ODESolver(net)
    model = adapted(solver if form == "a solver" else ModelWrapper(net).eval(), "flow_matching")
    settings = {"n_steps": 16, "method": "midpoint"}
    wrapped = wrap(
        offers_of(model)[0], (1, 2, 2), 4, convention=Convention("integers", "flat"), interval=(-1.0, 1.0), ode=settings
    )
    y = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = (2 * y - 1).flatten(1).float()
    _, theirs = solver.compute_likelihood(points, log_p0, 1 / 16, method="midpoint", exact_divergence=True)
    with torch.no_grad():
        ours = wrapped.log_density(y)  # type: ignore[operator]
    torch.testing.assert_close(ours - 4 * math.log(2), theirs.double(), rtol=1e-5, atol=2e-5)


def test_the_word_is_enough() -> None:
    images = torch.arange(40).reshape(10, 1, 2, 2) % 4
    options: dict[str, Any] = {"n_levels": 4, "range": (-1, 1), "layout": "flat", "n_samples": 3}
    found = evaluate(ODESolver(Net().eval()), images, library="flow_matching", **options)
    assert found.n_samples == 3
    assert "ode:rk4,32-steps,0-to-1,exact,uniform-noise" in found.signature
    assert "weights:unknown" not in found.signature


def test_what_is_refused() -> None:
    for model, words in (
        (Net(), "it must be an ODESolver with a velocity model, or a ModelWrapper of such a model"),
        (ODESolver(lambda x, t: x), "whose velocity model is not a torch.nn.Module"),
        (object.__new__(MixtureDiscreteEulerSolver), "MixtureDiscreteEulerSolver; it must be an ODESolver"),
    ):
        with pytest.raises(InputError, match=words):
            adapted(model, "flow_matching")
