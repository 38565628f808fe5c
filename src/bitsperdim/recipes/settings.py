"""Parameters that ``-S`` changes, checked before anything is run, queued or removed.

They are changed by DVC's own function, so that they mean what they mean in ``dvc exp run``: ``key=value`` changes a
key, ``+key=value`` adds one, ``++key=value`` does either, ``~key`` removes one.

Invariant (``tests/recipes/test_experiments.py``): what is refused here has changed nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitsperdim.errors import InputError, shown
from bitsperdim.params import validate
from bitsperdim.recipes.recipe import read_yaml


def with_settings(params: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return the content of ``params.yaml`` with changes, validated.

    Args:
        params: the content without them.
        settings: as ``dvc exp run -S`` takes them.

    Raises:
        InputError: one cannot be read, is of another file, stands for several values or names no key, or what comes of
            them is not allowed.
    """
    from dvc.exceptions import DvcException  # imported here: a second
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides, to_hydra_overrides
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(dict(params), file)
        for setting in settings:
            (name, (override,)) = next(iter(to_path_overrides([setting]).items()))
            if name != path.name:
                raise InputError(f"-S {shown(setting)} is of {name}; only parameters of params.yaml can be changed.")
            try:
                if to_hydra_overrides([override])[0].is_sweep_override():
                    raise InputError(
                        f"-S {shown(setting)} stands for several values; give one, and one -S for each key."
                    )
                apply_overrides(path, [override])
            except (DvcException, HydraException, OmegaConfBaseException) as error:
                lines = [line.strip(" .") for line in str(error.__cause__ or error).splitlines() if "http" not in line]
                raise InputError(f"-S {shown(setting)} cannot be used: {'; '.join(lines[:2])}.") from error
        content = read_yaml(path)
    validate(content)
    return content


__all__ = ["with_settings"]
