"""Active units in constructed models with one and with two layers, and the summary of annealing."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitsperdim.config.params import AnnealedSection, EvaluateSection, read_params
from bitsperdim.core.files import write_json
from bitsperdim.core.randomness import stream
from bitsperdim.data.prepared import Description, PreparedImages
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.evaluation import latent_code
from bitsperdim.evaluation.annealed import ais, bdmc
from bitsperdim.evaluation.estimate import estimate
from bitsperdim.models import LatentModel
from bitsperdim.models.vae import VAE
from bitsperdim.runtime.checkpoints import Checkpoint
from support.cases import small_model
from support.estimates import SECTION

CPU = torch.device("cpu")


def section(**annealed: int) -> EvaluateSection:
    content = {"n_images": 5, "n_simulated": 3, "n_chains": 4, "n_steps": 3, "n_leapfrog": 2, **annealed}
    return SECTION.model_copy(update={"seed": 3, "annealed": AnnealedSection(**content)})


def prepared(n_images: int = 50) -> PreparedImages:
    images = np.random.default_rng(0).integers(2, size=(n_images, 1, 2, 2), dtype=np.uint8)
    return PreparedImages(
        Description((1, 2, 2), 2, 2, "none", {"test": n_images}, "hash", "tag"), {"test": images}, noise={}
    )


def vae(deeper: list[dict[str, Any]]) -> VAE:
    options = {"likelihood": "bernoulli", "n_mixtures": 1, "doubly_reparameterized": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE((1, 2, 2), 2, latent_size=3, hidden_sizes=[4], deeper=deeper, **options)  # type: ignore[arg-type]
        return model.double().eval()


def test_annealing_is_in_proportion_where_its_numbers_are_null(committed: Callable[[str], str], tmp_path: Path) -> None:
    """Annealing takes a fifth of the passes of the importance samples; numbers of images that are given are kept."""
    path = tmp_path / "params.yaml"
    path.write_text(committed("params.yaml"), encoding="utf-8")
    default = read_params(path).evaluate
    assert (default.annealed.n_images, default.annealed.n_simulated) == (None, None)
    numbers = {}
    for n_test in (1, 2, 60, 360, 10_000):
        found = latent_code.in_proportion(default, n_test)
        numbers[n_test] = found.n_images, found.n_simulated
    assert numbers == {1: (1, 2), 2: (2, 2), 60: (2, 2), 360: (12, 10), 10_000: (20, 20)}
    asked = default.annealed.model_copy(update={"n_images": 7, "n_simulated": 0})
    given = latent_code.in_proportion(default.model_copy(update={"annealed": asked}), 60)
    assert (given.n_images, given.n_simulated) == (7, 0)


def test_active_units() -> None:
    """Two units of three follow the image, one barely; in a deeper layer the noise of the layer before is ignored."""
    model = vae([{"latent_size": 2, "hidden_sizes": [6]}])
    first, second = model.encoders
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (first.to_mean, second.to_mean):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64))
        first.to_mean.weight[1] *= 1e-3
        first.to_log_scale.bias.fill_(
            1.5
        )  # the input of the second layer varies far more by the draws than by the images
        second.to_mean.weight[0] = 0
    images = torch.from_numpy(prepared(400).images["test"])
    with torch.no_grad():
        means = model.encode(images).first.mean.var(0)
    assert ((means > latent_code.ACTIVE) == torch.tensor([True, False, True])).all()
    found = latent_code.active_units(model, images, torch.Generator().manual_seed(0), 77)
    assert found["n_units"] == 5
    with torch.no_grad():
        averages = torch.stack(
            [
                second(
                    model.encode(images).first.rsample(4_000, generator=torch.Generator().manual_seed(seed))
                ).mean.mean(0)
                for seed in (1, 2)
            ]
        )
    expected = int((averages.mean(0).var(0) > latent_code.ACTIVE).sum())
    assert averages[..., 0].var() == 0
    assert found["n_active_units"] == 2 + expected
    one_layer = latent_code.active_units(vae([]), images, torch.Generator(), 77)
    assert one_layer["n_units"] == 3
    assert latent_code.active_units(model, images[:1], torch.Generator(), 77) == {}


@pytest.mark.parametrize(("variance", "active"), [(0.0097, 0), (0.0103, 3)])
def test_a_unit_is_active_from_a_variance_of_a_hundredth_on(variance: float, active: int) -> None:
    """The means of one layer are scaled to a variance just below and just above the limit."""
    model = vae([])
    images = torch.from_numpy(prepared(300).images["test"])
    with torch.no_grad():
        spread = model.encode(images).mean.std(0)
        model.encoders[0].to_mean.weight.mul_((variance**0.5 / spread)[:, None])
    assert latent_code.active_units(model, images, torch.Generator(), 50)["n_active_units"] == active


def test_noise_of_draws_is_no_activity() -> None:
    """The second layer follows the noise of the first, not the image; with one average it would count as active."""
    model = vae([{"latent_size": 2, "hidden_sizes": [6]}])
    with torch.no_grad():
        model.encoders[0].to_mean.weight.zero_()
        model.encoders[0].to_log_scale.weight.zero_()
        model.encoders[0].to_log_scale.bias.fill_(1.0)
        images = torch.from_numpy(prepared(2_000).images["test"])
        one = model.encode(images).mean_of_each(latent_code.DRAWS, generator=torch.Generator().manual_seed(0))
        # three times the variance of an active unit: the covariance of 2,000 images is then 15 errors below the limit
        model.encoders[1].to_mean.weight.mul_((3 * latent_code.ACTIVE / one[:, 3:].var(0)).sqrt()[:, None])
    assert latent_code.active_units(model, images, torch.Generator().manual_seed(0), 77)["n_active_units"] == 0


def test_annealing_is_summarised() -> None:
    model, data, chosen_section = small_model("vae-bernoulli"), prepared(), section()
    assert isinstance(model, LatentModel)
    images = torch.from_numpy(data.images["test"])
    estimated = estimate(model, images, 12, chunk_size=12, batch_size=50, generator=torch.Generator().manual_seed(1))
    done: list[int] = []
    found = latent_code.annealing(model, data, estimated, chosen_section.annealed, 3, CPU, done.append)
    chosen = torch.randperm(50, generator=stream("annealed_images", 3))[:5].sort().values
    expected = ais(model, images[chosen], 4, 3, generator=stream("annealing", 3, 0), n_leapfrog=2)
    difference = expected.log_p - estimated.log_p[chosen]
    assert found["log_p_nats"] == pytest.approx(float(expected.log_p.mean()))
    assert found["importance_sampled_nats"] == pytest.approx(float(estimated.log_p[chosen].mean()))
    assert found["above_importance_sampled_nats"] == pytest.approx(float(difference.mean()))
    error = float(difference.std()) / math.sqrt(5)
    assert found["above_importance_sampled_nats_standard_error"] == pytest.approx(error)
    assert found["acceptance"] == pytest.approx(float(expected.acceptance.mean()))
    error = float(expected.standard_error.square().sum().sqrt()) / 5
    assert found["monte_carlo_error_nats"] == pytest.approx(error)
    bracket = bdmc(model, 3, 4, 3, generator=stream("simulation", 3, 0), n_leapfrog=2)
    assert found["simulated"]["gap_nats"] == pytest.approx(bracket.gap)
    assert found["simulated"]["lower_nats"] == pytest.approx(float(bracket.lower.mean()))
    assert found["simulated"]["upper_nats"] == pytest.approx(float(bracket.upper.mean()))
    assert found["simulated"]["gap_nats_standard_error"] == pytest.approx(bracket.gap_standard_error)
    assert done == [5, 3]
    assert (found["n_images"], found["n_chains"], found["n_steps"]) == (5, 4, 3)


def test_copies_among_the_annealed_images_count_once() -> None:
    """Copies are recognized by their indices in the whole test set."""
    model, data = small_model("vae-bernoulli"), prepared()
    assert isinstance(model, LatentModel)
    chosen = torch.randperm(50, generator=stream("annealed_images", 3))[:5].sort().values
    assert chosen.tolist() != [0, 1, 2, 3, 4]
    same_as, images = np.arange(50), torch.from_numpy(data.images["test"])
    same_as[chosen[1]] = chosen[0]
    estimated = estimate(model, images, 12, chunk_size=12, batch_size=50, generator=torch.Generator().manual_seed(1))
    data = dataclasses.replace(data, same_as={"test": same_as})
    found = latent_code.annealing(model, data, estimated, section(n_simulated=0).annealed, 3, CPU)
    expected = ais(model, images[chosen], 4, 3, generator=stream("annealing", 3, 0), n_leapfrog=2)
    error = mean_error(expected.log_p, torch.tensor([0, 0, 2, 3, 4]))
    assert found["log_p_nats_standard_error"] == pytest.approx(error)
    assert error != pytest.approx(mean_error(expected.log_p))


def test_no_more_images_than_there_are_and_none_where_none_are_asked_for() -> None:
    model, data = small_model("vae-bernoulli"), prepared(30)
    images = torch.from_numpy(data.images["test"])
    estimated = estimate(model, images, 12, chunk_size=12, batch_size=50, generator=torch.Generator())
    many = latent_code.of_the_code(model, data, estimated, section(n_images=45, n_simulated=0), CPU)
    assert many["annealed"]["n_images"] == 30
    assert "simulated" not in many["annealed"]
    none = latent_code.of_the_code(model, data, estimated, section(n_images=0, n_simulated=0), CPU)
    assert none.keys() == {"n_units", "n_active_units", "rate_distortion"}
    assert latent_code.of_the_code(small_model("pixelcnn-binary-3x3"), data, estimated, section(), CPU) == {}


def test_as_many_images_are_drawn_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are those of all five images, in three parts of at most two images each."""
    monkeypatch.setattr(latent_code, "CHAINS_AT_ONCE", 8)
    model, data = small_model("vae-bernoulli"), prepared()
    assert isinstance(model, LatentModel)
    images = torch.from_numpy(data.images["test"])
    estimated = estimate(model, images, 12, chunk_size=12, batch_size=50, generator=torch.Generator().manual_seed(1))
    asked, done = section(n_images=5, n_simulated=5).annealed, []
    found = latent_code.annealing(model, data, estimated, asked, 3, CPU, done.append)
    assert done == [2, 2, 1, 2, 2, 1]
    chosen = torch.randperm(50, generator=stream("annealed_images", 3))[:5].sort().values
    blocks = [(first, images[chosen[first : first + 2]]) for first in (0, 2, 4)]
    annealed = [ais(model, x, 4, 3, generator=stream("annealing", 3, first), n_leapfrog=2) for first, x in blocks]
    assert found["log_p_nats"] == pytest.approx(float(torch.cat([part.log_p for part in annealed]).mean()))
    sizes = {0: 2, 2: 2, 4: 1}
    brackets = [
        bdmc(model, n, 4, 3, generator=stream("simulation", 3, first), n_leapfrog=2) for first, n in sizes.items()
    ]
    gaps = torch.cat([bracket.upper - bracket.lower for bracket in brackets])
    assert found["simulated"]["gap_nats"] == pytest.approx(float(gaps.mean()))
    assert found["simulated"]["gap_nats_standard_error"] == pytest.approx(float(gaps.std()) / math.sqrt(5))


