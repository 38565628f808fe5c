"""Files of models from elsewhere, as users write them."""

MADE = '''
import torch
from parts import strictly_lower
from torch import nn


class Made(nn.Module):
    """Logits of each sub-pixel, linear in those before it; `scale` makes the weights, which are tied twice."""

    def __init__(self, image_shape, n_levels, scale=0.1):
        super().__init__()
        self.d, self.n_levels = image_shape[0] * image_shape[1] * image_shape[2], n_levels
        self.weight = nn.Parameter(scale * torch.randn(n_levels, self.d, self.d))
        self.tied = self.weight
        self.bias = nn.Parameter(torch.zeros(self.d, n_levels))

    def logits(self, x):
        y = x.flatten(1).to(self.weight.dtype) / self.n_levels
        of_levels = torch.einsum("bj,lij->bil", y, strictly_lower(self.weight))
        return (of_levels + self.bias).reshape(*x.shape, self.n_levels)
'''
PARTS = """
def strictly_lower(weight):
    return weight.tril(-1)
"""
LATENT = '''
import torch
from torch import distributions as td
from torch import nn


class Latent(nn.Module):
    """Half of its parts are linear; with `discrete` the code is a switch."""

    bitsperdim = {"inputs": "unit", "layout": "flat"}

    def __init__(self, image_shape, n_levels, discrete=False):
        super().__init__()
        self.n, self.n_levels, self.discrete = image_shape[0] * image_shape[1] * image_shape[2], n_levels, discrete
        self.encoder, self.decoder = nn.Linear(self.n, 2), nn.Linear(2, self.n * n_levels)

    def prior(self):
        if self.discrete:
            return td.Independent(td.Bernoulli(torch.full((2,), 0.5)), 1)
        return td.TransformedDistribution(  # which has no mean
            td.Normal(torch.zeros(2), torch.ones(2)), [td.AffineTransform(0.0, 1.0)]
        )

    def encode(self, x):
        if self.discrete:
            return td.Independent(td.Bernoulli(logits=self.encoder(x)), 1)
        inner = td.Independent(td.Normal(self.encoder(x), torch.ones(2)), 1)
        return td.TransformedDistribution(inner, [td.AffineTransform(0.0, 1.0)])

    def decode(self, z):
        logits = self.decoder(z).reshape(-1, self.n, self.n_levels)
        return td.Categorical(logits=logits.detach() if self.discrete else logits)
'''
