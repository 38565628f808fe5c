"""The device, which comes from the environment: where a number was computed must not invalidate it."""

from __future__ import annotations

import os

import torch

from bitsperdim.errors import InputError

VARIABLE = "BITSPERDIM_DEVICE"


def choose_device() -> torch.device:
    """Return the device named by BITSPERDIM_DEVICE: ``auto`` (the default), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        InputError: there is no such device here.
    """
    name = os.environ.get(VARIABLE, "auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"{VARIABLE} = {name!r} is no device of this machine; choose auto, cpu, or cuda where there is one."
        ) from error
    return device
