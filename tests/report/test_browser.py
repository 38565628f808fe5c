"""The report in a real browser: tables sort, charts are drawn, everything fits and is readable, nothing is fetched.

``tests/support/browser.py`` controls Chromium; if Chromium is not installed, these tests are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.report import write_report
from support.browser import Browser, chromium
from support.metrics import exact, metrics
from support.page_checks import faults
from support.results import ANNEALED, HOSTILE, IMPOSSIBLE, JUDGED, params_of, write_results

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="there is no chromium, chromium-browser or google-chrome to open the page with"
)

PROTOCOL = "binarized_mnist/static/2x2x1/L2/test5/given-none"
SEEDS: dict[str, Any] = {"n_seeds": 3, "bpd_seed_spread": 0.11, "bpd_by_seed": {"0": 9.4, "1": 9.5, "2": 9.62}}
# numbers that sort differently as text, and every kind of section and flag of the page
MODELS: dict[str, dict[str, Any]] = {
    "ten": metrics(bpd=10.25, n_units=16, n_active_units=9, annealed=ANNEALED, too_few_samples=True, **JUDGED),
    "nine": exact(bpd=9.5, largest_leaked_gradient=0.0, n_parameters=999, **SEEDS),
    "lost": exact(**IMPOSSIBLE),
    "hundred": metrics(bpd=100.5, bias_exceeds_standard_error=True, ess_below_10_share=0.5, n_parameters=10_000_000),
    HOSTILE: metrics(bpd=-0.5, proposal="prior", n_samples=1, bpd_monte_carlo_error=math.inf),
    "told": exact(protocol=PROTOCOL.replace("none", "label"), largest_leaked_gradient=0.0),
    "a_name_longer_than_a_narrow_screen_is_wide": {**exact(bpd=-30.0), "kind": "density"},
}
RANKED = ["ten", "nine", "lost", "hundred", HOSTILE]
RECIPE = """
title: Theirs
params: {dataset: {name: binarized_mnist}, dequantize: {binarization: static}}
sizes: {cpu: {minutes: 1, params: {}}, gpu: {minutes: 1, params: {}}}
published:
  - {model: null, what: VAE, value: 88.71, unit: nats, kind: bound, protocol: K = 5000, source: "Them, table 1"}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small report with all kinds of models and studies."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "theirs.yaml").write_text(RECIPE, encoding="utf-8")
    models = {name: {"protocol": PROTOCOL, **content, **_of_protocol(content)} for name, content in MODELS.items()}
    write_results(folder / "results", models, PROTOCOL)
    write_report(params_of(models), folder / "results", folder / "report", folder)
    return folder / "report" / "index.html"


def _of_protocol(content: dict[str, Any]) -> dict[str, str]:
    return {} if content["protocol"].startswith("binarized") else {"protocol": PROTOCOL}


def test_nothing_is_wrong_with_the_page(page: Path, browser: Browser) -> None:
    """Check messages, requests, pictures, overflow and contrast on wide and narrow screens, in light and dark mode."""
    assert faults(browser, page.as_uri()) == []
    assert browser.evaluate("document.querySelectorAll('svg.chart').length") > 20
    assert browser.evaluate("document.images.length") >= len(MODELS)
    assert browser.evaluate("document.querySelector('#published') !== null")


BROKEN = {
    '<img src="data:image/png;base64,AAAA" alt="Nothing" width="9" height="9">': "broken image: Nothing",
    '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="" width="9" height="9">': "image without a text",
    '<svg role="img" aria-label="Void" width="9" height="9"></svg>': "empty drawing: Void",
    '<svg width="9" height="9"><rect width="9" height="9"/></svg>': "drawing without a text",
    '<script>console.error("wrong")</script>': "console: error: wrong",
    '<script>console.warn("odd")</script>': "console: warning: odd",
    "<script>missing()</script>": "console: exception:",
    '<script src="http://127.0.0.1:9/remote.js"></script>': "127.0.0.1:9/remote.js",
    '<img src="other.png" alt="Beside the page" width="9" height="9">': "other.png",
    '<div style="width: 500px">Wide</div>': "pixels wide, in a window of 390: DIV Wide",
    '<p style="color: #8a8a8a">Faint</p>': "light: contrast",
    '<p style="opacity: .5">Pale</p>': "contrast",
    '<p style="color: #333">Dark</p>': "1400, dark: contrast",
    "<style>:root { --paper: #fff !important; }</style>": "dark looks like light",
    "<h5>Jump</h5>": "before h5",
    "<h1>Second</h1>": "not one h1",
    "<table><tr><th>Bare</th></tr></table>": "header without a scope: Bare",
    '<a href="#nowhere">Link</a>': "leads nowhere: nowhere",
    '<div class="scroll">Box</div>': "scrolls, but not by keyboard",
}


