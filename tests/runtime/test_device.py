"""Where and with what a stage runs is recorded."""

import platform
from pathlib import Path

import pytest
import torch

from bitsperdim.core.made_with import WORDS
from bitsperdim.runtime import device


def test_all_that_compare_names_is_described() -> None:
    found = device.described(torch.device("cpu"))
    assert {*found} == {*WORDS} - {"n_processes"}  # the stages add these
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["device"].startswith(f"CPU, {torch.get_num_threads()} thread")
    assert all(value.strip() == value != "" for value in found.values())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: A processor @ 3 GHz\nmodel name : B\n", "A processor @ 3 GHz"),
        ("processor : 0\nmodel name\t:\n", platform.processor() or platform.machine()),
        ("BogoMIPS : 50.00\n", platform.processor() or platform.machine()),
    ],
)
def test_the_processor_has_a_name(text: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(device, "CPU_INFORMATION", tmp_path / "cpuinfo")
    assert device.processor() == name
    monkeypatch.setattr(device, "CPU_INFORMATION", tmp_path / "missing")
    assert device.processor() == (platform.processor() or platform.machine())
