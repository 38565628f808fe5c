"""Tables of all recipes' results beside the published numbers, for the README and the terminal.

There is one table for each protocol and test set, because other numbers are not comparable. A bound is written with its
relation sign. No number is typed by hand: all results come from ``recipes/results/``, and the published numbers and
their sources, which are listed below each table, come from the recipes. The layout of the README's tables is in the
template ``results.md.jinja`` beside this module.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json
from bitsperdim.core.git import Provenance
from bitsperdim.core.labels import PUBLISHED_SIGNS, TOO_FEW, meanings
from bitsperdim.core.metrics import AnyMetrics
from bitsperdim.core.yardsticks import TABULATED
from bitsperdim.recipes import recipe as recipes
from bitsperdim.recipes.recipe import RESULTS, reading_result, result_name
from bitsperdim.results import templates
from bitsperdim.results.formatting import count, explained, plain, with_error
from bitsperdim.results.formatting import markdown as markdown_cell

WIDTH = 100  # of the output in a terminal


def read_results(root: Path) -> list[dict[str, Any]]:
    """Return all results, ordered by name.

    Raises:
        InputError: a result is damaged.
    """
    return [read_result(path) for path in sorted((root / RESULTS).glob("*.json"))]


def read_result(path: Path) -> dict[str, Any]:
    """Read a result, with typed metrics, and check that it has everything that the tables show.

    Raises:
        InputError: the result is damaged.
    """
    with reading_result(path):
        content = read_json(path)
        for model, entry in content["models"].items():
            entry["metrics"] = AnyMetrics.of(entry["metrics"], f"{path}, {model}")
        _table(content["title"], [content])  # reads everything that a table shows
    return content


def _by_table(content: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Split a result by protocol and test images, which must be the same for all numbers of a table.

    The protocol can differ between models: a model that is given the label is in another table.
    """
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    for model, entry in content["models"].items():
        key = entry["metrics"].protocol, content["data"]["sha256"]["test"]
        pairs = [] if parts else content.get("dequantizations", [])  # only of flows, which are never given a label
        parts.setdefault(key, {**content, "models": {}, "dequantizations": pairs})["models"][model] = entry
    return parts


def markdown(root: Path) -> str:
    """Return all results as Markdown, with a table for each protocol, and published numbers with their sources."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for content in read_results(root):
        for key, part in _by_table(content).items():
            groups.setdefault(key, []).append(part)
    tables = [_table(protocol, results) for (protocol, _), results in sorted(groups.items())]
    return explained(templates.markdown("recipes", "results", tables=tables))


def _table(protocol: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the template shows of results that share a protocol and test images."""
    rows: list[tuple[tuple[bool, float], list[str], list[dict[str, Any]]]] = []  # order, cells, published numbers
    sources: dict[tuple[str, str, str], str] = {}  # published number, model and source -> protocol
    for content in results:
        name = content["recipe"] if content["size"] == "cpu" else f"{content['recipe']} --size {content['size']}"
        origin = "" if (found := Provenance.recorded(content)).is_a_commit else f" ({found.words})"
        for model, entry in content["models"].items():
            metrics = entry["metrics"]
            cells = [
                f"`{name}`: {model}{origin}",
                number(metrics, "bits/dim"),
                number(metrics, "nats") + before(metrics),
                metrics.words,
                str(metrics.n_samples),
            ]
            place = metrics.kind == "density", -metrics.bpd  # densities come last, whatever their number
            rows.append((place, cells, [item for item in content["published"] if item["model"] == model]))
    for yardstick in TABULATED:
        if (value := results[0]["yardsticks"].get(yardstick.key)) is not None:
            rows.append(((False, -value), [yardstick.in_markdown, plain(value), "", "", ""], []))
    rows.sort(key=lambda row: row[0])
    cells_of_rows = [[*cells, "; ".join(_cited(item, sources) for item in items)] for _, cells, items in rows]
    items = [item for content in results for item in content["published"] if not item["model"]]
    return {
        "protocol": protocol,
        "n_test": count(results[0]["data"]["n_images"]["test"]),
        "rows": cells_of_rows,
        "pairs": [pair for content in results for pair in _pairs(content)],
        "in_general": list(dict.fromkeys(_cited(item, sources) for item in items)),
        "sources": [f"{what}: {conditions}; {source}" for (_, what, source), conditions in sources.items()],
    }


