"""Check the whole of params.yaml before any work, and remove the results of models that are no longer listed."""

from pathlib import Path

from bitsperdim.config.params import Params
from bitsperdim.preflight.code_files import write_code_files
from bitsperdim.preflight.last_commit import with_origin
from bitsperdim.preflight.preflight import preflight
from bitsperdim.runtime import stage


def main(params: Params, results: str, marker: str, code: str) -> None:
    """Write ``models.json`` into ``results``, the marker on which ``download`` depends, and the folder ``code``."""
    preflight(params, Path(results), Path(marker))
    write_code_files(params, Path(__file__).parent, Path(code))


stage.run("preflight", main, "results", "marker", "code", explain=with_origin)
