"""Validate a file of parameters without changing any file: ``python -m bitsperdim.preflight params.yaml``."""

import sys
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.preflight.agreement import read_validated
from bitsperdim.preflight.last_commit import with_origin


def main() -> None:
    """Exit with a message if the parameters are not valid."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bitsperdim.preflight PARAMS")
    path = Path(sys.argv[1])
    try:
        read_validated(path)
    except InputError as error:
        sys.exit(str(with_origin(error, path.parent)))


if __name__ == "__main__":
    main()
