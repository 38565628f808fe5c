"""Every kind of mistake in params.yaml gives one sentence with the key, the value and what is allowed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitsperdim.core.errors import InputError
from bitsperdim.preflight.agreement import model_levels, raw_levels, read_validated, validated


@pytest.fixture
def content(committed: Callable[[str], str]) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(committed("params.yaml"))
    return loaded


def changed(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy with another value for the key at ``path``, or without the key if the value is ``GONE``."""
    result = copy.deepcopy(content)
    *parents, key = path.split(".")
    section = result
    for parent in parents:
        section = section[parent]
    if value is GONE:
        del section[key]
    else:
        section[key] = value
    return result


GONE = object()
NAN = float("nan")

MISTAKES: list[tuple[str, object, str]] = [
    # unknown
    ("vae.latnt_size", 3, "vae.latnt_size is not a known key, did you mean 'latent_size'? (its value is 3); allowed"),
    ("train.epoch", 3, "train.epoch is not a known key, did you mean 'epochs'? (its value is 3); allowed are epochs,"),
    ("vae.train", {"epoch": 3}, "vae.train.epoch is not a known key, did you mean 'epochs'?"),
    ("evalute", {"n_samples": 3}, "evalute is not a known section, did you mean 'evaluate'?; allowed are dataset,"),
    (
        "pixelcnn.family",
        "pixelrnn",
        "pixelcnn.family = 'pixelrnn' is not a family; choose conv_vae, external, flow, gated_pixelcnn,",
    ),
    ("dataset.name", "mnits", "dataset.name = 'mnits' is not a data set; choose digits, mnist, fashion_mnist,"),
    (
        "models",
        ["vae", "vea"],
        "models names 'vea', which has no section; the model sections are histogram, gaussian, vae,",
    ),
    # missing
    ("dataset", GONE, "dataset is missing; it is a section with the keys name, path, n_levels,"),
    ("dataset", {}, "dataset.name is missing; the keys there are name, path, n_levels, validation_fraction,"),
    ("dataset.path", GONE, "dataset.path is missing; the keys there are name, path, n_levels, validation_fraction,"),
    ("models", GONE, "models is missing"),
    ("seeds", GONE, "universal_resnet; DVC needs this key."),
    (
        "evaluate",
        GONE,
        "refined, noise, fitted_noise, n_contrast, annealed; DVC needs this key, and `evaluate: {}` is enough.",
    ),
    # wrong type
    ("vae.latent_size", "16", "vae.latent_size = '16' is not allowed; it must be an integer."),
    ("vae.latent_size", 16.5, "vae.latent_size = 16.5 is not allowed; it must be an integer."),
    ("vae.latent_size", True, "vae.latent_size = True is not allowed; it must be an integer."),
    ("vae.latent_size", None, "vae.latent_size = None is not allowed; it must be an integer."),
    ("vae.latent_size", [16], "vae.latent_size = [16] is not allowed; it must be an integer."),
    ("vae.hidden_sizes", 200, "vae.hidden_sizes = 200 is not allowed; it must be a list: write [200]."),
    ("vae.hidden_sizes", [200, "x"], "vae.hidden_sizes.1 = 'x' is not allowed; it must be an integer."),
    ("train.learning_rate", "fast", "train.learning_rate = 'fast' is not allowed; it must be a number."),
    ("train", 3, "train = 3 is not allowed; it must be a mapping of keys to values."),
    ("vae.train", 3, "vae.train = 3 is not allowed; it must be a mapping of keys to values."),
    ("vae.train", {"epochs": None}, "vae.train.epochs = None is not allowed; it must be an integer."),
    ("models", "vae", "models = 'vae' is not allowed; it must be a list: write [vae]."),
    ("models", None, "models = None is not allowed; it must be a list, written [FIRST, SECOND]."),
    ("seeds", {"a": 1}, "seeds = {'a': 1} is not allowed; it must be a list, written [FIRST, SECOND]."),
    ("train.patience", "None", "train.patience = 'None' is not allowed; it must be an integer, or null."),
    ("flow.logit_margin", "None", "flow.logit_margin = 'None' is not allowed; it must be a number, or null."),
    ("seeds", [0, -1], "seeds.1 = -1 is not allowed; it must be at least 0."),
    # out of range
    ("vae.latent_size", 0, "vae.latent_size = 0 is not allowed; it must be at least 1."),
    ("vae.latent_size", 10**9, "vae.latent_size = 1000000000 is not allowed; it must be at most 65536."),
    ("train.learning_rate", 0, "train.learning_rate = 0 is not allowed; it must be above 0"),
    ("train.learning_rate", NAN, "train.learning_rate = nan is not allowed; it must be"),
    ("train.learning_rate", float("inf"), "train.learning_rate = inf is not allowed; it must be a finite number."),
    ("train.average_decay", 1, "train.average_decay = 1 is not allowed; it must be below 1"),
    ("train.schedule", "cosin", "must be one of 'constant', 'cosine', 'exponential' or 'stages'."),
    ("train.betas", [0.9], "train.betas = [0.9] is not allowed; it must be a list of at least 2 entries."),
    ("train.betas", [0.9, 1.0], "train.betas.1 = 1.0 is not allowed; it must be below 1"),
    ("train.eps", 0, "train.eps = 0 is not allowed; it must be above 0"),
    ("train.initial_second_moment", -1, "train.initial_second_moment = -1 is not allowed; it must be at least 0"),
    ("train.precision", "float16", "it must be one of 'float32', 'bfloat16' or 'auto'."),
    ("dataset.test_fraction", 1.0, "dataset.test_fraction = 1.0 is not allowed; it must be below 1"),
    ("dataset.path", "a\x00b", r"dataset.path = 'a\x00b' is not allowed; it must be text without control characters."),
    ("dataset.path", "\ud800", r"dataset.path = '\ud800' is not allowed; it must be text without lone surrogates."),
    ("vae.a b", 3, "vae.'a b' is not a known key (its value is 3); allowed are"),
    ("vae.hidden_sizes", [65_536] * 4, "the sizes in vae make a network of 2.6e+10 weights or more; at most 1e+10 are"),
    ("dataset.n_levels", 300, "dataset.n_levels = 300 is not allowed; it must be at most 256, or null."),
    ("dataset.n_levels", 16, "dataset.n_levels = 16 is not allowed; digits has 17 levels, so write 17 or null."),
    ("dequantize.bits", 5, "dequantize.bits = 5 is not allowed; it gives 32 levels, which is not fewer than the 17"),
    ("density_and_mass.step_size", 0.5, "density_and_mass.step_size = 0.5 is not allowed; it must be at most 0.25."),
    ("universal_resnet.n_seeds", 1, "universal_resnet.n_seeds = 1 is not allowed; it must be at least 2."),
    ("universal_resnet.depths", [], "universal_resnet.depths = [] is not allowed; it must be a list of at least 1"),
    ("universal_resnet.cells_plane", [3, 3], "universal_resnet.cells_plane = [3, 3] is not allowed; it must be a list"),
    (
        "universal_resnet.learning_rates.resnt",
        0.1,
        "universal_resnet.learning_rates.resnt is not a known key, did you mean 'resnet'? (its value is 0.1); allowed",
    ),
    ("universal_resnet.learning_rates.dense", 0, "universal_resnet.learning_rates.dense = 0 is not allowed; it must"),
    (
        "known.excess.families.vae.latent_size",
        0,
        "known.excess.families.vae.latent_size = 0 is not allowed; it must be",
    ),
    ("known.excess.families.vae.latnt", 9, "known.excess.families.vae.latnt is not a known key, did you mean 'late"),
    (
        "known.excess.families.vae.family",
        "rnn",
        "known.excess.families.vae.family = 'rnn' is not a family; choose conv",
    ),
    ("known.excess.families.vae", 3, "known.excess.families.vae = 3 is not allowed; it must be the section of a mode"),
    ("known.excess.families.Vae", {}, "known.excess.families has the key 'Vae', which cannot name a model;"),
    ("known.excess.families.mine", {"family": "external"}, "known.excess.families.mine.family = 'external' is not all"),
    (
        "known.excess.families.gated_pixelcnn.likelihood",
        "bernoulli",
        "known.excess.families.gated_pixelcnn.likelihood = 'bernoulli' needs images of 2 levels, but these have 4;",
    ),
    ("known.excess.families", 3, "known.excess.families = 3 is not allowed; it must be a mapping of keys to values."),
    ("known.excess.sources", ["ising"] * 2, "sources = ['ising', 'ising'] is not allowed; it must be a list in which"),
    ("known.excess.strength", 1e6, "known.excess.strength = 1000000.0 with the source templates; it must be a number"),
    ("known.excess.height", 100, "known.excess.height = 100 is not allowed; it must be at most 64."),
    ("known.estimators.n_samples", [8, 8], "n_samples = [8, 8] is not allowed; it must be a list of rising numbers."),
    ("density_and_mass.n_steps", 2.5, "density_and_mass.n_steps = 2.5 is not allowed; it must be an integer."),
    ("density_and_mass.n_symbol", 9, "density_and_mass.n_symbol is not a known key, did you mean 'n_symbols'?"),
    ("project_delay.deadline", 10, "project_delay.deadline = 10 is not allowed; it must be at least 20"),
    ("project_delay.n_samples", [9, 9], "n_samples = [9, 9] is not allowed; it must be a list of rising numbers."),
    ("project_delay.scale_critical", [], "scale_critical = [] is not allowed; it must be a list of at least 1"),
    ("project_delay.scale_critical", [0.0], "scale_critical.0 = 0.0 is not allowed; it must be at least 0.1."),
    ("project_delay.mistake.scale_others", 0.6, "mistake.scale_others = 0.6 is not allowed; it must be at most 0.5."),
    ("project_delay.cross_entropy.elite", 0.1, "cross_entropy.elite is not a known key, did you mean 'elite_share'?"),
    ("project_delay.cross_entropy.n_final", 0, "cross_entropy.n_final = 0 is not allowed; it must be at least 1."),
    ("models", [], "models = [] is not allowed; it must be a list of at least 1 entries."),
    ("models", ["vae", "vae"], "models names 'vae' twice; each may appear only once."),
    ("studies", ["project_delay"] * 2, "studies names 'project_delay' twice; each may appear only once."),
    (
        "studies",
        ["delay"],
        "studies.0 = 'delay' is not allowed; it must be one of 'known', 'density_and_mass', 'pro",
    ),
    ("studies", "project_delay", "studies = 'project_delay' is not allowed; it must be a list: write [project_delay]."),
    ("studies", None, "studies = None is not allowed; it must be a list, written [FIRST, SECOND]."),
    ("seeds", [3, 3], "seeds names 3 twice"),
    ("dequantize.bits", 8, "dequantize.bits = 8 is not allowed; it must be at most 7, or null."),
    ("pixelcnn.n_mixtures", 0, "pixelcnn.n_mixtures = 0 is not allowed; it must be at least 1."),
    (
        "pixelcnn.likelihood",
        "poisson",
        "it must be one of 'bernoulli', 'categorical', 'logistic', 'normal' or 'coupled",
    ),
    ("pixelcnn.kernel_size", 4, "pixelcnn.kernel_size = 4 is not allowed; it must be odd."),
    ("pixelcnn.n_filters", 7, "pixelcnn.n_filters = 7 is not allowed; it must be a multiple of 2."),
    ("dequantize.binarization", "static", "= 'static' is not allowed with dataset.name = 'digits'; it may be none,"),
    ("dataset.name", "binarized_mnist", "'none' is not allowed with dataset.name = 'binarized_mnist'; it must be 'st"),
    # values that do not fit together
    (
        "train.schedule",
        "exponential",
        "train.final_learning_rate = 0 is not allowed with schedule = 'exponential', which never reaches 0; it must",
    ),
    (
        "train.final_learning_rate",
        0.002,
        "train.final_learning_rate = 0.002 is not allowed with train.learning_rate = 0.001, from which the rate falls",
    ),
    (
        "pixelcnn.train.final_learning_rate",
        0.01,
        "pixelcnn.train.final_learning_rate = 0.01 is not allowed with pixelcnn.train.learning_rate = 0.003, from",
    ),
    *(
        (
            "vae.train",
            {"schedule": schedule, "final_learning_rate": 0.0001},
            f"vae.train.final_learning_rate = 0.0001 is not allowed with schedule = '{schedule}', which has a fixed",
        )
        for schedule in ("constant", "stages")
    ),
    (
        "density_and_mass.dequantizing.train.final_learning_rate",
        1,
        "density_and_mass.dequantizing.train.final_learning_rate = 1 is not allowed with density_and_mass.dequantizing",
    ),
    (
        "vae.train",
        {"compile": True, "capture": True},
        "vae.train.capture = true is not allowed with vae.train.compile = true; one of them must be false.",
    ),
    (
        "flow",
        {"family": "flow", "dequantization": "uniform_fixed", "train": {"capture": True}},
        "flow.train.capture = true is not allowed with flow.dequantization = 'uniform_fixed', whose noise comes from",
    ),
    (
        "pixelcnn.train.kl_warmup_steps",
        9,
        "pixelcnn.train.kl_warmup_steps = 9 is not allowed for pixelcnn, which has no latent code; it must be 0",
    ),
    (
        "train.kl_warmup_steps",
        9,
        "train.kl_warmup_steps = 9 is not allowed for histogram, which has no latent code; it must be 0",
    ),
    (
        "vae.finetune",
        {"epochs": 100, "train_samples": 8},
        "vae.finetune.epochs = 100 is not allowed with 100 epochs of training; it must be less, since fine-tuning",
    ),
    (
        "vae.finetune",
        {"epochs": 9, "train_samples": 8},
        "vae.train.patience = 20 is not allowed with vae.finetune; it must be null, since training might stop before",
    ),
    ("train.seconds", 0, "train.seconds = 0 is not allowed; it must be above 0.0, or null."),
    (
        "vae",
        {
            "family": "vae",
            "finetune": {"epochs": 9, "train_samples": 8},
            "train": {"patience": None, "seconds": 60},
        },
        "vae.train.seconds = 60 is not allowed with vae.finetune; it must be null, since training might stop before",
    ),
    (
        "vae.deeper",
        [{"latent_size": 3}],
        "deeper.0.hidden_sizes is missing; the keys there are latent_size, hidden_sizes",
    ),
    (
        "vae.deeper",
        [{"latent_size": 3, "hidden_sizes": [4], "n": 1}],
        "vae.deeper.0.n is not a known key (its value is 1); allowed are latent_size, hidden_sizes.",
    ),
    ("vae.finetune", {"epoch": 3}, "vae.finetune.epochs is missing; the keys there are epochs, train_samples."),
    ("vae.doubly_reparameterized", 1, "vae.doubly_reparameterized = 1 is not allowed; it must be true or false."),
    ("evaluate.annealed", {"n_steps": 1}, "evaluate.annealed"),
    ("evaluate.refined", {"widening": 0.9}, "evaluate.refined"),
    ("evaluate.refined", {"encoder_share": 0.5}, "evaluate.refined"),
    (
        "vae.finetune",
        {"epochs": 9, "train_samples": 1},
        "vae.finetune.train_samples = 1 is not allowed; it must differ from vae.train_samples.",
    ),
    ("realnvp.n_scales", 4, "realnvp.n_scales = 4 is not allowed with images of 8x8 pixels, which are halved at each"),
    (
        "gated_pixelcnn.n_classes",
        9,
        "n_classes = 9 is not allowed with images whose labels have 10 classes; it must be",
    ),
    (
        "gated_pixelcnn.dropout",
        0.001,
        "gated_pixelcnn.dropout = 0.001 is not allowed; it must be 0, or at least 0.0039",
    ),
    ("pixelcnn_pp.dropout", 0.001, "pixelcnn_pp.dropout = 0.001 is not allowed; it must be 0, or at least 0.00390625,"),
    ("vae.likelihood", "bernoulli", "vae.likelihood = 'bernoulli' needs images of 2 levels, but these have 17;"),
    (
        "vae.n_mixtures",
        3,
        "vae.n_mixtures = 3 is not allowed with likelihood = 'categorical', because a mixture",
    ),
    (
        "pixelcnn.likelihood",
        "bernoulli",
        "pixelcnn.likelihood = 'bernoulli' needs images of 2 levels, but these have 17",
    ),
    # names
    (
        "../vae",
        {"family": "histogram", "pseudocount": 1.0},
        "'../vae' cannot name a model; a name has at most 64 lower-case",
    ),
    ("report", {"family": "histogram", "pseudocount": 1.0}, "'report' cannot name a model"),
    ("density_and_mass.family", "gaussian", "density_and_mass.family is not a known key"),
    (3, {}, "3 is not the name of a section; names must be text."),
    ("x", None, "x is not a known section"),
]


