"""Tests on a GPU, if there is one: numbers as on the CPU, the same bits each time, and no needless waiting.

``test_accelerator.py`` shows the same on every machine with a stand-in, bit for bit. A real GPU draws other random
numbers than a CPU, so results that depend on random numbers are compared by their means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitsperdim.core.randomness import stream
from bitsperdim.evaluation import scoring
from bitsperdim.models import DensityModel, ImageModel, LatentModel
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.device import prepare_gpu
from bitsperdim.training import trainer
from bitsperdim.training.batches import Presentation
from support import sharded, training_cases, two_processes, workspace
from support.cases import SMALL, small_model
from support.training_cases import run, weights
from support.workspace import EVALUATE, TRAIN

CPU = torch.device("cpu")
# standard deviation of the last validation bound, bits/dim, over 24 small training runs on a CPU that differ only in
# their random numbers
SPREADS = {
    "vae": 0.0145,
    "iwae": 0.0171,
    "conv_vae": 0.0775,
    "pixelcnn": 0.0104,
    "gated_pixelcnn": 0.0051,
    "pixelcnn_pp": 0.0542,
    "flow": 0.0174,
    "realnvp": 0.0314,
}
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)
# allows warnings of compilers, and of operations without a deterministic form
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Prepare the first GPU as a stage does, and let ``training_cases`` train on it."""
    place = torch.device("cuda", 0)
    prepare_gpu(place)
    monkeypatch.setattr(training_cases, "CPU", place)
    yield place
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch._dynamo.reset()


def images(name: str) -> Tensor:
    return torch.from_numpy(sharded.prepared(name).images["test"])


def test_float32_is_no_tf32(gpu: torch.device, generator: torch.Generator) -> None:
    """The error of TF32 would be about 0.02, that of float32 is about 0.00002."""
    a, b = torch.randn(2, 512, 512, generator=generator)
    kernel = torch.randn(32, 32, 4, 4, generator=generator)
    x = torch.randn(1, 32, 8, 8, generator=generator)
    product, convolution = a.to(gpu) @ b.to(gpu), torch.nn.functional.conv2d(x.to(gpu), kernel.to(gpu))
    exact = torch.nn.functional.conv2d(x.double(), kernel.double())
    assert (product.cpu().double() - a.double() @ b.double()).abs().max() < 1e-3
    assert (convolution.cpu().double() - exact).abs().max() < 1e-3


def given_the_noise(model: ImageModel, name: str, place: torch.device) -> tuple[Tensor, Tensor]:
    """Return the log-weights for noise that a CPU draws, and their derivatives by all weights."""
    generator, x = stream("evaluation"), images(name)
    if isinstance(model, LatentModel):
        with torch.no_grad():
            z = model.encode(x).rsample(2, generator=generator).to(place)
    noise = torch.from_numpy(sharded.prepared(name).noise["test"]).to(place)
    model, x = model.to(place), x.to(place)
    if isinstance(model, LatentModel):
        log_w = model.log_joint(x, z) - model.encode(x).log_prob(z)
    else:
        log_w = model.log_weights(x, noise=noise if isinstance(model, DensityModel) else None)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not (parameters and log_w.requires_grad):
        return log_w.detach().cpu(), torch.zeros(0)
    derivatives = torch.autograd.grad(log_w.sum(), parameters, allow_unused=True)
    return log_w.detach().cpu(), torch.cat([part.flatten().cpu() for part in derivatives if part is not None])


@pytest.mark.parametrize("name", SMALL)
def test_log_weights_and_derivatives_are_those_of_the_cpu(name: str, gpu: torch.device) -> None:
    """They agree in float64 if the noise is the same."""
    for here, there in zip(*(given_the_noise(small_model(name), name, at) for at in (CPU, gpu)), strict=True):
        scale = max(1.0, float(here.abs().max())) if len(here) else 1.0
        torch.testing.assert_close(there, here, rtol=1e-7, atol=1e-9 * scale)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_drawn_has_the_mean_of_the_cpu(name: str, gpu: torch.device) -> None:
    """Means agree within six standard errors for each of ten images, exact numbers up to rounding.

    The false-alarm rate is 1 in 10 million over all cases.
    """
    n = 4_000
    model, log_w = small_model(name).float(), []
    for place in (CPU, gpu):
        generator = stream("evaluation", device=place)
        with torch.no_grad():
            log_w.append(model.to(place).log_weights(images(name).to(place), n, generator=generator).cpu().double())
    here, there = log_w
    if len(here) == 1:
        torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-4)
        return
    error = ((here.var(0) + there.var(0)) / n).sqrt()
    assert bool(((here.mean(0) - there.mean(0)).abs() < 6 * error).all())


@pytest.mark.parametrize("name", ["vae-categorical", "pixelcnn-three-levels", "flow-maf", "realnvp-grey"])
def test_an_evaluation_gives_the_same_bits_each_time(name: str, gpu: torch.device) -> None:
    arguments = (sharded.prepared(name), sharded.SECTION, 0, gpu)
    one, other = (scoring.evaluate_seed(small_model(name).float(), *arguments) for _ in range(2))
    assert sharded.same(one, other)


