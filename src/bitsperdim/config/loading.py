"""Reading YAML in the same way as DVC: version 1.2, in which ``1e-05`` is a number.

Invariants (``tests/test_fuzz.py``): for any bytes, reading ends soon, and every error is an :class:`InputError` with
one sentence.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from bitsperdim.core.errors import InputError

MAX_ENTRIES = 1_000  # largest number of models, of seeds, and of pairs in a mapping made by YAML merge keys


def load_yaml(path: Path) -> object:
    """Read a YAML file as DVC does.

    Raises:
        InputError: the file cannot be read, or is not YAML; the message names the place.
    """
    try:
        reader = YAML(typ="safe")
        reader.Constructor = _Constructor
        with warnings.catch_warnings():  # ruamel warns about an anchor that is defined twice, which YAML allows
            warnings.simplefilter("ignore")
            return reader.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    except (YAMLError, ValueError) as error:  # ValueError: an impossible date or integer
        # problem_mark names the place in every error of the scanner and the parser
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not valid YAML{place}: {problem}.") from error


class _Constructor(SafeConstructor):
    """A constructor that refuses nested merge keys, whose mappings could fill the memory."""

    def flatten_mapping(self, node: MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_ENTRIES:
            problem = f"merge keys make a mapping of more than {MAX_ENTRIES} pairs"
            raise ConstructorError(None, None, problem, node.start_mark)