def test_annealing_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After interruptions at test images and at drawn images the numbers are the same, and no block is repeated."""
    monkeypatch.setattr(latent_code, "CHAINS_AT_ONCE", 8)
    model, data = small_model("vae-bernoulli"), prepared()
    assert isinstance(model, LatentModel)
    images = torch.from_numpy(data.images["test"])
    estimated = estimate(model, images, 12, chunk_size=12, batch_size=50, generator=torch.Generator().manual_seed(1))
    asked, place = section(n_images=5, n_simulated=5).annealed, Checkpoint(tmp_path / "one", "one", interval=0.0)
    expected = latent_code.annealing(model, data, estimated, asked, 3, CPU)
    done: list[int] = []

    def stop_at(n: int) -> None:
        def progress(n_images: int) -> None:
            done.append(n_images)
            if len(done) == n:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            latent_code.annealing(model, data, estimated, asked, 3, CPU, progress, place)

    stop_at(2)
    stop_at(5)
    assert latent_code.annealing(model, data, estimated, asked, 3, CPU, done.append, place) == expected
    assert done == [2, 2, 4, 1, 2, 5, 2, 2, 1]
    said = capsys.readouterr().out
    assert "annealing: resumes from a checkpoint with 4 of 5 images done." in said
    assert "simulation: resumes from a checkpoint with 2 of 5 images done." in said


def test_an_impossible_image_has_no_difference(tmp_path: Path) -> None:
    model, data = small_model("vae-bernoulli"), prepared(5)
    assert isinstance(model, LatentModel)
    images = torch.from_numpy(data.images["test"])
    estimated = estimate(model, images, 12, chunk_size=12, batch_size=50, generator=torch.Generator())
    log_p = estimated.log_p.clone()
    log_p[2] = -torch.inf
    found = latent_code.annealing(model, data, dataclasses.replace(estimated, log_p=log_p), section().annealed, 3, CPU)
    assert math.isfinite(found["above_importance_sampled_nats"])
    assert found["importance_sampled_nats"] == -math.inf
    write_json(tmp_path / "metrics.json", found)
