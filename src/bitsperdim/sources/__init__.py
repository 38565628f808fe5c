"""The data sets: one file per source, and a registry of all sources."""

from bitsperdim.sources.base import RawImages, Source
from bitsperdim.sources.binarized_mnist import BinarizedMnist
from bitsperdim.sources.cifar10 import Cifar10
from bitsperdim.sources.digits import Digits
from bitsperdim.sources.drawn import Drawn
from bitsperdim.sources.folder import Folder
from bitsperdim.sources.idx import Idx
from bitsperdim.sources.known import KNOWN
from bitsperdim.sources.npz import Npz

SOURCES: dict[str, Source] = {
    "digits": Digits(),
    "mnist": Idx("mnist", "MNIST"),
    "fashion_mnist": Idx("fashion-mnist", "FashionMNIST"),
    "binarized_mnist": BinarizedMnist(),
    "cifar10": Cifar10(),
    "npz": Npz(),
    "folder": Folder(),
    **{name: Drawn(kind) for name, kind in KNOWN.items()},
}

__all__ = ["SOURCES", "Drawn", "RawImages", "Source"]