PLAIN = (
    '<!doctype html><html lang="en"><head><meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,"><title>Page</title><style>body { background: var(--paper); } '
    ":root { color-scheme: light dark; --paper: #fff; } "
    "@media (prefers-color-scheme: dark) { :root { --paper: #000; } }"
    "</style></head><body><h1>Page</h1>FRAGMENT</body></html>"
)


def test_each_fault_would_be_seen(tmp_path: Path, browser: Browser) -> None:
    for index, (fragment, expected) in enumerate({"": "", **BROKEN}.items()):
        path = tmp_path / f"{index}.html"
        path.write_text(PLAIN.replace("FRAGMENT", fragment), encoding="utf-8")
        found = faults(browser, path.as_uri())
        assert found == [] if not fragment else any(expected in fault for fault in found), (fragment, found)


ORDER = "[...document.querySelectorAll('#models tbody tr[data-model]')].map((row) => row.dataset.model)"
SORTED = "[...document.querySelectorAll('#models [aria-sort]:not([aria-sort=none])')].map((one) => one.ariaSort)"
FOCUSED = "document.activeElement.closest('th')?.dataset.key"
BY_BPD = [HOSTILE, "nine", "ten", "hundred", "lost"]


def ranked(browser: Browser) -> list[str]:
    """Return the models in the first body of the table; models that are not ranked stay below, in their order."""
    order: list[str] = browser.evaluate(ORDER)
    assert order[len(RANKED) :] == list(MODELS)[len(RANKED) :]
    return order[: len(RANKED)]


def test_the_table_sorts_by_click(page: Path, browser: Browser) -> None:
    browser.show(390, 844, mobile=True)
    browser.open(page.as_uri())
    assert (ranked(browser), browser.evaluate(SORTED)) == (RANKED, [])
    browser.click("#models [data-key=bpd] button")
    assert (ranked(browser), browser.evaluate(SORTED)) == (BY_BPD, ["ascending"])
    browser.click("#models [data-key=bpd] button")
    assert (ranked(browser), browser.evaluate(SORTED)) == (BY_BPD[::-1], ["descending"])
    browser.click("#models [data-key=parameters] button")
    assert ranked(browser)[0] == "nine"
    assert ranked(browser)[-1] == "hundred"
    browser.click("#models [data-key=model] button")
    assert ranked(browser) == sorted(RANKED)
    assert browser.evaluate(SORTED) == ["ascending"]


def test_the_table_sorts_by_keyboard(page: Path, browser: Browser) -> None:
    browser.show(1400, 900)
    browser.open(page.as_uri())
    keys = []
    for _ in range(20):
        browser.press("Tab")
        keys.append(browser.evaluate(FOCUSED))
        if keys[-1] == "bpd":
            break
    assert keys[-2:] == ["model", "bpd"]
    browser.press("Enter")
    assert (ranked(browser), browser.evaluate(SORTED)) == (BY_BPD, ["ascending"])
    browser.press(" ")
    assert (ranked(browser), browser.evaluate(SORTED)) == (BY_BPD[::-1], ["descending"])
    assert browser.evaluate(FOCUSED) == "bpd"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.evaluate(outline) == "solid"


def test_the_address_sorts_too(page: Path, browser: Browser) -> None:
    browser.show(1400, 900)
    browser.open(f"{page.as_uri()}#sort=-bpd")
    assert (ranked(browser), browser.evaluate(SORTED)) == (BY_BPD[::-1], ["descending"])
    assert browser.messages == []
