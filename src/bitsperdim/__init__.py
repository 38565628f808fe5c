"""bitsperdim: a reproducible laboratory for likelihoods of discrete images.

Every model is a probability mass function over images of integers and answers one question,
``log_weights(x, K)``: K log-weights per image whose exponentials have the mean P(x). Training
maximizes, and evaluation estimates, the logarithm of their average. Start reading at
:mod:`bitsperdim.models.base`.
"""

import os

# Threads of torch that wait for each other give way to other work after some microseconds: beside it, small models
# train twice as fast as with libgomp's own patience, and alone as fast as ever. Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
