"""Hamiltonian transitions: one trajectory is tested up to rounding, many of them statistically."""

import pytest
import torch

from bitsperdim.evaluation import hmc
from support import annealing


def test_leapfrog_is_reversible() -> None:
    annealing.leapfrog_is_reversible()


def test_leapfrog_preserves_volume() -> None:
    annealing.leapfrog_preserves_volume()


def test_the_hamiltonian_is_kept_to_second_order() -> None:
    annealing.the_hamiltonian_is_kept_to_second_order()


def test_the_target_is_invariant() -> None:
    annealing.the_target_is_invariant()


def test_a_transition_is_its_own_reverse() -> None:
    annealing.a_transition_is_its_own_reverse()


def test_the_gradient_is_with_respect_to_z_alone() -> None:
    """They agree with central differences; no parameter of the model accumulates a gradient."""
    model, x = annealing.curved()
    path, z = hmc.Path(model, x), torch.full((1, 16, 2), 0.3, dtype=torch.float64)
    position, h = path.at(z), 1e-5
    for axis in range(2):
        move = h * torch.eye(2, dtype=torch.float64)[axis]
        difference = (path.at(z + move).log_ratio - path.at(z - move).log_ratio) / (2 * h)
        torch.testing.assert_close(position.gradient[..., axis], difference, rtol=0, atol=1e-8)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        joint = path.log_density(position, 1.0)
        torch.testing.assert_close(joint, model.log_joint(x, z))
        torch.testing.assert_close(path.log_density(position, 0.0), model.prior().log_prob(z))


@pytest.mark.processor
def test_images_are_independent() -> None:
    model, x = annealing.curved()
    step = torch.full((3,), 0.4, dtype=torch.float64)
    ends = []
    for images in (x[[3, 5, 9]], x[[3, 12, 0]]):
        path, generator = hmc.Path(model, images), annealing.seeded()
        position = path.at(model.draw_latents(6, 3, generator=generator))
        for _ in range(4):
            position, _ = hmc.transition(path, position, 0.8, step, 3, generator)
        ends.append(position.z)
    assert torch.equal(ends[0][:, 0], ends[1][:, 0])
    assert not torch.equal(ends[0][:, 1:], ends[1][:, 1:])


def test_a_trajectory_that_runs_away_is_rejected() -> None:
    """Steps that are far too large overflow; the chain stays at its position, without NaN."""
    path = hmc.Path(annealing.conjugate(), annealing.IMAGES)
    position = path.at(torch.zeros(4, 3, 2, dtype=torch.float64))
    step = torch.full((3,), 1e80, dtype=torch.float64)
    end, probability = hmc.transition(path, position, 1.0, step, 5, annealing.seeded())
    assert torch.equal(end.z, position.z)
    assert torch.equal(end.log_ratio, position.log_ratio)
    assert not probability.any()
