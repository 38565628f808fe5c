"""The trainer is reproducible, selects by validation, presents every image, and stops at NaN with one sentence."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import TrainSection
from bitsperdim.core.errors import InputError
from bitsperdim.core.units import bits_per_dim
from bitsperdim.models import ImageModel
from bitsperdim.models.vae import VAE
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.training import step, trainer
from bitsperdim.training.batches import Presentation
from bitsperdim.training.step import average_weight
from support.cases import small_model
from support.training_cases import CPU, SECTIONS, SETTINGS, images, power_cut, prepared, run, spied, weights


@pytest.mark.processor
@pytest.mark.parametrize("model", SECTIONS)
def test_one_seed_gives_one_set_of_weights(model: str) -> None:
    first, again, other = run(model), run(model), run(model, seed=1)
    assert torch.equal(weights(first), weights(again))
    assert first.curve == again.curve
    closed_form = model in ("histogram", "gaussian")
    assert torch.equal(weights(first), weights(other)) == closed_form


@pytest.mark.parametrize("model", ["vae", "iwae", "pixelcnn", "gated_pixelcnn", "pixelcnn_pp", "flow"])
def test_training_learns(model: str) -> None:
    """Training starts at 2 bits/dim; the entropy of this source, by enumeration, is 0.836 bits/dim."""
    trained = run(model, epochs=90)
    assert 1.5 < trained.curve[0]["validation_bpd"] < 2.2
    assert 0.6 < trained.curve[-1]["validation_bpd"] < 1.3


def test_the_last_epochs_have_another_k(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of four epochs of five batches has K = 7; before it, training is the same as without fine-tuning."""
    asked: list[int] = []
    log_weights = VAE.unchecked_log_weights

    def listening(self: VAE, x: Tensor, n_samples: int = 1, **options: Any) -> Tensor:
        if self.training:
            asked.append(n_samples)
        return log_weights(self, x, n_samples, **options)

    monkeypatch.setattr(VAE, "unchecked_log_weights", listening)
    plain = run("vae")
    monkeypatch.setitem(SECTIONS, "vae", {**SECTIONS["vae"], "finetune": {"epochs": 1, "train_samples": 7}})
    asked.clear()
    tuned = run("vae")
    assert asked == [1] * 15 + [7] * 5
    assert tuned.best_epoch == 4  # only fine-tuned epochs count, even if an earlier one is better
    assert tuned.curve[:3] == plain.curve[:3]
    assert tuned.curve[3] != plain.curve[3]


def test_a_model_that_looks_ahead_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks are missing from the start, so no step is taken."""
    monkeypatch.setattr("bitsperdim.models.pixelcnn.order_of", lambda *_, **__: None)
    monkeypatch.setattr(trainer._Trainer, "take_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(InputError, match=r"^Training \w+ \(seed 0\) stopped: the model looks ahead: a log-mass"):
        run("pixelcnn")


def test_the_weights_that_come_back_are_asked_whether_they_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check runs once before the first step, and once at the end with the weights that are returned."""
    asked: list[dict[str, Tensor]] = []
    check = trainer.check_scorable

    def listening(model: ImageModel, *inputs: Any) -> float | None:
        asked.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return check(model, *inputs)

    monkeypatch.setattr(trainer, "check_scorable", listening)
    trained = run("pixelcnn", epochs=2)
    assert len(asked) == 2
    last = trained.model.state_dict()
    assert all(torch.equal(tensor, last[name]) for name, tensor in asked[1].items())
    assert not all(torch.equal(tensor, last[name]) for name, tensor in asked[0].items())


def test_the_best_weights_by_validation_come_back() -> None:
    """With a learning rate that is too large, later epochs are worse; the returned weights score as the best epoch."""
    trained = run("vae", epochs=12, learning_rate=1.0, schedule="constant")
    bpds = [row["validation_bpd"] for row in trained.curve]
    assert trained.best_epoch == 1 + int(np.argmin(bpds))
    assert trained.best_epoch < 12
    data = prepared()
    again = trainer.mean_bound(
        trained.model,
        torch.from_numpy(data.images["validation"]),
        None,
        torch.from_numpy(data.noise["validation"]),
        TrainSection.model_validate(SETTINGS),
    )
    assert bits_per_dim(again, (1, 2, 3)) == pytest.approx(min(bpds), rel=1e-6)
    assert trained.validation_log_p == pytest.approx(again, rel=1e-6)
    assert not trained.model.training


