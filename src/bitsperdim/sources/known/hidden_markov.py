r"""A hidden Markov chain over the rows: a bright stroke that moves sideways from the top to the bottom.

The state z_r of row r, one of S states, is the position of the middle of the stroke. Given its state, the sub-pixels of
a row are independent, in all channels:

.. math:: P(x) = \sum_z \pi(z_1) \prod_{r>1} A(z_{r-1}, z_r) \prod_r \prod_{c,w} B_{c,w}(x_{c,r,w} \mid z_r)

The sum over S^H paths is computed by the forward recursion (Baum, Petrie, Soules and Weiss, Annals of Mathematical
Statistics 41, 1970). Images are drawn ancestrally. All constants are fractions and exponentials, without random
numbers.

Invariants (``tests/sources/known/test_hidden_markov.py``): log P and the posterior equal those from the sum over all
paths.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, logsumexp

from bitsperdim.core.units import n_dims
from bitsperdim.sources.known.base import KnownDistribution, levels_drawn, log_masses_around

HALF_WIDTHS = {1: (0.3,), 3: (0.45, 0.3, 0.2)}  # half width of the stroke in each channel, in image widths


class HiddenMarkov(KnownDistribution):
    """A hidden Markov chain with one state for each row, which emits all sub-pixels of the row.

    Attributes:
        initial: probabilities of the state of the first row, (S,).
        transitions: probabilities A from the state of a row (first axis) to the state of the row below, (S, S).
        emissions: probabilities B of the levels given the state, (S, C, W, L).
        n_components: number of states S.
    """

    name = "hidden_markov"
    default_levels = 4
    default_strength = 8.0
    default_components = 8

    n_components: int

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        strength: float | None = None,
        n_components: int | None = None,
    ) -> None:
        """Compute the tables; arguments as for :class:`KnownDistribution`."""
        super().__init__(image_shape, n_levels, strength, n_components)
        channels, _, width = self.image_shape
        states = np.arange(self.n_components)
        self._log_initial = np.full(self.n_components, -np.log(self.n_components))
        self._log_transitions = log_softmax(-np.abs(states[:, None] - states).astype(np.float64), axis=1)
        middles = (states + 0.5) / self.n_components
        distances = np.abs((np.arange(width) + 0.5) / width - middles[:, None])  # (S, W)
        half_widths = np.array(HALF_WIDTHS[channels])[:, None]
        brightness = np.maximum(0.0, 1 - distances[:, None] / half_widths)  # (S, C, W)
        self._log_emissions = log_masses_around(brightness, self.n_levels, self.strength)
        self.initial = np.exp(self._log_initial)
        self.transitions = np.exp(self._log_transitions)
        self.emissions = np.exp(self._log_emissions)

    def log_p_of_states(self, states: np.ndarray) -> np.ndarray:
        """Return log P(z) in nats, (...).

        Args:
            states: states z, (..., H), whole numbers from 0 to S-1.

        Raises:
            ValueError: the states have another shape, or other values.
        """
        states = self._checked_states(states)
        steps = self._log_transitions[states[..., :-1], states[..., 1:]]
        return self._log_initial[states[..., 0]] + steps.sum(-1)

    def log_p_given_states(self, images: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Return log P(x given z) in nats, (..., N).

        Args:
            images: (N, C, H, W).
            states: states z for every image, (..., N, H), with any leading axes, such as K samples of z.

        Raises:
            ValueError: images or states do not fit this distribution, or their numbers differ.
        """
        images, states = self.checked(images), self._checked_states(states)
        if states.ndim < 2 or states.shape[-2] != len(images):
            raise ValueError(f"states must have shape (..., {len(images)}, {images.shape[2]}), not {states.shape}")
        log_p = np.empty(states.shape[:-1])
        for rows in self._chunks(len(images), states.size // max(1, len(images))):
            of_rows = self._log_p_of_rows(images[rows])
            n, h = np.ogrid[: of_rows.shape[0], : of_rows.shape[1]]
            log_p[..., rows] = of_rows[n, h, states[..., rows, :]].sum(-1)
        return log_p

    def posterior(self, images: np.ndarray) -> np.ndarray:
        """Return P(z_r given x), the marginal posterior of each state, (N, H, S), by forward and backward recursion.

        Raises:
            ValueError: the images do not fit this distribution.
        """
        images = self.checked(images)
        posterior = np.empty((len(images), images.shape[2], self.n_components))
        for rows in self._chunks(len(images)):
            of_rows = self._log_p_of_rows(images[rows])
            forward, backward = self._forward(of_rows), np.zeros_like(of_rows)
            for row in range(of_rows.shape[1] - 2, -1, -1):
                backward[:, row] = _log_product(backward[:, row + 1] + of_rows[:, row + 1], self.transitions.T)
            posterior[rows] = np.exp(log_softmax(forward + backward, axis=-1))
        return posterior

    def _log_p(self, images: np.ndarray) -> np.ndarray:
        return logsumexp(self._forward(self._log_p_of_rows(images))[:, -1], axis=-1)

    def _forward(self, of_rows: np.ndarray) -> np.ndarray:
        """Return the logarithm of P(rows up to r, z_r), (N, H, S)."""
        forward = np.empty_like(of_rows)
        forward[:, 0] = self._log_initial + of_rows[:, 0]
        for row in range(1, of_rows.shape[1]):
            forward[:, row] = _log_product(forward[:, row - 1], self.transitions) + of_rows[:, row]
        return forward

    def _log_p_of_rows(self, images: np.ndarray) -> np.ndarray:
        """Return the log-probability of each row given each possible state, (N, H, S)."""
        channels, height, width = self.image_shape
        table = np.moveaxis(self._log_emissions, 0, -1)  # (C, W, L, S)
        c, _, w = np.ogrid[:channels, :height, :width]
        return table[c, w, images].sum((1, 3))

    def _checked_states(self, states: np.ndarray) -> np.ndarray:
        states = np.asarray(states)
        height = self.image_shape[1]
        if states.ndim < 1 or states.shape[-1] != height or not np.issubdtype(states.dtype, np.integer):
            raise ValueError(f"states must be whole numbers of shape (..., {height}), not {states.shape}")
        if states.size and not 0 <= states.min() <= states.max() < self.n_components:
            raise ValueError(f"states must be from 0 to {self.n_components - 1}")
        return states

    def _numbers_of_an_image(self) -> int:
        return n_dims(self.image_shape) * max(self.n_components, self.n_levels)

    def _n_uniforms(self) -> int:
        return self.image_shape[1] + n_dims(self.image_shape)

    def _from_uniforms(self, uniforms: np.ndarray) -> np.ndarray:
        channels, height, width = self.image_shape
        states = np.empty((len(uniforms), height), np.int64)
        states[:, 0] = levels_drawn(self.initial, uniforms[:, 0])
        for row in range(1, height):
            states[:, row] = levels_drawn(self.transitions[states[:, row - 1]], uniforms[:, row])
        masses = np.moveaxis(self.emissions[states], 1, 2)  # (N, C, H, W, L)
        return levels_drawn(masses, uniforms[:, height:].reshape(-1, channels, height, width))


def _log_product(log_vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return log(exp(log_vectors) @ matrix), (N, S), for a matrix of positive numbers."""
    largest = log_vectors.max(-1, keepdims=True)
    return np.log(np.exp(log_vectors - largest) @ matrix) + largest
