"""Cached sampling: the same images as with a full pass for each pixel, with much less work."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bitsperdim.models import AutoregressiveModel, build
from bitsperdim.models.autoregressive import ancestral_sample, completed, outputs_at
from bitsperdim.models.parts.causal import Memory
from support import laws
from support.cases import small_model

HEAD = {"likelihood": "categorical", "n_mixtures": 1}
COUPLED = {"likelihood": "coupled_logistic", "n_mixtures": 2}
PIXELCNN = ("pixelcnn", {"n_filters": 12, "n_blocks": 2, "kernel_size": 5})
GATED = ("gated_pixelcnn", {"n_filters": 12, "n_layers": 2, "kernel_size": 5, "n_classes": None})
PLUS = ("pixelcnn_pp", {"n_filters": 8, "n_blocks": 2, "n_scales": 3, "dropout": 0.5})
CASES = {
    f"{family}-{'x'.join(map(str, shape))}-{head['likelihood']}": (family, {**sizes, **head}, shape)
    for family, sizes in (PIXELCNN, GATED, PLUS)
    for shape in ((1, 7, 9), (3, 5, 6), (3, 8, 8))
    for head in (HEAD, COUPLED)
    if not (family == "pixelcnn_pp" and shape[0] > 1 and head is HEAD)
}


def model_of(name: str) -> AutoregressiveModel:
    """Build a model in float32, initialised, with changed weights so that no output is small."""
    family, params, shape = CASES[name]
    generator = torch.Generator().manual_seed(1)
    model = build(family, params, shape, 6).eval()
    model.initialise(torch.randint(6, (20, *shape), generator=generator).to(torch.uint8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    assert isinstance(model, AutoregressiveModel)
    return model


@pytest.mark.processor
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_cached_outputs_are_those_of_a_full_pass(name: str, generator: torch.Generator) -> None:
    """Pixel by pixel, with unknown later values, and row by row, in float32 they agree up to rounding.

    Without the first row they differ strongly.
    """
    model = model_of(name)
    _, height, width = model.image_shape
    x = torch.randint(6, (4, *model.image_shape), generator=generator).to(torch.uint8)
    full = model.outputs(x)
    assert full.std() > 0.05
    room = laws.room_for(full, model_of(name).double().outputs(x))
    assert room < 1e-4
    forgetful = torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, 1:]], 2)
    assert (model.outputs(forgetful) - full)[:, :, 1:].abs().max() > 100 * room
    for by_row in (0, height // 2, height):  # number of first rows that are computed row by row
        memory, known = Memory(height, width), torch.zeros_like(x)
        for row in range(height):
            if row < by_row:
                known[:, :, row] = x[:, :, row]
                found = model.outputs(known, memory=memory.go_to(row))
                torch.testing.assert_close(found, full[:, :, row : row + 1], rtol=0, atol=room)
                continue
            for column in range(width):
                place = (..., slice(row, row + 1), slice(column, column + 1))
                for group in range(model.head.n_groups):  # the channels of a pixel become known one after the other
                    found = outputs_at(model, known, row, column, memory, None)
                    per_group = full.shape[1] // model.head.n_groups
                    group_of = slice(group * per_group, (group + 1) * per_group)
                    torch.testing.assert_close(found[:, group_of], full[place][:, group_of], rtol=0, atol=room)
                    if model.head.n_groups > 1:
                        known[:, group, row, column] = x[:, group, row, column]
                known[:, :, row, column] = x[:, :, row, column]


@pytest.mark.parametrize("name", CASES)
def test_cached_images_are_naive_images(name: str) -> None:
    """In float64, a draw differs only if rounding, of 1e-13, moves a mass past its random number."""
    model = model_of(name).double()
    cached, naive = (
        ancestral_sample(model, 5, generator=torch.Generator().manual_seed(3), use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, naive)
    assert len(cached.unique()) > 2
    assert not torch.equal(cached, ancestral_sample(model, 5, generator=torch.Generator().manual_seed(4)))


@pytest.mark.processor
def test_labels_reach_cached_images() -> None:
    """Cached images equal naive ones with labels too, one class at a time; another class gives another image."""
    params = {**GATED[1], **HEAD, "n_classes": 3}
    model = laws.scattered(build("gated_pixelcnn", params, (1, 5, 4), 4), spread=0.3)
    assert isinstance(model, AutoregressiveModel)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    drawn = [
        ancestral_sample(model, 6, labels=each, generator=torch.Generator().manual_seed(3), use_cache=use_cache)
        for each, use_cache in ((labels, True), (labels, False), (labels.flip(0).roll(1), True))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for wrong, words in (
        (None, "needs labels of shape"),
        (labels[:2], "labels of 6 images"),
        (labels + 1, "from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            ancestral_sample(model, 6, labels=wrong)


def test_what_does_not_fit_is_refused() -> None:
    model = model_of(next(name for name in CASES if "1x7x9" in name))
    with pytest.raises(ValueError, match=r"must be of type torch\.uint8, not torch\.float32"):
        completed(model, torch.zeros(1, 1, 7, 9), 2)
    with pytest.raises(ValueError, match="only an autoregressive model completes images, not VAE"):
        completed(small_model("vae-bernoulli"), torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_rows must be from 0 to 7, not 8"):
        completed(model, torch.zeros(1, 1, 7, 9, dtype=torch.uint8), 8)
    with pytest.raises(ValueError, match=r"must have shape \(B, 1, 7, 9\), B at least 1, not \(1, 1, 9, 7\)"):
        completed(model, torch.zeros(1, 1, 9, 7, dtype=torch.uint8), 2)
    wide = build("pixelcnn", {**PIXELCNN[1], "likelihood": "logistic", "n_mixtures": 1}, (1, 2, 2), 300).eval()
    assert isinstance(wide, AutoregressiveModel)
    with pytest.raises(ValueError, match="holds 256 levels, but the model has 300"):
        ancestral_sample(wide, 1)


def operations(model: AutoregressiveModel, *, use_cache: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        ancestral_sample(model, 2, generator=torch.Generator().manual_seed(3), use_cache=use_cache)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", [name for name in CASES if "7x9" in name])
@torch.no_grad()
def test_the_cache_saves_work(name: str) -> None:
    """Naively, each visit of a pixel costs a pass; with the cache, all visits of all pixels cost about one pass."""
    model = model_of(name)
    with FlopCounterMode(display=False) as counter:
        model.outputs(torch.zeros(2, *model.image_shape, dtype=torch.uint8))
    one_pass, visits = counter.get_total_flops(), model.head.n_groups
    n_pixels = model.image_shape[1] * model.image_shape[2]
    assert operations(model, use_cache=False) == one_pass * n_pixels * visits
    assert operations(model, use_cache=True) <= 1.05 * one_pass * visits


@pytest.mark.processor
@pytest.mark.parametrize("name", [name for name in CASES if "5x6" in name])
def test_given_rows_stay(name: str, generator: torch.Generator) -> None:
    """Completions keep the given rows, depend on them, and equal naive completions (in float64, as above)."""
    model = model_of(name).double()
    x = torch.randint(6, (3, *model.image_shape), generator=generator).to(torch.uint8)
    cached, naive = (
        completed(model, x, 2, generator=torch.Generator().manual_seed(5), use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, naive)
    assert torch.equal(cached[:, :, :2], x[:, :, :2])
    assert not torch.equal(cached[:, :, 2:], x[:, :, 2:])
    other = x.clone()
    other[:, :, 2:] = 5 - other[:, :, 2:]  # rows that are not given do not matter
    assert torch.equal(completed(model, other, 2, generator=torch.Generator().manual_seed(5)), cached)
    other[:, :, :2] = 5 - other[:, :, :2]
    assert not torch.equal(completed(model, other, 2, generator=torch.Generator().manual_seed(5)), cached)
    assert torch.equal(completed(model, x, model.image_shape[1]), x)


def test_a_completion_follows_the_masses_given_the_rows() -> None:
    """Lower rows of 2x2 images given upper ones fit an enumeration: one seed in 50,000 is beyond 4.9 errors."""
    model = laws.scattered(build("gated_pixelcnn", {**GATED[1], **HEAD}, (1, 2, 2), 2), spread=0.4)
    assert isinstance(model, AutoregressiveModel)
    images = laws.all_images((1, 2, 2), 2)
    masses = model.log_weights(images)[0].exp().detach()
    given = torch.tensor([[1, 0]])
    matching = (images[:, 0, 0] == given).all(1)
    expected = masses[matching] / masses[matching].sum()
    x = torch.zeros(20_000, 1, 2, 2, dtype=torch.uint8)
    x[:, 0, 0] = given
    drawn = completed(model, x, 1, generator=torch.Generator().manual_seed(0))[:, 0, 1].long() @ torch.tensor([2, 1])
    shares = torch.bincount(drawn, minlength=4) / len(x)
    assert ((shares - expected) / (expected * (1 - expected) / len(x)).sqrt()).abs().max() < laws.FAR


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        ancestral_sample(model_of(next(iter(CASES))).train(), 1)
