"""Metrics agree with the per-image values, and their errors agree with the formulas."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitsperdim import models
from bitsperdim.core.errors import InputError
from bitsperdim.data.pictures import evenly_spaced
from bitsperdim.evaluation import pictures, scoring, summary
from bitsperdim.models import build
from bitsperdim.models.pixelcnn import PixelCNN
from bitsperdim.runtime.checkpoints import Checkpoint
from support import cases
from support.cases import SMALL, small_model
from support.estimates import SECTION, column, fixed, prepared


@pytest.mark.parametrize("name", SMALL)
def test_the_mean_of_the_images_is_the_number(name: str) -> None:
    data, model = prepared(name), small_model(name).float()
    result = summary.summarise(
        {7: scoring.evaluate_seed(model, data, SECTION, 7, torch.device("cpu"))}, model, data.description
    )
    log_p, metrics = column(result.per_image, "log_p"), result.metrics
    n_dims = math.prod(SMALL[name][2])
    assert len(log_p) == metrics.n_images == 10
    assert column(result.per_image, "image").tolist() == list(range(10))
    assert set(column(result.per_image, "seed")) == {7}
    assert metrics.nll_nats == pytest.approx(-log_p.mean())
    assert metrics.nll_nats_standard_error == pytest.approx(log_p.std(ddof=1) / math.sqrt(10))
    errors = column(result.per_image, "standard_error")
    assert metrics.nll_nats_monte_carlo_error == pytest.approx(math.sqrt((errors**2).sum()) / 10)
    for suffix in ("", "_standard_error", "_monte_carlo_error"):
        assert getattr(metrics, f"bpd{suffix}") == pytest.approx(
            getattr(metrics, f"nll_nats{suffix}") / n_dims / math.log(2)
        )
    assert metrics.elbo_nats == pytest.approx(column(result.per_image, "elbo").mean())
    assert metrics.log_p_bias_nats == pytest.approx(column(result.per_image, "bias").mean())
    assert metrics.kind == ("exact" if model.is_exact else "lower")
    assert metrics.n_samples == (1 if model.is_exact else 12)
    assert [row["n_samples"] for row in result.bound] == ([1] if model.is_exact else [1, 2, 4, 8, 12])
    assert result.bound[-1]["bpd"] == pytest.approx(metrics.bpd)
    assert result.bound[0]["nll_nats"] == pytest.approx(-metrics.elbo_nats)
    assert (metrics.protocol, metrics.test_sha256) == ("tag", "hash")


def test_the_proposal_is_that_of_the_parameters_and_is_named() -> None:
    """With draws from the prior a model with a latent code gets other numbers; other models have no proposal."""
    data, model = prepared("vae-bernoulli"), small_model("vae-bernoulli").float()
    naive = SECTION.model_copy(update={"proposal": "prior"})
    found = {}
    for section in (SECTION, naive):
        item = scoring.evaluate_seed(model, data, section, 7, torch.device("cpu"))
        metrics = summary.summarise({7: item}, model, data.description, section.proposal).metrics
        found[metrics.proposal] = metrics.nll_nats
    assert set(found) == {"encoder", "prior"}
    assert found["encoder"] != found["prior"]
    flow = small_model("flow-maf").float()
    item = scoring.evaluate_seed(flow, prepared("flow-maf"), naive, 7, torch.device("cpu"))
    assert summary.summarise({7: item}, flow, data.description, "prior").metrics.proposal is None


def test_each_seed_has_importance_samples_of_its_own() -> None:
    data, model = prepared("vae-categorical"), small_model("vae-categorical").float()
    first, again, other = (
        scoring.evaluate_seed(model, data, SECTION, seed, torch.device("cpu")).log_p for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("name", "moves"), [("vae-categorical", True), ("pixelcnn-three-levels", False)])
def test_the_seed_of_the_evaluation_moves_what_is_sampled(name: str, moves: bool) -> None:
    data, model = prepared(name), small_model(name).float()
    first, other = (
        scoring.evaluate_seed(model, data, SECTION.model_copy(update={"seed": seed}), 0, torch.device("cpu")).log_p
        for seed in (0, 1)
    )
    assert torch.equal(first, other) != moves


@pytest.mark.processor
def test_each_block_has_importance_samples_of_its_own_and_owes_nothing_to_the_others() -> None:
    """Copies of one image get different numbers, in all blocks; a block that is scored alone gets the same bits."""
    data, model = prepared("vae-categorical"), small_model("vae-categorical").float()
    image = np.repeat(data.images["test"][:1], 10, axis=0)
    alike = dataclasses.replace(data, images={"test": image}, noise={"test": np.zeros_like(image, dtype=np.float32)})
    log_p = scoring.evaluate_seed(model, alike, SECTION, 0, torch.device("cpu")).log_p
    assert len(set(log_p.tolist())) == 10
    fewer = dataclasses.replace(alike, images={"test": image[:6]})
    assert torch.equal(scoring.evaluate_seed(model, fewer, SECTION, 0, torch.device("cpu")).log_p[:4], log_p[:4])
    assert torch.equal(scoring.evaluate_seed(model, data, SECTION, 0, torch.device("cpu")).log_p[:1], log_p[:1])


@pytest.mark.processor
def test_an_evaluation_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result has the same bits as without an interruption; each finished block is scored once."""
    data, model = prepared("flow-maf"), small_model("flow-maf").float()
    whole = scoring.evaluate_seed(model, data, SECTION, 7, torch.device("cpu"))
    place, rows_of, scored = Checkpoint(tmp_path / "one", "one"), scoring.estimated_rows, []

    def stopping(*args: Any, first_image: int, **options: Any) -> torch.Tensor:
        scored.append(first_image)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return rows_of(*args, first_image=first_image, **options)

    monkeypatch.setattr(scoring, "estimated_rows", stopping)
    with pytest.raises(KeyboardInterrupt):
        scoring.evaluate_seed(model, data, SECTION, 7, torch.device("cpu"), title="this", checkpoint=place)
    again = scoring.evaluate_seed(model, data, SECTION, 7, torch.device("cpu"), title="this", checkpoint=place)
    assert scored == [0, 4, 4, 8]
    assert capsys.readouterr().out == "this: resumes from a checkpoint with 4 of 10 images done.\n"
    for name in ("log_p", "standard_error", "elbo", "ess", "jackknife", "bounds"):
        assert torch.equal(getattr(again, name), getattr(whole, name))


