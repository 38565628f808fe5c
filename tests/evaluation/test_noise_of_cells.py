"""The choice of the noise for a density, fitted noise, and the comparison with the density's own noise."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import models.test_flows as flows
import models.test_triangular as triangular
from bitsperdim.config.params import EvaluateSection
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.estimators.log_weights import log_mean_exp, standard_error
from bitsperdim.evaluation import estimate as estimating
from bitsperdim.evaluation import noise_of_cells, scoring, summary
from bitsperdim.models import DensityModel, ImageModel, build
from bitsperdim.models.parts.dequantization import VariationalDequantizer
from bitsperdim.runtime.checkpoints import Checkpoint
from support import laws
from support.cases import FLOW, LEARNED, SMALL, UNIFORM, small_model
from support.estimates import SECTION, prepared

pytestmark = pytest.mark.processor

CPU = torch.device("cpu")
ONE = {**FLOW, "n_transforms": 1}
FITTED = SECTION.model_copy(
    update={
        "noise": "fitted",
        "fitted_noise": SECTION.fitted_noise.model_copy(
            update={"n_couplings": 2, "n_filters": 6, "epochs": 20, "batch_size": 50, "learning_rate": 0.01}
        ),
    }
)


def flow_of(params: dict, shape: tuple[int, int, int] = (1, 1, 2), n_levels: int = 3) -> ImageModel:
    return build("flow", params, shape, n_levels).float().eval()


def data_of(name: str, n_train: int = 10) -> PreparedImages:
    data = prepared(name)
    _, _, shape, n_levels = SMALL[name]
    images = np.random.default_rng(3).integers(n_levels, size=(n_train, *shape), dtype=np.uint8)
    return dataclasses.replace(data, images={**data.images, "train": images})


def test_the_structure_decides() -> None:
    data, own = prepared("flow-maf"), SECTION.model_copy(update={"noise": "own"})
    found = {
        "one transform": flow_of({**ONE, **UNIFORM}),
        "one transform, learned noise": flow_of({**ONE, **LEARNED}),
        "two transforms": flow_of({**FLOW, **UNIFORM}),
        "no noise": flow_of({**ONE, **UNIFORM, "dequantization": "none"}),
        "normal": small_model("gaussian-grey"),
        "couplings": small_model("realnvp-plane"),
        "code": small_model("vae-categorical"),
    }
    chosen = {name: noise_of_cells.chosen(model, data, SECTION, 0) for name, model in found.items()}
    sequential = ("one transform", "one transform, learned noise", "normal")
    assert chosen == {name: "sequential" if name in sequential else "own" for name in found}
    assert {noise_of_cells.chosen(model, data, own, 0) for model in found.values()} == {"own"}


def test_what_was_chosen_is_named_and_is_another_estimate() -> None:
    data = prepared("flow-maf")
    names: dict[str, list[str | None]] = {}
    for name, params in (("uniform", {**ONE, **UNIFORM}), ("variational", {**ONE, **LEARNED})):
        model = flow_of(params)
        for noise in ("auto", "own"):
            section = SECTION.model_copy(update={"noise": noise})
            item = scoring.evaluate_seed(model, data, section, 7, CPU)
            metrics = summary.summarise({7: item}, model, data.description).metrics
            names.setdefault(name, []).append(metrics.noise)
            assert metrics.nll_nats == pytest.approx(-float(item.log_p.mean()))
    assert names == {"uniform": ["sequential", "uniform"], "variational": ["sequential", "variational"]}
    vae = small_model("vae-categorical").float()
    item = scoring.evaluate_seed(vae, prepared("vae-categorical"), SECTION, 7, CPU)
    assert summary.summarise({7: item}, vae, data.description).metrics.noise is None


@pytest.fixture(scope="module")
def coupled() -> tuple[DensityModel, PreparedImages, VariationalDequantizer]:
    """Return a coupling-layer density in float64 with small weights, and noise that is fitted to it."""
    model = small_model("realnvp-plane").eval()
    assert isinstance(model, DensityModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    data = data_of("realnvp-plane", 200)
    noise = noise_of_cells.fitted(model, data, FITTED, 0)
    return model, data, noise


def test_fitted_noise_is_of_the_same_mass(
    coupled: tuple[DensityModel, PreparedImages, VariationalDequantizer], generator: torch.Generator
) -> None:
    model, _, noise = coupled
    assert isinstance(model, flows.NormalizingFlow)
    images = laws.all_images(model.image_shape, model.n_levels)
    masses = flows.masses_on_a_plane(model, n_nodes=6)
    laws.weights_average_to(model, images, masses, generator, 4_000, noise_from=noise)


def test_fitted_noise_is_better(
    coupled: tuple[DensityModel, PreparedImages, VariationalDequantizer], generator: torch.Generator
) -> None:
    """Over all images the bound at K = 1 is higher and the weights vary less; the density is unchanged."""
    model, _, noise = coupled
    images = laws.all_images(model.image_shape, model.n_levels)
    elbo, spread = {}, {}
    for name, noise_from in (("own", "own"), ("fitted", noise)):
        log_w = model.log_weights(images, 500, generator=generator, noise_from=noise_from)
        elbo[name], spread[name] = log_w.mean(), log_w.std(0).mean()
    assert elbo["fitted"] > elbo["own"] + 0.05
    assert spread["fitted"] < 0.8 * spread["own"]
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(weight.grad is None for weight in model.parameters())


def quick(epochs: int = 2) -> EvaluateSection:
    return FITTED.model_copy(update={"fitted_noise": FITTED.fitted_noise.model_copy(update={"epochs": epochs})})


def test_a_fit_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored fit is reused with the same bits; another seed has another fit."""
    model, data = small_model("realnvp-plane").float().eval(), data_of("realnvp-plane", 60)
    place = Checkpoint(tmp_path / "one", "one", interval=0.0)
    whole = scoring.evaluate_seed(model, data, quick(), 7, CPU)
    first = scoring.evaluate_seed(model, data, quick(), 7, CPU, checkpoint=place)
    assert whole.noise == "fitted"
    assert torch.equal(whole.log_p, first.log_p)
    other = noise_of_cells.fitted(model, data, quick(), 8)

    def never(*_: object) -> None:
        raise AssertionError("it was fitted again")

    monkeypatch.setattr(noise_of_cells, "fit", never)
    again = noise_of_cells.fitted(model, data, quick(), 7, place)
    pairs = list(zip(again.parameters(), other.parameters(), strict=True))
    assert not all(torch.equal(*pair) for pair in pairs)
    assert torch.equal(scoring.evaluate_seed(model, data, quick(), 7, CPU, checkpoint=place).log_p, whole.log_p)


