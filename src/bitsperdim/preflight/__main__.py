"""Validate a file of parameters and touch nothing: ``python -m bitsperdim.preflight params.yaml``."""

import sys
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.preflight.agreement import read_validated
from bitsperdim.preflight.last_commit import with_origin


def main() -> None:
    """Say what is wrong, if anything is."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bitsperdim.preflight PARAMS")
    path = Path(sys.argv[1])
    try:
        read_validated(path)
    except InputError as error:
        sys.exit(str(with_origin(error, path.parent)))


if __name__ == "__main__":
    main()
