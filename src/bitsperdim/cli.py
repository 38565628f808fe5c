"""The command line program ``bitsperdim``.

``init`` lays out a folder with the pipeline. ``run`` and ``back`` are for experiments, ``recipe`` is for recipes,
``compare`` and ``leaderboard`` are for results, and ``audit`` and ``evaluate`` are for models from elsewhere.

Each command imports its modules when it runs: only ``recipe``, ``audit`` and ``evaluate`` import torch.
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
    """Return the folder with ``dvc.yaml`` and ``recipes/``: the working directory, or the nearest folder above it.

    Raises:
        InputError: there is no such folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "recipes").is_dir():
            return folder
    raise InputError(
        f"{here} is not inside a bitsperdim repository: no folder here or above has dvc.yaml and recipes/. "
        f"Change into one, or lay one out: `bitsperdim init FOLDER`."
    )


def init(arguments: argparse.Namespace) -> None:
    """Lay out a folder with the pipeline, or bring one up to the version of this package."""
    from bitsperdim.init import command

    for line in (command.update if arguments.update else command.lay_out)(arguments.folder):
        print(line, flush=True)


def recipe(arguments: argparse.Namespace) -> None:
    """List the recipes, or run one recipe and write its result."""
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
    chosen = recipes.read(root, arguments.name)
    size = arguments.size
    if arguments.rescore:
        path = rescoring.rescore(root, chosen, size)
        print(f"Wrote {path.relative_to(root)} and {path.with_suffix('.npz').relative_to(root)}; commit them.")
        print(table.summary(path))
        return
    if arguments.follow:
        from bitsperdim.recipes.following import follow

        for line in follow(root, chosen, size, arguments.set_param):
            print(line, flush=True)
        return
    with_dvc = not arguments.without_dvc and running.dvc_is_there(root)
    if arguments.temp and not with_dvc:
        raise InputError("--temp makes a DVC experiment, which needs DVC and a git repository.")
    if not arguments.collect:
        running.run(root, chosen, size, with_dvc=with_dvc, settings=arguments.set_param, queue=arguments.queue)
    if arguments.queue or arguments.set_param:
        print(_next(root, chosen.name, size, running.run_name(chosen.name, size, arguments.set_param), arguments))
        return
    path = result.collect(root, chosen, size, running.finished(root, chosen, size, with_dvc=with_dvc))
    kept = [str(path.with_suffix(suffix).relative_to(root)) for suffix in (".json", ".npz", ".csv")]
    print(f"Wrote {', '.join(kept[:-1])} and {kept[-1]}; commit them.")
    print(table.summary(path))


def _consistent(arguments: argparse.Namespace) -> None:
    """Check that the flags can be used together.

    Raises:
        InputError: two flags exclude each other, or a flag needs the name of a recipe.
    """
    flags = {"--queue": arguments.queue, "--temp": arguments.temp, "-S": arguments.set_param}
    given = [flag for flag, value in flags.items() if value]
    alone = [flag for flag, value in (("--rescore", arguments.rescore), ("--follow", arguments.follow)) if value]
    if (given or alone) and arguments.name is None:
        raise InputError(f"{[*given, *alone][0]} needs the name of a recipe; `bitsperdim recipe` lists them.")
    if alone:
        others = [*alone[1:], *given, *(["--collect"] if arguments.collect else [])]
        if alone[0] == "--follow":  # with -S it follows a run that was started with the same -S
            others = [flag for flag in others if flag != "-S"]
        if others:
            raise InputError(f"{alone[0]} and {others[0]} exclude each other.")
    for other, value in (("--collect", arguments.collect), ("--without-dvc", arguments.without_dvc)):
        if given and value:
            raise InputError(f"{given[0]} and {other} exclude each other.")


def _next(root: Path, recipe: str, size: recipes.SizeName, name: str, arguments: argparse.Namespace) -> str:
    """Return the next steps after a run that has no result file, or not yet."""
    from bitsperdim.recipes.recipe import RESULTS, result_name

    queued = "; it is queued: `dvc queue start` runs it, `dvc queue status` shows its state"
    text = f"The experiment is {name}{queued if arguments.queue else ''}.\n"
    then = "Then " if arguments.queue else ""
    run = f"`bitsperdim recipe {recipe} --size {size}"
    if not arguments.set_param:
        return f"{text}{then}{run} --collect` writes its result."
    kept = RESULTS / f"{result_name(recipe, size)}.json"
    if not (root / kept).exists():
        return f"{text}A run with -S writes no file in {RESULTS}. To get a result of the recipe itself, type {run}`."
    return f"{text}A run with -S does not change {kept}. {then}`bitsperdim compare {kept.stem} {name}` compares them."


def compare(arguments: argparse.Namespace) -> None:
    """Compare two sets of results."""
    print(commands.compare(repository(), arguments.a, arguments.b, arguments.models, arguments.form))


def leaderboard(arguments: argparse.Namespace) -> None:
    """Rank all results of commits, experiments and the workspace, with ``--recipes`` also those of recipes."""
    print(commands.leaderboard(repository(), arguments.form, with_recipes=arguments.recipes))


