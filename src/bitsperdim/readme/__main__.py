"""Command that rewrites the numbers in all pages of a repository: ``python -m bitsperdim.readme ROOT``."""

import sys
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_text
from bitsperdim.readme.sections import PAGES, update


def main() -> None:
    """Write each page again, with the present numbers."""
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