@pytest.mark.parametrize(
    ("path", "value", "sentence"), MISTAKES, ids=[f"{path}-{i}" for i, (path, *_) in enumerate(MISTAKES)]
)
def test_a_mistake_gets_one_sentence(path: str, value: object, sentence: str, content: dict[str, Any]) -> None:
    if isinstance(path, str) and not path.startswith("."):
        wrong = changed(content, path, value)
    else:
        wrong = {**content, path: value}
    with pytest.raises(InputError) as caught:
        validated(wrong)
    text = str(caught.value)
    assert sentence in text
    assert text.startswith("params.yaml: ")
    assert "\n" not in text


def test_the_committed_file_validates(content: dict[str, Any]) -> None:
    params = validated(content)
    assert set(params.models) <= set(params.sections)
    assert raw_levels(params) == model_levels(params) == 17


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"bits": 3}, 8), ({"binarization": "dynamic"}, 2), ({"bits": 2, "binarization": "threshold"}, 2)],
)
def test_the_levels_that_models_see(change: dict[str, object], expected: int, content: dict[str, Any]) -> None:
    content["dequantize"].update(change)
    assert model_levels(validated(content)) == expected


def test_a_model_overrides_the_trainer_for_itself_alone(content: dict[str, Any]) -> None:
    content["vae"]["train"] = {"epochs": 7, "gradient_clip": None, "learning_rate": 1}
    params = validated(content)
    settings = params.section("vae").settings(params.train)
    assert (settings.epochs, settings.gradient_clip, settings.learning_rate) == (7, None, 1)
    assert settings.batch_size == params.train.batch_size
    assert params.section("iwae").settings(params.train) == params.train


def test_scientific_notation_is_a_number(tmp_path: Path, committed: Callable[[str], str]) -> None:
    """`dvc exp run -S train.lr=1e-5` writes 1e-05, which YAML 1.1 reads as text."""
    text = committed("params.yaml")
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("learning_rate: 0.001", "learning_rate: 1e-05"), encoding="utf-8")
    assert read_validated(path).train.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "is not valid YAML at line"),
        ("a: 1\na: 2", "is not valid YAML at line 2"),
        ("", "must be a mapping of sections, but its content is None"),
        ("- 1", "must be a mapping of sections, but its content is [1]"),
        ("a: !!python/object:os.system 1", "is not valid YAML"),
        ("a: \x07", "is not valid YAML"),
        ("a: 2020-13-45", "is not valid YAML"),
        ("a: !!int x", "is not valid YAML"),
        ("a: -_", "is not valid YAML"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_validated(path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_validated(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_validated(tmp_path / "params.yaml")
