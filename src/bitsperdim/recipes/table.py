"""The results of all recipes beside the published numbers, for the README and the terminal.

One table for each protocol and test set: other numbers are not comparable, and never share one.
A bound is written with its relation sign. No number is typed by hand: all come from
``recipes/results/``; the published ones stand in the recipes with their sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitsperdim.files import read_json
from bitsperdim.recipes import recipe as recipes
from bitsperdim.recipes.result import RESULTS, result_name
from bitsperdim.recipes.running import reading_result
from bitsperdim.report.formatting import markdown as markdown_cell
from bitsperdim.report.formatting import plain, with_error

SIGNS = {"exact": "=", "lower": "≤", "bound": "≤", "estimate": "≈", "density": "density"}
WORDS = {"exact": "exact", "lower": "an upper bound", "density": "a density, not a likelihood: not ranked"}
HEADER = """| recipe: model | bits/dim | nats per image | the number is | K | published |
| --- | --- | --- | --- | --- | --- |
"""
YARDSTICKS = {
    "entropy_bpd": "*independent sub-pixels, fitted to the test set itself*",
    "webp_bpd": "*lossless WebP*",
    "png_bpd": "*PNG*",
}
FLAG = "†"
FLAG_MEANS = (
    f"\n{FLAG} Too few samples: the bias of the bound may exceed its error, or more than 5 % of the images have an "
    f"effective sample size below 10 or (judged from K = 1,000 on) weights with a heavy tail. With more samples, or a "
    f"better proposal, the bound gets better.\n"
)


def read_results(root: Path) -> list[dict[str, Any]]:
    """Return all results, by name.

    Raises:
        InputError: one is damaged.
    """
    return [read_result(path) for path in sorted((root / RESULTS).glob("*.json"))]


def read_result(path: Path) -> dict[str, Any]:
    """Read a result and look whether what the tables show is there.

    Raises:
        InputError: it is damaged.
    """
    with reading_result(path):
        content = read_json(path)
        _group(content["title"], [content])  # touches all that a table shows
    return content


def _by_table(content: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Split a result by what must be the same for numbers to stand in one table: the protocol and the test images.

    The protocol is that of each model: one that was given the label has a table of its own.
    """
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    for model, entry in content["models"].items():
        key = entry["metrics"].get("protocol", content["data"]["protocol"]), content["data"]["sha256"]["test"]
        pairs = [] if parts else content.get("dequantizations", [])  # of flows, which are given no label
        parts.setdefault(key, {**content, "models": {}, "dequantizations": pairs})["models"][model] = entry
    return parts


