"""Distributions of images with exact log P(x) and exact sampling.

For photographs P(x) is unknown, so the result of a model can only be compared with the results of other models. Here
the images are independent draws from a completely known distribution, so each result can be compared with the truth.

The mean of -log P over test images is the best result that a model can expect on them: by Gibbs' inequality
E[-log q(x)] >= E[-log P(x)] for every distribution q, with equality only for q = P. On the same test images, the
difference of the two means is an unbiased estimate of the Kullback-Leibler divergence of q from P. A result that lies
below the truth by more than the error of the difference is not the log-likelihood of a distribution.

There are four distributions with four kinds of dependence:

* :class:`~bitsperdim.sources.known.ising.Ising`: a Markov random field of neighbours, without direction or hidden
  variables.
* :class:`~bitsperdim.sources.known.hidden_markov.HiddenMarkov`: a hidden chain with one state for each row.
* :class:`~bitsperdim.sources.known.templates.Templates`: one hidden choice for the whole image.
* :class:`~bitsperdim.sources.known.small_pixelcnn.SmallPixelCnn`: an autoregressive network.

"Exact" means up to the rounding of float64: log P is not a bound, not estimated from samples, and no sum in it is
truncated. Each distribution is fixed by its shape, levels, strength and number of components (``tests/sources/known``
pins values).

A draw is exact up to the 53 bits of a uniform random number. With the defaults, no two of 4,000 images of 8x8 pixels
are equal. Small images with few levels repeat (4x4 pixels with the defaults: a third of 4,000 images of ``ising`` are
repetitions, and 3% for ``hidden_markov``), and so do images with a great strength. A test image may then also be a
training image. This is not an error here, because the true log P(x) accounts for it.

Sources: Kramers and Wannier (1941) and Onsager (1944) for transfer matrices, Potts (1952) for more than two levels;
Baum et al. (1970) for the recursions of hidden Markov chains; van den Oord et al. (2016) for PixelCNN.
"""

from bitsperdim.sources.known.base import KnownDistribution
from bitsperdim.sources.known.hidden_markov import HiddenMarkov
from bitsperdim.sources.known.ising import Ising
from bitsperdim.sources.known.small_pixelcnn import SmallPixelCnn
from bitsperdim.sources.known.templates import Templates

KNOWN: dict[str, type[KnownDistribution]] = {
    "ising": Ising,
    "hidden_markov": HiddenMarkov,
    "templates": Templates,
    "small_pixelcnn": SmallPixelCnn,
}

__all__ = ["KNOWN", "HiddenMarkov", "Ising", "KnownDistribution", "SmallPixelCnn", "Templates"]
