"""Streams of random numbers are reproducible, and no two are the same."""

import itertools
from collections.abc import Callable

import pytest
import torch

from bitsperdim.core.randomness import PURPOSES, draw, stream, stream_seed


def test_no_two_purposes_and_no_two_seeds_share_a_stream() -> None:
    """The first numbers of all streams differ: every purpose with no seed, 40 seeds and 48 pairs, zeros included."""
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


@pytest.mark.parametrize("how", [torch.rand, torch.randn])
def test_shares_are_rows_of_the_whole(how: Callable[..., torch.Tensor]) -> None:
    """The first of three axes is shared, and afterwards all generators are in the same state."""
    whole = stream("training", 1)
    expected = draw(how, (7, 2, 3), whole)
    shares = []
    for first, n_rows in ((0, 3), (3, 4)):
        generator = stream("training", 1)
        generator.share = (first, 7)
        shares.append(draw(how, (n_rows, 2, 3), generator))
        assert torch.equal(generator.get_state(), whole.get_state())
    assert torch.equal(torch.cat(shares), expected)
    assert torch.equal(expected, how((7, 2, 3), generator=stream("training", 1)))
    assert torch.equal(
        draw(how, (7,), torch.Generator().manual_seed(3)), how(7, generator=torch.Generator().manual_seed(3))
    )
