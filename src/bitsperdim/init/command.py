"""Laying out a folder whose pipeline runs the installed package.

The folder has the pipeline, the parameters, the stages and the recipes of the repository
(:mod:`bitsperdim.init.files`), but neither the code of the package nor results. Its files are those of the repository,
with two kinds of differences:

- :data:`REPLACED`: no stage depends on ``src/bitsperdim``. Instead ``preflight`` runs each time, which takes seconds,
  and writes the hashes of the installed code into ``data/code``. So another version of the package reruns the stages
  whose code it changes, as an edit does in the repository.
- :func:`written`: a README, the settings of DVC without the remotes of the repository, and ``stages/package.txt`` with
  the version of the package. The scripts in ``stages`` need the package of their own version, so ``stages/start.sh``
  refuses another one, and :func:`update` writes the scripts anew.

Invariants (``tests/init/test_init.py``): the files are those of the repository, up to these differences
(``test_the_files_are_those_of_the_repository``); nothing that is there already is written over
(``test_a_folder_that_is_not_empty_is_refused``); the pipeline runs with the installed wheel alone
(``tests/init/test_wheel.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from bitsperdim import __version__
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_bytes
from bitsperdim.core.git import NotARepositoryError, Repository, repository
from bitsperdim.init.files import read

MAY_BE_THERE = (".git", ".venv")  # in a folder that counts as empty
PACKAGE = "stages/package.txt"
UPDATED = ("dvc.yaml", "stages/")  # what belongs to the version of the package and not to the user
REPLACED = {  # path -> texts of the repository, and what is written in their place
    "dvc.yaml": (
        (
            "  preflight:\n",
            "  preflight:\n    # it always runs, since the installed package may have changed, and takes seconds\n"
            "    always_changed: true\n",
        ),
        ("      - src/bitsperdim\n", ""),
    ),
}
DVC_CONFIG = """[core]
    analytics = false
    check_update = false
"""
WITHOUT_GIT = """[core]
    no_scm = true
"""
README = """# Likelihoods of discrete images

`bitsperdim init` (bitsperdim {version}) has laid out this folder. Its pipeline trains and evaluates the models that
`params.yaml` lists, with the installed package.

```console
$ dvc repro                                 # run the pipeline, minutes with these parameters; open report/index.html
$ git add --all && git commit -m "Run"      # keep the parameters and the results
$ bitsperdim run -S vae.latent_size=8       # an experiment with another parameter
$ bitsperdim compare HEAD                   # is it better than the last commit? image by image
$ bitsperdim leaderboard                    # all results
$ bitsperdim back                           # restore the parameters and results of the last commit
```

- `params.yaml` explains every parameter. `bitsperdim run -S 'models=[vae]' -S 'studies=[]'` runs one model alone.
- Your own model: `external/README.md`. Your own images: `data/own/README.md`.
- `bitsperdim recipe` lists bigger runs.
- After an upgrade of the package, `bitsperdim init --update .` writes `dvc.yaml` and `stages/` anew.
"""


def written() -> dict[str, str]:
    """Return the files that the repository does not have in this form: path -> text."""
    return {
        ".dvc/config": DVC_CONFIG,
        "README.md": README.format(version=__version__),
        PACKAGE: f"bitsperdim {__version__}\n",
    }


def laid_out() -> dict[str, bytes]:
    """Return all files of a folder: path -> content."""
    files = {path: content.decode("utf-8") for path, content in read().items()}
    for path, replacements in REPLACED.items():
        for before, after in replacements:
            files[path] = files[path].replace(before, after)
    return {path: text.encode("utf-8") for path, text in {**files, **written()}.items()}


def lay_out(folder: Path) -> Iterator[str]:
    """Write all files into a folder, and make it known to git; yield sentences that say what was done.

    Args:
        folder: a folder that is empty or does not exist; a repository of git or a virtual environment may be in it.

    Raises:
        InputError: the folder is not empty, or git fails.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name an empty folder, or one that does not exist yet.")
    others = sorted(path.name for path in folder.iterdir() if path.name not in MAY_BE_THERE) if folder.exists() else []
    if others:
        raise InputError(
            f"{folder} is not empty ({others[0]} is in it); name an empty folder, or one that does not exist yet."
        )
    folder.mkdir(parents=True, exist_ok=True)
    needs_one = _needs_a_repository(folder.resolve())
    files = laid_out()
    for path, content in files.items():
        write_bytes(folder / path, content)
    yield f"Wrote {len(files)} files into {folder}. Its stages run bitsperdim {__version__}, the installed package."
    yield _known_to_git(folder.resolve(), sorted(files), needs_one=needs_one)
    yield f"Next: `cd {folder}`, then `dvc repro`; {folder / 'README.md'} lists more commands."


def _needs_a_repository(folder: Path) -> bool | None:
    """Return whether git has to make a repository for a folder; None if git is not installed.

    Raises:
        GitError: the folder is in a repository about which git cannot answer.
    """
    if shutil.which("git") is None:
        return None
    if not any((above / ".git").exists() for above in (folder, *folder.parents)):
        return True
    return Repository(folder, "", is_shallow=False).find("check-ignore", "--quiet", ".") is not None


def _known_to_git(folder: Path, files: list[str], *, needs_one: bool | None) -> str:
    """Make a repository if one is needed, and stage the files; return a sentence that says so."""
    if needs_one is None:
        write_bytes(folder / ".dvc" / "config.local", WITHOUT_GIT.encode())
        return "git is not installed: DVC was told to work without it (.dvc/config.local), so there are no experiments."
    here = Repository(folder, "", is_shallow=False)
    if needs_one:
        here.ask("init", "--quiet")
    here.ask("add", "--", *files)
    return f"{'Made a git repository there' if needs_one else 'Found the git repository'}, and staged the files."


def update(folder: Path) -> Iterator[str]:
    """Write ``dvc.yaml`` and ``stages/`` of a folder as the installed package lays them out; yield what was done.

    Raises:
        InputError: the folder was not laid out, or git does not have its ``dvc.yaml`` and ``stages/`` as they are.
    """
    if not (folder / PACKAGE).is_file():
        raise InputError(f"{folder} was not laid out by `bitsperdim init`: it has no {PACKAGE}.")
    try:
        changed = repository(folder).ask("status", "--porcelain", "--", *UPDATED).decode(errors="replace").split("\n")
    except NotARepositoryError:
        changed = [""]
    if changed[0]:
        raise InputError(
            f"{folder}: {changed[0].split()[-1]} has changes that are not committed, and would be written anew; commit "
            f"them, or restore the file first."
        )
    before = (folder / PACKAGE).read_text(encoding="utf-8", errors="replace").strip()
    files = {path: content for path, content in laid_out().items() if path.startswith(UPDATED)}
    different = [path for path in sorted(files) if not _has(folder / path, files[path])]
    for path in different:
        write_bytes(folder / path, files[path])
    yield f"From {before} to bitsperdim {__version__}: {', '.join(different) or 'nothing has changed'}."


def _has(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
