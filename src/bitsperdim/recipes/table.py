"""The results of all recipes beside the published numbers, for the README and the terminal.

One table for each protocol: numbers under different protocols are not comparable, and never share one.
A bound is written with its relation sign. No number is typed by hand: all come from
``recipes/results/``; the published ones stand in the recipes with their sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitsperdim.errors import InputError
from bitsperdim.files import read_json
from bitsperdim.recipes import recipe as recipes
from bitsperdim.recipes.result import RESULTS, result_name
from bitsperdim.report.formatting import plain, with_error

SIGNS = {"exact": "=", "lower": "≤", "bound": "≤", "estimate": "≈"}
HEADER = "| ours | | K | published | protocol | source |\n| --- | --- | --- | --- | --- | --- |\n"


def read_results(root: Path) -> list[dict[str, Any]]:
    """Return all results, by name."""
    return [read_json(path) for path in sorted((root / RESULTS).glob("*.json"))]


def number(metrics: dict[str, Any], unit: str) -> str:
    """Return a model's number with its relation sign and its test-set error, in ``nats`` or ``bits/dim``."""
    key = "nll_nats" if unit == "nats" else "bpd"
    value, error = with_error(metrics[key], metrics[f"{key}_standard_error"])
    return f"{SIGNS[metrics['kind']]} {value} ± {error}"


def summary(path: Path) -> str:
    """Return a result in a few lines."""
    content = read_json(path)
    lines = [f"{content['title']} ({content['data']['protocol']}, size {content['size']}):"]
    for model, entry in content["models"].items():
        metrics = entry["metrics"]
        lines.append(
            f"  {model} {number(metrics, 'bits/dim')} bits/dim, {number(metrics, 'nats')} nats"
            + ("" if metrics["kind"] == "exact" else f" at K = {metrics['n_samples']}")
        )
        lines += [f"    published: {_published(item)}" for item in content["published"] if item["model"] == model]
    return "\n".join(lines)


def _published(item: dict[str, Any]) -> str:
    value = f"{SIGNS[item['kind']]} {item['value']:g} {item['unit']}"
    return f"{item['what']} {value}, {item['protocol']} ({item['source']})"


def listing(root: Path) -> str:
    """Return every recipe with its title, its sizes, the published reference and our result."""
    lines = []
    for name in recipes.names(root):
        found = recipes.read(root, name)
        sizes = found.content.sizes
        lines.append(f"{name}: {found.content.title} (cpu {sizes.cpu.minutes} min, gpu {sizes.gpu.minutes} min)")
        lines += [f"    published: {_published(item.model_dump())}" for item in found.content.published]
        for size in recipes.SIZES:
            path = root / RESULTS / f"{result_name(name, size)}.json"
            if path.exists():
                lines += [f"    ours, {size}: {line.strip()}" for line in _ours(read_json(path))]
    return "\n".join(lines) or "There are no recipes."


def _ours(content: dict[str, Any]) -> list[str]:
    return [
        f"{model} {number(entry['metrics'], 'bits/dim')} bits/dim, {number(entry['metrics'], 'nats')} nats"
        for model, entry in content["models"].items()
    ]
