"""Published numbers are shown if and only if their protocol is that of the report."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitsperdim.core.errors import InputError
from bitsperdim.recipes.recipe import names, read
from bitsperdim.report import write_report
from bitsperdim.report.published import read_published
from support.metrics import metrics
from support.results import ROOT, params_of, text_of, write_results

pytestmark = pytest.mark.usefixtures("charts_of_studies_drawn_once")

STATIC = "binarized_mnist/static/28x28x1/L2/test10000/given-none"
MNIST = (1, 28, 28)


def number(what: str, value: float = 88.71, **changes: Any) -> dict[str, Any]:
    base = {"model": None, "unit": "nats", "kind": "bound", "protocol": "K = 5000", "source": "Them, table 1"}
    return {**base, "what": what, "value": value, **changes}


def write_recipe(root: Path, name: str, params: dict[str, Any], *published: dict[str, Any]) -> None:
    size = {"minutes": 1, "params": {}}
    content = {"title": name, "params": params, "sizes": {"cpu": size, "gpu": size}, "published": list(published)}
    (root / "recipes").mkdir(exist_ok=True)
    with (root / "recipes" / f"{name}.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(content, file)


def images(name: str, binarization: str | None = None, bits: int | None = None) -> dict[str, Any]:
    treatment = {"bits": bits} if binarization is None else {"binarization": binarization, "bits": bits}
    return {"dataset": {"name": name}, "dequantize": treatment}


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (STATIC, ["static"]),
        (STATIC.replace("test10000", "test9980"), ["static"]),
        (STATIC.replace("static", "dynamic"), []),
        (STATIC.replace("static", "static-of-L4"), []),
        ("mnist/dynamic/28x28x1/L2/test10000/given-none", ["dynamic"]),
        ("mnist/none/28x28x1/L256/test10000/given-none", ["eight bits"]),
        ("mnist/none/28x28x1/L32/test10000/given-none", ["five bits"]),
        ("mnist/none/28x28x1/L2/test10000/given-none", []),
        ("digits/none/8x8x1/L17/test359/given-none", []),
        ("folder/none/28x28x1/L256/test10/given-none", []),  # the user's own images, whatever their name
        ("a/28x28x1/L2/", []),
    ],
)
def test_only_numbers_of_the_same_protocol_are_shown(protocol: str, expected: list[str], tmp_path: Path) -> None:
    write_recipe(tmp_path, "static", images("binarized_mnist", "static"), number("static"))
    write_recipe(tmp_path, "dynamic", images("mnist", "dynamic"), number("dynamic"))
    write_recipe(tmp_path, "eight", images("mnist"), number("eight bits"))
    write_recipe(tmp_path, "five", images("mnist", "none", 5), number("five bits"))
    write_recipe(tmp_path, "own", images("folder"), number("own images"))
    write_recipe(tmp_path, "any", {}, number("of whatever params.yaml has"))
    write_recipe(tmp_path, "odd", {"dataset": 3, "dequantize": "static"}, number("odd"))
    assert [item.what for item in read_published(tmp_path, protocol, MNIST)] == expected


def test_a_number_of_several_recipes_is_shown_once(tmp_path: Path) -> None:
    same = number("VAE")
    write_recipe(
        tmp_path, "one", images("binarized_mnist", "static"), {**same, "model": "vae"}, number("PixelCNN", 81.3)
    )
    write_recipe(tmp_path, "two", images("binarized_mnist", "static"), {**same, "model": "iwae"}, number("VAE", 87.0))
    found = [(item.what, item.nats) for item in read_published(tmp_path, STATIC, MNIST)]
    assert found == [("PixelCNN", 81.3), ("VAE", 87.0), ("VAE", 88.71)]  # the smallest number first


def test_one_unit_is_computed_from_the_other(tmp_path: Path) -> None:
    params = images("binarized_mnist", "static")
    write_recipe(tmp_path, "both", params, number("a", 88.71), number("b", 0.125, unit="bits/dim", kind="exact"))
    b, a = read_published(tmp_path, STATIC, MNIST)
    assert (a.relation, a.shown, a.nats) == ("≤", "88.71 nats", 88.71)
    assert a.bpd == pytest.approx(88.71 / (784 * math.log(2)), rel=1e-12)
    assert (b.relation, b.shown, b.bpd) == ("=", "0.125 bits/dim", 0.125)
    assert b.nats == pytest.approx(0.125 * 784 * math.log(2), rel=1e-12)


def test_the_page_shows_them_with_their_source(tmp_path: Path) -> None:
    models = {"vae": metrics(protocol=STATIC)}
    write_results(tmp_path / "results", models, STATIC)
    hostile = number("<b>VAE</b> |", protocol="K = 5", source="Them & others")
    write_recipe(tmp_path, "theirs", images("binarized_mnist", "static"), hostile)
    write_report(params_of(models), tmp_path / "results", tmp_path / "with", tmp_path)
    write_report(params_of(models), tmp_path / "results", tmp_path / "without", tmp_path / "nowhere")
    page, other = (tmp_path / name / "index.html" for name in ("with", "without"))
    found = re.search('<section aria-labelledby="published">.*?</section>', page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    assert "<b>VAE</b> | Them & others ≤ 88.71 nats ≤ 0.1632 ≤ 88.71 K = 5" in text_of(found[0])
    assert "<b>VAE</b>" not in found[0]
    assert "Published numbers" not in other.read_text("utf-8")


def test_a_broken_recipe_is_one_sentence(tmp_path: Path) -> None:
    write_recipe(tmp_path, "broken", images("mnist"), number("VAE", kind="guess"))
    with pytest.raises(InputError, match=r"^recipes/broken.yaml: published.0.kind is not allowed"):
        read_published(tmp_path, STATIC, MNIST)


def test_every_committed_number_has_a_protocol_that_shows_it() -> None:
    """Every number in recipes/ is found by the protocol tag of its images, so a misspelt treatment is noticed."""
    tags = [
        (STATIC, MNIST),
        *((f"{name}/none/28x28x1/L256/test10000/given-none", MNIST) for name in ("mnist", "fashion_mnist")),
        ("mnist/dynamic/28x28x1/L2/test10000/given-none", MNIST),
        ("cifar10/none/32x32x3/L256/test10000/given-none", (3, 32, 32)),
    ]
    shown = {(item.what, item.source) for tag, shape in tags for item in read_published(ROOT, tag, shape)}
    written = [item for name in names(ROOT) for item in read(ROOT, name).content.published]
    assert {(item.what, item.source) for item in written} == shown
