"""The command ``bitsperdim run``, which checks the settings after ``-S`` and then runs ``dvc exp run``.

DVC writes settings into ``params.yaml`` before the pipeline can refuse them. If a wrong setting affects ``dvc.yaml``
itself, DVC ends with its own error message. Here a setting that is refused changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bitsperdim.preflight.agreement import validated
from bitsperdim.preflight.preflight import check_source
from bitsperdim.recipes.recipe import read_yaml
from bitsperdim.recipes.running import with_a_commit
from bitsperdim.recipes.settings import applied


def run(root: Path, arguments: Sequence[str]) -> NoReturn:
    """Check the settings among the arguments of ``dvc exp run``, then replace this process by that command.

    The stages use the Python of this command, even if its environment is not active.

    Raises:
        InputError: a setting or a value in ``params.yaml`` is not allowed, or there is no git repository with a commit.
    """
    parser = argparse.ArgumentParser(prog="bitsperdim run", add_help=False)
    parser.add_argument("-S", "--set-param", action="append", default=[])
    settings = parser.parse_known_args(arguments)[0].set_param
    if not {"-h", "--help"} & set(arguments):
        with_a_commit(root)  # raises an error without git, in which DVC stores experiments
        params = validated(applied(read_yaml(root / "params.yaml"), settings, root))
        with contextlib.chdir(root):
            check_source(params)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "dvc", "exp", "run", *arguments], {**os.environ, "PATH": path})
