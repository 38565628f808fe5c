"""Check all of params.yaml before any work; forget the results of models that are no longer listed."""

from pathlib import Path

from bitsperdim.config.params import Params
from bitsperdim.preflight.last_commit import with_origin
from bitsperdim.preflight.preflight import preflight
from bitsperdim.runtime import stage


def main(params: Params, results: str, marker: str) -> None:
    """Write ``models.json`` into ``results`` and the marker that ``download`` waits for."""
    preflight(params, Path(results), Path(marker))


stage.run("preflight", main, "results", "marker", explain=with_origin)
