"""Train many families on many known distributions: ``python -m bitsperdim.studies.known SETTINGS.yaml RESULT.json``.

SETTINGS holds the section ``known.excess`` of ``params.yaml``. The result is what the study writes of it, with the
machine and the seconds that it took: ``docs/known_truths.yaml`` gave ``docs/known_truths.json``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from bitsperdim.config.families.base import TrainSection
from bitsperdim.config.known import ExcessSection
from bitsperdim.config.loading import load_yaml
from bitsperdim.config.sentences import sentence
from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.files import write_json
from bitsperdim.runtime.device import described, set_up_device
from bitsperdim.studies.known import excess

SEED = 0


def read_settings(path: Path) -> ExcessSection:
    """Read the settings.

    Raises:
        InputError: one sentence naming the key, its value and what is allowed.
    """
    content = load_yaml(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must be a mapping of the keys of known.excess, but it holds {shown(content)}.")
    try:
        section = ExcessSection.model_validate(dict(content))
        section.check_models(TrainSection())
    except ValidationError as error:
        raise InputError(sentence(error, ExcessSection, prefix="known.excess").replace("params.yaml", str(path))) from (
            error
        )
    return section


def main() -> None:
    """Read the settings of the command line, and write the result."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bitsperdim.studies.known SETTINGS.yaml RESULT.json")
    try:
        section, device, started = read_settings(Path(sys.argv[1])), set_up_device(), time.monotonic()
        metrics, _ = excess.study(section, TrainSection(), SEED, device)
    except InputError as error:
        sys.exit(str(error))
    seconds = round(time.monotonic() - started)
    write_json(Path(sys.argv[2]), {"made_with": described(device), "seconds": seconds, "excess": metrics})


if __name__ == "__main__":
    main()
