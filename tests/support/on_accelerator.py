"""What comes of work on a stand-in for a GPU, beside the CPU: run with the name of a group; prints JSON.

Of each case of a group it says ``same`` where every bit is, and how often host and device waited for one another.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.core import randomness
from bitsperdim.evaluation import annealed as chains
from bitsperdim.evaluation import latent_code, pictures, rate_distortion, scoring
from bitsperdim.evaluation.estimate import Estimate
from bitsperdim.models import LatentModel, look_ahead
from bitsperdim.runtime import device
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.studies.density_and_mass import dequantizing
from bitsperdim.studies.universal_resnet import approximation, ball, essay
from bitsperdim.studies.universal_resnet import study as oneneuron_study
from bitsperdim.training import trainer
from bitsperdim.training.trained import Trained
from support import sharded, training_cases, two_processes, workspace
from support.accelerator import CPU, DEVICE, launches, plugged_in, waits
from support.cases import SMALL, TINY_FLOW, TINY_RESNET, small_model

Outcome = dict[str, Any]
REPOSITORY = Path(__file__).resolve().parents[2]
CHAINS = sharded.SECTION.annealed
FIXED_NOISE = "realnvp"  # comes from the host, by design
DRAWN = (
    *("histogram-rgb", "pixelcnn-coupled-rgb", "gated-logistics", "plus-rgb", "vae-coupled-rgb", "vae-two-layers"),
    *("conv-vae-grey", "gaussian-grey", "flow-nsf", "realnvp-grey"),
)


def on(place: torch.device, work: Callable[[torch.device], Any]) -> Any:
    """What comes of work on a device; on the CPU as if there were no other."""
    if place == CPU:
        return work(place)
    waits.clear()
    with plugged_in():
        return work(place)


def compared(work: Callable[[torch.device], Any]) -> str:
    """Whether work gives the same on either device."""
    expected = on(CPU, work)
    try:
        return "same" if on(DEVICE, work) == expected else "other numbers"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def counted(work: Callable[[torch.device], Any]) -> tuple[Any, int]:
    """What comes of work on the device, and how often host and device wait for one another."""
    return on(DEVICE, work), sum(waits.values())


def trained(case: Callable[[], Trained], place: torch.device) -> Outcome:
    """A training of two_processes.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_cases, "CPU", place)
        result = case()
    result.model.cpu()
    return two_processes.told(result)


