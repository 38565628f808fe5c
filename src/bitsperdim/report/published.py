"""Published numbers for the protocol of a report, from ``recipes/*.yaml``, which also give their sources.

The report shows a number if a recipe lists it for images of the same data set, treatment and number of levels. It
cannot be checked that the number was scored on the same test images, because papers publish no hash. The recipe says
what else differs.

Invariants (``tests/report/test_published.py``): numbers of another protocol are never shown
(``test_only_numbers_of_the_same_protocol_are_shown``); a number of several recipes is shown once
(``test_a_number_of_several_recipes_is_shown_once``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitsperdim.core.labels import PUBLISHED_SIGNS
from bitsperdim.core.units import nats_to_bits_per_dim
from bitsperdim.recipes.recipe import Published, RecipeFile, names, read
from bitsperdim.sources import SOURCES

OWN_IMAGES = ("folder", "npz")  # the user's own images: the name of the source does not identify them


@dataclass(frozen=True)
class PublishedNumber:
    """A published number of other authors in both units; smaller is better.

    Attributes:
        what: name that the authors give to the model.
        relation: = for an exact number, ≤ for a bound, ≈ for an estimate.
        bpd: bits per dimension.
        nats: nats per image.
        shown: value as published, with its unit.
        protocol: conditions in the words of the recipe, such as K and other differences.
        source: authors, year, table.
    """

    what: str
    relation: str
    bpd: float
    nats: float
    shown: str
    protocol: str
    source: str


def read_published(root: Path, protocol: str, image_shape: tuple[int, int, int]) -> list[PublishedNumber]:
    """Return the published numbers that belong to a protocol, the smallest first.

    Args:
        root: root of the repository; if it has no ``recipes/``, the result is empty.
        protocol: protocol tag of the images.
        image_shape: (C, H, W).

    Raises:
        InputError: a recipe is invalid.
    """
    parts = protocol.split("/")
    found: dict[Published, None] = {}
    for recipe in (read(root, name).content for name in names(root)):
        if parts[0] not in OWN_IMAGES and _images(recipe) == (*parts[:2], *parts[3:4]):
            found |= dict.fromkeys(item.model_copy(update={"model": None}) for item in recipe.published)
    return sorted((_in_both_units(item, image_shape) for item in found), key=lambda item: (item.bpd, item.what))


def _images(recipe: RecipeFile) -> tuple[str, str, str]:
    """Return data set, treatment and levels of a recipe's images, written as in a protocol tag."""
    dataset, dequantize = (_mapping(recipe.params.get(key)) for key in ("dataset", "dequantize"))
    name = str(dataset.get("name"))
    treatment = dequantize.get("binarization", "none")
    bits = dequantize.get("bits")
    if name not in SOURCES:
        return "", "", ""  # the recipe runs on whatever data set params.yaml names
    n_levels = 2 if treatment != "none" else 2**bits if isinstance(bits, int) else SOURCES[name].n_levels
    return name, str(treatment), f"L{n_levels}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _in_both_units(item: Published, image_shape: tuple[int, int, int]) -> PublishedNumber:
    per_nat = nats_to_bits_per_dim(1.0, image_shape)
    bpd, nats = (item.value * per_nat, item.value) if item.unit == "nats" else (item.value, item.value / per_nat)
    decimals = max(2, len(f"{item.value:g}".partition(".")[2]))
    shown = f"{item.value:,.{decimals}f} {item.unit}"
    return PublishedNumber(item.what, PUBLISHED_SIGNS[item.kind], bpd, nats, shown, item.protocol, item.source)
