"""Adds to the wheel the files that ``bitsperdim init`` lays out; everything else is said by ``pyproject.toml``."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = runpy.run_path("src/bitsperdim/init/files.py")


class BuildPy(build_py):
    """Copies the package, and packs these files beside ``bitsperdim/init/files.py``."""

    def run(self) -> None:
        """Build; an editable installation reads the files of the repository instead."""
        super().run()
        if not self.editable_mode:
            FILES["pack"](Path(), Path(self.build_lib, "bitsperdim", "init", FILES["ARCHIVE"].name))

    def get_source_files(self) -> list[str]:
        """Return the files that a source distribution must contain."""
        return [*super().get_source_files(), *FILES["paths"](Path())]


setup(cmdclass={"build_py": BuildPy})
