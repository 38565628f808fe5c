"""Two results of users' own models are compared image by image, in the same way as results of the pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import bitsperdim
from bitsperdim.comparing.comparison import rows_of
from bitsperdim.comparing.numbers import Images, Scored
from bitsperdim.core.errors import InputError
from bitsperdim.evaluation.images import CACHE
from bitsperdim.evaluation.result import Estimate

IMAGES = np.random.default_rng(0).integers(3, size=(200, 1, 2, 4))


def number(name: str, shift: float = 0.0, seed: int = 0, images: Any = IMAGES, **options: Any) -> Estimate:
    noise = np.random.default_rng(seed).normal(
        0, 0.1, size=200 if isinstance(images, np.ndarray) else len(images.images)
    )
    options = {"n_levels": 3 if isinstance(images, np.ndarray) else None, **options}
    return bitsperdim.estimate_of_arrays(-7 + noise + shift, images=images, name=name, **options)


def test_it_is_the_comparison_of_results() -> None:
    a, b = number("a"), number("b", 0.5, seed=1)
    found = bitsperdim.compare(a, b)

    def result(estimate: Estimate) -> Scored:
        same_as = estimate.data.prepared.same_as["test"]
        return Scored(estimate.name, estimate.metrics, {}, lambda: Images(estimate.log_p[None], same_as))

    (row,) = rows_of([(result(a), result(b))])
    assert (found.bits_per_dim, found.standard_error, found.verdict) == (row.bpd, row.standard_error, row.verdict)
    assert found.bits_per_dim == pytest.approx(b.bits_per_dim - a.bits_per_dim)
    assert found.verdict == "better"
    backwards = bitsperdim.compare(b, a)
    assert backwards.verdict == "worse"
    assert backwards.bits_per_dim == -found.bits_per_dim
    assert str(found).startswith("A = a, B = b. B - A: \N{MINUS SIGN}0.0886 ± 0.00")
    assert "bits/dim; B is better." in str(found)
    assert repr(found) == f"<Compared {found}>"


def test_the_error_is_that_of_paired_differences() -> None:
    images = np.arange(200 * 8).reshape(200, 1, 2, 4)  # all distinct
    a, b = (number(name, seed=seed, images=images, n_levels=1600) for name, seed in (("a", 0), ("b", 1)))
    found = bitsperdim.compare(a, b)
    by_hand = stats.sem(a.log_p - b.log_p) / (8 * np.log(2))
    assert found.standard_error == pytest.approx(by_hand, rel=1e-6)


def test_a_number_is_the_same_as_itself() -> None:
    assert bitsperdim.compare(number("a"), number("a")).verdict == "same"


def test_a_worse_bound_refutes_nothing() -> None:
    found = bitsperdim.compare(number("exact"), number("bound", -0.5, seed=1, kind="lower"))
    assert found.verdict == "cannot tell"
    assert found.bits_per_dim > 100 * (found.standard_error or 0) / 5
    assert "bound" in " ".join(found.row.notes)


def test_arrays_and_data_by_name_are_compared_where_the_images_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    np.savez(tmp_path / "mine.npz", train=IMAGES[:, 0].astype(np.uint8), test=IMAGES[:50, 0].astype(np.uint8))
    data = bitsperdim.load_data(tmp_path / "mine.npz", n_levels=3)
    by_name = number("a", images=data)
    by_array = bitsperdim.estimate_of_arrays(by_name.log_p - 0.5, images=data.images, n_levels=3, name="b")
    assert bitsperdim.compare(by_name, by_array).verdict == "worse"
    assert bitsperdim.compare(by_array, by_name).verdict == "better"
    of_others = bitsperdim.estimate_of_arrays(by_name.log_p, images=IMAGES[50:100], n_levels=3)
    more_levels = bitsperdim.estimate_of_arrays(by_name.log_p, images=data.images, n_levels=4)
    for other in (of_others, more_levels):
        with pytest.raises(InputError, match="are not compared: "):
            bitsperdim.compare(by_name, other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": (IMAGES + 1) % 3}, "a and b are not compared: "),
        ({"n_levels": 4}, "levels"),
        ({"images": IMAGES.reshape(200, 1, 4, 2)}, "shape"),
    ],
)
def test_numbers_of_other_images_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        bitsperdim.compare(number("a"), number("b", **changes))
    assert words in str(caught.value)
    assert ".." not in str(caught.value)


@pytest.mark.parametrize("other", [None, 3.2, {"bpd": 3.2}])
def test_what_is_no_number_of_evaluate_is_refused(other: Any) -> None:
    for pair in ((number("a"), other), (other, number("a"))):
        with pytest.raises(InputError, match=f"compare takes two results of evaluate, not {type(other).__name__}."):
            bitsperdim.compare(*pair)


def test_infinite_numbers_are_compared() -> None:
    log_p = np.full(200, -7.0)
    log_p[3] = -np.inf
    impossible = bitsperdim.estimate_of_arrays(log_p, images=IMAGES, n_levels=3, name="b")
    found = bitsperdim.compare(number("a"), impossible)
    assert found.bits_per_dim == np.inf
    assert isinstance(str(found), str)
