"""Streams of random numbers are reproducible, and no two are the same."""

import itertools

import pytest
import torch

from bitsperdim.randomness import PURPOSES, stream, stream_seed


def test_no_two_purposes_and_no_two_seeds_share_a_stream() -> None:
    """All first numbers of every purpose with no seed, 40 seeds and 48 pairs, zeros among them, differ."""
    seeds: list[tuple[int, ...]] = [
        (),
        *((seed,) for seed in range(40)),
        *itertools.product(range(8), range(6)),
        (0, 0, 0),
    ]
    first = {
        int(torch.randint(2**62, (1,), generator=stream(purpose, *each))) for purpose in PURPOSES for each in seeds
    }
    assert len(first) == len(PURPOSES) * len(seeds)


def test_a_stream_is_that_of_its_seed() -> None:
    assert torch.equal(torch.rand(5, generator=stream("training", 3)), torch.rand(5, generator=stream("training", 3)))
    assert stream_seed("training", 3) == 385_683_238_554_887_198
    assert stream("training", 3).initial_seed() == stream_seed("training", 3)
    with pytest.raises(ValueError, match="'dreams'"):
        stream("dreams", 0)
