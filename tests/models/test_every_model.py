"""Laws that every model obeys."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom

from bitsperdim import models
from bitsperdim.config.families import FAMILIES
from bitsperdim.core.errors import InputError
from bitsperdim.models import MODELS, ImageModel, build
from support import cases, laws
from support.cases import SMALL, small_model

EXACT = [name for name, (family, *_) in SMALL.items() if MODELS[family].is_exact]
CLOSED_FORM = ("histogram", "gaussian")
# a Gaussian has mass outside the unit cube, and its samples are moved inside; test_gaussian.py checks their moments
SAMPLED = [name for name, (family, *_) in SMALL.items() if not issubclass(MODELS[family], models.DensityModel)]


def test_every_family_has_cases_parameters_and_a_class() -> None:
    """Except external models, which are tested in ``tests/models/external``."""
    assert MODELS.keys() == FAMILIES.keys() == {*(family for family, *_ in SMALL.values()), "external"}


@pytest.mark.processor
@pytest.mark.parametrize("name", EXACT)
def test_masses_sum_to_one(name: str) -> None:
    laws.masses_sum_to_one(small_model(name))


@pytest.mark.processor
@pytest.mark.parametrize("name", SMALL)
def test_images_are_independent(name: str, generator: torch.Generator) -> None:
    laws.images_are_independent(small_model(name), generator)


@pytest.mark.processor
@pytest.mark.parametrize("name", EXACT)
def test_a_batch_is_a_loop(name: str, generator: torch.Generator) -> None:
    model = small_model(name)
    images = torch.randint(model.n_levels, (6, *model.image_shape), generator=generator).to(torch.uint8)
    together = model.log_weights(images)
    apart = torch.cat([model.log_weights(image[None]) for image in images], dim=1)
    torch.testing.assert_close(together, apart, rtol=0, atol=laws.ROUNDING)


@pytest.mark.processor
@pytest.mark.parametrize("name", [name for name in SMALL if name not in EXACT])
def test_the_kth_weight_does_not_depend_on_how_many_there_are(name: str) -> None:
    model = small_model(name)
    images = laws.some_images(model, 7)

    def drawn(seed: int) -> torch.Tensor:
        return model.log_weights(images, 5, generator=torch.Generator().manual_seed(seed))

    many, room = drawn(3), laws.room_for_rounding(lambda: drawn(3))
    generator = torch.Generator().manual_seed(3)
    few = torch.cat([model.log_weights(images, k, generator=generator) for k in (2, 1, 2)])
    assert many.shape == (5, 7)
    torch.testing.assert_close(many, few, rtol=0, atol=room)
    assert float((drawn(4) - many).detach().abs().min()) > 1000 * room  # other draws would be noticed


def sensitivities(model: ImageModel, n_draws: int, n_images: int = 300) -> list[torch.Tensor]:
    """Return |d log w / d weight| for each weight, summed over images and several draws of all weights."""
    parameters = list(model.parameters())
    seen = [torch.zeros_like(parameter) for parameter in parameters]
    labels = None if model.n_classes is None else torch.arange(n_images) % model.n_classes
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_draws):
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        log_w = model.log_weights(laws.some_images(model, n_images), labels=labels, generator=generator)[0]
        for part in log_w.split(20):
            gradients = torch.autograd.grad(part.sum(), parameters, retain_graph=True, materialize_grads=True)
            for total, gradient in zip(seen, gradients, strict=True):
                total += gradient.abs()
    return seen


@pytest.mark.parametrize("name", ["flow-maf", "flow-nsf", "flow-margin", "vae-rgb", "vae-logistics"])
def test_the_weights_that_are_counted_are_those_that_matter(name: str) -> None:
    """Masks let ``n_parameters`` weights through, counted by their derivatives in fifteen networks."""
    model = small_model(name)
    assert sum(int((total > 0).sum()) for total in sensitivities(model, 15)) == model.n_parameters


# with one row or one column of pixels, some stacks of a causal network have no inputs
WITH_WEIGHTS = [
    name
    for name, (family, _, shape, _) in SMALL.items()
    if family not in CLOSED_FORM and not (MODELS[family].is_exact and 1 in shape[1:])
]


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_no_parameter_is_a_dead_end(name: str) -> None:
    assert dead_ends(small_model(name)) == []


def test_no_weight_of_a_label_is_a_dead_end() -> None:
    model = build("gated_pixelcnn", {**cases.GATED, "n_classes": 3}, (1, 3, 3), 2).double()
    assert dead_ends(model) == []
    assert model.n_parameters == build("gated_pixelcnn", cases.GATED, (1, 3, 3), 2).n_parameters + 3 * 3 * 24


def dead_ends(model: ImageModel) -> list[str]:
    """Return the parameters without a derivative for any weight in two networks; more images find at most fewer."""
    names = [name for name, _ in model.named_parameters()]
    return [name for name, total in zip(names, sensitivities(model, 2, n_images=40), strict=True) if not total.any()]


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_follow_the_masses(name: str) -> None:
    """Counts of all images in 4,000 samples fit, by exact binomial tails: one seed in 100,000 fails."""
    model = small_model(name)
    images = laws.all_images(model.image_shape, model.n_levels)
    if isinstance(model, models.LatentModel):
        masses = laws.masses_by_quadrature(model, images)
    else:
        masses = model.log_weights(images)[0].exp()
    n_samples = 4_000
    samples = model.sample(n_samples, generator=torch.Generator().manual_seed(5))
    assert samples.dtype == torch.uint8
    assert samples.shape == (n_samples, *model.image_shape)
    powers = model.n_levels ** torch.arange(samples[0].numel()).flip(0)
    counts = torch.bincount((samples.flatten(1).long() * powers).sum(1), minlength=len(images))
    masses = masses.detach().clamp(max=1)
    below, above = binom.cdf(counts, n_samples, masses), binom.sf(counts - 1, n_samples, masses)
    assert 2 * np.minimum(below, above).min() > 1e-5 / len(images)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_comes_back(name: str, tmp_path: Path) -> None:
    family, params, _, _ = SMALL[name]
    model = small_model(name).float()
    models.save(model, family, params, tmp_path)
    loaded = models.load(tmp_path, family)
    with pytest.raises(InputError, match=f"is a model of family '{family}', not 'another'"):
        models.load(str(tmp_path), "another")
    images = laws.some_images(model, 9)
    first = model.log_weights(images, 2, generator=torch.Generator().manual_seed(0))
    second = loaded.log_weights(images, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, second)
    assert not loaded.training
    before = (tmp_path / "weights.safetensors").read_bytes()
    models.save(loaded, family, params, tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


@pytest.mark.processor
def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        family, params, shape, n_levels = SMALL["vae-rgb"]
        model: ImageModel = build(family, params, shape, n_levels, seed=seed)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    state = torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_keys_of_a_section_are_the_arguments_of_the_class(family: str) -> None:
    shared = {"family", "train", "train_samples", "finetune", "train_images"}
    arguments = set(inspect.signature(MODELS[family]).parameters) - {"image_shape", "n_levels"}
    assert set(FAMILIES[family].model_fields) - shared == arguments


def test_parameters_are_counted_that_are_free() -> None:
    """Counted by hand: 6 sub-pixels of 3 levels; a mean and a triangle; a stack of masked convolutions."""
    assert small_model("histogram-grey").n_parameters == 6 * 2
    assert small_model("gaussian-rgb").n_parameters == 3 + 6
    first, reduce, convolve, expand = 4 * 12, 12 * 6, 5 * 6 * 6, 6 * 12
    last, to_outputs = 12 * 12, 12 * 2
    biases = 12 + 6 + 6 + 12 + 12 + 2
    expected = first + reduce + convolve + expand + last + to_outputs + biases
    assert small_model("pixelcnn-binary-3x3").n_parameters == expected
    model = small_model("pixelcnn-rgb")
    model.zero_grad()
    x = torch.randint(2, (64, 3, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    model.log_weights(x).sum().backward()
    reached = sum(int((parameter.grad != 0).sum()) for parameter in model.parameters())
    assert reached <= model.n_parameters < sum(parameter.numel() for parameter in model.parameters())


def test_an_unknown_family_lists_the_choices() -> None:
    with pytest.raises(
        InputError, match="no model family 'pixelrnn'; choose conv_vae, external, flow, gated_pixelcnn, gaussian"
    ):
        build("pixelrnn", {}, (1, 2, 2), 2)


@pytest.mark.parametrize(
    ("family", "params", "sentence"),
    [
        ("pixelcnn", {**cases.PIXELCNN, "n_filters": 4}, "n_filters must be even and at least 6, not 4"),
        ("pixelcnn", {**cases.PIXELCNN, "kernel_size": 4}, "kernel_size must be odd, not 4"),
        ("vae", {**cases.VAE, "likelihood": "bernoulli"}, "a Bernoulli likelihood has 2 levels, not 5"),
        (
            "vae",
            {**cases.VAE, "likelihood": "poisson"},
            "likelihood must be one of bernoulli, categorical, logistic, nor",
        ),
        ("pixelcnn", {**cases.PIXELCNN, "n_mixtures": 2}, "a categorical likelihood has n_mixtures 1, not 2"),
        ("vae", {**cases.VAE, "likelihood": "logistic", "n_mixtures": 0}, "n_mixtures must be at least 1, not 0"),
    ],
)
def test_parameters_that_do_not_fit_the_images_are_refused(family: str, params: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build(family, params, (3, 2, 2), 5)


@pytest.mark.parametrize("family", ["pixelcnn", "gated_pixelcnn", "pixelcnn_pp"])
def test_a_network_starts_near_the_marginals(family: str, generator: torch.Generator) -> None:
    """Images that use two of ten levels cost about their entropy of 1 bit at the start, not 3.3 bits."""
    params = {"pixelcnn": cases.PIXELCNN, "gated_pixelcnn": cases.GATED, "pixelcnn_pp": {**cases.PLUS, "n_mixtures": 1}}
    model = build(family, {**params[family], "likelihood": "categorical"}, (1, 6, 6), 10)
    images = torch.randint(2, (200, 1, 6, 6), generator=generator).to(torch.uint8) * 7
    model.initialise(images)
    bits = -model.eval().log_weights(images).mean().item() / 36 / np.log(2)
    assert 0.9 < bits < 1.3
