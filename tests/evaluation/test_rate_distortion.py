"""The terms of the lower bound at K = 1 and its gaps, compared with closed forms of a conjugate model."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.config.params import EvaluateSection
from bitsperdim.data.prepared import Description, PreparedImages
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.evaluation import rate_distortion as module
from bitsperdim.evaluation.rate_distortion import rate_distortion, summarised
from bitsperdim.likelihoods import DiagonalNormal
from bitsperdim.runtime.checkpoints import Checkpoint
from support import annealing
from support.estimates import SECTION, fixed

CPU = torch.device("cpu")
N = 40


def images(model: annealing.LinearGaussian) -> Tensor:
    return model.sample_joint(N, generator=annealing.seeded(3))[1]


def found(model: annealing.LinearGaussian, checkpoint: Checkpoint | None = None, **changes: Any) -> dict[str, Any]:
    """Return the metrics of all images, with the exact log-likelihood in place of the bound with K samples."""
    x = images(model)
    data = PreparedImages(Description((1, 1, 3), 2, 2, "none", {"test": N}, "hash", "tag"), {"test": x.numpy()})
    section: EvaluateSection = SECTION.model_copy(update={"batch_size": 16, **changes})
    return rate_distortion(model.eval(), data, fixed(model.log_p(x).tolist()), section, CPU, checkpoint)


def test_the_terms_are_those_of_a_conjugate_model() -> None:
    """Distortion and rate of the encoder are within 4.5 Monte Carlo errors; a false alarm in one of 70,000 seeds."""
    model = annealing.conjugate(1.4)
    x, metrics = images(model), found(model)
    q = model.encode(x)
    variance = torch.exp(2 * q.log_scale)
    off = (model.residual(x) - q.mean @ model.matrix.T).square().sum(1)
    spread = variance @ model.matrix.square().sum(0)
    distortion = 0.5 * (off + spread) / model.noise**2 + 1.5 * math.log(math.tau * model.noise**2)
    rate = 0.5 * (variance + q.mean.square() - 1).sum(1) - q.log_scale.sum(1)
    for name, exact in (("distortion_nats", distortion), ("rate_nats", rate)):
        # the value of one sample is a quadratic form of two normals, whose spread is below its mean
        error = float(exact.abs().mean()) / math.sqrt(N * module.N_SAMPLES)
        assert error < 0.05
        assert abs(metrics["encoder"][name] - float(exact.mean())) < 4.5 * error
    assert metrics["n_images"] == N
    assert metrics["n_samples"] == module.N_SAMPLES


@pytest.mark.parametrize("width", [0.5, 1.0, 1.6])
def test_the_gaps_are_those_of_a_conjugate_model(width: float) -> None:
    """An encoder of another width than the posterior has a known divergence, and the best normal has no gap.

    The best normal is the posterior, so all its samples have the weight P(x). Random are only the progress of the
    optimization and the noise of the encoder's bound.
    """
    metrics = found(annealing.conjugate(width))
    gap = 2 * (0.5 * (width**2 - 1) - math.log(width))
    # the log of a weight is (width^2 - 1) / 2 times a chi-square with two degrees of freedom, of standard deviation 2
    error = abs(width**2 - 1) / math.sqrt(N * module.N_SAMPLES)
    assert abs(metrics["amortization_gap_nats"] - gap) < 4.5 * error + 0.002
    assert abs(metrics["approximation_gap_nats"]) < 0.002
    assert metrics["encoder"]["distortion_nats"] + metrics["encoder"]["rate_nats"] + metrics["log_p_nats"] == (
        pytest.approx(metrics["amortization_gap_nats"] + metrics["approximation_gap_nats"])
    )


def test_coupled_coordinates_have_a_gap_of_their_family() -> None:
    """The best normal with independent coordinates has the posterior's mean and its diagonal precisions.

    The encoder already is this normal, so the amortization gap is zero. The approximation gap is half the logarithm of
    the product of these precisions over the determinant.
    """
    model = annealing.Coupled()
    metrics = found(model)
    gap = 0.5 * float(model.precision.diagonal().log().sum() - model.precision.logdet())
    assert gap > 0.3
    correlation = float(model.precision[0, 1] / model.precision.diagonal().prod().sqrt())
    error = correlation / math.sqrt(N * module.N_SAMPLES)  # the log of a weight is a product of two normals
    assert abs(metrics["approximation_gap_nats"] - gap) < 4.5 * error + 0.03
    assert abs(metrics["amortization_gap_nats"]) < 0.03  # the optimization does not reach it exactly


def test_errors_are_paired_over_distinct_images() -> None:
    rows = torch.tensor([[3.0, 1.0, 2.5, 1.0], [5.0, 2.0, 4.0, 1.5], [9.0, 1.0, 7.0, 1.0]], dtype=torch.float64)
    log_p, same_as = torch.tensor([-3.0, -5.0, -7.0], dtype=torch.float64), torch.tensor([0, 1, 1])
    metrics = summarised(rows, log_p, same_as)
    assert metrics["amortization_gap_nats"] == pytest.approx((0.5 + 1.5 + 2.0) / 3)
    assert metrics["approximation_gap_nats"] == pytest.approx((0.5 + 0.5 + 1.0) / 3)
    for key, values in (("amortization", [0.5, 1.5, 2.0]), ("approximation", [0.5, 0.5, 1.0])):
        expected = mean_error(torch.tensor(values, dtype=torch.float64), same_as)
        assert metrics[f"{key}_gap_nats_standard_error"] == pytest.approx(expected)


def test_images_without_any_mass_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, log_prob = annealing.conjugate(), annealing.LinearGaussian.log_p_x_given_z
    first = images(model)[0]

    def impossible(self: annealing.LinearGaussian, x: Tensor, z: Tensor) -> Tensor:
        return log_prob(self, x, z).masked_fill((x == first).flatten(1).all(1), -math.inf)

    monkeypatch.setattr(annealing.LinearGaussian, "log_p_x_given_z", impossible)
    assert found(model)["n_images"] == N - 1
    nothing = lambda self, x, z: log_prob(self, x, z) - math.inf  # noqa: E731
    monkeypatch.setattr(annealing.LinearGaussian, "log_p_x_given_z", nothing)
    assert found(model) == {}


def test_nothing_is_done_where_nothing_is_asked() -> None:
    assert found(annealing.conjugate(), n_contrast=0) == {}


def test_it_goes_on_where_it_stopped(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three blocks the second is interrupted: the first is not repeated, and the numbers have the same bits."""
    whole, best, blocks = found(annealing.conjugate(1.3)), module.best_normal, []

    def stopping(model: Any, x: Tensor, section: Any, numbers: list[int]) -> DiagonalNormal:
        blocks.append(numbers[0])
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return best(model, x, section, numbers)

    monkeypatch.setattr(module, "best_normal", stopping)
    place = Checkpoint(tmp_path / "one", "one")
    with pytest.raises(KeyboardInterrupt):
        found(annealing.conjugate(1.3), place)
    assert found(annealing.conjugate(1.3), place) == whole
    assert blocks == [0, 16, 16, 32]
    assert np.isfinite(whole["amortization_gap_nats_standard_error"])