def test_patience_stops_early() -> None:
    trained = run("vae", epochs=200, learning_rate=0.3, schedule="constant", patience=3)
    assert len(trained.curve) == trained.best_epoch + 3


def test_weights_from_before_the_fine_tuning_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation bound gets worse in every epoch."""
    values = iter(range(0, -100, -1))
    monkeypatch.setattr(trainer, "mean_bound", lambda *_: float(next(values)))
    assert run("iwae", epochs=4).best_epoch == 1
    assert run("iwae", epochs=4, finetune={"epochs": 2, "train_samples": 3}).best_epoch == 3


@pytest.mark.parametrize("model", ["vae", "gaussian"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_validation_bound_that_cannot_be_is_refused(
    model: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "mean_bound", lambda *_: value)
    with pytest.raises(InputError, match=f"likelihood of {value}" if model == "gaussian" else "not finite at step 5"):
        run(model)


def test_no_training_takes_over_what_another_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of section, settings, data, labels, split, device, seed, torch or code gives another checkpoint."""
    data, section = prepared(), FAMILIES["vae"].model_validate(SECTIONS["vae"])
    shared, cpu = TrainSection.model_validate(SETTINGS), torch.device("cpu")

    def place(**changes: Any) -> Checkpoint:
        given = {"section": section, "shared": shared, "prepared": data, "dataset_seed": 0, "device": cpu, "seed": 0}
        return trainer.checkpoint_of(**{**given, **changes})

    other = dataclasses.replace(data.description, test_sha256="other")
    places = [
        place(),
        place(section=section.model_copy(update={"latent_size": 3})),
        place(shared=shared.model_copy(update={"learning_rate": 0.02})),
        place(prepared=dataclasses.replace(data, description=other)),
        place(prepared=dataclasses.replace(data, labels={"train": np.zeros(75, dtype=np.int64)})),
        place(dataset_seed=1),
        place(device=torch.device("cuda")),
        place(seed=1),
    ]
    assert place() == places[0]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "code_of", lambda _: ())
        places.append(place())
    monkeypatch.setattr(torch, "__version__", "0")
    places.append(place())
    assert len({each.folder for each in places}) == len(places)


def test_a_closed_form_model_has_one_row_and_both_numbers() -> None:
    for model in ("histogram", "gaussian"):
        trained = run(model)
        assert [row["epoch"] for row in trained.curve] == [0]
        assert trained.best_epoch == 0
        assert np.isfinite([trained.curve[0]["train_bpd"], trained.curve[0]["validation_bpd"]]).all()


def test_the_validation_bound_is_that_of_the_noise_that_was_given() -> None:
    """Every batch uses the noise of its own images, so that all models are selected with the same draw."""
    model, generator = small_model("gaussian-grey"), torch.Generator().manual_seed(0)
    x = torch.randint(model.n_levels, (7, *model.image_shape), generator=generator, dtype=torch.uint8)
    noise = torch.rand(x.shape, generator=generator)
    settings = TrainSection.model_validate({**SETTINGS, "batch_size": 3, "validation_samples": 1})
    expected = float(model.log_weights(x, 1, noise=noise).mean())
    assert trainer.mean_bound(model, x, None, noise, settings) == pytest.approx(expected)
    assert trainer.mean_bound(model, x, None, noise.flip(0), settings) != pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 75])
def test_every_image_is_presented_once_an_epoch(n: int) -> None:
    x = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1)
    presentation = Presentation(x, x.flatten().long(), 256, dynamic=False)
    generator = torch.Generator().manual_seed(0)
    epochs = []
    for _ in range(2):
        rows = presentation.batches(presentation.order(generator), 16)
        batches = [presentation.batch(index, generator) for index in rows]
        assert all(torch.equal(batch.flatten().long(), labels) for batch, labels, _ in batches if labels is not None)
        assert all(noise is None for *_, noise in batches)
        epochs.append(torch.cat([batch for batch, *_ in batches]).flatten())
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, x.flatten())
    assert n == 1 or not torch.equal(*epochs)


