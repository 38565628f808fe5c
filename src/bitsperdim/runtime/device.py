"""The device, which an environment variable chooses: it is not a parameter, so a change of it invalidates no result."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from bitsperdim.core.errors import InputError
from bitsperdim.core.stopping import local_rank, local_world_size

VARIABLE = "BITSPERDIM_DEVICE"
BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")  # torch's names of the instructions on x86 and ARM
CPU_INFORMATION = Path("/proc/cpuinfo")  # only on Linux


def set_up_device() -> torch.device:
    """Return the device named by BITSPERDIM_DEVICE: ``auto`` (the default), ``cpu``, ``cuda`` or ``cuda:1``.

    If torchrun started several processes on this machine, each process uses the GPU with its own local number.

    On a GPU, float32 computes in float32 (no TF32 in matrix products and convolutions), and deterministic algorithms,
    which give the same bits every time, are chosen where they exist.

    Raises:
        InputError: this machine has no such device, or fewer GPUs than processes.
    """
    name = os.environ.get(VARIABLE, "auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    n_gpus = torch.cuda.device_count()
    n_processes = local_world_size()
    known = re.fullmatch(r"cpu|cuda(:\d+)?", name)
    device = torch.device(name) if known else None
    if device is None or (device.type == "cuda" and (device.index or 0) >= n_gpus):
        raise InputError(
            f"{VARIABLE} = {name!r} is not a device of this machine; choose auto, cpu, or one of its "
            f"{n_gpus} GPUs as cuda:0 and so on."
        )
    if device.type == "cpu":
        return device
    if n_processes > 1 and (device.index is not None or n_processes > n_gpus):
        raise InputError(
            f"{VARIABLE} = {name!r} is not enough for the {n_processes} processes on this machine: each process needs "
            f"its own GPU, and there are {n_gpus} GPUs. Start fewer processes and choose cuda, or choose cpu."
        )
    device = torch.device("cuda", local_rank() if device.index is None else device.index)
    prepare_gpu(device)
    return device


def prepare_gpu(device: torch.device) -> None:
    """Make a GPU the current device, switch off TF32, and choose deterministic algorithms where they exist."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # uninitialized memory is never read


def fast_precision(device: torch.device) -> str:
    """Return ``bfloat16`` if the device has instructions for products of that type, otherwise ``float32``.

    A processor without these instructions is slower in bfloat16 than in float32.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    can = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bfloat16" if any(can.get(name) for name in BFLOAT16_INSTRUCTIONS) else "float32"


def described(device: torch.device) -> dict[str, str]:
    """Return the environment of a stage: device, processor and versions (:mod:`bitsperdim.core.made_with`)."""
    n_threads = torch.get_num_threads()
    on_cpu = f"CPU, {n_threads} thread{'' if n_threads == 1 else 's'}"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def processor() -> str:
    """Return the name of the processor, or a less precise name if the system does not tell it."""
    text = CPU_INFORMATION.read_text(errors="replace") if CPU_INFORMATION.exists() else ""
    found = re.search(r"^model name[ \t]*:[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return an entry for the log with the peak memory of tensors on a GPU so far, in MiB; empty for a CPU."""
    return {} if device.type == "cpu" else {"gpu_peak_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20}