@pytest.mark.parametrize(("model", "spread"), SPREADS.items())
def test_a_training_comes_to_where_it_comes_on_the_cpu(
    model: str, spread: float, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both start from the same weights and use other random numbers; they agree within five standard errors."""
    reached = []
    for place in (CPU, gpu):
        monkeypatch.setattr(training_cases, "CPU", place)
        reached.append(run(model, average_decay=0.5).curve[-1]["validation_bpd"])
    assert abs(reached[1] - reached[0]) < 5 * math.sqrt(2) * spread


def test_a_training_gives_the_same_bits_each_time_and_after_an_interruption(gpu: torch.device, tmp_path: Path) -> None:
    one, other = (two_processes.kept(Checkpoint(tmp_path / name, name, interval=1e9)) for name in ("one", "other"))
    assert weights(one).equal(weights(other))
    checkpoint = Checkpoint(tmp_path / "stopped", "stopped")
    two_processes.stopped(checkpoint, by=0)
    gone_on = two_processes.kept(checkpoint)
    assert gone_on.curve == one.curve
    assert weights(gone_on).equal(weights(one))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", [name for name in SPREADS if name != "realnvp"])  # its noise comes from the host
def test_no_step_waits_for_the_gpu(model: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither drawing a batch nor taking a step waits. The flow is affine, because splines are known to wait."""
    for owner, name in ((Presentation, "batch"), (trainer._Trainer, "take_step")):
        original = getattr(owner, name)

        def strict(*arguments: Any, _original: Any = original) -> Any:
            torch.cuda.set_sync_debug_mode("error")
            try:
                return _original(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        monkeypatch.setattr(owner, name, strict)
    options: dict[str, Any] = {"transform": "maf"} if model == "flow" else {}
    trained = run(model, epochs=2, gradient_clip=0.1, average_decay=0.5, precision=precision, **options)
    assert math.isfinite(trained.validation_log_p)


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"compile": True}], ids=["bfloat16", "compiled"])
@pytest.mark.parametrize("model", ["vae", "pixelcnn", "gated_pixelcnn"])
def test_half_precision_and_the_compiler_keep_the_curve(model: str, changes: dict[str, Any]) -> None:
    """The validation bounds of every epoch agree within 2 %, as on the CPU."""
    plain, changed = run(model), run(model, **changes)
    for one, other in zip(plain.curve, changed.curve, strict=True):
        assert other["validation_bpd"] == pytest.approx(one["validation_bpd"], rel=0.02)


@pytest.mark.parametrize("model", [name for name in SPREADS if name != "realnvp"])  # its noise comes from the host
def test_a_captured_step_is_the_same(model: str) -> None:
    """Steps as a CUDA graph give the same weights, with random numbers, a schedule, an average, and smaller batches."""
    options: dict[str, Any] = {"epochs": 3, "gradient_clip": 0.1, "average_decay": 0.5}
    if model in ("vae", "iwae"):
        options["kl_warmup_steps"] = 4
    if model == "flow":
        options["transform"] = "maf"  # splines wait in their gather, which is not possible in a graph
    plain, launched = run(model, **options), run(model, capture=True, **options)
    torch.testing.assert_close(weights(launched), weights(plain), rtol=1e-3, atol=1e-4)


def test_stages_write_the_same_bytes_each_time_and_say_what_they_ran_on(repository: Path, tmp_path: Path) -> None:
    """Stages run alone and as one process of torchrun, with NCCL; with two GPUs, two processes agree as well."""
    outputs = []
    for name, launcher in (("one", ()), ("other", ()), ("launched", (*LAUNCHER, "1")), ("two", (*LAUNCHER, "2"))):
        if name == "two" and torch.cuda.device_count() < 2:
            continue
        folder = tmp_path / name
        workspace.prepare(folder, repository, {"train": {"epochs": 3}})
        for stage in (TRAIN, EVALUATE):
            done = workspace.run(folder, repository, *stage, launcher=launcher, BITSPERDIM_DEVICE="cuda")
            assert done.returncode == 0, done.stderr
            log = json.loads((folder / "logs" / f"{stage[0].removesuffix('.py')}-vae.json").read_text())
            assert log["device"] == torch.cuda.get_device_name(0)
        outputs.append(workspace.written(folder, "models", "results"))
    assert outputs[0] == outputs[1] == outputs[2]
    train_log = json.loads((tmp_path / "one" / "logs" / "train-vae.json").read_text())
    assert train_log["gpu_peak_memory_mib"] > 0
    assert train_log["images_per_second"] > 0
    for folder in outputs[3:]:
        one, two = (json.loads(found["results/vae/metrics.json"])["bpd"] for found in (outputs[0], folder))
        assert two == pytest.approx(one, rel=0.01)
