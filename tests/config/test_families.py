"""Sections refuse exactly the images for which their models cannot be built, before any work and without torch."""

import itertools
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import SMALLEST_DROPOUT, FamilySection, Images
from bitsperdim.core.errors import InputError
from bitsperdim.models import build
from bitsperdim.models.parts import activations
from bitsperdim.sources import SOURCES
from bitsperdim.sources.known import KNOWN

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 6, 4)]
CHANGES: dict[str, list[dict[str, object]]] = {
    "pixelcnn": [
        {"n_filters": n_filters, "likelihood": likelihood}
        for n_filters, likelihood in itertools.product((2, 4, 6), ("categorical", "coupled_logistic"))
    ],
    "gated_pixelcnn": [
        {"n_filters": n_filters, "likelihood": likelihood}
        for n_filters, likelihood in itertools.product((2, 4, 6), ("normal", "coupled_logistic"))
    ],
    "pixelcnn_pp": [
        {"n_filters": 4, "likelihood": likelihood, "dropout": dropout}
        for likelihood, dropout in itertools.product(("logistic", "coupled_logistic"), (0.0, 0.001, 0.5))
    ],
    "realnvp": [{"n_filters": 2, "n_scales": n_scales} for n_scales in range(1, 8)],
}


def section(family: str, **changes: object) -> FamilySection:
    content = YAML(typ="safe").load(Path(__file__).parents[2] / "params.yaml")[family]
    return FAMILIES[family].model_validate({**content, **changes})


def is_refused(what: FamilySection, images: Images) -> bool:
    try:
        what.check_images("a", images)
    except InputError as error:
        return str(error).startswith("params.yaml: a.")
    return False


def cannot_be_built(what: FamilySection, shape: tuple[int, int, int]) -> bool:
    try:
        build(what.family, what.hyperparameters, shape, 5)
    except InputError:
        return True
    return False


@pytest.mark.parametrize("family", CHANGES)
def test_what_is_refused_is_what_cannot_be_built(family: str) -> None:
    found = set()
    for changes, shape in itertools.product(CHANGES[family], SHAPES):
        what = section(family, **changes)
        refused = is_refused(what, Images(5, shape))
        assert refused == cannot_be_built(what, shape), (changes, shape)
        found.add(refused)
        if "dropout" not in changes:
            assert not is_refused(what, Images(5))  # the shape is not known
    assert found == {True, False}


def test_classes_are_refused_where_there_are_too_many_or_none() -> None:
    ten = section("gated_pixelcnn", n_classes=10)
    for n_classes, refused in ((None, False), (0, True), (2, False), (10, False), (11, True)):
        assert is_refused(ten, Images(2, (1, 8, 8), n_classes)) == refused
        assert not is_refused(section("gated_pixelcnn", n_classes=None), Images(2, (1, 8, 8), n_classes))


def test_the_constant_is_that_of_the_model() -> None:
    assert activations.SMALLEST_DROPOUT == SMALLEST_DROPOUT


def test_sources_know_their_images() -> None:
    """Users' own images are unknown before they are read, except that a folder has no labels."""
    known = {name: (source.image_shape, source.n_classes) for name, source in SOURCES.items()}
    assert known == {
        "digits": ((1, 8, 8), 10),
        "mnist": ((1, 28, 28), 10),
        "fashion_mnist": ((1, 28, 28), 10),
        "binarized_mnist": ((1, 28, 28), 0),
        "cifar10": ((3, 32, 32), 10),
        "npz": (None, None),
        "folder": (None, 0),
        **dict.fromkeys(KNOWN, (None, 0)),
    }


BIGGER: dict[str, list[dict[str, object]]] = {
    "vae": [{"hidden_sizes": [300, 30]}, {"deeper": [{"latent_size": 8, "hidden_sizes": [90, 80]}] * 2}],
    "conv_vae": [{"latent_maps": 100}, {"n_blocks": 3, "n_filters": 20}, {"n_scales": 1, "n_blocks": 0}],
    "pixelcnn": [{"kernel_size": 31}, {"n_blocks": 9}, {"likelihood": "logistic", "n_mixtures": 40}],
    "gated_pixelcnn": [{"kernel_size": 31}, {"n_layers": 1, "n_filters": 90}, {"n_classes": 500}],
    "pixelcnn_pp": [
        {"n_blocks": 4},
        {"n_scales": 1, "n_filters": 50},
        {"likelihood": "coupled_logistic", "n_mixtures": 20},
    ],
    "flow": [{"transform": "maf", "n_transforms": 3, "hidden_sizes": [50, 60]}, {"n_bins": 30}],
    "realnvp": [{"n_blocks": 3}, {"n_scales": 1}, {"n_scales": 3, "n_filters": 9}],
}


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family != "external"]
)  # whose weights are not known
def test_weights_are_foreseen(family: str) -> None:
    """The estimate is at most the number of weights, and at least a third: small networks have many other weights."""
    noise: list[dict[str, object]] = []
    if "dequantization" in FAMILIES[family].model_fields:
        sizes = {"n_couplings": 3, "n_filters": 30, "n_blocks": 2}
        noise = [{"dequantization": "variational", "variational": sizes}]
    for changes in [{}, *BIGGER.get(family, []), *noise]:
        what = section(family, **changes)
        for shape in ((1, 8, 8), (3, 16, 12)):
            if is_refused(what, Images(5, shape)):
                continue
            model = build(what.family, what.hyperparameters, shape, 5)
            n_weights = sum(tensor.numel() for tensor in model.state_dict().values())
            assert n_weights / 3 <= what.least_weights(shape, 5) <= n_weights, (changes, shape)


def test_what_no_device_holds_is_refused() -> None:
    section("vae", hidden_sizes=[65_536]).check_size("vae", Images(2, (1, 28, 28)))
    for hidden_sizes in ([65_536] * 4, [65_536] * 16):
        with pytest.raises(InputError, match=r"the sizes in vae make a network of .* weights or more; at most"):
            section("vae", hidden_sizes=hidden_sizes).check_size("vae", Images(2))
