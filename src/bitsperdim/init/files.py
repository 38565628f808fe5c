"""The files of the repository that ``bitsperdim init`` lays out elsewhere.

The wheel contains them as one archive, which ``setup.py`` writes when the wheel is built, so that there is no second
copy of them in the repository. They are in an archive because DVC, started above a virtual environment, would take a
``dvc.yaml`` within the installed package for a part of the user's pipeline. A package that runs from the repository
reads the files of the repository.

``setup.py`` runs this file by itself, before anything is installed. It therefore imports the standard library alone.

Invariants (``tests/init/test_init.py``): each pattern names files, and all of them are in git
(``test_the_files_are_those_of_git``); the archive has them, to the byte (``test_the_archive_has_the_files``).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

PATTERNS = (
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    "data/own/README.md",
    "dvc.yaml",
    "external/README.md",
    "params.yaml",
    "recipes/*.yaml",
    "stages/*.py",
    "stages/start.sh",
)
ARCHIVE = Path(__file__).with_name("files.zip")


def paths(root: Path) -> list[str]:
    """Return the paths of the files, relative to the root of the repository, sorted."""
    return sorted(path.relative_to(root).as_posix() for pattern in PATTERNS for path in root.glob(pattern))


def pack(root: Path, archive: Path) -> None:
    """Write the archive; the same files give the same bytes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in paths(root):
            file.writestr(zipfile.ZipInfo(path), (root / path).read_bytes(), zipfile.ZIP_DEFLATED)


def read() -> dict[str, bytes]:
    """Return the content of each file by its path: from the archive, or from the repository if there is no archive."""
    if ARCHIVE.is_file():
        with zipfile.ZipFile(ARCHIVE) as file:
            return {path: file.read(path) for path in file.namelist()}
    root = Path(__file__).resolve().parents[3]
    return {path: (root / path).read_bytes() for path in paths(root)}