def test_images_that_are_drawn_are_drawn_in_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With dynamic binarization the training images have more levels, but the model sees two."""
    model = build("realnvp", SMALL["realnvp-plane"][1], (1, 1, 2), 2).eval()
    assert isinstance(model, DensityModel)
    rng = np.random.default_rng(0)
    described = dataclasses.replace(
        prepared("realnvp-plane").description, n_levels=2, train_levels=256, binarization="dynamic"
    )
    grey = rng.integers(256, size=(40, 1, 1, 2), dtype=np.uint8)
    data = PreparedImages(described, {"train": grey})
    seen: list[torch.Tensor] = []
    asked = type(model).unchecked_log_weights

    def looked_at(self: DensityModel, x: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        seen.append(x)
        return asked(self, x, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(model), "unchecked_log_weights", looked_at)
    noise_of_cells.fitted(model, data, quick(), 0)
    assert set(torch.cat(seen).unique().tolist()) == {0, 1}
    assert torch.cat(seen).double().mean().item() == pytest.approx(grey.mean() / 255, abs=0.25)


def test_a_loss_that_is_not_finite_stops_the_fit() -> None:
    model, data = small_model("realnvp-plane").float().eval(), data_of("realnvp-plane", 60)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the loss of the fitted noise is nan at step 0"):
        noise_of_cells.chosen(model, data, quick(), 0)
    assert all(weight.requires_grad for weight in model.parameters())


def test_one_pixel_and_models_from_elsewhere_keep_their_noise() -> None:
    wide = build("realnvp", {**SMALL["realnvp-plane"][1]}, (1, 1, 2), 3)
    assert isinstance(wide, DensityModel)
    assert noise_of_cells.can_be_fitted(wide)
    wide.origin = {"file": "external/model.py"}
    assert not noise_of_cells.can_be_fitted(wide)
    one = small_model("gaussian-rgb")
    assert isinstance(one, DensityModel)
    assert one.image_shape == (3, 1, 1)
    assert not noise_of_cells.can_be_fitted(one)


def test_pilots_are_thrown_away_and_chunks_change_nothing() -> None:
    """The evaluator learns a shift for each image from separate draws."""
    assert [estimating.pilot_samples(k) for k in (1, 255, 256, 1_000, 1_024, 100_000)] == [0, 0, 64, 250, 256, 256]
    model = triangular.chained()
    x = laws.some_images(model, 5, seed=4)
    with_pilots, again, in_chunks = (
        estimating.estimate(
            model,
            x,
            1_024,
            chunk_size=chunk_size,
            batch_size=5,
            generator=torch.Generator().manual_seed(3),
            noise_from="sequential",
        )
        for chunk_size in (64, 64, 11)
    )
    assert torch.equal(with_pilots.log_p, again.log_p)
    torch.testing.assert_close(with_pilots.log_p, in_chunks.log_p, rtol=0, atol=1e-7)
    shifted = model.shifted(x, 256, 50, torch.Generator().manual_seed(3))
    drawn = torch.Generator().manual_seed(3)
    model.log_weights(x, 256, generator=drawn, noise_from="sequential")  # advances the generator by the pilot draws
    log_w = model.log_weights(x, 1_024, generator=drawn, noise_from=shifted)
    torch.testing.assert_close(log_mean_exp(log_w), with_pilots.log_p, rtol=0, atol=1e-7)
    plain = model.log_weights(x, 8_000, generator=drawn, noise_from="sequential")
    errors = (standard_error(plain).square() + with_pilots.standard_error.square()).sqrt()
    assert ((log_mean_exp(plain) - with_pilots.log_p).abs() < laws.FAR * errors).all()
    assert with_pilots.noise == "sequential"
