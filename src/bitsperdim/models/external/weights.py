"""Loading of weights for an external module from a file of tensors; nothing but tensors is unpickled.

Invariants (``tests/models/external/test_loading.py``): a pickle runs no code; for the weights of another module, the
error names those that do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bitsperdim.core.errors import InputError, shown
from bitsperdim.models.external.distributions import first_line

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl")
N_SHOWN = 3  # largest number of names in a message


def load_weights(model: object, path: Path, key: str | None = None) -> None:
    """Load all weights of a module from a file that holds exactly these weights.

    Args:
        model: module that gets the weights.
        path: path of a .safetensors file, or of a file written by torch.save.
        key: key of the state dict in a file of torch.save that holds several things.

    Raises:
        InputError: the file cannot be read, or holds Python objects or the weights of another module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"weights = {shown(str(path))} is not allowed: the model is {type(model).__name__}, not torch.nn.Module."
        )
    if not path.is_file():
        raise InputError(f"weights = {shown(str(path))} is not a file.")
    given = _state_of(path, key)
    try:
        model.load_state_dict(given, strict=True)
    except Exception as error:
        raise InputError(f"{path} does not fit {type(model).__name__}: {_misfit(model, given, error)}.") from error


def _misfit(model: nn.Module, given: Mapping[str, Tensor], error: Exception) -> str:
    """Return why weights do not fit a module: the names or shapes that differ, or else the error message of torch."""
    own = model.state_dict()
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor) and not is_lazy(value)}
    missing, unexpected = tensors.keys() - given.keys(), given.keys() - own.keys()
    if missing or unexpected:
        said = [f"{_few(missing)} missing"] if missing else []
        said += [f"{_few(unexpected)} not in the model"] if unexpected else []
        return " and ".join(said)
    wrong = [name for name in sorted(tensors) if given[name].shape != tensors[name].shape]
    if not wrong:
        return f"{type(error).__name__}: {first_line(error)[:200]}"
    first = wrong[0]
    return (
        f"{first} has the shape {tuple(given[first].shape)} there and {tuple(tensors[first].shape)} in the model (of "
        f"{len(wrong)} that differ)"
    )


def _few(names: Iterable[str]) -> str:
    found = sorted(map(str, names))
    more = f" and {len(found) - N_SHOWN} more" if len(found) > N_SHOWN else ""
    return f"{', '.join(found[:N_SHOWN])}{more} {'is' if len(found) == 1 else 'are'}"


def _state_of(path: Path, key: str | None) -> dict[str, Tensor]:
    content = _content(path)
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            raise InputError(f"weights_key = {shown(key)} is not in {path}{_keys(content)}.")
        content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        where = f"{path}, under {key!r}," if key is not None else f"{path}"
        raise InputError(f"{where} is not a state dict{_keys(content)}; set `weights_key` to the key of a state dict.")
    return {str(name): value for name, value in content.items()}


def _keys(content: Any) -> str:  # noqa: ANN401 - whatever a file holds
    if not isinstance(content, Mapping):
        return f": it holds {type(content).__name__}"
    names = [shown(name) for name in list(content)[:8]]
    return f": it has the keys {', '.join(names)}{', ...' if len(content) > len(names) else ''}"


def _content(path: Path) -> Any:  # noqa: ANN401 - whatever a file holds
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        if type(error).__name__ == "UnpicklingError":
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            of = f" ({found[1]})" if found else ""
            raise InputError(
                f"{path} holds Python objects{of} besides tensors. It is not unpickled, because this could run any "
                f"code; save only model.state_dict(), with torch.save or safetensors."
            ) from error
        raise InputError(
            f"{path} is damaged, or was not written by "
            f"{'safetensors' if path.suffix == '.safetensors' else 'torch.save'} ({type(error).__name__})."
        ) from error
