r"""The PixelCNN++ mixture of discretized logistics, whose channels are coupled inside a pixel.

Salimans, Karpathy, Chen and Kingma 2017 ("PixelCNN++", sections 2.1 and 2.2). One indicator m per *pixel* selects
the component of all its channels. Given m, the location of a channel is a linear function of the channels before it:

.. math:: p(x) = \sum_m \pi_m \prod_{c=1}^{C} p_m(x_c \mid x_{<c}), \qquad
          \mu_{mc}(x) = \mu_{mc} + \sum_{j<c} \gamma_{mcj} \, \Big(x_j - \frac{L-1}{2}\Big)

The likelihood of each channel is its exact conditional,

.. math:: p(x_c \mid x_{<c}) = \sum_m w_{mc} \, p_m(x_c \mid x_{<c}), \qquad
          w_{mc} \propto \pi_m \prod_{j<c} p_m(x_j \mid x_{<j})

and the product of the conditionals is p(x). All computations are in float64, and results are returned in the dtype of
the parameters, because the log-weights are differences of large numbers. A location that is a sum would lose the digits
that a narrow scale needs; its rounding error is therefore carried along.

Differences from the paper: any number of channels; no smallest scale; no approximation for small masses. The
hyperbolic tangent that keeps coefficients in (-1, 1) belongs to the head (``heads.py``), not to the distribution.
Not supported: coupling between pixels, and densities other than the logistic.

Invariants (``tests/likelihoods/test_coupled.py``):

1. Masses of a pixel sum to one over all its values, in float64 within 1e-12 (``test_masses_of_a_pixel_sum_to_one``).
2. They equal the first formula, written out (``test_the_joint_is_the_mixture_of_products``).
3. Compared with 60-digit arithmetic, the error of a float32 log-mass is at most 1e-6 max(1, \|log p\|), for \|loc\| up
   to 1e6, log-scales from -20 to 20 and 2 to 65,536 levels. For a conditional there is a further error of 1e-15 times
   the largest \|log p_m\| of the channels before, which is negligible below 1e8 nats
   (``test_a_float32_mass_is_exact_to_rounding``).
4. Values and gradients are finite in this range (``test_values_and_gradients_are_finite``).
5. Samples follow the masses (``test_samples_follow_the_masses``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsperdim.likelihoods.base import Likelihood, at_least_float32
from bitsperdim.likelihoods.discretized import DiscretizedLogistic, Mixture

MAX_COMBINATIONS = 4096  # largest number of values of the earlier channels over which a mean is summed
NUMBERS_AT_ONCE = 2**22  # numbers in memory while a mean is computed, 8 bytes each


class CoupledLogisticMixture(Likelihood):
    r"""A mixture of discretized logistics with one indicator per pixel, and channels that are coupled given it.

    Earlier channels are measured from the centre (L-1)/2 of the levels. A coefficient therefore has the same effect as
    in the paper, where it acts on values scaled to [-1, 1]. Both edge cells reach to infinity.

    Args:
        logits: logits of the component weights, (..., H, W, M).
        loc: locations in level units if all earlier channels are at the centre, (..., C, H, W, M).
        log_scale: logarithm of the scale in level units, (..., C, H, W, M).
        coefficients: coefficients in levels per level, (..., C(C-1)/2, H, W, M); the pairs (c, j), j < c, are in the
            order (1, 0), (2, 0), (2, 1), (3, 0), ...: for colours R to G, R to B, G to B.
        n_levels: number of levels L, at least 2.

    Raises:
        ValueError: the number of coefficients is not the number of pairs of channels, or there are fewer than two
            levels.
    """

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor, coefficients: Tensor, n_levels: int) -> None:
        """Store the parameters in float64."""
        given = [at_least_float32(parameter) for parameter in (logits, loc, log_scale, coefficients)]
        self.dtype = torch.float64 if any(parameter.dtype == torch.float64 for parameter in given) else torch.float32
        logits, loc, log_scale, coefficients = (parameter.double() for parameter in given)
        shape = torch.broadcast_shapes(logits.unsqueeze(-4).shape, loc.shape, log_scale.shape)
        self.n_channels, self.n_levels = shape[-4], n_levels
        n_pairs = self.n_channels * (self.n_channels - 1) // 2
        if coefficients.shape[-4] != n_pairs:
            raise ValueError(f"{self.n_channels} channels need {n_pairs} coefficients, not {coefficients.shape[-4]}")
        if n_levels < 2:
            raise ValueError(f"n_levels must be at least 2, not {n_levels}")
        self.logits = logits.expand(*shape[:-4], *shape[-3:])
        self.loc, self.log_scale = loc.expand(shape), log_scale.expand(shape)
        self.coefficients = coefficients.expand(*shape[:-4], n_pairs, *shape[-3:])

    def given(self, x: Tensor) -> Mixture:
        """Return p(x_c given x_<c) of every sub-pixel, where ``x`` holds the earlier channels of its pixel.

        Args:
            x: levels 0..L-1, (..., C, H, W); broadcasts. The conditional of a sub-pixel does not depend on its own
                level or on later channels.

        Returns:
            A mixture of batch shape (..., C, H, W).
        """
        x = x.double().expand(torch.broadcast_shapes(x.shape, self.loc.shape[:-1]))
        components = self.components(x)
        earlier = components.first_channels(self.n_channels - 1).log_prob(x[..., :-1, :, :, None])
        log_pi = torch.log_softmax(self.logits, -1).unsqueeze(-4).expand(*x.shape[:-3], 1, *self.logits.shape[-3:])
        log_weights = torch.cat([log_pi, earlier], -4).cumsum(-4)  # (..., C, H, W, M)
        return Conditional(log_weights, components, self.dtype)

    def components(self, x: Tensor) -> Located:
        """Return p_m(x_c given x_<c), batch shape (..., C, H, W, M), for ``x`` (..., C, H, W) in float64."""
        return Located.stacked([self.component(x, channel) for channel in range(self.n_channels)])

    def component(self, x: Tensor, channel: int) -> Located:
        """Return p_m of one channel c given the channels before it in ``x`` (..., at least c, H, W), float64."""
        shape = (*x.shape[:-3], *self.loc.shape[-3:])
        high = self.loc[..., channel, :, :, :].expand(shape)
        low = torch.zeros_like(high)
        first = channel * (channel - 1) // 2
        for earlier in range(channel):
            distance = x[..., earlier, :, :, None] - (self.n_levels - 1) / 2
            high, error = two_sum(high, self.coefficients[..., first + earlier, :, :, :] * distance)
            low = low + error
        return Located(high, self.log_scale[..., channel, :, :, :].expand(shape), self.n_levels, low)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the exact log p(x_c given x_<c) in nats; its sum over the channels is the log-mass of the pixel."""
        return self.given(x).log_prob(x)

    def log_prob_of_images(self, x: Tensor) -> Tensor:
        """Return log p(x) of whole images in nats, (...), with the first formula, which is faster than conditionals."""
        x = x.double().expand(torch.broadcast_shapes(x.shape, self.loc.shape[:-1]))
        of_channels = self.components(x).log_prob(x[..., None]).sum(-4)  # (..., H, W, M)
        of_pixels = torch.logsumexp(torch.log_softmax(self.logits, -1) + of_channels, -1)
        return of_pixels.flatten(-2).sum(-1).to(self.dtype)

    def cdf(self, x: Tensor) -> Tensor:
        """Return P(X_c <= x_c given the earlier channels of ``x``)."""
        return self.given(x).cdf(x)

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw one component for each pixel, then its channels in order."""
        masses = torch.softmax(self.logits, -1).flatten(0, -2)
        chosen = torch.multinomial(masses, 1, generator=generator).reshape(*self.logits.shape[:-1], 1)
        drawn: list[Tensor] = []
        x = self.loc.new_zeros(*self.loc.shape[:-4], 0, *self.loc.shape[-3:-1])
        for channel in range(self.n_channels):
            component = self.component(x, channel)
            loc, log_scale = (each.gather(-1, chosen).squeeze(-1) for each in (component.loc, component.log_scale))
            drawn.append(DiscretizedLogistic(loc, log_scale, self.n_levels).sample(generator=generator))
            x = torch.stack(drawn, -3).double()
        return torch.stack(drawn, -3)

    @property
    def mean(self) -> Tensor:
        """The mean of every sub-pixel in level units, summed over all values of the channels before it.

        Raises:
            ValueError: the earlier channels have more than 4,096 values together; for three channels the limit is 64
                levels.
        """
        n_earlier = self.n_channels - 1
        if self.n_levels**n_earlier > MAX_COMBINATIONS:
            raise ValueError(
                f"the mean of {self.n_channels} coupled channels of {self.n_levels} levels sums over "
                f"{self.n_levels**n_earlier} values, more than {MAX_COMBINATIONS}: use central, or samples"
            )
        levels = torch.arange(self.n_levels, device=self.loc.device, dtype=torch.float64)
        values = torch.cartesian_prod(*[levels] * n_earlier) if n_earlier else levels[:1]
        values = values.reshape(-1, *[1] * (self.loc.ndim - 4), max(n_earlier, 1), 1, 1)
        total = torch.zeros_like(self.loc)
        for x in values.split(max(1, NUMBERS_AT_ONCE // self.loc.numel())):  # (N, ..., C-1, 1, 1)
            x = x.expand(len(x), *self.loc.shape[:-4], x.shape[-3], *self.loc.shape[-3:-1])
            components = self.components(x)
            earlier = components.first_channels(n_earlier).log_prob(x[..., :n_earlier, :, :, None])
            # For channel c, the masses of the channels from c on sum to one, so all channels can use the same weights.
            total = total + (earlier.sum(-4, keepdim=True).exp() * components.mean).sum(0)
        return (torch.softmax(self.logits, -1).unsqueeze(-4) * total).sum(-1).to(self.dtype)

    @property
    def central(self) -> Tensor:
        """The chain of means: the mean of each channel if the channels before it are at theirs, in level units.

        The means are not rounded. The result is for display and is not a statistic. It is the mean of the first
        channel. For the others it would be the mean if locations shifted means linearly and if the weights did not
        depend on the earlier channels. It costs as much as C means of a mixture.
        """
        weights = torch.softmax(self.logits, -1)
        x = self.loc.new_zeros(*self.loc.shape[:-4], 0, *self.loc.shape[-3:-1])
        for channel in range(self.n_channels):
            mean = (weights * self.component(x, channel).mean).sum(-1)
            x = torch.cat([x, mean.unsqueeze(-3)], -3)
        return x.to(self.dtype)


class Located(DiscretizedLogistic):
    """Discretized logistics in float64 whose locations have twice as many digits.

    Args:
        loc: rounded location in level units.
        log_scale: logarithm of the scale in level units.
        n_levels: number of levels L.
        rest: exact location minus ``loc``.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, n_levels: int, rest: Tensor) -> None:
        """Store the parameters."""
        super().__init__(loc, log_scale, n_levels)
        self.rest = rest

    @classmethod
    def stacked(cls, channels: list[Located]) -> Located:
        """Stack the channels (..., H, W, M) of a pixel into (..., C, H, W, M)."""
        loc = torch.stack([channel.loc for channel in channels], -4)
        log_scale = torch.stack([channel.log_scale for channel in channels], -4)
        rest = torch.stack([channel.rest for channel in channels], -4)
        return cls(loc, log_scale, channels[0].n_levels, rest)

    def first_channels(self, n: int) -> Located:
        """Return the first ``n`` channels, batch shape (..., n, H, W, M)."""
        loc, log_scale, rest = (each[..., :n, :, :, :] for each in (self.loc, self.log_scale, self.rest))
        return Located(loc, log_scale, self.n_levels, rest)

    def standardised(self, edge: Tensor) -> Tensor:
        """Return (edge - location) / scale; near the location the first difference is exact."""
        return (edge - self.loc - self.rest) * torch.exp(-self.log_scale)


class Conditional(Mixture):
    """A mixture that computes in float64 and returns results in another dtype.

    Args:
        logits: logits of the weights, (..., M).
        components: components of batch shape (..., M).
        dtype: dtype of the results.
    """

    def __init__(self, logits: Tensor, components: Likelihood, dtype: torch.dtype) -> None:
        """Store the weights, the components and the dtype."""
        super().__init__(logits, components)
        self.dtype = dtype

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats."""
        return super().log_prob(x).to(self.dtype)

    def cdf(self, x: Tensor) -> Tensor:
        """Return P(X <= x)."""
        return super().cdf(x).to(self.dtype)

    @property
    def mean(self) -> Tensor:
        """The mean level."""
        return super().mean.to(self.dtype)


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a + b rounded, and its exact rounding error, which has no gradient (Knuth's two-sum)."""
    total = a + b
    with torch.no_grad():
        part = total - a
        error = (a - (total - part)) + (b - part)
    return total, error
