"""Each image is scored with its own label and noise, whatever block it is in; the best epoch is that of validation.

Each test kills a mutant that had lived: the number was wrong, and nothing said so.
"""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch

from bitsperdim.config.families.base import TrainSection
from bitsperdim.data.prepared import Description, PreparedImages
from bitsperdim.evaluation import scoring
from bitsperdim.models import build
from bitsperdim.training import trainer
from bitsperdim.training.trainer import mean_bound
from support.cases import GATED, SMALL, small_model
from support.estimates import fixed, summarise
from support.sharded import SECTION
from support.training_cases import SETTINGS, run

CPU = torch.device("cpu")
N_IMAGES = 11  # of three blocks of four


def given_the_class() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A model of three classes that matter, its images and their labels, of which no two blocks have the same."""
    generator = torch.Generator().manual_seed(0)
    model = build("gated_pixelcnn", {**GATED, "n_classes": 3}, (1, 2, 3), 4).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    images = torch.randint(4, (N_IMAGES, 1, 2, 3), generator=generator).to(torch.uint8)
    return model, images, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1])


@torch.no_grad()
def test_each_test_image_has_its_own_label() -> None:
    model, images, labels = given_the_class()
    description = Description((1, 2, 3), 4, 4, "none", {"test": N_IMAGES}, "hash", "tag")
    noise = np.zeros(images.shape, dtype=np.float32)
    data = PreparedImages(description, {"test": images.numpy()}, {"test": labels.numpy()}, {"test": noise})
    found = scoring.evaluate_seed(model, data, SECTION, 0, CPU).log_p  # type: ignore[arg-type]
    expected = model.log_weights(images, labels=labels)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    others = model.log_weights(images, labels=labels.roll(1))[0]
    assert (others - expected).abs().min() > 1e-3


@torch.no_grad()
def test_each_validation_image_has_its_own_label_and_noise() -> None:
    model, images, labels = given_the_class()
    settings = TrainSection.model_validate({**SETTINGS, "batch_size": 4, "validation_samples": 1})
    expected = float(model.log_weights(images, labels=labels).mean())
    assert mean_bound(model, images, labels, None, settings) == pytest.approx(expected, rel=1e-9)  # type: ignore[arg-type]
    flow = small_model("flow-maf")
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(flow.n_levels, (N_IMAGES, *flow.image_shape), generator=generator).to(torch.uint8)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    expected = float(flow.log_weights(x, noise=noise).mean())
    assert mean_bound(flow, x, None, noise, settings) == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_each_test_image_has_its_own_noise() -> None:
    """With one sample a density model's log-weight is a function of the noise that is given."""
    flow = small_model("flow-maf")
    _, _, shape, n_levels = SMALL["flow-maf"]
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(n_levels, (N_IMAGES, *shape), generator=generator).to(torch.uint8)
    noise = torch.rand(x.shape, generator=generator)
    description = Description(shape, n_levels, n_levels, "none", {"test": N_IMAGES}, "hash", "tag")
    data = PreparedImages(description, {"test": x.numpy()}, noise={"test": noise.numpy()})
    section = SECTION.model_copy(update={"n_samples": 1})
    found = scoring.evaluate_seed(flow, data, section, 0, CPU).log_p
    torch.testing.assert_close(found, flow.log_weights(x, noise=noise)[0], rtol=1e-9, atol=1e-9)


def test_the_epoch_that_is_kept_is_the_best_of_validation() -> None:
    """Not of trainer, which goes on to get better."""
    with mock.patch.object(trainer, "mean_bound", side_effect=[-9.0, -5.0, -7.0, -6.0]):
        trained = run("vae", epochs=4)
    assert trained.best_epoch == 2
    assert np.argmin([row["train_bpd"] for row in trained.curve]) != 1
    assert trained.validation_log_p == -5.0


def test_medians_are_medians_of_all_seeds() -> None:
    first = dataclasses.replace(
        fixed([-1.0, -2.0, -3.0]),
        n_samples=1_000,
        ess=torch.tensor([20.0, 30.0, 900.0]),
        pareto_k=torch.tensor([0.1, 0.2, 0.3]),
    )
    other = dataclasses.replace(first, ess=torch.tensor([40.0, 50.0, 60.0]), pareto_k=torch.tensor([0.4, 0.5, 0.55]))
    metrics = summarise({0: first, 1: other}).metrics
    assert metrics.ess_median == 40  # of six, the lower of the middle two; the mean is 183
    assert metrics.pareto_k_median == pytest.approx(0.3)
