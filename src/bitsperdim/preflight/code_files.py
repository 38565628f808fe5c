"""For each stage, and each model of a training or an evaluation, a file that says which code it needs.

A stage of ``dvc.yaml`` depends on its file, so that DVC reruns what an edit can change: all of a room of the package
would be too much, and a list of modules is forgotten. ``preflight`` writes them anew whenever any code or parameter has
changed, which takes a second. They are in git, as the other outputs of preflight are, and tell what differed between
two commits (:func:`bitsperdim.core.code.digests_by_room`). That of a study that is switched off says so: its stage runs
once, to take its results away, and no edit of its code runs it again. Those of a model that was made elsewhere hold the
user's files too.

Invariants (``tests/test_reruns.py``): an edit of each kind of file, and the stages that DVC runs then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitsperdim.config.families import code_of
from bitsperdim.config.params import STUDIES, SWITCHED_OFF, Params
from bitsperdim.core.code import SOURCE, digest, digest_of_bytes, digests_by_room, needed
from bitsperdim.core.files import write_json

OF_MODELS = ("train", "evaluate")
PAGES = (".html", ".css", ".js", ".md")
STUDIED = {"density_and_mass": ("flow",)}  # families that a stage trains, whatever the parameters are


def write_code_files(params: Params, stages: Path, folder: Path) -> None:
    """Write the files; those of stages and models that are no more are removed.

    Args:
        params: validated, with a section for each model.
        stages: the folder of the scripts.
        folder: to write into.
    """
    contents: dict[Path, dict[str, Any]] = {}
    for script in sorted(stages.glob("*.py")):
        name = script.stem
        if name in OF_MODELS:
            for model, section in params.sections.items():
                content = _content(needed(script, *code_of(section.family)))
                contents[folder / name / f"{model}.json"] = _with_files(content, section.files(name))
        elif name in STUDIES and name not in params.studies:
            contents[folder / f"{name}.json"] = dict(SWITCHED_OFF)
        elif name == "report":  # it shows docstrings of families, and is made of pages
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
    """Return the content with files beside the package, each by its path as a room of its own."""
    return {**content, "rooms": {**content["rooms"], **files}} if files else content


def _content(files: list[Path]) -> dict[str, Any]:
    return {"code": digest(files), "rooms": digests_by_room(files)}
