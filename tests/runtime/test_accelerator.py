"""All work that may run on a GPU stays on one device, and waits for the device no more often than necessary.

A stand-in replaces the GPU, see ``accelerator.py``. Each group of work runs in a separate process.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

from bitsperdim.config.families import FAMILIES
from support import warm
from support.cases import SMALL

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"torch {torch.__version__} does not support a device that is written in Python",
)


def outcome(repository: Path, *group: str) -> dict[str, Any]:
    """Run a group of on_accelerator.py and return its result."""
    result = subprocess.run(
        [warm.python(), str(repository / "tests" / "support" / "on_accelerator.py"), *group],
        env={"PYTHONPATH": f"{repository / 'src'}:{repository / 'tests'}", "OMP_NUM_THREADS": "1"},
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_training_keeps_to_its_device(repository: Path) -> None:
    """The bits equal those of the CPU, also after an interruption; twice as many steps cause no more waits."""
    found = outcome(repository, "training")
    mistakes, waits = found.pop("mistakes"), found.pop("waits")
    models = ("histogram", "gaussian", "vae", "iwae", "conv_vae", "gated_pixelcnn", "pixelcnn_pp", "flow", "realnvp")
    assert found == dict.fromkeys([*models, "goes on"], "same")
    assert set(waits) == {"vae", "conv_vae", "iwae", "pixelcnn", "gated_pixelcnn", "pixelcnn_pp", "flow"}
    assert all(few == many for few, many in waits.values()), waits
    assert "has a generator of another device" in mistakes.pop("a generator of the host")
    assert mistakes.pop("a number in each step") == "10 waits more"
    assert len(mistakes) == 2
    assert all("has tensors of standin:0 and of the CPU" in said for said in mistakes.values()), mistakes


def test_evaluation_keeps_to_its_device(repository: Path) -> None:
    """The results of every small model equal those of the CPU.

    More chunks of samples cause no more waits, and more samples no more launches. Waits and launches are counted for
    one or two models of each family.
    """
    found = outcome(repository, "evaluation")
    waits, launches = found.pop("waits"), found.pop("launches")
    assert found.keys() >= SMALL.keys()
    assert len(found) == len(SMALL) + 10
    assert {name: said for name, said in found.items() if said != "same"} == {}
    families = {SMALL[name][0] for name in waits}
    assert families == FAMILIES.keys() - {"external"}
    assert all(few == many for few, many in waits.values()), waits
    assert launches.keys() == waits.keys()
    assert all(0 < few == many for few, many in launches.values()), launches


@pytest.mark.parametrize("model", ["vae-bernoulli", "vae-two-layers", "conv-vae-coupled-rgb"])
def test_annealing_keeps_to_its_device(model: str, repository: Path) -> None:
    """The results equal those of the CPU, and longer annealing causes no more waits."""
    found = outcome(repository, "annealing", model)
    few, many = found.pop("waits")
    assert found == {"numbers": "same"}
    assert 0 < few == many


def test_stages_keep_to_their_device(repository: Path) -> None:
    """The files of ``train`` and ``evaluate`` equal those of the CPU, byte for byte."""
    assert outcome(repository, "stages") == {"vae": "same", "pixelcnn": "same"}


def test_studies_keep_to_their_device(repository: Path) -> None:
    """The files of the studies that compute on a device equal those of the CPU, byte for byte."""
    assert outcome(repository, "studies") == {"dequantizing": "same", "universal_resnet": "same"}