def test_no_evaluation_takes_over_what_another_one_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights, images, noise, labels, parameters, seed or device have another place."""
    data = prepared("vae-categorical")
    models.save(small_model("vae-categorical").float(), "vae", {}, tmp_path / "model")
    models.save(small_model("vae-categorical", seed=1).float(), "vae", {}, tmp_path / "other")
    cpu, description = torch.device("cpu"), dataclasses.replace(data.description, test_sha256="other")

    def place(folder: str = "model", **changes: Any) -> Checkpoint:
        given = {"family": "vae", "prepared": data, "section": SECTION, "seed": 0, "device": cpu, **changes}
        return scoring.checkpoint_of(tmp_path / folder, **given)

    places = [
        place(),
        place("other"),
        place(seed=1),
        place(family="flow"),  # another family has other code
        place(device=torch.device("cuda")),
        place(section=SECTION.model_copy(update={"n_samples": 13})),
        place(section=SECTION.model_copy(update={"batch_size": 5})),
        place(prepared=dataclasses.replace(data, description=description)),
        place(prepared=dataclasses.replace(data, labels={"test": np.zeros(10, dtype=np.int64)})),
        place(prepared=dataclasses.replace(data, noise={"test": data.noise["test"] / 2})),
    ]
    assert len({each.folder for each in places}) == len(places)
    assert place() == places[0]


def test_a_log_weight_that_is_not_finite_names_image_and_seed() -> None:
    data, model = prepared("vae-categorical"), small_model("vae-categorical").float()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"a log-weight of image 0 is NaN or \+inf \(seed 7\)"):
        scoring.evaluate_seed(model, data, SECTION, 7, torch.device("cpu"))


def test_a_model_of_other_images_is_refused() -> None:
    data = prepared("vae-categorical")
    for change in ({"n_levels": 4}, {"image_shape": (1, 4, 1)}):
        other = dataclasses.replace(data, description=dataclasses.replace(data.description, **change))
        with pytest.raises(InputError, match="was trained on images of shape"):
            scoring.evaluate_seed(small_model("vae-categorical"), other, SECTION, 0, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("vae-bernoulli", ["reconstructions"]),
        ("pixelcnn-rgb", ["completions", "receptive_field"]),
        ("plus-three-levels", ["completions", "receptive_field"]),
        ("gaussian-grey", []),
        ("histogram-grey", []),
    ],
)
def test_pictures(name: str, more: list[str], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        model = small_model(name)
        pictures.draw_pictures(tmp_path / folder, model, prepared(name), SECTION, torch.device("cpu"))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(f"{each}.png" for each in ("samples", *more))
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert np.asarray(Image.open(tmp_path / "a" / file)).std() > 10


def test_completions_keep_the_upper_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a row of test images there are three rows of different images with the same upper half."""
    drawn: dict[str, tuple] = {}
    monkeypatch.setattr(pictures, "write_grid", lambda path, images, *rest: drawn.update({path.stem: (images, *rest)}))
    data = prepared("gated-binary-3x3", 20)
    pictures.draw_pictures(tmp_path, small_model("gated-binary-3x3"), data, SECTION, torch.device("cpu"))
    grid, n_levels, n_columns = drawn["completions"]
    x = evenly_spaced(data.images["test"], 3)
    assert (n_levels, n_columns, len(grid)) == (2, 3, 12)
    assert np.array_equal(grid[:3], x)
    for row in (3, 6, 9):
        assert np.array_equal(grid[row : row + 3, :, :1], x[:, :, :1])
    assert not np.array_equal(grid[3:6], grid[6:9])


