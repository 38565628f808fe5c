"""The one-neuron ResNet of Lin and Jegelka (2018): trained networks, and the explicit construction.

``OneNeuronResNet(d, depth)`` and ``DenseNet(d, width, depth)`` are trained on points of the plane
(:mod:`bitsperdim.studies.universal_resnet.study`); ``construct(f, d, lower, upper, cells)`` computes the weights of a
``OneNeuronResNet`` that approximates f in L1, and more cells make the error arbitrarily small.
"""

from bitsperdim.studies.universal_resnet.construction import construct
from bitsperdim.studies.universal_resnet.nets import DenseNet, OneNeuronResNet

__all__ = ["DenseNet", "OneNeuronResNet", "construct"]