def test_fixed_noise_stays_with_its_image() -> None:
    """An image always has the same noise; it differs between images, draws and seeds, and is uniform in [0, 1)."""
    x = torch.zeros(40, 1, 2, 3, dtype=torch.uint8)
    presentation = Presentation(x, None, 4, dynamic=False, noise_seed=3, n_samples=2)
    generator = torch.Generator().manual_seed(0)
    seen: dict[int, Tensor] = {}
    for _ in range(2):
        for index in presentation.batches(presentation.order(generator), 16):
            _, _, noise = presentation.batch(index, generator)
            assert noise is not None
            assert noise.shape == (2, len(index), 1, 2, 3)
            for place, row in enumerate(index.tolist()):
                assert torch.equal(seen.setdefault(row, noise[:, place]), noise[:, place])
    together = torch.stack(list(seen.values())).flatten()
    assert len(together.unique()) == 40 * 2 * 6
    assert abs(together.mean() - 0.5) < 4.9 * (1 / 12 / len(together)) ** 0.5  # false-alarm rate: one seed in a million
    other = Presentation(x, None, 4, dynamic=False, noise_seed=4, n_samples=2).fixed_noise(torch.tensor([0]))
    assert other is not None
    assert not torch.equal(other[:, 0], seen[0])


def test_the_noise_of_a_training_is_fixed_where_the_model_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor | None] = []
    take_step = trainer._Trainer.take_step

    def spy(self: Any, x: Tensor, labels: Tensor | None, noise: Tensor | None, *rest: Any) -> Tensor:
        given.append(noise)
        return take_step(self, x, labels, noise, *rest)

    monkeypatch.setattr(trainer._Trainer, "take_step", spy)
    run("realnvp", epochs=2, batch_size=75)
    assert all(noise is not None and noise.shape == (2, 75, 1, 2, 3) for noise in given)
    first, second = (torch.cat([noise]).sum((0, 2, 3, 4)).sort().values for noise in given if noise is not None)
    assert torch.equal(first, second)
    given.clear()
    run("flow", epochs=1)
    assert given
    assert not any(noise is not None for noise in given)


def test_dynamic_binarization_is_drawn_anew() -> None:
    """50,000 draws of level 1 of 4 levels give a share of 1/3 within 4.9 standard errors, and differ each time."""
    x = torch.ones(50_000, 1, 1, 1, dtype=torch.uint8)
    presentation = Presentation(x, None, 4, dynamic=True)
    generator = torch.Generator().manual_seed(0)
    first, second = presentation.drawn(x, generator), presentation.drawn(x, generator)
    assert set(first.unique().tolist()) == {0, 1}
    assert abs(first.double().mean().item() - 1 / 3) < 4.9 * (2 / 9 / 50_000) ** 0.5
    assert not torch.equal(first, second)
    ends = torch.tensor([0, 3], dtype=torch.uint8).repeat(1000)
    assert torch.equal(presentation.drawn(ends, generator), ends.clamp(max=1))


def test_dynamic_data_train_every_model() -> None:
    data = prepared("dynamic", n_levels=2)
    data.images["validation"] = (data.images["validation"] > 1).astype(np.uint8)
    for model in SECTIONS:
        assert np.isfinite(run(model, data, epochs=1).validation_log_p)


def test_the_schedule_warms_up_and_falls() -> None:
    trained = run("vae", epochs=10, warmup_steps=5, batch_size=75, learning_rate=1.0)
    rates = [row["learning_rate"] for row in trained.curve]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx([0.5 * (1 + np.cos(np.pi * i / 5)) for i in range(5)])
    constant = run("vae", epochs=4, warmup_steps=0, schedule="constant", learning_rate=0.5)
    assert [row["learning_rate"] for row in constant.curve] == [0.5] * 4


