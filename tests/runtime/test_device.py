"""Where and with what a stage runs is recorded."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bitsperdim.core.made_with import WORDS
from bitsperdim.runtime import device

TRAINING = """
import torch
found = []
for kind, options in ((torch.optim.Adam, {"foreach": True}), (torch.optim.AdamW, {"fused": True})):
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = kind([weight], lr=0.1, **options)
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    found.append([weight.tolist(), weight.grad.tolist(), weight.is_leaf])
"""
SPARED = f"""
import json, sys
from bitsperdim.runtime.device import set_up_device
set_up_device()
{TRAINING}
print(json.dumps(["torch._dynamo" in sys.modules, found]))
"""


def test_an_optimizer_does_not_load_the_compiler() -> None:
    """The steps are those of an optimizer that has loaded it. In a process of its own, which takes a second or two."""
    done = subprocess.run([sys.executable, "-c", SPARED], capture_output=True, check=True, text=True)
    has_loaded, found = json.loads(done.stdout)
    assert not has_loaded
    here: dict[str, Any] = {}
    exec(TRAINING, here)
    assert "torch._dynamo" in sys.modules  # of this version, which is why it is spared
    assert found == here["found"]


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
