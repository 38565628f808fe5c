"""The command ``bitsperdim``: for now, ``bitsperdim recipe`` lists and runs recipes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bitsperdim.errors import InputError
from bitsperdim.recipes import recipe as recipes
from bitsperdim.recipes import result, running, table


def repository() -> Path:
    """Return the folder with ``dvc.yaml`` and ``recipes/``: this one, or the nearest above it.

    Raises:
        InputError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "recipes").is_dir():
            return folder
    raise InputError(f"{here} is not inside a bitsperdim repository (no dvc.yaml with a folder recipes/); go there.")


def recipe(arguments: argparse.Namespace) -> None:
    """List the recipes, or run one and keep its result."""
    root = repository()
    if arguments.name is None:
        print(table.listing(root))
        return
    chosen, size = recipes.read(root, arguments.name), arguments.size
    with_dvc = not arguments.without_dvc and running.dvc_is_there(root)
    if not arguments.collect:
        running.run(root, chosen, size, with_dvc=with_dvc)
    path = result.collect(root, chosen, size, running.finished(root, chosen, size, with_dvc=with_dvc))
    print(f"{path.relative_to(root)} and {path.with_suffix('.npz').relative_to(root)} are written; commit them.")
    print(table.summary(path))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main_parser = argparse.ArgumentParser(prog="bitsperdim", description="Likelihoods of discrete images.")
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("recipe", help="list the recipes, or run one by name")
    command.add_argument("name", nargs="?", metavar="NAME", help="which recipe; without it, all are listed")
    command.add_argument("--size", choices=recipes.SIZES, default="cpu", help="for two CPU cores (default) or a GPU")
    command.add_argument("--without-dvc", action="store_true", help="run the stages one by one, without DVC")
    command.add_argument("--collect", action="store_true", help="only write the result of a run that has finished")
    command.set_defaults(run=recipe)
    return main_parser


def main() -> None:
    """Run the command of the command line; a mistake ends it with one sentence and status 1."""
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except InputError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted; the same command goes on from here.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
