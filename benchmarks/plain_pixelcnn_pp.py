"""A PixelCNN++ written as plainly as possible: float32, contiguous feature maps, one torch call after the other.

The fast implementation is measured against it (``training_pixelcnn_pp.py``). It is also an independent implementation
that must give the same log-likelihoods (``tests/models/test_pixelcnn_pp.py``). Its causal convolutions are made of
padding and shifts, and the weights are normalised by torch's own ``weight_norm``. The likelihood is that of Salimans et
al. 2017, written with sigmoids, without their smallest scale and their fallback, and only for images with three
channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from bitsperdim.models.parts.causal import CausalConv2d, CausalUpsampling
from bitsperdim.models.pixelcnn_pp import PixelCNNpp


def concatenated_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


class Convolution(nn.Module):
    """Zero padding of (left, right, top, bottom) pixels, then a convolution."""

    def __init__(
        self, n_inputs: int, n_outputs: int, size: tuple[int, int], pads: tuple[int, int, int, int], stride: int = 1
    ) -> None:
        super().__init__()
        self.pads = pads
        self.convolve = weight_norm(nn.Conv2d(n_inputs, n_outputs, size, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(F.pad(x, self.pads))


def down(n_inputs: int, n_outputs: int, stride: int = 1) -> Convolution:
    return Convolution(n_inputs, n_outputs, (2, 3), (1, 1, 1, 0), stride)


def down_right(n_inputs: int, n_outputs: int, stride: int = 1) -> Convolution:
    return Convolution(n_inputs, n_outputs, (2, 2), (1, 0, 1, 0), stride)


def point(n_inputs: int, n_outputs: int) -> Convolution:
    return Convolution(n_inputs, n_outputs, (1, 1), (0, 0, 0, 0))


class Doubling(nn.Module):
    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.n_left = width - 2
        self.convolve = weight_norm(nn.ConvTranspose2d(n, n, (2, width), 2), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x)[..., self.n_left : self.n_left + 2 * x.shape[3]]


class Gated(nn.Module):
    def __init__(self, n: int, shifted: type | object, n_told: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = shifted(2 * n, n), shifted(2 * n, 2 * n)  # type: ignore[operator]
        self.told = point(2 * n_told, n) if n_told else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, told: Tensor | None) -> Tensor:
        hidden = self.first(concatenated_elu(x))
        if self.told is not None:
            hidden = hidden + self.told(concatenated_elu(told))
        hidden = self.second(self.dropout(concatenated_elu(hidden)))
        change, gate = hidden.chunk(2, dim=1)
        return x + change * torch.sigmoid(gate)


class PlainPixelCNNpp(nn.Module):
    """A PixelCNN++ with three scales, for images whose height and width are divisible by 4."""

    def __init__(self, n_filters: int, n_blocks: int, n_mixtures: int, n_levels: int, dropout: float) -> None:
        super().__init__()
        n, self.n_levels, self.n_mixtures = n_filters, n_levels, n_mixtures
        self.above = Convolution(4, n, (2, 3), (1, 1, 2, -1))
        self.above_near = Convolution(4, n, (1, 3), (1, 1, 1, -1))
        self.left = Convolution(4, n, (2, 1), (1, -1, 1, 0))
        sizes = [n_blocks, n_blocks + 1, n_blocks + 1]
        self.up_v = nn.ModuleList(Gated(n, down, 0, dropout) for _ in range(3 * n_blocks))
        self.up_h = nn.ModuleList(Gated(n, down_right, n, dropout) for _ in range(3 * n_blocks))
        self.down_v = nn.ModuleList(Gated(n, down, n, dropout) for _ in range(sum(sizes)))
        self.down_h = nn.ModuleList(Gated(n, down_right, 2 * n, dropout) for _ in range(sum(sizes)))
        self.halve_v = nn.ModuleList(down(n, n, 2) for _ in range(2))
        self.halve_h = nn.ModuleList(down_right(n, n, 2) for _ in range(2))
        self.double_v = nn.ModuleList(Doubling(n, 3) for _ in range(2))
        self.double_h = nn.ModuleList(Doubling(n, 2) for _ in range(2))
        self.to_outputs = point(n, 10 * n_mixtures)
        self.n_blocks, self.sizes = n_blocks, sizes

    def outputs(self, x: Tensor) -> Tensor:
        """Return the outputs of the network, (B, 10 M, H, W), for images scaled to [-1, 1]."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        v, h = [self.above(x)], [self.above_near(x) + self.left(x)]
        blocks = iter(zip(self.up_v, self.up_h, strict=True))
        for scale in range(3):
            for _ in range(self.n_blocks):
                of_v, of_h = next(blocks)
                v.append(of_v(v[-1], None))
                h.append(of_h(h[-1], v[-1]))
            if scale < 2:
                v.append(self.halve_v[scale](v[-1]))
                h.append(self.halve_h[scale](h[-1]))
        last_v, last_h = v.pop(), h.pop()
        blocks = iter(zip(self.down_v, self.down_h, strict=True))
        for scale, size in enumerate(self.sizes):
            for _ in range(size):
                of_v, of_h = next(blocks)
                last_v = of_v(last_v, v.pop())
                last_h = of_h(last_h, torch.cat([last_v, h.pop()], dim=1))
            if scale < 2:
                last_v, last_h = self.double_v[scale](last_v), self.double_h[scale](last_h)
        return self.to_outputs(F.elu(last_h))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return log P(x), (B,) nats, for images (B, 3, H, W) with values from 0 to L-1."""
        n_mixtures, width = self.n_mixtures, 1 / (self.n_levels - 1)  # half a cell
        scaled = x.to(self.to_outputs.convolve.bias.dtype) * (2 * width) - 1
        parameters = self.outputs(scaled).permute(0, 2, 3, 1)  # (B, H, W, 10 M)
        logits, loc, log_scale, coefficients = parameters.split([n_mixtures, *[3 * n_mixtures] * 3], dim=-1)
        shape = (*logits.shape[:3], 3, n_mixtures)
        loc, log_scale, coefficients = loc.reshape(shape), log_scale.reshape(shape), coefficients.reshape(shape).tanh()
        value = scaled.permute(0, 2, 3, 1)[..., None]  # (B, H, W, 3, 1)
        red, green = value[..., 0, :], value[..., 1, :]
        green_loc = loc[..., 1, :] + coefficients[..., 0, :] * red
        blue_loc = loc[..., 2, :] + coefficients[..., 1, :] * red + coefficients[..., 2, :] * green
        centred = value - torch.stack([loc[..., 0, :], green_loc, blue_loc], dim=-2)
        above, below = (centred + width) * torch.exp(-log_scale), (centred - width) * torch.exp(-log_scale)
        inside = torch.log(torch.clamp(torch.sigmoid(above) - torch.sigmoid(below), min=1e-12))
        lowest, highest = above - F.softplus(above), -F.softplus(below)
        log_p = torch.where(value < -0.999, lowest, torch.where(value > 0.999, highest, inside)).sum(-2)
        return torch.logsumexp(log_p + F.log_softmax(logits, dim=-1), dim=-1).sum((1, 2))

    @torch.no_grad()
    def take_weights(self, model: PixelCNNpp) -> None:
        """Copy the weights of the fast implementation."""
        vertical, horizontal = model.vertical, model.horizontal
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.above, model.above),
            (self.above_near, model.above_near),
            (self.left, model.left),
            (self.to_outputs, model.to_outputs),
        ]
        for there, back, halve, double, stream in (
            (self.up_v, self.down_v, self.halve_v, self.double_v, vertical),
            (self.up_h, self.down_h, self.halve_h, self.double_h, horizontal),
        ):
            ours = [block for blocks in stream.there for block in blocks]
            ours += [block for blocks in reversed(stream.back) for block in blocks]
            for theirs, block in zip([*there, *back], ours, strict=True):
                pairs += [(theirs.first, block.first), (theirs.second, block.second)]
                if block.told is not None:
                    pairs.append((theirs.told, block.told))
            pairs += zip(halve, stream.halving, strict=True)
            pairs += zip(double, reversed(stream.doubling), strict=True)
        for theirs, layer in pairs:
            assert isinstance(layer, CausalConv2d | CausalUpsampling)
            assert layer.gain is not None
            direction = layer.weight
            # for two input maps, the plain network applies the ELU to their concatenation, the fast one to each map
            if direction.shape[1] == 4 * self.to_outputs.convolve.weight.shape[1]:
                direction = direction.unflatten(1, (2, 2, -1)).transpose(1, 2).flatten(1, 3)
            normalised = (
                theirs.convolve.parametrizations.weight
            )  # both have directions and gains, so training steps have the same effect
            normalised.original1.copy_(direction)
            normalised.original0.copy_(layer.gain.reshape(normalised.original0.shape))
            theirs.convolve.bias.copy_(layer.bias)
