"""Importance sampling with known log P(x), from proposals that are too narrow, exact, too wide, and from the prior."""

import itertools
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from bitsperdim.estimators.log_weights import extrapolation, jackknife, log_mean_exp, standard_error
from bitsperdim.evaluation.estimate import estimate
from bitsperdim.models import LatentModel
from support import annealing, laws
from support.cases import small_model

pytestmark = pytest.mark.processor


@pytest.mark.parametrize("width", [0.8, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("statistic", [log_mean_exp, jackknife, extrapolation])
def test_estimates_are_within_their_errors(width: float, statistic: Callable[[Tensor], Tensor]) -> None:
    """Three images, K = 5,000, a false alarm in one of 300,000 seeds each; with the posterior itself K = 2 is exact."""
    model = annealing.conjugate(width)
    exact = model.log_p(annealing.IMAGES)
    log_w = model.log_weights(annealing.IMAGES, 5_000, generator=annealing.seeded())
    if width == 1:
        torch.testing.assert_close(statistic(log_w[:2]), exact, rtol=0, atol=1e-12)
    else:
        error = standard_error(log_w)
        assert (error < 0.05).all()
        assert ((statistic(log_w) - exact).abs() < laws.FAR * error).all()
        assert ((statistic(log_w) - exact).abs() > 1e-6).all()


def test_the_prior_is_a_proposal_of_the_same_mass() -> None:
    """All sixteen images of a real VAE agree with quadrature in the evaluator; a false alarm in one of 60,000 seeds."""
    model, x = annealing.curved()
    with torch.no_grad():
        masses = laws.masses_by_quadrature(model, x)
    options = {"chunk_size": 500, "batch_size": 7}
    result = estimate(model, x, 4_000, generator=annealing.seeded(), proposal="prior", **options)
    assert result.kind == "lower"
    assert ((result.log_p - masses.log()).abs() < laws.FAR * result.standard_error).all()
    assert (result.standard_error < 0.1).all()
    other = estimate(model, x, 4_000, generator=annealing.seeded(), **options)
    assert (other.log_p != result.log_p).all()
    log_w = model.log_weights(x, 2_000, generator=annealing.seeded(), proposal="prior")
    annealing.means_are(log_w.exp() / masses, 1.0, 0.1)


def in_chunks(model: LatentModel, x: Tensor, generators: Iterable[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Return draws from the prior (6, B, Z), and their log-weights (6, B), in chunks of 1, 3 and 2 samples."""
    draws, log_w = [], []
    for n, generator in zip((1, 3, 2), generators, strict=False):
        state = generator.get_state()
        draws.append(model.draw_latents(n, len(x), generator=generator))
        log_w.append(model.log_weights(x, n, generator=generator.set_state(state), proposal="prior"))
    return torch.cat(draws), torch.cat(log_w)


def test_draws_from_the_prior_do_not_depend_on_chunks_and_differ_between_images() -> None:
    """The draws have the same bits, because each has its own call; the weights are equal up to rounding.

    The test also detects a generator that restarts with each chunk.
    """
    model, x = annealing.curved()
    same = x[[3, 3]]
    draws = model.draw_latents(6, 2, generator=annealing.seeded())
    whole = model.log_weights(same, 6, generator=annealing.seeded(), proposal="prior")
    found = in_chunks(model, same, itertools.repeat(annealing.seeded()))
    assert torch.equal(found[0], draws)
    torch.testing.assert_close(found[1], whole, rtol=0, atol=laws.ROUNDING)
    anew = in_chunks(model, same, (annealing.seeded() for _ in range(3)))
    assert (anew[1] - whole).abs().max() > 0.1
    assert (whole[:, 0] != whole[:, 1]).all()


def test_proposals_that_are_not_there() -> None:
    model, x = annealing.curved()
    with pytest.raises(ValueError, match="proposal must be one of encoder, prior, not 'posterior'"):
        model.log_weights(x, 2, proposal="posterior")
    exact = small_model("pixelcnn-binary-3x3")
    with pytest.raises(ValueError, match="needs a model with a latent variable, not PixelCNN"):
        estimate(exact, laws.all_images((1, 3, 3), 2), 2, chunk_size=2, batch_size=2, proposal="prior")


def test_joint_samples_are_of_the_model() -> None:
    """``sample`` draws the same images as ``sample_joint``, whose z generated them."""
    model, _ = annealing.curved()
    z, x = model.sample_joint(4_000, generator=annealing.seeded())
    assert torch.equal(x, model.sample(4_000, generator=annealing.seeded()))
    with torch.no_grad():
        mean = model.decode(z[None]).mean[0]
    annealing.far_from_zero(annealing.z_score((x.double() - mean).flatten(1)))
    annealing.far_from_zero(annealing.z_score((x.double() - mean).flatten(1) * z[:, :1]))