def markdown(root: Path) -> str:
    """Return all results as Markdown: a table for each protocol, and the published numbers with their sources."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for content in read_results(root):
        for key, part in _by_table(content).items():
            groups.setdefault(key, []).append(part)
    return "\n".join(_group(protocol, results) for (protocol, _), results in sorted(groups.items()))


def _group(protocol: str, results: list[dict[str, Any]]) -> str:
    rows: list[tuple[float, str]] = []
    densities: list[tuple[float, str]] = []  # stand below the others, whatever their number
    flagged = False
    for content in results:
        name = content["recipe"] if content["size"] == "cpu" else f"{content['recipe']} --size {content['size']}"
        for model, entry in content["models"].items():
            metrics = entry["metrics"]
            flag = FLAG if metrics["too_few_samples"] else ""
            flagged = flagged or bool(flag)
            held = [_reference(item) for item in content["published"] if item["model"] == model]
            cells = (
                f"`{name}`: {model}",
                number(metrics, "bits/dim") + flag,
                number(metrics, "nats") + flag,
                WORDS[metrics["kind"]],
                str(metrics["n_samples"]),
                markdown_cell("; ".join(held)),
            )
            (rows if metrics["kind"] != "density" else densities).append((metrics["bpd"], f"| {' | '.join(cells)} |\n"))
    yardsticks = results[0]["yardsticks"]
    rows += [
        (yardsticks[key], f"| {words} | {plain(yardsticks[key])} | | | | |\n") for key, words in YARDSTICKS.items()
    ]
    in_general = {_reference(item): None for content in results for item in content["published"] if not item["model"]}
    text = f"**`{protocol}`**, {results[0]['data']['n_images']['test']:,} test images\n\n{HEADER}"
    text += "".join(row for _, row in [*sorted(rows, key=lambda row: -row[0]), *densities])
    text += "".join(paired_table(content) for content in results)
    if in_general:
        text += f"\nPublished for these images in general: {markdown_cell('; '.join(in_general))}.\n"
    return text + (FLAG_MEANS if flagged else "")


def paired_table(content: dict[str, Any]) -> str:
    """Return how the ways of dequantizing one flow differ, image by image, as Markdown; nothing where there is one."""
    text = ""
    for group in content.get("dequantizations", []):
        parts = []
        for name, pair in group["differences"].items():
            value, error = with_error(pair["bpd"], pair["bpd_standard_error"])
            of_both = [content["models"].get(each, {}).get("metrics", {}) for each in (name, group["reference"])]
            flag = FLAG if any(metrics.get("too_few_samples") for metrics in of_both) else ""
            parts.append(f"`{name}` {value} ± {error}{flag}")
        text += (
            f"\n`{content['recipe']}`, bits/dim above those of `{group['reference']}` on the same test images "
            f"(± one standard error of the paired difference): {'; '.join(parts)}.\n"
        )
    return text


def _reference(item: dict[str, Any]) -> str:
    decimals = max(2, len(f"{item['value']:g}".partition(".")[2]))
    value = f"{SIGNS[item['kind']]} {item['value']:.{decimals}f} {item['unit']}"
    return f"{value} ({item['what']}; {item['protocol']}; {item['source']})"


def number(metrics: dict[str, Any], unit: str) -> str:
    """Return a model's number with its relation sign and its test-set error, in ``nats`` or ``bits/dim``."""
    key = "nll_nats" if unit == "nats" else "bpd"
    value, error = with_error(metrics[key], metrics[f"{key}_standard_error"])
    return f"{SIGNS[metrics['kind']]} {value}" + (f" ± {error}" if error else "")


def summary(path: Path) -> str:
    """Return a result in a few lines."""
    content = read_result(path)
    lines = [f"{content['title']} ({content['data']['protocol']}, size {content['size']}):"]
    for model, entry in content["models"].items():
        metrics = entry["metrics"]
        lines.append(
            f"  {model} {number(metrics, 'bits/dim')} bits/dim, {number(metrics, 'nats')} nats"
            + ("" if metrics["kind"] == "exact" else f" at K = {metrics['n_samples']}")
        )
        lines += [f"    published: {_reference(item)}" for item in content["published"] if item["model"] == model]
    return "\n".join(lines)


def listing(root: Path) -> str:
    """Return every recipe with its title, its sizes, the published reference and our result."""
    lines = []
    for name in recipes.names(root):
        found = recipes.read(root, name)
        sizes = found.content.sizes
        lines.append(f"{name}: {found.content.title} (cpu {sizes.cpu.minutes} min, gpu {sizes.gpu.minutes} min)")
        lines += [f"    published: {_reference(item.model_dump())}" for item in found.content.published]
        for size in recipes.SIZES:
            path = root / RESULTS / f"{result_name(name, size)}.json"
            if path.exists():
                lines += [f"    ours, {size}: {line.strip()}" for line in _ours(read_result(path))]
    return "\n".join(lines) or "There are no recipes."


def _ours(content: dict[str, Any]) -> list[str]:
    return [
        f"{model} {number(entry['metrics'], 'bits/dim')} bits/dim, {number(entry['metrics'], 'nats')} nats"
        for model, entry in content["models"].items()
    ]
