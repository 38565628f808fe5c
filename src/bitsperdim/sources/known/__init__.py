"""Distributions of images whose log P(x) is computed exactly and which are sampled exactly.

Of photographs nobody knows P(x): a model's number can be compared with those of other models only. Here the images are
independent draws of a distribution that is known in full, so that each number of a model has a truth beside it. The
mean of -log P over test images is the best number that any model can expect on them: by Gibbs' inequality
E[-log q(x)] >= E[-log P(x)] for each distribution q, with equality for q = P alone. On the same test images, the
difference of the two means is an unbiased estimate of the Kullback-Leibler divergence of q from P; a number that lies
below the truth by more than the error of the difference is not the log-likelihood of a distribution.

The four, whose dependence is of four kinds:

* :class:`~bitsperdim.sources.known.ising.Ising`: a Markov random field of neighbours, no direction, no hidden variable.
* :class:`~bitsperdim.sources.known.hidden_markov.HiddenMarkov`: a hidden chain, one state for each row.
* :class:`~bitsperdim.sources.known.templates.Templates`: one hidden choice for the whole image.
* :class:`~bitsperdim.sources.known.small_pixelcnn.SmallPixelCnn`: an autoregressive network.

"Exact" means up to the rounding of float64: log P is neither a bound nor sampled, and no sum in it is cut off. Each
distribution is fixed by its shape, levels, strength and number of components (``tests/sources/known`` pins values).

A draw is exact up to the 53 bits of a uniform random number. With the defaults, no two of 4,000 images of 8x8 pixels
are equal. Small images of few levels repeat (4x4 pixels with the defaults: a third of 4,000 images of ``ising`` are
repetitions, 3% of ``hidden_markov``), and so does everything of great strength: a test image may then be among those
of training, which is no error here, since the truth knows of it too.

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
