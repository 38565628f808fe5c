"""``bitsperdim run``: ``dvc exp run`` after a look at what ``-S`` would make of ``params.yaml``.

DVC writes settings into ``params.yaml`` before anything can refuse them, and where ``dvc.yaml`` needs them it ends with
an error of its own. Here a setting that is refused changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bitsperdim.core.git import repository
from bitsperdim.preflight.agreement import validated
from bitsperdim.preflight.preflight import check_source
from bitsperdim.recipes.recipe import read_yaml
from bitsperdim.recipes.settings import applied


def run(root: Path, arguments: Sequence[str]) -> NoReturn:
    """Check the settings among the arguments of ``dvc exp run``, and become that command.

    The stages find the Python of this command first, whether its environment is active or not.

    Raises:
        InputError: a setting, or what ``params.yaml`` has, is not allowed, or there is no repository of git.
    """
    parser = argparse.ArgumentParser(prog="bitsperdim run", add_help=False)
    parser.add_argument("-S", "--set-param", action="append", default=[])
    settings = parser.parse_known_args(arguments)[0].set_param
    if not {"-h", "--help"} & set(arguments):
        repository(root)  # DVC keeps experiments in git
        params = validated(applied(read_yaml(root / "params.yaml"), settings, root))
        with contextlib.chdir(root):
            check_source(params)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "dvc", "exp", "run", *arguments], {**os.environ, "PATH": path})
