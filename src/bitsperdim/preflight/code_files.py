"""Files with hashes of the code that each stage needs; training and evaluation have one file for each model.

Each stage of ``dvc.yaml`` depends on its file, so that DVC reruns only the stages whose results an edit can change. A
dependency on whole rooms of the package would rerun too much, and somebody would forget to update a list of modules.
``preflight`` writes the files again whenever code or parameters have changed, which takes a second. They are in git,
like the other outputs of preflight, and show the differences between two commits
(:func:`bitsperdim.core.code.digests_by_room`). If a study is switched off, its file says so instead of the hashes: its
stage runs once, to remove its results, and no edit of its code runs it again. The files of an external model contain
the hashes of the user's files too.

Invariants (``tests/test_reruns.py``): an edit of each kind of file makes DVC run the expected stages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitsperdim.config.families import code_of
from bitsperdim.config.params import STUDIES, SWITCHED_OFF, Params
from bitsperdim.core.code import SOURCE, digest, digest_of_bytes, digests_by_room, needed
from bitsperdim.core.files import write_json

OF_MODELS = ("train", "evaluate")
PAGES = (".html", ".css", ".js")
STUDIED = {"density_and_mass": ("flow",)}  # families that a study trains with all parameters


def write_code_files(params: Params, stages: Path, folder: Path) -> None:
    """Write the files, and remove the files of stages and models that no longer exist.

    Args:
        params: validated parameters, with a section for each model.
        stages: folder of the stages' scripts.
        folder: folder to write into.
    """
    contents: dict[Path, dict[str, Any]] = {}
    for script in sorted(stages.glob("*.py")):
        name = script.stem
        if name in OF_MODELS:
            for model, section in params.sections.items():
                content = _content(needed(script, *code_of(section.family), *section.code))
                contents[folder / name / f"{model}.json"] = _with_files(content, section.files(name))
        elif name in STUDIES and name not in params.studies:
            contents[folder / f"{name}.json"] = dict(SWITCHED_OFF)
        elif name == "report":  # the report depends also on docstrings of families and on page templates
            families = {section.family for section in params.sections.values()}
            files = needed(script, *(code_of(family)[0] for family in families))
            pages = [path for path in sorted((SOURCE / "bitsperdim" / "report").iterdir()) if path.suffix in PAGES]
            contents[folder / "report.json"] = {**_content(files), "pages": digest_of_bytes([*files, *pages])}
        elif name != "preflight":
            families = params.known.families if name == "known" else set(STUDIED.get(name, ()))
            contents[folder / f"{name}.json"] = _content(
                needed(script, *(file for family in sorted(families) for file in code_of(family)))
            )
    for path in sorted(folder.rglob("*.json")):
        if path not in contents:
            path.unlink()
    for path, content in contents.items():
        write_json(path, content)


def _with_files(content: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """Return the content with the user's files added, each like a room with its path as the name."""
    return {**content, "rooms": {**content["rooms"], **files}} if files else content


def _content(files: list[Path]) -> dict[str, Any]:
    return {"code": digest(files), "rooms": digests_by_room(files)}
