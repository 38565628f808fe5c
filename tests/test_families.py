"""Sections refuse, before any work and without torch, exactly what their models cannot be built for."""

import itertools
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bitsperdim.data.sources import SOURCES
from bitsperdim.errors import InputError
from bitsperdim.families import FAMILIES, SMALLEST_DROPOUT, FamilySection, Images
from bitsperdim.models import activations, build

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
    content = YAML(typ="safe").load(Path(__file__).parents[1] / "params.yaml")[family]
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
            assert not is_refused(what, Images(5))  # nothing is known of the shape
    assert found == {True, False}


def test_classes_are_refused_where_there_are_too_many_or_none() -> None:
    ten = section("gated_pixelcnn", n_classes=10)
    for n_classes, refused in ((None, False), (0, True), (2, False), (10, False), (11, True)):
        assert is_refused(ten, Images(2, (1, 8, 8), n_classes)) == refused
        assert not is_refused(section("gated_pixelcnn", n_classes=None), Images(2, (1, 8, 8), n_classes))


def test_the_constant_is_that_of_the_model() -> None:
    assert activations.SMALLEST_DROPOUT == SMALLEST_DROPOUT


def test_sources_know_their_images() -> None:
    """Those of the user say nothing before they are read."""
    known = {name: (source.image_shape, source.n_classes) for name, source in SOURCES.items()}
    assert known == {
        "digits": ((1, 8, 8), 10),
        "mnist": ((1, 28, 28), 10),
        "fashion_mnist": ((1, 28, 28), 10),
        "binarized_mnist": ((1, 28, 28), 0),
        "cifar10": ((3, 32, 32), 10),
        "npz": (None, None),
        "folder": (None, None),
    }
