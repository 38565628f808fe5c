"""bitsperdim: a reproducible laboratory for likelihoods of discrete images.

Every model is a probability mass function over images of integers and answers one question,
``log_weights(x, K)``: K log-weights per image whose exponentials have the mean P(x). Training
maximizes, and evaluation estimates, the logarithm of their average. Start reading at
:mod:`bitsperdim.models.base`.
"""

__version__ = "0.1.0"
