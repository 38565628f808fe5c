r"""Bits are message lengths: a code for the data needs the entropy, and a code for a wrong model the cross entropy.

The symbols are the levels of the data's sub-pixels with their frequencies P, as if all sub-pixels were independent.
For a prefix code with word lengths l(x), the mean length obeys :math:`H(P) \le E_P\, l`, and

- Shannon's lengths :math:`\lceil -\log_2 P(x) \rceil` and Huffman's optimal lengths have means below H(P) + 1;
- with words for blocks of n symbols, the mean length per symbol is below H(P) + 1/n;
- a code made for Q needs the cross entropy on data from P, and the excess is the divergence,

.. math:: -E_P \log_2 Q(x) = H(P) + \mathrm{KL}(P \,\|\, Q)

The last statement is also tested: symbols are drawn from P, encoded with the code made for Q, decoded and compared, and
the bits are counted. The code is an asymmetric numeral system (Duda 2009, "Asymmetric numeral systems") with integers
of unlimited size: the message is one whole number, and nothing is rounded. Its length is the cross entropy on the drawn
symbols, up to one or two bits in total. Huffman codes for the same distributions are reported for comparison.

Entropies, divergences and mean lengths are exact for the counted frequencies; the length of the drawn message is a
Monte Carlo estimate with a standard error.

Invariants (``tests/studies/test_density_and_mass.py``):

1. Huffman's lengths satisfy Kraft's equality, are optimal, and lie within one bit of the entropy
   (``test_huffman_codes_are_complete_and_optimal``).
2. Every message is decoded correctly (``test_messages_are_read_back``).
3. The cross entropy is the sum of entropy and divergence, and the length of the message agrees with it
   (``test_the_wrong_code_costs_the_divergence``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitsperdim.core.units import nats_to_bits
from bitsperdim.studies.density_and_mass.collapse import entropy

MAX_BLOCKS = 70_000  # limit for the words of a block code; allows pairs of 256 levels
MAX_BLOCK = 8  # maximum number of symbols in a block
PRECISION = 2**16  # approximate sum of the frequencies of a code whose Q is given by a formula
FIRST_BITS = 32  # bits of the initial state, which every message contains; not counted as message length


def huffman_lengths(weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the word lengths of an optimal prefix code (Huffman 1952), (M,) bits; a single symbol needs no bits.

    Args:
        weights: (M,) positive weights, which need not sum to one.
    """
    n = len(weights)
    heap = [(weight, index) for index, weight in enumerate(weights)]
    heapq.heapify(heap)
    parents = np.zeros(2 * n - 1, dtype=np.int64)
    for node in range(n, 2 * n - 1):
        first, one = heapq.heappop(heap)
        _, other = heapq.heapreplace(heap, (first + heap[0][0], node))
        parents[one] = parents[other] = node
    depths = np.zeros(2 * n - 1, dtype=np.int64)
    for node in range(2 * n - 3, -1, -1):  # a parent comes after its children
        depths[node] = depths[parents[node]] + 1
    return depths[:n]