def test_steps_and_the_mean_over_uneven_batches() -> None:
    """75 images in batches of 16 are 5 steps per epoch, and the small last batch is weighted by its 11 images."""
    trained = run("pixelcnn", epochs=2, learning_rate=1e-12)
    assert [(row["step"], row["n_presented"]) for row in trained.curve] == [(5, 75), (10, 150)]
    settings = TrainSection.model_validate(SETTINGS)
    exact = trainer.mean_bound(trained.model, torch.from_numpy(images(75, 0)), None, None, settings)
    assert trained.curve[1]["train_bpd"] == pytest.approx(bits_per_dim(exact, (1, 2, 3)), rel=1e-6)


def test_gradients_are_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters: Any, max_norm: float, **more: Any) -> Tensor:
        parameters = list(parameters)
        result = clip(parameters, max_norm, **more)
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in parameters])))
        return result

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    run("vae", gradient_clip=0.01)
    assert norms
    assert max(norms) <= 0.01 * (1 + 1e-5)


def test_the_average_is_validated_and_kept() -> None:
    """In a run with strong fluctuations, the averaged weights differ from the run's own weights and are better."""
    settings = {"epochs": 30, "learning_rate": 0.3, "schedule": "constant"}
    plain, averaged = run("vae", **settings), run("vae", average_decay=0.95, **settings)
    assert not torch.equal(weights(plain), weights(averaged))
    assert [row["train_bpd"] for row in plain.curve] == [row["train_bpd"] for row in averaged.curve]
    last_ten = [np.mean([row["validation_bpd"] for row in run.curve[-10:]]) for run in (averaged, plain)]
    assert last_ten[0] < last_ten[1]


def test_the_average_forgets_the_start() -> None:
    weights = [average_weight(0.99, n) for n in (0, 8, 10_000)]
    assert weights == pytest.approx([0.1, 0.5, 0.99])


@pytest.mark.processor
def test_the_average_is_that_of_the_formula() -> None:
    """After one epoch of five steps, the kept weights are the weighted mean of the five, computed by hand."""
    with pytest.MonkeyPatch.context() as patch:
        seen = spied(patch)
        trained = run("vae", epochs=1, average_decay=0.3)
    expected = seen[0]
    for n, current in enumerate(seen[1:], start=1):
        weight = average_weight(0.3, n)
        expected = weight * expected + (1 - weight) * current
    kept = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-6)


def test_a_warm_up_takes_at_most_half_of_the_run() -> None:
    trained = run("vae", epochs=4, warmup_steps=1000, batch_size=75, learning_rate=1.0, schedule="constant")
    assert [row["learning_rate"] for row in trained.curve] == [0.5, 1.0, 1.0, 1.0]


def test_precision_does_not_move_a_closed_form() -> None:
    for model in ("histogram", "gaussian"):
        assert run(model).curve == run(model, precision="bfloat16").curve


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_may_be_that_of_the_device(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "fast_precision", lambda device: precision)
    assert run("pixelcnn", precision="auto").curve == run("pixelcnn", precision=precision).curve
    section = FAMILIES["pixelcnn"].model_validate(SECTIONS["pixelcnn"])
    place = {
        asked: trainer.checkpoint_of(section, TrainSection(precision=asked), prepared(), 0, CPU, 0).folder
        for asked in ("auto", "float32", "bfloat16")
    }
    assert place["auto"] == place[precision]  # so training is never resumed with another precision
    assert len({*place.values()}) == 2


@pytest.mark.processor
def test_bfloat16_is_close_to_float32() -> None:
    """With networks in bfloat16 (8 bits of mantissa) and likelihoods in float32, the curves agree within 2 %."""
    exact, rough = run("pixelcnn", epochs=5), run("pixelcnn", epochs=5, precision="bfloat16")
    assert weights(rough).dtype == torch.float32
    assert not torch.equal(weights(exact), weights(rough))
    assert rough.curve[-1]["validation_bpd"] == pytest.approx(exact.curve[-1]["validation_bpd"], rel=0.02)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [1, 8])
