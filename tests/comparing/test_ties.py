"""Ties with the best result of a protocol, at the limits, and the kinds of errors that decide them."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from bitsperdim.comparing.cache import Cache
from bitsperdim.comparing.history import Change
from bitsperdim.comparing.numbers import Images, Scored
from bitsperdim.comparing.ranking import Entry, Reader, rank
from bitsperdim.core.errors import InputError
from bitsperdim.core.metrics import AnyMetrics
from support.laboratory import Laboratory
from support.metrics import metrics_of

Drawn = Callable[..., np.ndarray]
NAMES = itertools.count()
T_OF_40 = float(t.ppf(0.975, 39))
DIMENSIONS = 4 * math.log(2)  # nats of one bit/dim


@pytest.fixture
def reader(laboratory: Laboratory) -> Reader:
    return Reader(laboratory.root, Cache(laboratory.root))


def entry(bpd: float, error: float = 0.0, log_p: np.ndarray | None = None, **changes: Any) -> Entry:
    """Return a result with these numbers, with or without its log-likelihoods."""
    changes = {"kind": "exact", "bpd": bpd, "bpd_standard_error": error, **changes}
    numbers = AnyMetrics(**metrics_of(np.atleast_2d(np.zeros(40) if log_p is None else log_p), **changes))

    def read() -> Images:
        if log_p is None:
            raise InputError("nowhere")
        return Images(np.atleast_2d(log_p))

    scored = Scored("vae", numbers, {}, read)
    return Entry(Change("vae", "", "", f"recipe {next(NAMES)}", None, ""), numbers, [], scored)


def held(mine: Entry, best: Entry, reader: Reader) -> Entry:
    """Rank two results alone, and return the worse one."""
    rank([best, mine], reader)
    return mine


def test_no_error_is_needed_beyond_the_sum_of_both(reader: Reader) -> None:
    """The limit for 40 images is 2.02 (0.25 + 0.5); just below it, the error of the difference decides."""
    best, edge = entry(0.0, 0.5), T_OF_40 * 0.75
    beyond = held(entry(edge + 1e-9, 0.25), best, reader)
    assert (beyond.error_is, beyond.error, beyond.tied) == ("not needed", None, False)
    at = held(entry(edge - 1e-9, 0.25), best, reader)
    assert (at.error_is, at.error, at.tied) == ("unpaired", math.hypot(0.25, 0.5), False)
    above = held(entry(5.0, 0.25), entry(3.0, 0.5), reader)
    assert (above.error_is, above.above) == ("not needed", 2.0)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_more_pairs_there_are_the_farther_is_beyond_any_error(n: int, reader: Reader) -> None:
    """The limit uses the Bonferroni level of n (n - 1) / 2 pairs; no step of the joint test needs a smaller level."""
    edge = float(t.ppf(1 - 0.05 / (n * (n - 1)), 39)) * (0.25 + 0.5)
    for shift, error_is in ((-1e-9, "unpaired"), (1e-9, "not needed")):
        mine = entry(edge + shift, 0.25)
        rank([entry(0.0, 0.5), mine, *(entry(1e3 + other, 0.1) for other in range(n - 2))], reader)
        assert mine.error_is == error_is


@pytest.mark.parametrize(("mine", "best"), [(2, 1), (1, 2), (2, 2)])
def test_with_several_seeds_an_error_is_always_needed(mine: int, best: int, reader: Reader) -> None:
    """The spread of seeds may be larger than any error of the images."""
    means = ({str(seed): 10.0 * seed for seed in range(n)} if n > 1 else None for n in (mine, best))
    a, b = (
        entry(bpd, 0.01, n_seeds=n, bpd_by_seed=by_seed)
        for bpd, n, by_seed in zip((9.0, 1.0), (mine, best), means, strict=True)
    )
    found = held(a, b, reader)
    assert (found.error_is, found.tied) == ("unpaired", True)
    sides = (mine > 1) + (best > 1)
    assert found.error == pytest.approx(math.hypot(0.01 * math.sqrt(2), 5 * math.sqrt(sides)))


def test_a_tie_ends_where_the_interval_does(reader: Reader) -> None:
    """The limit for 40 images is 2.02 times the root of the summed squares."""
    best = entry(0.0, 0.3)
    edge = T_OF_40 * math.hypot(0.3, 0.4)
    assert held(entry(edge - 1e-9, 0.4), best, reader).tied
    assert not held(entry(edge + 1e-9, 0.4), best, reader).tied
    assert held(entry(0.01, 0.4), best, reader).tied


def test_equal_numbers_without_an_error_are_tied(reader: Reader) -> None:
    assert held(entry(1.0), entry(1.0), reader).tied
    apart = held(entry(math.nextafter(1.0, 2)), entry(1.0), reader)
    assert (apart.tied, apart.error_is) == (False, "not needed")
    images = np.linspace(-9, -1, 40)
    shifted = held(entry(1.001, 0.1, images - 0.001), entry(1.0, 0.1, images), reader)
    assert (shifted.tied, shifted.error_is) == (False, "paired")
    assert shifted.error == pytest.approx(0, abs=1e-12)
    assert held(
        entry(1.001, 0.1, images), entry(1.0, 0.1, images), reader
    ).tied  # the log-likelihoods of the images decide


@pytest.mark.parametrize(("z", "tied"), [(-2.03, True), (0.0, True), (2.01, True), (2.03, False), (9.0, False)])
def test_a_paired_tie_is_that_of_the_images(z: float, tied: bool, reader: Reader) -> None:
    """The difference, its sign and its error come from the images, whatever the two numbers are."""
    noise = np.tile([-1.0, 1.0], 20)
    error = noise.std(ddof=1) / math.sqrt(40)
    images = np.linspace(-90, -10, 40)
    found = held(entry(1.2, 0.3, images + noise - z * error), entry(1.1, 0.3, images), reader)
    assert (found.error_is, found.tied) == ("paired", tied)
    assert found.above == pytest.approx(z * error / DIMENSIONS)
    assert found.error == pytest.approx(error / DIMENSIONS)


@pytest.mark.parametrize("shift", [2.5, 4.0])
def test_a_tie_of_few_seeds_reaches_as_far_as_their_t(shift: float, reader: Reader) -> None:
    """With two seeds on each side, 2.5 combined errors are below the limit of about 4.3, but above 1.96."""
    images = np.linspace(-90, -10, 40) + np.array([[-1.0], [1.0]])
    error = math.sqrt(2)  # two sides with a standard error of one nat each
    found = held(entry(1.2, 0.3, images - shift * error), entry(1.1, 0.3, images), reader)
    assert (found.error, found.tied) == (pytest.approx(error / DIMENSIONS), True)
    far = held(entry(1.2, 0.3, images - 4.5 * error), entry(1.1, 0.3, images), reader)
    assert not far.tied


@pytest.mark.parametrize("there", ["mine", "best", "neither"])
def test_both_must_have_their_images(there: str, reader: Reader) -> None:
    images = np.linspace(-90, -10, 40)
    mine = entry(1.2, 0.3, images if there == "mine" else None)
    found = held(mine, entry(1.1, 0.4, images if there == "best" else None), reader)
    assert (found.error_is, found.error) == ("unpaired", pytest.approx(0.5))
    assert found.above == pytest.approx(0.1)


def test_infinite_numbers_have_no_error(reader: Reader) -> None:
    infinite = held(entry(math.inf, math.inf), entry(1.0, 0.1), reader)
    assert (infinite.above, infinite.error, infinite.error_is, infinite.tied) == (math.inf, None, "none", False)
    both = held(entry(math.inf, math.inf), entry(math.inf, math.inf), reader)
    assert (both.above, both.error, both.error_is, both.tied) == (None, None, "none", False)


def test_equal_numbers_share_a_rank_and_the_next_has_its_own(reader: Reader) -> None:
    """Densities come last without a rank, however low they are; the best result is not compared with them."""
    group = [entry(bpd, 0.1, kind=kind) for bpd, kind in ((3, "exact"), (-9, "density"), (1, "exact"), (1, "lower"))]
    found, _ = rank(group, reader)
    assert [(item.numbers.bpd, item.rank) for item in found] == [(1, 1), (1, 1), (3, 3), (-9, None)]
    assert [item.verdict for item in found] == ["", "open", "worse", ""]
    assert [item.tied for item in found] == [False, True, False, False]
    assert found[0].above is None


def test_the_gain_of_choosing_is_that_of_the_contenders(reader: Reader) -> None:
    """For two results not clearly apart it is the mean of the larger of two normals; it is unknown without images."""
    images = np.linspace(-90, -10, 40)
    noise = np.tile([-1.0, 1.0], 20)
    error = noise.std(ddof=1) / math.sqrt(40) / DIMENSIONS
    best, near = entry(50 / DIMENSIONS, 0.3, images), entry(50.01 / DIMENSIONS, 0.3, images + noise - 0.01)
    far = entry(130 / DIMENSIONS, 0.3, images - 80.0)
    _, together = rank([best, near, far], reader)
    assert together is not None
    assert (together.n, together.n_contenders) == (3, 2)
    assert together.gain == pytest.approx(error / math.sqrt(2 * math.pi), rel=0.05)
    _, without = rank([best, entry(50.01 / DIMENSIONS, 0.3), far], reader)
    assert without is not None
    assert (without.n_contenders, without.gain) == (2, None)