def shannon_lengths(counts: Sequence[int]) -> np.ndarray:
    r"""Return :math:`\lceil -\log_2 (c / \sum c) \rceil` for positive counts, (M,) bits; it is exact."""
    total = sum(counts)
    return np.array([(-(-total // count) - 1).bit_length() for count in counts], dtype=np.int64)


def words(lengths: np.ndarray) -> list[str]:
    """Return the canonical prefix code for given lengths, as strings of 0 and 1; Kraft's inequality must hold."""
    code, previous, table = 0, 0, [""] * len(lengths)
    for index in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[index])
        code <<= length - previous
        table[index] = f"{code:0{length}b}" if length else ""
        code, previous = code + 1, length
    return table


def read_words(bits: str, table: Sequence[str], n_symbols: int) -> list[int]:
    """Return the symbols of a message that was written in a prefix code."""
    symbols, place = {word: symbol for symbol, word in enumerate(table)}, 0
    message = []
    for _ in range(n_symbols):
        end = place
        while bits[place:end] not in symbols:
            end += 1
            if end > len(bits):
                raise ValueError("the message ends in the middle of a word")
        message.append(symbols[bits[place:end]])
        place = end
    return message


def write_state(symbols: Sequence[int], frequencies: Sequence[int]) -> int:
    r"""Return a message as one whole number, by an asymmetric numeral system of unlimited state.

    .. math:: s \leftarrow \lfloor s / f_x \rfloor \, M + c_x + (s \bmod f_x), \qquad M = \sum_x f_x, \quad
              c_x = \sum_{v < x} f_v

    so a symbol adds :math:`\log_2 (M / f_x)` bits. Decoding returns the symbol that was encoded last first. Therefore
    symbols are encoded in reverse order.
    """
    starts, total = _starts(frequencies)
    state = 1 << FIRST_BITS
    for symbol in reversed(symbols):
        quotient, rest = divmod(state, frequencies[symbol])
        state = quotient * total + starts[symbol] + rest
    return state


def read_state(state: int, frequencies: Sequence[int], n_symbols: int) -> list[int]:
    """Return the symbols of a message from :func:`write_state`.

    Raises:
        ValueError: the remaining state is not the initial state, so the message was written with other frequencies.
    """
    starts, total = _starts(frequencies)
    table = np.array(starts)
    message = []
    for _ in range(n_symbols):
        quotient, rest = divmod(state, total)
        symbol = int(np.searchsorted(table, rest, side="right")) - 1
        state = frequencies[symbol] * quotient + rest - starts[symbol]
        message.append(symbol)
    if state != 1 << FIRST_BITS:
        raise ValueError("the message was not written with these frequencies")
    return message


def _starts(frequencies: Sequence[int]) -> tuple[list[int], int]:
    starts = np.concatenate([[0], np.cumsum(np.asarray(frequencies, dtype=object))]).tolist()
    return starts[:-1], starts[-1]


def blocks(counts: np.ndarray) -> list[dict[str, float]]:
    """Return the exact mean bits per symbol of Shannon's and Huffman's codes for blocks of 1, 2, ... symbols.

    Args:
        counts: (M,) positive counts of the levels.
    """
    rows, of_blocks, total = [], [1], int(counts.sum())
    for n in range(1, MAX_BLOCK + 1):
        of_blocks = [have * int(count) for have in of_blocks for count in counts]
        p = np.array([count / total**n for count in of_blocks])
        rows.append(
            {
                "block": n,
                "words": len(of_blocks),
                "huffman_bits": float(p @ huffman_lengths(of_blocks)) / n,
                "shannon_bits": float(p @ shannon_lengths(of_blocks)) / n,
            }
        )
        if len(of_blocks) * len(counts) > MAX_BLOCKS:
            break
    return rows


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    r"""Return :math:`\mathrm{KL}(P \| Q) = \sum_x P(x) \log (P(x) / Q(x))` in nats, infinite if Q misses a level."""
    seen = p > 0
    if (q[seen] == 0).any():
        return math.inf
    return float(p[seen] @ np.log(p[seen] / q[seen]))


def made_for(counts: np.ndarray) -> dict[str, list[int]]:
    """Return the integer frequencies of several codes, (L,) each; they define the Q that the code is made for.

    ``data``: the counts themselves. ``logistic``: a discretized logistic with their mean and spread. ``uniform``: the
    same frequency for every level. ``negative``: the counts of the negative images, each raised by one so that no level
    is missing.
    """
    levels = np.arange(len(counts))
    p = counts / counts.sum()
    mean = float(p @ levels)
    # uses the spread of dequantized values, which is never zero; a logistic with scale s has variance (pi s)^2 / 3
    scale = math.sqrt(3 * (float(p @ (levels - mean) ** 2) + 1 / 12)) / math.pi
    edges = np.concatenate([[-math.inf], (levels[1:] - 0.5 - mean) / scale, [math.inf]])
    masses = np.diff(0.5 * (1 + np.tanh(edges / 2)))
    return {
        "data": [int(count) for count in counts],
        "logistic": [max(1, round(mass * PRECISION)) for mass in masses.tolist()],
        "uniform": [1] * len(counts),
        "negative": [int(count) + 1 for count in counts[::-1]],
    }


def price(counts: np.ndarray, frequencies: list[int], drawn: np.ndarray) -> dict[str, Any]:
    """Return the cost of data from one distribution in a code made for another, in bits per symbol.

    Args:
        counts: (L,) counts of the levels, which define P.
        frequencies: (L,) frequencies of the code, which define Q; positive wherever P is positive.
        drawn: (N,) symbols drawn from P, which are encoded, decoded and compared.

    Raises:
        RuntimeError: a message was not decoded correctly.
    """
    p, q = counts / counts.sum(), np.array(frequencies, dtype=np.float64) / sum(frequencies)
    coded = np.flatnonzero(frequencies)
    lengths = np.zeros(len(counts), dtype=np.int64)
    lengths[coded] = huffman_lengths([frequencies[level] for level in coded])
    table = [word if frequency else "-" for word, frequency in zip(_words_of(lengths, coded), frequencies, strict=True)]
    message = drawn.tolist()
    state = write_state(message, frequencies)
    bits = "".join(table[symbol] for symbol in message)
    if read_state(state, frequencies, len(message)) != message or read_words(bits, table, len(message)) != message:
        raise RuntimeError("the decoded message differs from the message that was encoded")
    surprises = nats_to_bits(-np.log(q[drawn]))
    return {
        "divergence_bits": nats_to_bits(divergence(p, q)),
        "cross_entropy_bits": nats_to_bits(entropy(p) + divergence(p, q)),
        "huffman_bits": float(p @ lengths),
        "message_bits": (state.bit_length() - 1 - FIRST_BITS) / len(message),
        "message_error_bits": float(surprises.std(ddof=1)) / math.sqrt(len(message)),
        "huffman_message_bits": len(bits) / len(message),
    }


def _words_of(lengths: np.ndarray, coded: np.ndarray) -> list[str]:
    """Return a word for each level; levels without a code have an empty word."""
    table = [""] * len(lengths)
    for level, word in zip(coded, words(lengths[coded]), strict=True):
        table[level] = word
    return table


def code_table(counts: np.ndarray, n_rows: int = 6) -> list[dict[str, Any]]:
    """Return the most frequent levels with their surprise (-log2 P) and their words, the most frequent first."""
    seen = np.flatnonzero(counts)
    huffman, shannon = huffman_lengths(counts[seen].tolist()), shannon_lengths(counts[seen].tolist())
    table = words(huffman)
    p = counts[seen] / counts.sum()
    order = np.lexsort((seen, -counts[seen]))[:n_rows]
    return [
        {
            "level": int(seen[i]),
            "probability": float(p[i]),
            "surprise_bits": nats_to_bits(math.log(1 / p[i])),
            "shannon_length": int(shannon[i]),
            "word": table[i],
        }
        for i in order
    ]


def messages(counts: np.ndarray, n_symbols: int, generator: np.random.Generator) -> dict[str, Any]:
    """Return all metrics of this part.

    Args:
        counts: (L,) counts of the levels of the data.
        n_symbols: number of symbols that are drawn for the messages.
        generator: source of randomness for the draws.
    """
    drawn = generator.choice(len(counts), size=n_symbols, p=counts / counts.sum())
    return {
        "n_symbols": n_symbols,
        "words": code_table(counts),
        "codes": {name: price(counts, frequencies, drawn) for name, frequencies in made_for(counts).items()},
    }
