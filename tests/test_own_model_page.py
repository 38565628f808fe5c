"""The page of your own model: its blocks run as they stand, one after the other, and print what it promises."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bitsperdim.models.external.libraries import LIBRARIES, versioned

SHOWN = "import bitsperdim"


def blocks(repository: Path) -> list[str]:
    text = (repository / "docs" / "your-own-model.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def lines(block: str) -> int:
    return sum(bool(line.strip()) for line in block.splitlines())


def test_the_blocks_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BITSPERDIM_CACHE", str(tmp_path))
    first, *others = blocks(repository)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in others:
            exec(compile(block, "your-own-model.md", "exec"), names)
    exec(compile(first.replace("model,", "vae,"), "your-own-model.md", "exec"), names)
    printed = capsys.readouterr().out
    for sentence in (
        r"MADE: = 2\.\d{4} \+- 0\.\d{4} bits/dim \(\d\d\.\d\d nats\), exact, .*verified by logits, causality",
        r"VAE: <= 2\.\d{4} \+- 0\.\d{4} bits/dim .* Monte Carlo error [\d.e-]+, K = 256",
        r"zuko's MAF: <= \d\.\d{4} \+- 0\.\d{4} bits/dim",
        r"FlowMatching: <= 3\.\d{4} \+- 0\.\d{4} bits/dim .* solver error [\d.e-]+, K = 4",
        r"Diffusion: <= [23]\.\d{4} \+- 0\.\d{4} bits/dim .* solver error [\d.e-]+, K = 4",
        r"ok     causality",
        r"The \d+ of 15 checks that apply found no error",
        r"A = MADE, B = VAE. B - A: .* bits/dim; ",
    ):
        assert re.search(sentence, printed), sentence
    assert names["of_made"].bits_per_dim < 2.3


def test_the_models_are_short(repository: Path) -> None:
    models = [block for block in blocks(repository) if "bitsperdim.evaluate(" in block and "load" not in block]
    made, vae, flow, matching, diffusion = models
    assert max(lines(each.partition("\n\n\n")[0]) for each in (made, vae, matching)) <= 12
    assert lines(flow) <= 12
    assert lines(diffusion) <= 36


def test_the_settings_of_an_equation_are_those_of_the_code(repository: Path) -> None:
    from bitsperdim.models.external.ode import KEYS

    text = (repository / "docs" / "your-own-model.md").read_text(encoding="utf-8")
    table = text.split("| key | meaning | default |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(KEYS)


def test_every_library_has_its_lines(repository: Path) -> None:
    """A row of the table, one line of Python and one command; the versions are those that are installed here."""
    text = (repository / "docs" / "your-own-model.md").read_text(encoding="utf-8").split("### Models of other")[1]
    rows = re.findall(r'^\| `"(\w+)"` \| (\w+ [\d.]+) \|', text, re.MULTILINE)
    assert [name for name, _ in rows] == list(LIBRARIES)
    assert re.findall(r'library="(\w+)"', text.split("```py\n")[1].split("```")[0]) == list(LIBRARIES)
    assert re.findall(r"--library (\w+)", text.split("```console\n")[1].split("```")[0]) == list(LIBRARIES)
    tested = {name: version for name, version in rows if importlib.util.find_spec(name) is not None}
    assert "zuko" in tested
    assert tested == {name: versioned(name) for name in tested}


def test_every_word_of_the_page_is_one_of_the_code(repository: Path) -> None:
    from bitsperdim.auditing.audit import CHECKS
    from bitsperdim.models.external.convention import WORDS
    from bitsperdim.models.external.methods import METHODS

    text = (repository / "docs" / "your-own-model.md").read_text(encoding="utf-8")
    table = text.split("| check | what it does |")[1].split("\n\n")[0]
    assert re.findall(r"^\| (?!---)([^|]+?) \|", table, re.MULTILINE) == list(CHECKS)
    for word in (*METHODS, *WORDS):
        assert f"`{word}" in text or f'`"{word}"`' in text, word
