"""The README is correct: its numbers are those of the results, and its targets and files exist."""

import csv
import io
import json
import math
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bitsperdim.comparing import commands
from bitsperdim.core import git
from bitsperdim.core.errors import InputError
from bitsperdim.models import MODELS
from bitsperdim.readme.sections import SECTIONS, markers, table, update
from support.metrics import exact, metrics
from support.results import write_results

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture
def text(committed: Callable[[str], str]) -> str:
    return committed("README.md")


@pytest.fixture(scope="module")
def release(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the README's numbers, from the last commit, or without git from the working folder."""
    folder = tmp_path_factory.mktemp("release")
    parts = ("results", "recipes", "docs")
    try:
        archive = git.repository(repository).ask("archive", "--format=zip", "HEAD", *parts)
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            file.extractall(folder)
    except git.NotARepositoryError:
        for part in parts:
            shutil.copytree(repository / part, folder / part)
    return folder


def section(text: str, name: str) -> str:
    begin, end = markers(name)
    return text.split(begin)[1].split(end)[0]


def test_the_numbers_are_those_of_the_committed_results(text: str, release: Path) -> None:
    assert update(text, release) == text, "run `make readme`"


def test_a_bound_of_one_sample_has_an_unknown_monte_carlo_error(tmp_path: Path) -> None:
    """It is not "none", which is the error of a number without samples."""
    once = metrics(n_samples=1, bpd_monte_carlo_error=math.inf, too_few_samples=True)
    write_results(tmp_path, {"once": once, "bound": metrics(), "sure": exact(bpd=1.5)})
    rows = [line.split(" | ") for line in table(tmp_path).splitlines() if line.startswith("| `")]
    noise = f"{metrics()['bpd_monte_carlo_error']:.1g}"
    assert [row[4] for row in rows] == ["unknown†", noise, "none"]


def test_another_number_is_another_readme(text: str, release: Path, tmp_path: Path) -> None:
    """A change in a file changes the sections made from it, and no others."""
    for file, key, names in (
        ("results/vae/metrics.json", '"bpd": ', {"results"}),
        ("recipes/results/mnist-static-vae.json", '"n_samples": ', {"recipes"}),
        ("recipes/results/mnist-8bit-dequantization.json", '"bpd_standard_error": 0.0', {"recipes", "compare"}),
        ("results/project_delay/metrics.json", '"variance_reduction": ', {"delay"}),
        ("results/universal_resnet/constructed.csv", "disc,0,8,", {"disc"}),
        ("docs/universal_resnet.json", '"mean": ', {"networks"}),
    ):
        copy = tmp_path / file.replace("/", "-")
        shutil.copytree(release, copy)
        content = (copy / file).read_text(encoding="utf-8")
        digit = 1 + int(re.findall(rf"{key}(\d)", content)[0]) % 9
        (copy / file).write_text(re.sub(rf"{key}\d", f"{key}{digit}", content), encoding="utf-8")
        changed = update(text, copy)
        assert {name for name in SECTIONS if section(changed, name) != section(text, name)} == names, file


def test_the_delay_says_what_its_files_say(text: str, release: Path) -> None:
    metrics = json.loads((release / "results" / "project_delay" / "metrics.json").read_text(encoding="utf-8"))
    shown = section(text, "delay")
    mantissa, exponent = re.findall(r"probability ([\d.]+) . 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", shown)[0]
    exponent = int(exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    assert float(mantissa) * 10.0**exponent == pytest.approx(metrics["exact"]["probability"], rel=1e-4)
    assert shown.count("\n| ") == 2 + len(metrics["proposals"])
    for item in metrics["proposals"].values():
        row = next(
            line
            for line in shown.splitlines()
            if line.startswith(f"| {item['label']}") and line.count("|") == 5 and (line[2 + len(item["label"])] in " :")
        )
        cells = [cell.strip().replace(",", "") for cell in row.split("|")[2:5]]
        assert float(cells[0]) == pytest.approx(item["variance_reduction"], rel=0.05)
        if item["variance_is_infinite"]:
            assert cells[1:] == ["none: infinite variance", "no bar is valid"]
        else:
            assert float(cells[1]) == pytest.approx(item["variance_reduction_exact"], rel=0.05)
            assert float(cells[2]) == pytest.approx(item["error_factor"], abs=0.051)
    methods = [item for item in metrics["proposals"].values() if item["role"] == "method"]
    looks, best = (
        max(methods, key=lambda item: item[key])["label"] for key in ("variance_reduction", "variance_reduction_exact")
    )
    assert (f"looks best ({looks}) is not the best ({best})" in shown) == (looks != best)


def test_the_networks_are_those_of_their_files(text: str, release: Path, repository: Path) -> None:
    """The README shows the numbers of the files, and the example's depth is right."""
    with (release / "results" / "universal_resnet" / "constructed.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["function"] == "disc"]
    shown = section(text, "disc")
    for row in rows:
        name = f"| {row['cells']} {TIMES} {row['cells']} cells" + (
            ", equal levels joined |" if row["join"] == "1" else " |"
        )
        cells = f" {int(row['n_blocks']):,d} | {float(row['l1']):.4f} | {100 * float(row['close_share']):.2f} % |"
        assert f"{name}{cells}" in shown
    example = next(row for row in rows if (row["cells"], row["join"]) == ("33", "0"))
    assert f"net.depth  # {example['n_blocks']} blocks of one neuron" in text
    metrics = json.loads((release / "docs" / "universal_resnet.json").read_text(encoding="utf-8"))
    best = max(net["hard"]["fresh_mean"] for net in metrics["accuracy"].values())
    assert f"more often than {best:.1f} %" in section(text, "networks")


def test_the_comparison_is_what_the_command_prints(text: str, release: Path) -> None:
    shown = section(text, "compare")
    command = re.findall(r"\$ bitsperdim compare (\S+) (\S+)\n", shown)[0]
    assert commands.compare(release, *command, None, "text") in shown


def test_no_number_of_a_result_is_typed(text: str) -> None:
    """Outside of the generated sections there is no number with three decimals, no error and no percentage."""
    for name in SECTIONS:
        text = text.replace(section(text, name), "")
    assert not re.findall(r"\d\.\d{3,}|± ?\d|\d\.\d+ ?%", text)


def test_a_readme_without_markers_is_refused(repository: Path) -> None:
    begin, end = markers("results")
    for broken in ("", begin, f"{begin}{begin}{end}", f"{begin}{end}", f"{begin}{end}{markers('compare')[0]}"):
        with pytest.raises(InputError, match="must contain the markers"):
            update(broken, repository)


def test_every_make_target_named_exists(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z]+)", (repository / name).read_text(encoding="utf-8")))
        assert named
        assert named <= targets, name


def test_every_file_named_exists(repository: Path) -> None:
    made_elsewhere = (
        "report/",
        "models/",
        "logs/",
        "runs/",
        "data/raw/",
        "data/downloaded/",
        "data/dequantized/",
        "results/<",
    )
    made_elsewhere += ("data/own/my", "recipes/my")
    folders = r"src|stages|tests|docs|data|recipes|results|report|models|logs|runs|\.ci"
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (repository / name).read_text(encoding="utf-8")
        paths = re.findall(rf"`((?:{folders})/[^`\s]*)`", text)
        assert paths
        for path in paths:
            if not path.startswith(made_elsewhere) and "<" not in path:
                assert (repository / path).exists(), f"{name} names {path}"
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (repository / link).exists(), f"{name} links {link}"


def test_every_family_is_described(text: str) -> None:
    for family in MODELS:
        assert f"`{family}`" in text
