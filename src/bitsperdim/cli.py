"""The command ``bitsperdim``: ``run`` and ``back`` for experiments, ``recipe`` for recipes, ``compare`` and
``leaderboard`` for what came out, ``audit`` and ``evaluate`` for models from elsewhere.

What a command needs is imported when it runs: only ``recipe``, ``audit`` and ``evaluate`` import torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from bitsperdim import __version__
from bitsperdim.auditing import command as auditing
from bitsperdim.comparing import commands
from bitsperdim.core.errors import InputError
from bitsperdim.recipes import recipe as recipes


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
    _consistent(arguments)
    from bitsperdim.recipes import rescoring, result, running, table

    if arguments.name is None:
        text, broken = table.listing(root)
        if text:
            print(text, flush=True)
        if broken:
            sys.exit("\n".join(map(str, broken)))
        return
    chosen, size = recipes.read(root, arguments.name), arguments.size
    if arguments.rescore:
        path = rescoring.rescore(root, chosen, size)
        print(f"{path.relative_to(root)} and {path.with_suffix('.npz').relative_to(root)} are written; commit them.")
        print(table.summary(path))
        return
    if arguments.follow:
        from bitsperdim.recipes.following import follow

        for line in follow(root, chosen, size, arguments.set_param):
            print(line, flush=True)
        return
    with_dvc = not arguments.without_dvc and running.dvc_is_there(root)
    if arguments.temp and not with_dvc:
        raise InputError("--temp makes a DVC experiment: it needs DVC, and a git repository.")
    if not arguments.collect:
        running.run(root, chosen, size, with_dvc=with_dvc, settings=arguments.set_param, queue=arguments.queue)
    if arguments.queue or arguments.set_param:
        print(_next(root, chosen.name, size, running.run_name(chosen.name, size, arguments.set_param), arguments))
        return
    path = result.collect(root, chosen, size, running.finished(root, chosen, size, with_dvc=with_dvc))
    kept = [str(path.with_suffix(suffix).relative_to(root)) for suffix in (".json", ".npz", ".csv")]
    print(f"{', '.join(kept[:-1])} and {kept[-1]} are written; commit them.")
    print(table.summary(path))


def _consistent(arguments: argparse.Namespace) -> None:
    """Refuse flags that say nothing together.

    Raises:
        InputError: some do.
    """
    flags = {"--queue": arguments.queue, "--temp": arguments.temp, "-S": arguments.set_param}
    given = [flag for flag, value in flags.items() if value]
    alone = [flag for flag, value in (("--rescore", arguments.rescore), ("--follow", arguments.follow)) if value]
    if (given or alone) and arguments.name is None:
        raise InputError(f"{[*given, *alone][0]} needs the name of a recipe; `bitsperdim recipe` lists them.")
    if alone:
        others = [*alone[1:], *given, *(["--collect"] if arguments.collect else [])]
        if alone[0] == "--follow":  # a run that was started with settings
            others = [flag for flag in others if flag != "-S"]
        if others:
            raise InputError(f"{alone[0]} and {others[0]} exclude each other.")
    for other, value in (("--collect", arguments.collect), ("--without-dvc", arguments.without_dvc)):
        if given and value:
            raise InputError(f"{given[0]} and {other} exclude each other.")


def _next(root: Path, recipe: str, size: recipes.SizeName, name: str, arguments: argparse.Namespace) -> str:
    """Return what can be done after a run that has no result file, or none yet."""
    from bitsperdim.recipes.result import RESULTS, result_name

    queued = "; it is queued: `dvc queue start` runs it, `dvc queue status` says how it stands"
    text, then = f"The experiment is {name}{queued if arguments.queue else ''}.\n", "Then " if arguments.queue else ""
    run = f"`bitsperdim recipe {recipe} --size {size}"
    if not arguments.set_param:
        return f"{text}{then}{run} --collect` writes its result."
    kept = RESULTS / f"{result_name(recipe, size)}.json"
    if not (root / kept).exists():
        return f"{text}A run with -S has no file in {RESULTS}, and the recipe has none yet: {run}` makes it."
    return f"{text}A run with -S leaves {kept} as it is. {then}`bitsperdim compare {kept.stem} {name}` compares them."


def compare(arguments: argparse.Namespace) -> None:
    """Compare two sets of results."""
    print(commands.compare(repository(), arguments.a, arguments.b, arguments.models, arguments.form))


def leaderboard(arguments: argparse.Namespace) -> None:
    """Rank all results of commits, experiments and the workspace, and those of recipes where asked."""
    print(commands.leaderboard(repository(), arguments.form, with_recipes=arguments.recipes))


def run(arguments: argparse.Namespace) -> None:
    """Run an experiment of DVC once its parameters have been checked."""
    from bitsperdim.recipes import experiment

    experiment.run(repository(), arguments.of_dvc)


def back(_: argparse.Namespace) -> None:
    """Go back to the last commit."""
    from bitsperdim.comparing.back import go_back

    for line in go_back(repository()):
        print(line, flush=True)


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in the options of ``audit`` and ``evaluate`` with status 1: 2 says that a check failed."""

    def error(self, message: str) -> NoReturn:
        if any(word in ("audit", "evaluate") for word in sys.argv[1:2]):
            sys.exit(f"bitsperdim {sys.argv[1]}: {message} (`bitsperdim {sys.argv[1]} --help` lists all).")
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main_parser = _Parser(prog="bitsperdim", description="Likelihoods of discrete images.")
    main_parser.add_argument("--version", action="version", version=f"bitsperdim {__version__}")
    subparsers = main_parser.add_subparsers(required=True, metavar="COMMAND")
    command = subparsers.add_parser(
        "run", help="`dvc exp run` with the same flags, after a check of -S", add_help=False, prefix_chars="\0"
    )
    command.add_argument("of_dvc", nargs=argparse.REMAINDER)
    command.set_defaults(run=run)
    command = subparsers.add_parser(
        "back", help="go back to the last commit: params.yaml, dvc.lock, results/ and the pipeline's outputs"
    )
    command.set_defaults(run=back)
    command = subparsers.add_parser("recipe", help="list the recipes, or run one by name")
    command.add_argument("name", nargs="?", metavar="NAME", help="which recipe; without it, all are listed")
    command.add_argument(
        "--size",
        choices=recipes.SIZES,
        default="cpu",
        help="for two CPU cores (default), for hours on them, or for a GPU",
    )
    command.add_argument("--without-dvc", action="store_true", help="run the stages one by one, without DVC")
    command.add_argument(
        "--rescore",
        action="store_true",
        help="train nothing: score the weights that are kept with the result again, with the evaluation as it is now",
    )
    command.add_argument(
        "--collect", action="store_true", help="only write the result of a run that has finished, queued or not"
    )
    command.add_argument(
        "--follow",
        action="store_true",
        help="start nothing: show the training that runs now, beside the committed curve of this recipe",
    )
    place = command.add_mutually_exclusive_group()
    place.add_argument("--temp", action="store_true", help="run in a copy of the workspace, as it does anyway with DVC")
    place.add_argument(
        "--queue", action="store_true", help="put it into DVC's queue, for `dvc queue start`; --collect it afterwards"
    )
    command.add_argument(
        *("-S", "--set-param"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a parameter, as in `dvc exp run`: the outcome is a DVC experiment of a name of its own, and no "
        "file in recipes/results",
    )
    command.set_defaults(run=recipe)
    command = subparsers.add_parser("compare", help="compare two results image by image", description=commands.NAMES)
    command.add_argument("a", metavar="A", help="a revision, an experiment or a recipe's result, or NAME:MODEL")
    command.add_argument("b", metavar="B", nargs="?", default="workspace", help="the other; by default the workspace")
    command.add_argument("--models", metavar="NAMES", help="only these, separated by commas; by default all in both")
    _forms(command, markdown="for a pull request", json="for a program")
    command.set_defaults(run=compare)
    command = subparsers.add_parser("leaderboard", help="rank the results of commits, experiments and the workspace")
    command.add_argument("--recipes", action="store_true", help="and those of recipes/results")
    _forms(command, markdown="for a page", csv="every column")
    command.set_defaults(run=leaderboard)
    command = subparsers.add_parser("audit", help="score a model from elsewhere, and check whether to believe it")
    auditing.add_options(command, with_checks=True)
    command = subparsers.add_parser("evaluate", help="score a model from elsewhere, without the checks")
    auditing.add_options(command, with_checks=False)
    return main_parser


def _forms(command: argparse.ArgumentParser, **forms: str) -> None:
    """Add a flag for each form of the output; without one it is text."""
    group = command.add_mutually_exclusive_group()
    for form, words in forms.items():
        group.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=words)
    command.set_defaults(form="text")


def main() -> None:
    """Run the command of the command line; a mistake ends it with one sentence and status 1."""
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except InputError as error:
        sys.exit(str(error))
    except BrokenPipeError:  # who reads has seen enough: `bitsperdim leaderboard | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        sys.exit(f"{error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted; the same command goes on from here.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
