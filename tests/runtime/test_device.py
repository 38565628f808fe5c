"""The environment of a stage is recorded."""

import platform
from pathlib import Path

import pytest
import torch

from bitsperdim.core.made_with import WORDS
from bitsperdim.runtime import device


def test_all_that_compare_names_is_described() -> None:
    found = device.described(torch.device("cpu"))
    assert {*found} == {*WORDS} - {"n_processes", "precision"}  # the stages add these
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


@pytest.mark.parametrize("name", ["amx_bf16", "avx512_bf16", "bf16"])
def test_half_precision_is_chosen_where_it_has_instructions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processors are slower in bfloat16 than in float32."""
    others = {"avx2": True, "avx512_f": True, "amx_tile": True, "fp16_arith": True, "l2_cache_size": 1048576}
    for value, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda value=value: {**others, name: value})
        assert device.fast_precision(torch.device("cpu")) == precision
    assert device.fast_precision(torch.device("meta")) == "float32"
    for value, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, value=value: value)
        assert device.fast_precision(torch.device("cuda")) == precision
