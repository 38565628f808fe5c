"""Checks before any work begins, and the removal of old results, which DVC cannot do.

``results/<model>`` of a model that is no longer listed in ``models`` would stay in the folder that the stage ``report``
reads. Only files that the pipeline itself wrote there are removed.
"""

from __future__ import annotations

from pathlib import Path

from bitsperdim.config.params import STUDIES, Params
from bitsperdim.core import made_with
from bitsperdim.core.files import write_json, write_text
from bitsperdim.preflight.agreement import check_images, check_levels
from bitsperdim.sources import SOURCES

MARKER = "The parameters of this pipeline have been validated.\n"
PICTURES = "pictures"
OF_A_MODEL = ("metrics.json", "per_image.csv", "bound_against_k.csv", "training_curve.csv", *made_with.FILES.values())
OF_PICTURES = ("samples.png", "reconstructions.png", "completions.png", "receptive_field.png")
# folders of results/ that belong to stages, not to models
KEPT = ("dequantize", *STUDIES)


def preflight(params: Params, results: Path, marker: Path) -> None:
    """Check paths and models, remove the results of models that are not listed, and write the list of models.

    Args:
        params: validated parameters.
        results: folder of the results.
        marker: constant file, written last; its presence shows that all checks have passed.
    """
    check_source(params)
    for model in params.models:
        params.sections[model].check_files(model, params.dequantize.binarization)
    for folder in sorted(results.iterdir()) if results.is_dir() else []:
        if folder.is_dir() and not folder.is_symlink() and folder.name not in (*params.models, *KEPT):
            forget(folder)
    write_json(results / "models.json", {"models": list(params.models)})
    write_text(marker, MARKER)


def check_source(params: Params) -> None:
    """Check the name of the data set, ``dataset.path``, and whether the models fit the images.

    Raises:
        InputError: a check fails; the message names the key, the value and what is allowed.
    """
    check_levels(params)
    source = SOURCES[params.dataset.name]
    source.check(params.dataset.path)
    check_images(params, *source.facts(params.dataset.path))


def forget(folder: Path) -> None:
    """Remove the files that the pipeline wrote for a model; a folder with any other file in it stays."""
    pictures = folder / PICTURES
    if pictures.is_dir() and not pictures.is_symlink():
        _remove(pictures, OF_PICTURES)
    _remove(folder, OF_A_MODEL)


def _remove(folder: Path, names: tuple[str, ...]) -> None:
    """Remove files and links with these names, and the folder if it is empty then."""
    for name in names:
        path = folder / name
        if path.is_symlink() or path.is_file():
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
