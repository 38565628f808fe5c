"""``bitsperdim run``: ``dvc exp run`` after a look at what ``-S`` would make of ``params.yaml``.

DVC writes settings into ``params.yaml`` before anything can refuse them, and where ``dvc.yaml`` needs them it ends with
an error of its own. Here a setting that is refused changes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bitsperdim.recipes.recipe import read_yaml
from bitsperdim.recipes.settings import applied


def run(root: Path, arguments: Sequence[str]) -> NoReturn:
    """Check the settings among the arguments of ``dvc exp run``, and become that command.

    The stages find the Python of this command first, whether its environment is active or not.

    Raises:
        InputError: a setting, or what ``params.yaml`` has, is not allowed.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-S", "--set-param", action="append", default=[])
    settings = parser.parse_known_args(arguments)[0].set_param
    applied(read_yaml(root / "params.yaml"), settings, root)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "dvc", "exp", "run", *arguments], {**os.environ, "PATH": path})
