"""The common frame of all stage scripts: command-line paths, typed parameters, error messages, a log.

Times, devices and memory are written to ``logs/`` (or ``BITSPERDIM_LOGS``). No stage declares this folder, so the
outputs depend only on the inputs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from bitsperdim.config.params import STUDIES, SWITCHED_OFF, Params, read_params
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_json
from bitsperdim.core.stopping import Interrupted, is_first_of_all, raised, speaks

PARAMS = Path("params.yaml")
LOGS = "BITSPERDIM_LOGS"
OF_STUDIES = (".csv", ".json", ".npz")  # types of the files that studies write
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # phrases in torch's messages


def run(
    stage: str,
    main: Callable[..., Mapping[str, Any] | None],
    *arguments: str,
    explain: Callable[[InputError], InputError] = lambda error: error,
) -> None:
    """Run a stage: ``main(params, *command_line_arguments)``.

    An invalid input, a file that cannot be read or written, and a lack of memory end the stage with one sentence and
    status 1. Ctrl-C ends it with status 130, SIGTERM with status 143. If torchrun started several processes, the first
    process of each machine prints the message, and the first of all processes writes the log.

    If a study is switched off, only :func:`switch_off` runs.

    Args:
        stage: name of the stage, for messages and the log.
        main: function that does the work, called with the parameters and the command-line arguments as text. Its result
            is added to the log; ``earlier_seconds`` in it is the time of interrupted runs that this run resumed.
        *arguments: names of the command-line arguments, for the usage message; for a study, the last one is its folder.
        explain: function that may add an explanation to the message of an InputError.
    """
    values = sys.argv[1:]
    if len(values) != len(arguments):
        sys.exit(f"usage: python stages/{stage}.py {' '.join(name.upper() for name in arguments)}")
    started = time.perf_counter()
    try:
        with raised():
            more = _work(stage, main, values)
    except InputError as error:
        _end(f"{stage}: {explain(error)}")
    except OSError as error:
        _end(f"{stage}: {error.filename or 'a file'} cannot be read or written: {error.strerror or error}.")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        _end(f"{stage}: there is not enough memory ({_first_line(error)}); try smaller batch or chunk sizes.")
    except KeyboardInterrupt as error:
        if speaks():
            sys.stderr.write(f"\n{stage}: {error or 'interrupted'}.\n")
        sys.exit(128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT))
    if not is_first_of_all():
        return
    try:
        _log(stage, values, time.perf_counter() - started, more or {})
    except OSError as error:  # the outputs are complete, so a missing log is not an error
        sys.stderr.write(f"{stage}: its log cannot be written ({error}).\n")


def _work(stage: str, main: Callable[..., Mapping[str, Any] | None], values: list[str]) -> Mapping[str, Any] | None:
    params = read_params(PARAMS)
    if stage in STUDIES and stage not in params.studies:
        switch_off(stage, Path(values[-1]))
        return None
    return main(params, *values)


def switch_off(study: str, results: Path) -> None:
    """Write into the folder of a study that it is switched off, because DVC requires an output of every stage.

    Earlier results of the study are removed, as DVC does before it runs a stage.
    """
    for path in sorted(results.iterdir()) if results.is_dir() else []:
        if path.is_file() and path.suffix in OF_STUDIES:
            path.unlink()
    write_json(results / "metrics.json", SWITCHED_OFF)
    print(f"{study}: switched off by studies in params.yaml")


def _end(sentence: str) -> NoReturn:
    sys.exit(sentence if speaks() else 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["allocation failed"])[0]


def _log(stage: str, values: list[str], seconds: float, more: Mapping[str, Any]) -> None:
    model = values[0] if stage in ("train", "evaluate") else None
    content = {
        "stage": stage if model is None else f"{stage}@{model}",
        "params_sha256": hashlib.sha256(PARAMS.read_bytes()).hexdigest(),
        "seconds": round(seconds, 2),
        "peak_memory_mib": round(peak_memory() / 2**20, 1),
        "python": platform.python_version(),
        **more,
    }
    write_json(log_path(stage, model), content)


def log_path(stage: str, model: str | None) -> Path:
    """Return the path of the log of a stage, or of a stage for one model."""
    name = stage if model is None else f"{stage}-{model}"
    return Path(os.environ.get(LOGS, "logs")) / f"{name}.json"


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes.

    On Linux the value counts only this program. ``getrusage``, used on other systems, includes the memory that the
    launching process had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = ["Params", "log_path", "peak_memory", "run", "switch_off"]