def run(arguments: argparse.Namespace) -> None:
    """Check the parameters, then run a DVC experiment."""
    from bitsperdim.recipes import experiment

    experiment.run(repository(), arguments.of_dvc)


def back(_: argparse.Namespace) -> None:
    """Restore the parameters and results of the last commit."""
    from bitsperdim.comparing.back import go_back

    for line in go_back(repository()):
        print(line, flush=True)


class _Parser(argparse.ArgumentParser):
    """A parser that exits with status 1 for wrong options of ``audit`` and ``evaluate``.

    Status 2, the default of argparse, means there that a check failed.
    """

    def error(self, message: str) -> NoReturn:
        if any(word in ("audit", "evaluate") for word in sys.argv[1:2]):
            sys.exit(f"bitsperdim {sys.argv[1]}: {message} (`bitsperdim {sys.argv[1]} --help` lists all options).")
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main_parser = _Parser(prog="bitsperdim", description="Likelihoods of discrete images.")
    main_parser.add_argument("--version", action="version", version=f"bitsperdim {__version__}")
    subparsers = main_parser.add_subparsers(required=True, metavar="COMMAND")
    command = subparsers.add_parser(
        "init", help="lay out a folder with the pipeline, which then runs this installed package"
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="an empty folder, or one that does not exist yet")
    command.add_argument(
        "--update",
        action="store_true",
        help="after an upgrade of the package: write dvc.yaml and stages/ of a folder anew; what git does not have "
        "of them is lost, so uncommitted changes are refused",
    )
    command.set_defaults(run=init)
    command = subparsers.add_parser(
        "run", help="check -S, then do `dvc exp run` with the same flags", add_help=False, prefix_chars="\0"
    )
    command.add_argument("of_dvc", nargs=argparse.REMAINDER)
    command.set_defaults(run=run)
    command = subparsers.add_parser(
        "back", help="restore params.yaml, dvc.lock, results/ and the pipeline's outputs of the last commit"
    )
    command.set_defaults(run=back)
    command = subparsers.add_parser("recipe", help="list the recipes, or run one by name")
    command.add_argument("name", nargs="?", metavar="NAME", help="the recipe to run; without a name, list all recipes")
    command.add_argument(
        "--size",
        choices=recipes.SIZES,
        default="cpu",
        help="cpu: minutes on two CPU cores (default); long: hours on two CPU cores; gpu: for a GPU",
    )
    command.add_argument("--without-dvc", action="store_true", help="run the stages one by one, without DVC")
    command.add_argument(
        "--rescore",
        action="store_true",
        help="do not train: score the weights stored with the result again, with the present code and settings of "
        "the evaluation",
    )
    command.add_argument(
        "--collect", action="store_true", help="do not run: write the result of a finished run, queued or not"
    )
    command.add_argument(
        "--follow",
        action="store_true",
        help="do not run: show the training that is running now beside the committed curve of this recipe",
    )
    place = command.add_mutually_exclusive_group()
    place.add_argument(
        "--temp", action="store_true", help="run in a copy of the workspace; with DVC, this is the default"
    )
    place.add_argument(
        "--queue",
        action="store_true",
        help="put the run into DVC's queue; start it with `dvc queue start`, then write the result with --collect",
    )
    command.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a parameter, as in `dvc exp run`: the run becomes a DVC experiment with its own name, and writes "
        "no file in recipes/results",
    )
    command.set_defaults(run=recipe)
    command = subparsers.add_parser("compare", help="compare two results image by image", description=commands.NAMES)
    command.add_argument("a", metavar="A", help="a git revision, an experiment or a recipe result, or NAME:MODEL")
    command.add_argument("b", metavar="B", nargs="?", default="workspace", help="the same (default: the workspace)")
    command.add_argument(
        "--models", metavar="NAMES", help="compare only these models, separated by commas (default: all in A and B)"
    )
    _forms(command, markdown="print Markdown, for a pull request", json="print JSON, for a program")
    command.set_defaults(run=compare)
    command = subparsers.add_parser("leaderboard", help="rank the results of commits, experiments and the workspace")
    command.add_argument("--recipes", action="store_true", help="also rank the results in recipes/results")
    _forms(command, markdown="print Markdown, for a web page", csv="print CSV with all columns")
    command.set_defaults(run=leaderboard)
    command = subparsers.add_parser("audit", help="score your own model, and check whether the number can be believed")
    auditing.add_options(command, with_checks=True)
    command = subparsers.add_parser("evaluate", help="score your own model, without the checks")
    auditing.add_options(command, with_checks=False)
    return main_parser


def _forms(command: argparse.ArgumentParser, **forms: str) -> None:
    """Add a flag for each output format; without a flag the output is text."""
    group = command.add_mutually_exclusive_group()
    for form, words in forms.items():
        group.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=words)
    command.set_defaults(form="text")


def main() -> None:
    """Run the command that was typed; an error of the user ends it with one sentence and status 1."""
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except InputError as error:
        sys.exit(str(error))
    except BrokenPipeError:  # the reader has closed the pipe: `bitsperdim leaderboard | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        sys.exit(f"{error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Run the same command again to resume.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