def test_a_model_that_is_given_the_class_draws_one_in_each_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nearly deterministic model: class c draws level c everywhere."""
    drawn: dict[str, tuple] = {}
    monkeypatch.setattr(pictures, "write_grid", lambda path, images, *rest: drawn.update({path.stem: (images, *rest)}))
    params = {**cases.GATED, "n_classes": 3}
    model = build("gated_pixelcnn", params, (1, 2, 2), 3).eval()
    monkeypatch.setattr(
        type(model),
        "outputs",
        lambda self, x, labels=None, **_: (
            50 * torch.eye(3)[labels][:, :, None, None].expand(-1, -1, 2, 2).clone()
            if _.get("memory") is None
            else 50 * torch.eye(3)[labels][:, :, None, None]
        ),
    )
    data = dataclasses.replace(prepared("vae-categorical", 6), labels={"test": np.array([0, 1, 2, 2, 1, 0])})
    monkeypatch.setattr(pictures, "draw_receptive_field", lambda *_: None)
    pictures.draw_pictures(tmp_path, model, data, SECTION, torch.device("cpu"))
    grid, _, n_columns = drawn["samples"]
    assert n_columns == 3
    assert [set(image.flatten()) for image in grid] == [{index % 3} for index in range(SECTION.n_pictures)]
    assert set(drawn["completions"][0][5].flatten()[2:]) == {1}  # the third test image shown has class 1
    given = dataclasses.replace(
        data.description, protocol="tag/given-none", test_labels_sha256="0123456789abcdef", n_test_classes=3
    )
    described = summary.summarise({0: fixed([-1, -2])}, model, given).metrics.protocol
    assert described == "tag/given-label3-01234567"


def test_a_model_that_looks_ahead_has_no_number() -> None:
    model = small_model("pixelcnn-rgb")
    data = prepared("pixelcnn-rgb")
    cpu = torch.device("cpu")
    for each, leaks in ((model, {"largest_leaked_gradient": 0.0}), (small_model("vae-rgb"), {})):
        found = {
            seed: scoring.evaluate_seed(each, prepared(name), SECTION, seed, cpu)
            for name in ["pixelcnn-rgb" if leaks else "vae-rgb"]
            for seed in (0, 7)
        }
        metrics = summary.summarise(found, each, data.description).metrics
        assert {key: value for key, value in metrics.as_record().items() if "leak" in key} == leaks
    assert isinstance(model, PixelCNN)
    assert model.first.mask is not None
    model.first.mask[-1, -1, -1, -1] = 1
    sentence = r"^The model of seed 7 cannot be evaluated: the model looks ahead: a log-mass changes by \S+ nats"
    with pytest.raises(InputError, match=sentence):
        scoring.evaluate_seed(model, data, SECTION, 7, cpu)


def test_test_images_that_are_not_those_of_the_model_are_told_in_a_sentence() -> None:
    """For example, levels from a file that was changed by hand."""
    data = prepared("vae-rgb")
    data.images["test"][5, 0] = 4
    with pytest.raises(
        InputError, match=r"^The model of seed 7 cannot be evaluated: images must have values from 0 to"
    ):
        scoring.evaluate_seed(small_model("vae-rgb"), data, SECTION, 7, torch.device("cpu"))


@pytest.mark.parametrize("n_images", [1, 2, 5, 20])
def test_reconstructions_come_in_whole_rows(n_images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, tuple] = {}
    monkeypatch.setattr(pictures, "write_grid", lambda path, images, *rest: drawn.update({path.stem: (images, *rest)}))
    model, data = small_model("vae-bernoulli"), prepared("vae-bernoulli", n_images)
    pictures.draw_pictures(tmp_path, model, data, SECTION, torch.device("cpu"))
    grid, _, n_columns = drawn["reconstructions"]
    assert len(grid) % (2 * n_columns) == 0
    for row in range(len(grid) // (2 * n_columns)):
        originals = grid[2 * row * n_columns : (2 * row + 1) * n_columns]
        shown = evenly_spaced(data.images["test"], len(grid) // 2)[row * n_columns : (row + 1) * n_columns]
        assert np.array_equal(originals, shown * 255)
    assert len(drawn["samples"][0]) == SECTION.n_pictures


def test_reconstructions_stand_below_their_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, np.ndarray] = {}
    monkeypatch.setattr(pictures, "write_grid", lambda path, images, *_: drawn.update({path.stem: images}))
    model, data = small_model("vae-bernoulli"), prepared("vae-bernoulli", 20)
    pictures.draw_pictures(tmp_path, model, data, SECTION, torch.device("cpu"))
    grid = drawn["reconstructions"]
    x = evenly_spaced(data.images["test"], 3)
    assert np.array_equal(grid[:3], x * 255)
    with torch.no_grad():
        expected = model.reconstruct(torch.from_numpy(x))
    assert np.array_equal(grid[3:6], np.rint(expected.numpy() * 255).astype(np.uint8))
