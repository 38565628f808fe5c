"""The section ``dataset.drawn`` of ``params.yaml``: images drawn from a known distribution."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bitsperdim.config.families.base import Section

Side = Annotated[int, Field(ge=1, le=64)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class DrawnSection(Section):
    """Sizes and parameters of a data set that is drawn from a known distribution."""

    height: Side = 8
    width: Side = 8
    n_channels: Annotated[int, Field(ge=1, le=3)] = 1
    n_train: Count = 4_000
    n_validation: Count = 500
    n_test: Count = 1_000
    strength: Annotated[float, Field(ge=0, le=100)] | None = None
    n_components: Annotated[int, Field(ge=1, le=64)] | None = None
