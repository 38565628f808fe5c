"""Write the report as one self-contained HTML page; warn if this processor rounds differently."""

from pathlib import Path

from bitsperdim.comparing import rounding
from bitsperdim.config.params import Params
from bitsperdim.report import write_report
from bitsperdim.runtime import finished, stage


def main(params: Params, results: str, folder: str) -> None:
    """Read the folder ``results``; write ``index.html`` into ``folder``."""
    finished.clear()
    write_report(params, Path(results), Path(folder))
    print(f"report: {Path(folder) / 'index.html'}")
    if told := rounding.sentence(Path()):
        print(f"report: {told}")


stage.run("report", main, "results", "folder")
