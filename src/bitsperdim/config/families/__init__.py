"""The families of models by name, each with a typed section of ``params.yaml`` and the path of its network.

A family is one file here and one in ``bitsperdim/models``. It is found by its name, without an import statement, so
that the code of a model depends on its own family only, and a new family does not invalidate other trained models
(:mod:`bitsperdim.core.code`). Torch is not imported, so that parameters are checked quickly.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import get_args

from bitsperdim.config.families.base import FamilySection
from bitsperdim.core.code import file_of


class _Families(Mapping[str, type[FamilySection]]):
    """Mapping from a family's name to its section class, which is imported at the first use."""

    names = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"))

    def __getitem__(self, family: str) -> type[FamilySection]:
        if family not in self.names:
            raise KeyError(family)
        module = import_module(f"{__name__}.{family}")
        return next(
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, FamilySection)
            and get_args(value.model_fields["family"].annotation) == (family,)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


FAMILIES = _Families()


def code_of(family: str) -> tuple[Path, Path]:
    """Return the two files of a family: the file of its section, and the file of its network."""
    return file_of(f"{__name__}.{family}"), file_of(FAMILIES[family].network.rpartition(".")[0])
