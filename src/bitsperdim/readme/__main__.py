"""Rewrite the numbers of the README in the repository of the command line: ``python -m bitsperdim.readme ROOT``."""

import sys
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_text
from bitsperdim.readme.sections import update


def main() -> None:
    """Read README.md, and write it where the numbers differ."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bitsperdim.readme ROOT")
    root = Path(sys.argv[1])
    readme = root / "README.md"
    try:
        write_text(readme, update(readme.read_text(encoding="utf-8"), root))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