def resumed(place: torch.device) -> Outcome:
    """One that is stopped in the second epoch, and goes on."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_cases, "CPU", place)
        checkpoint = Checkpoint(Path(folder) / "there", "one")
        two_processes.stopped(checkpoint, by=0)
        return trained(lambda: two_processes.kept(checkpoint), place)


def uninterrupted(place: torch.device) -> Outcome:
    """The same, in one go."""
    with tempfile.TemporaryDirectory() as folder:
        return trained(lambda: two_processes.kept(Checkpoint(Path(folder), "one", interval=1e9)), place)


def of_training() -> Outcome:
    """Every family; one that is interrupted; waits in two epochs of 2 and of 4 steps; mistakes."""
    outcome: Outcome = {name: compared(partial(trained, case)) for name, case in cases().items()}
    outcome["goes on"] = "same" if on(DEVICE, resumed) == on(CPU, uninterrupted) else "other numbers"
    outcome["waits"] = {name: [counted(partial(one, name, n))[1] for n in (24, 56)] for name in trainable()}
    outcome["mistakes"] = {name: mistaken(name) for name in MISTAKES}
    return outcome


def cases() -> dict[str, Callable[[], Trained]]:
    """Trainings by name."""
    return {**two_processes.CASES, "gaussian": lambda: training_cases.run("gaussian")}


def trainable() -> list[str]:
    """Models with steps that must not wait."""
    return [name for name in training_cases.SECTIONS if name not in ("histogram", "gaussian", FIXED_NOISE)]


def one(name: str, n_images: int, place: torch.device) -> Outcome:
    """Two epochs with everything that a step may do."""
    options: dict[str, Any] = {"epochs": 2, "gradient_clip": 0.1, "average_decay": 0.5}
    data = training_cases.prepared(n_train=n_images)
    return trained(lambda: training_cases.run(name, data, **options), place)


def generator_of_the_host(patch: pytest.MonkeyPatch) -> None:
    """Draw on the CPU for the device."""
    stream = randomness.stream
    patch.setattr(trainer, "stream", lambda *seeds, **_: stream(*seeds))


def noise_of_the_host(patch: pytest.MonkeyPatch) -> None:
    """Leave drawn numbers on the CPU."""
    drawn = randomness._drawn
    patch.setattr(randomness, "_rows_drawn", lambda how, shape, _, dtype, place: drawn(how, shape, None, dtype, None))


def images_of_the_host(patch: pytest.MonkeyPatch) -> None:
    """Leave images on the CPU."""
    patch.setattr(trainer.Presentation, "batch", lambda self, index, _: (self.images.cpu()[index.cpu()], None, None))


def a_number_in_each_step(patch: pytest.MonkeyPatch) -> None:
    """Look at the loss of each step."""
    take_step = trainer._Trainer.take_step

    def looking(self: Any, *batch: Any) -> Tensor:
        loss = take_step(self, *batch)
        assert float(loss) > 0
        return loss

    patch.setattr(trainer._Trainer, "take_step", looking)


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a generator of the host": generator_of_the_host,
    "noise of the host": noise_of_the_host,
    "images of the host": images_of_the_host,
    "a number in each step": a_number_in_each_step,
}


def mistaken(name: str) -> str:
    """What comes of a mistake on the device: the error, or how many waits more there are."""
    _, before = counted(partial(one, "vae", 75))
    with pytest.MonkeyPatch.context() as patch:
        MISTAKES[name](patch)
        try:
            return f"{counted(partial(one, 'vae', 75))[1] - before} waits more"
        except RuntimeError as error:
            return str(error)


def evaluated(name: str, chunk_size: int, place: torch.device) -> Any:
    """The rows of an estimate of three blocks."""
    section = sharded.SECTION.model_copy(update={"chunk_size": chunk_size})
    return scoring.evaluate_seed(small_model(name).float(), sharded.prepared(name), section, 0, place)


def short_pilot(patch: pytest.MonkeyPatch) -> None:
    """Make the run short that comes before annealing."""
    patch.setattr(chains, "PILOT_TRANSITIONS", 4)
    patch.setattr(chains, "PILOT_WARM_UP", 2)


def annealed(
    name: str, estimated: Estimate, n_steps: int, n_leapfrog: int, n_images: int, place: torch.device
) -> Outcome:
    """Active units, and what chains say after a short pilot run, of some images and as many that are drawn."""
    model = small_model(name).float().to(place)
    assert isinstance(model, LatentModel)
    data, lengths = sharded.prepared(name), {"n_steps": n_steps, "n_leapfrog": n_leapfrog}
    lengths |= {"n_images": n_images, "n_simulated": n_images}
    section = sharded.SECTION.model_copy(update={"annealed": CHAINS.model_copy(update=lengths)})
    with pytest.MonkeyPatch.context() as patch:
        short_pilot(patch)
        patch.setattr(rate_distortion, "N_SAMPLES", 2 * section.chunk_size)
        return latent_code.of_the_code(model, data, estimated, section, place)


def launched(name: str, n_samples: int) -> int:
    """How many launches log-weights take."""
    model, data = small_model(name).float(), sharded.prepared(name)
    with plugged_in(one_by_one=False), torch.no_grad():
        model, x = model.to(DEVICE), torch.from_numpy(data.images["test"]).to(DEVICE)
        launches.clear()
        log_w = model.log_weights(x, n_samples, generator=randomness.stream("evaluation", device=DEVICE))
        assert log_w.shape == (n_samples if model.kind == "lower" else 1, len(x))
        assert len(set(log_w.flatten().tolist())) == log_w.numel() or model.kind == "exact"
        return launches.total()


def drawn(name: str, place: torch.device) -> dict[str, bytes]:
    """The bytes of all pictures."""
    section = sharded.SECTION.model_copy(update={"n_pictures": 5})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pictures").mkdir()
        arguments = (small_model(name).float(), sharded.prepared(name), section, place)
        pictures.draw_pictures(Path(folder) / "pictures", *arguments)
        return workspace.written(Path(folder), "pictures")


def of_evaluation() -> Outcome:
    """Estimates of every small model; pictures, waits and launches of one or two models of each family.

    Waits are those for chunks of 5 and of 2 samples, launches those for 3 and for 40 samples.
    """
    outcome: Outcome = {"waits": {}}
    outcome["launches"] = {name: [launched(name, n) for n in (3, 40)] for name in DRAWN}
    for name in SMALL:
        found, n = counted(partial(evaluated, name, 5))
        is_same = sharded.same(on(CPU, partial(evaluated, name, 5)), found)
        outcome[name] = "same" if is_same else "other numbers"
        if name in DRAWN:
            outcome["waits"][name] = [n, counted(partial(evaluated, name, 2))[1]]
    for name in DRAWN:
        outcome[f"{name}, pictures"] = compared(partial(drawn, name))
    return outcome


def of_annealing(name: str) -> Outcome:
    """Annealing of one model, and waits for one and for two steps of as many leaps."""
    work = partial(annealed, name, on(CPU, partial(evaluated, name, 5)))
    return {"numbers": compared(partial(work, 3, 2, 5)), "waits": [counted(partial(work, n, n, 1))[1] for n in (1, 2)]}


def staged(model: str, place: torch.device) -> dict[str, bytes]:
    """What the stages ``train`` and ``evaluate`` write."""
    short = {
        "annealed": {"n_chains": 4, "n_steps": 3},
        "refined": {"n_steps": 3, "n_samples": 8, "n_pilot": 32, "n_rounds": 1},
    }
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        changes = {"models": [model], "train": {"epochs": 2}, "evaluate": short, model: {"train": {"epochs": 2}}}
        workspace.prepare(folder, REPOSITORY, changes, n_images=60)
        for variable in ("BITSPERDIM_CHECKPOINTS", "BITSPERDIM_LOGS"):
            patch.delenv(variable, raising=False)
        patch.chdir(folder)
        short_pilot(patch)
        patch.setattr(device, "set_up_device", lambda: place)
        patch.setattr(device, "described", lambda _: {})
        patch.setattr(device, "peak_memory", lambda _: {})
        results = f"results/{model}"
        for stage, *arguments in (
            ("train", model, "images", f"models/{model}", f"{results}/training_curve.csv"),
            ("evaluate", model, f"models/{model}", "images", results),
        ):
            patch.setattr(sys, "argv", [stage, *arguments])
            runpy.run_path(str(REPOSITORY / "stages" / f"{stage}.py"), run_name="__main__")
        return workspace.written(folder, "models", "results")


def of_stages() -> Outcome:
    """The stages of two models with two seeds each."""
    return {model: compared(partial(staged, model)) for model in ("vae", "pixelcnn")}


def of_flows(place: torch.device) -> list[Outcome]:
    """The study's comparison of dequantization."""
    settings = training_cases.TrainSection.model_validate(training_cases.SETTINGS)
    data = training_cases.prepared()
    data.images["test"], data.noise["test"] = data.images["validation"], data.noise["validation"]
    trained = dequantizing.train_all(TINY_FLOW, settings, data, 0, place)
    estimates = dequantizing.evaluate_all(TINY_FLOW, trained, data, 0, place)
    same_as = np.arange(len(data.images["test"]))
    return list(dequantizing.rows(TINY_FLOW, trained, estimates, data.description.image_shape, same_as))


def of_neurons(place: torch.device) -> dict[str, bytes]:
    """The files of the study of one-neuron networks, in one thread: others would not see the stand-in."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for module in (approximation, ball, essay):
            patch.setattr(module, "side_by_side", lambda work, items: [work(item) for item in items])
        oneneuron_study.write(Path(folder), oneneuron_study.study(TINY_RESNET, place))
        return workspace.written(Path(folder), ".")


def of_studies() -> Outcome:
    """Those that compute on the device."""
    return {"dequantizing": compared(of_flows), "universal_resnet": compared(of_neurons)}


GROUPS: dict[str, Callable[..., Outcome]] = {
    "training": of_training,
    "evaluation": of_evaluation,
    "annealing": of_annealing,
    "stages": of_stages,
    "studies": of_studies,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    look_ahead.N_CUTS = 2  # the check of each model, which launches thousands of operations, is the same with two
    said = os.dup(1)
    os.dup2(2, 1)  # what stages say
    content = json.dumps(GROUPS[sys.argv[1]](*sys.argv[2:]))
    os.write(said, content.encode())