def _pairs(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the paired differences between each flow's kinds of dequantization noise; none for one kind."""
    pairs = []
    for group in content.get("dequantizations", []):
        differences = []
        for name, pair in group["differences"].items():
            value, error = with_error(pair["bpd"], pair["bpd_standard_error"])
            of_both = [content["models"][each] for each in (name, group["reference"]) if each in content["models"]]
            flag = TOO_FEW if any(entry["metrics"].is_flagged for entry in of_both) else ""
            differences.append(f"`{name}` {value} ± {error}{flag}")
        pairs.append({"recipe": content["recipe"], "reference": group["reference"], "differences": differences})
    return pairs


def _cited(item: dict[str, Any], sources: dict[tuple[str, str, str], str]) -> str:
    """Return a published number with the index of its source, which is added to ``sources``."""
    key = _published(item), item["what"], item["source"]
    sources.setdefault(key, item["protocol"])
    return f"{markdown_cell(key[0])} [{list(sources).index(key) + 1}]"


def _published(item: dict[str, Any]) -> str:
    decimals = max(2, len(f"{item['value']:g}".partition(".")[2]))
    return f"{PUBLISHED_SIGNS[item['kind']]} {item['value']:.{decimals}f} {item['unit']}"


def _reference(item: dict[str, Any]) -> str:
    return f"{_published(item)} ({item['what']}; {item['protocol']}; {item['source']})"


def number(metrics: AnyMetrics, unit: str) -> str:
    """Return a model's number with its relation sign, its test-set error and its marks, in ``nats`` or ``bits/dim``."""
    in_nats = metrics.nll_nats, metrics.nll_nats_standard_error
    value, error = with_error(*in_nats) if unit == "nats" else with_error(metrics.bpd, metrics.bpd_standard_error)
    return f"{metrics.sign} {value}" + (f" ± {error}" if error else "") + metrics.marks


def before(metrics: AnyMetrics) -> str:
    """Return the number without refined proposals or replaced noise, in nats, and how it was computed.

    Published bounds use the encoder as the proposal, so this number was computed in the same way. The result is empty
    if only some images were scored in that way, because their number is not comparable with that of all images.
    """
    other = metrics.contrast
    if other is None or other.n_images != metrics.n_images:
        return ""
    words = "the encoder alone" if other.proposal == "encoder" else f"{other.proposal} noise alone"
    mark = TOO_FEW if other.too_few_samples else ""
    return f" ({metrics.sign} {plain(other.nll_nats, 2)}{mark} by {words})"


def summary(path: Path) -> str:
    """Return the summary of a result in a few lines."""
    content = read_result(path)
    lines = [f"{content['title']} ({content['data']['protocol']}, size {content['size']}):"]
    for model in content["models"]:
        lines.append(f"  {_ours(content, model)}")
        lines += [f"    published: {_reference(item)}" for item in content["published"] if item["model"] == model]
    return "\n".join([*lines, *(f"  {text}" for text in _origin(content)), *_meanings(lines)])


def _origin(content: dict[str, Any]) -> list[str]:
    """Return a line about the code that made a result, if this is not the code of a commit."""
    origin = Provenance.recorded(content)
    because = f": {origin.unknown_because}" if origin.unknown_because else ""
    return [] if origin.is_a_commit else [f"code: {origin.words}{because}"]


def _ours(content: dict[str, Any], model: str) -> str:
    """Return a model's numbers in both units, with K unless the number is exact, and the number of test images."""
    metrics = content["models"][model]["metrics"]
    samples = "" if metrics.kind == "exact" else f" at K = {metrics.n_samples}"
    return (
        f"{model} {number(metrics, 'bits/dim')} bits/dim, {number(metrics, 'nats')} nats{before(metrics)}{samples}, "
        f"{metrics.words}, "
        f"{content['data']['n_images']['test']:,} test images"
    )


def _meanings(lines: list[str]) -> list[str]:
    """Return the meanings of the marks in these lines, each after an empty line."""
    return [line for sentence in meanings("\n".join(lines)) for line in ("", *textwrap.wrap(sentence, WIDTH))]


def listing(root: Path) -> tuple[str, list[InputError]]:
    """Return every recipe with its title, sizes, published references and results, 100 columns wide.

    A recipe is left out if it or its result cannot be read; the errors are returned, too.
    """
    lines: list[str] = []
    broken = []
    for name in recipes.names(root):
        try:
            lines += _listed(root, name)
        except InputError as error:
            broken.append(error)
    if not lines and not broken:
        return "There are no recipes.", []
    return "\n".join([*lines, *_meanings(lines)]), broken


def _listed(root: Path, name: str) -> list[str]:
    found = recipes.read(root, name)
    times = [f"{size} {getattr(found.content.sizes, size).minutes} min" for size in found.sizes]
    title = f"{name}: {found.content.title} ({', '.join(times)})"
    lines = textwrap.wrap(title, WIDTH, subsequent_indent=" " * 4)
    details = [f"published: {_reference(item.model_dump())}" for item in found.content.published]
    for size in recipes.SIZES:
        path = root / RESULTS / f"{result_name(name, size)}.json"
        if path.exists():
            content = read_result(path)
            details += [f"ours, {size}: {_ours(content, model)}" for model in content["models"]]
            details += [f"ours, {size}, {text}" for text in _origin(content)]
    for text in details:
        lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 15)
    return lines
