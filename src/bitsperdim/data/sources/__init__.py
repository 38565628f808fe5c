"""The registry of data sets: one file per source, one literal dict."""

from bitsperdim.data.sources.base import RawImages, Source
from bitsperdim.data.sources.digits import Digits
from bitsperdim.data.sources.npz import Npz

SOURCES: dict[str, Source] = {
    "digits": Digits(),
    "npz": Npz(),
}

__all__ = ["SOURCES", "RawImages", "Source"]
