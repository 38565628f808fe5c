"""Rewrite the numbers of all pages in the repository of the command line: ``python -m bitsperdim.readme ROOT``."""

import sys
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_text
from bitsperdim.readme.sections import PAGES, update


def main() -> None:
    """Read each page, and write it where the numbers differ."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bitsperdim.readme ROOT")
    root = Path(sys.argv[1])
    try:
        for page in PAGES:
            write_text(root / page, update((root / page).read_text(encoding="utf-8"), root, page))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
