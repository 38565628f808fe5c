"""Run a larger version of the study than the report needs: ``python -m bitsperdim.studies.known SETTINGS RESULT``.

SETTINGS is a YAML file with the keys ``excess`` and ``estimators``, like the section ``known`` of ``params.yaml``.
RESULT is a JSON file with the metrics and tables of these two parts, the machine, and the time in seconds.
``docs/known_truths.json`` was made in this way from ``docs/known_truths.yaml``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from bitsperdim.config.families.base import TrainSection
from bitsperdim.config.known import KnownSection
from bitsperdim.config.loading import load_yaml
from bitsperdim.config.sentences import sentence
from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.files import write_json
from bitsperdim.runtime.device import described, set_up_device
from bitsperdim.studies.known import estimators, excess


def read_settings(path: Path) -> KnownSection:
    """Read and validate the settings.

    Raises:
        InputError: a setting is invalid; the message names the key, its value and what is allowed.
    """
    content = load_yaml(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must be a mapping with the keys of the section known, but it holds {shown(content)}.")
    try:
        section = KnownSection.model_validate(dict(content))
        section.excess.check_models(TrainSection())
    except ValidationError as error:
        raise InputError(sentence(error, KnownSection, prefix="known").replace("params.yaml", str(path))) from error
    return section


def main() -> None:
    """Read the settings that the command line names, run both parts, and write the result."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bitsperdim.studies.known SETTINGS.yaml RESULT.json")
    try:
        section = read_settings(Path(sys.argv[1]))
        device = set_up_device()
        started = time.monotonic()
        of_excess, _ = excess.study(section.excess, TrainSection(), section.seed, device)
        of_estimators, tables = estimators.study(section.estimators, section.seed)
    except InputError as error:
        sys.exit(str(error))
    content = {"excess": of_excess, "estimators": of_estimators, "seconds": round(time.monotonic() - started)}
    # as in a table: if k-hat is not judged, the row has no value for it
    rows = {name: [_known(row) for row in found] for name, found in tables.items()}
    write_json(Path(sys.argv[2]), {**content, "tables": rows, "made_with": described(device)})


def _known(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row without NaN values."""
    return {key: value for key, value in row.items() if value == value}


if __name__ == "__main__":
    main()
