"""The table of results in README.md, written from ``results/``: no number there is typed by hand.

``make readme`` rewrites what stands between the two markers; ``tests/test_readme.py`` fails where the
table and the committed metrics differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bitsperdim.errors import InputError
from bitsperdim.files import read_json, write_text
from bitsperdim.report.formatting import plain, with_error

BEGIN = "<!-- results: begin (make readme) -->"
END = "<!-- results: end -->"
HEADER = """| model | bits/dim | the number is | nats per image | Monte Carlo error, bits/dim | K |
| --- | --- | --- | --- | --- | --- |
"""
WORDS = {"exact": ("=", "exact"), "lower": ("≤", "an upper bound")}
YARDSTICKS = {
    "entropy_bpd": "*independent pixels, fitted to the test set itself*",
    "webp_bpd": "*lossless WebP, one file*",
    "png_bpd": "*PNG, one file*",
}


def table(results: Path) -> str:
    """Return the Markdown table of the models and yardsticks in a folder of results."""
    rows = []
    for name in read_json(results / "models.json")["models"]:
        metrics = read_json(results / name / "metrics.json")
        relation, words = WORDS[metrics["kind"]]
        bpd, error = with_error(metrics["bpd"], metrics["bpd_standard_error"])
        nll, nll_error = with_error(metrics["nll_nats"], metrics["nll_nats_standard_error"])
        noise = "none" if metrics["kind"] == "exact" else f"{metrics['bpd_monte_carlo_error']:.1g}"
        rows.append(f"| `{name}` | {relation} {bpd} ± {error} | {words} | {nll} ± {nll_error} | {noise} ")
        rows[-1] += f"| {metrics['n_samples']} |\n"
    images = read_json(results / "dequantize" / "metrics.json")
    for key, words in YARDSTICKS.items():
        rows.append(f"| {words} | {plain(images[key])} | | | | |\n")
    caption = f"\nProtocol `{images['protocol']}`; ± is one standard error over the {images['n_test']} test images.\n"
    return HEADER + "".join(rows) + caption


def update(text: str, results: Path) -> str:
    """Return the text of a README with the table between its markers written anew."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"README.md must hold the markers {BEGIN!r} and {END!r} once each.")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(results)}{END}{rest.split(END)[1]}"


def main() -> None:
    """Rewrite the table of the README of the command line: ``python -m bitsperdim.readme README.md results``."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bitsperdim.readme README RESULTS")
    readme, results = Path(sys.argv[1]), Path(sys.argv[2])
    write_text(readme, update(readme.read_text(encoding="utf-8"), results))


if __name__ == "__main__":
    main()