def test_a_loss_that_is_not_finite_names_model_step_and_remedy(
    value: float, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = trainer._Trainer.take_step

    def broken(self: Any, *batch: Any) -> Tensor:
        loss = take_step(self, *batch)
        return loss * value if self.state.step == step else loss

    monkeypatch.setattr(trainer._Trainer, "take_step", broken)
    with pytest.raises(InputError) as caught:
        run("vae")
    text = str(caught.value)
    assert f"Training vae (seed 0) met a loss that is not finite at step {step}, epoch {1 + (step > 5)};" in text
    assert "try a smaller learning_rate (now 0.01), a smaller gradient_clip (now 5)" in text


def test_a_diverged_run_is_caught_as_it_is() -> None:
    with pytest.raises(InputError, match="not finite at step"):
        run("vae", epochs=30, learning_rate=1e30, gradient_clip=None, schedule="constant")


def test_the_trainer_never_sees_the_test_set() -> None:
    """It gets only PreparedImages without a test split, and needs nothing more."""
    assert "test" not in prepared().images
    assert isinstance(run("vae", epochs=1).model, ImageModel)


@pytest.mark.parametrize("stop_at", [1, 3, 5, 8, 14])
@pytest.mark.parametrize("model", ["vae", "pixelcnn", "gated_pixelcnn", "pixelcnn_pp", "flow", "realnvp"])
def test_an_interrupted_run_ends_with_the_same_bytes(
    model: str, stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 1, 3, 8 and 14 are inside an epoch of five steps, step 5 ends one; the data are drawn again each time."""
    data = prepared("dynamic", n_levels=2)
    data.images["validation"] = (data.images["validation"] > 1).astype(np.uint8)
    settings = {"average_decay": 0.5, "epochs": 4}
    whole = run(model, data, **settings)
    checkpoint = Checkpoint(tmp_path / "one", "one", interval=0.0)
    with power_cut(stop_at):
        run(model, data, checkpoint=checkpoint, **settings)
    take_step = trainer._Trainer.take_step
    steps: list[int] = []

    def counting(self: Any, *arguments: Any) -> Tensor:
        steps.append(self.state.step)
        return take_step(self, *arguments)

    monkeypatch.setattr(trainer._Trainer, "take_step", counting)
    resumed = run(model, data, checkpoint=checkpoint, **settings)
    assert steps == list(range(stop_at, 20))
    assert f"resumes from a checkpoint in epoch {1 + stop_at // 5}, after {stop_at} steps" in capsys.readouterr().out
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.curve == resumed.curve
    assert len(resumed.times) == 4
    assert sorted(resumed.times) == resumed.times  # times from before the interruption are kept
    assert (whole.best_epoch, whole.validation_log_p) == (resumed.best_epoch, resumed.validation_log_p)
    again = run(model, data, checkpoint=checkpoint, **settings)  # finished training does not run again
    assert len(steps) == 20 - stop_at
    assert torch.equal(weights(whole), weights(again))


def test_a_schedule_ends_with_the_last_step() -> None:
    """With four epochs of five steps, the last step of each with fewer images, the cosine ends with the 20th step."""
    rates = [row["learning_rate"] for row in run("vae", epochs=4, warmup_steps=0, learning_rate=0.01).curve]
    expected = [0.005 * (1 + math.cos(math.pi * step / 20)) for step in (0, 5, 10, 15)]
    assert rates == pytest.approx(expected)


def test_a_training_that_took_longer_than_the_interval_is_kept_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later seed of the stage may be interrupted; shorter training is not saved."""
    checkpoint = Checkpoint(tmp_path / "one", "one", interval=60.0)
    run("vae", checkpoint=checkpoint)
    assert checkpoint.load() is None
    monkeypatch.setattr(trainer._Trainer, "seconds", 61.0)
    run("vae", checkpoint=checkpoint)
    found = checkpoint.load()
    assert found is not None
    assert found[1]["epoch"] == 5  # the epoch after the last one


def test_a_state_that_is_not_finite_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_step = trainer._Trainer.take_step

    def broken(self: Any, *batch: Any) -> Tensor:
        loss = take_step(self, *batch)
        return loss * float("nan") if self.state.step == 3 else loss

    monkeypatch.setattr(trainer._Trainer, "take_step", broken)
    checkpoint = Checkpoint(tmp_path / "one", "one", interval=0.0)
    with pytest.raises(InputError, match="not finite at step 3, epoch 1"):
        run("vae", checkpoint=checkpoint)
    found = checkpoint.load()
    assert found is not None
    assert found[1]["step"] == 2
