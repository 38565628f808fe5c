"""A number that should not be believed is printed with a mark: each reason has its mark and its words."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsperdim.comparing.comparison import rows_of
from bitsperdim.comparing.numbers import Images, Scored
from bitsperdim.comparing.output import number
from bitsperdim.core import labels
from bitsperdim.core.metrics import Metrics
from bitsperdim.readme.sections import table
from support.metrics import exact, metrics
from support.results import write_results

GOOD = metrics(
    protocol="own/none/32x32x3/L256/test60/given-none",
    n_images=60,
    n_distinct_images=60,
    n_samples=1024,
    bpd=5.5,
    bpd_standard_error=0.25,
    bpd_monte_carlo_error=0.002,
    nll_nats=11711.25,
    log_p_bias_nats=-600.0,
    ess_below_10_share=0.05,
    pareto_k_high_share=0.05,
)
FEW = {"too_few_samples": True}


def sentence(content: dict[str, Any]) -> str:
    return Metrics(**content).sentence


def marks(content: dict[str, Any]) -> str:
    return Metrics(**content).marks


def test_a_good_number_has_no_mark() -> None:
    expected = "<= 5.5000 +- 0.2500 bits/dim (11711.25 nats), an upper bound, Monte Carlo error 0.002, K = 1024"
    assert sentence(GOOD) == expected
    exact = GOOD | {"kind": "exact", "n_samples": 1, "bpd": 8.0}  # as good as uniform coding
    assert sentence(exact) == "= 8.0000 +- 0.2500 bits/dim (11711.25 nats), exact, K = 1"
    assert marks(exact) == ""


@pytest.mark.parametrize(
    ("changes", "number", "reason"),
    [
        (
            {"bpd": 953.2, "bpd_standard_error": 68.2},
            "<= 953.2000 +- 68.2000",
            "worse than uniform coding, which needs 8",
        ),
        ({"kind": "exact", "bpd": 8.01}, "= 8.0100 +- 0.2500", "worse than uniform coding, which needs 8 bits/dim"),
        ({"kind": "exact", "bpd": -0.5}, "= -0.5000 +- 0.2500", "below 0 bits, which is impossible for a likelihood"),
        ({"bpd": -0.5}, "<= -0.5000 +- 0.2500", "for a likelihood, by more than 4 times its Monte Carlo error"),
        (
            {"bpd": -0.007, "bpd_standard_error": 0.001},
            "<= -0.0070 +- 0.0010",
            "below 0 bits by chance: a bound is above its model's true number on average, and the Monte Carlo error of "
            "this bound is 0.002",
        ),
        ({"bpd": 0.2}, "<= 0.2000 +- 0.2500", "its standard error is larger than the number"),
        (FEW | {"bias_exceeds_standard_error": True}, "<= 5.5", "its bias, about -6e+02 nats, exceeds its standard"),
        (FEW | {"ess_below_10_share": 0.1}, "<= 5.5", "10 % of the test images have an effective sample size below"),
        (FEW | {"pareto_k_high_share": 1.0}, "<= 5.5", "100 % of the test images have weights with a heavy tail"),
        (FEW | {"n_samples": 1}, "<= 5.5", "K = 1, so neither its bias nor its Monte Carlo error can be estimated"),
        ({"n_training_images": 4}, "<= 5.5", "4 of the 60 test images are training images too"),
        (
            {"n_training_images": 1, "bpd_without_training_images": 5.76},
            "<= 5.5",
            "1 of the 60 test images are training images too, and without them it is 5.7600 bits/dim",
        ),
        ({"n_near_training_images": 4}, "<= 5.5", "4 of the 60 test images are nearly training images"),
        (
            {
                "n_training_images": 1,
                "n_near_training_images": 2,
                "bpd_without_training_images": 5.51,
                "bpd_without_near_training_images": 5.76,
                "bpd_without_near_training_images_standard_error": 0.25,
            },
            "<= 5.5",
            "them it is 5.5100 bits/dim; 2 more of the 60 test images are nearly training images, and without both it "
            "is 5.7600 bits/dim (standard error 0.25)",
        ),
        ({"bpd": math.inf, "n_impossible_images": 3}, "<= inf bits/dim", "3 of 60 test images have probability 0"),
    ],
)
def test_each_reason_has_its_mark_and_its_words(changes: dict[str, Any], number: str, reason: str) -> None:
    text = sentence(GOOD | changes)
    assert text.startswith(number)
    assert " bits/dim (!) (11711.25 nats)" in text
    assert reason in text.partition(". (!) Not to be believed as it stands: ")[2]
    assert len(Metrics(**GOOD | changes).reasons) == 1


NEAR = {
    "n_near_training_images": 2,
    "bpd_without_near_training_images": 5.74,
    "bpd_without_near_training_images_standard_error": 0.26,
}


def test_copies_and_images_that_were_trained_on_are_named() -> None:
    """They are named even if they are too few to matter: 3 of 60, which move the number by less than its error."""
    few = GOOD | {"n_distinct_images": 57, "n_training_images": 3, "bpd_without_training_images": 5.74}
    assert sentence(few).endswith(
        "K = 1024; of 60 test images 57 are distinct; 3 of the 60 test images are training images too, and without "
        "them it is 5.7400 bits/dim"
    )
    assert marks(few) == ""
    assert marks(few | {"bpd_without_training_images": 5.76}) == labels.SEEN
    assert marks(few | {"bpd_without_training_images": 5.24}) == labels.SEEN
    assert marks(few | {"n_training_images": 4}) == labels.SEEN
    assert sentence(GOOD | NEAR).endswith(
        "K = 1024; 2 of the 60 test images are nearly training images, and without them it is 5.7400 bits/dim "
        "(standard error 0.26)"
    )
    assert marks(GOOD | NEAR) == ""
    assert marks(GOOD | NEAR | {"bpd_without_near_training_images": 5.76}) == labels.SEEN
    assert marks(GOOD | NEAR | {"bpd_without_near_training_images": 5.24}) == labels.SEEN
    assert marks(GOOD | NEAR | {"n_near_training_images": 4}) == labels.SEEN
    assert marks(few | {"n_near_training_images": 1}) == labels.SEEN  # 3 + 1 of 60 images are more than 5 %


def test_what_is_out_of_range_by_rounding_alone_is_called_so() -> None:
    exact = GOOD | {"kind": "exact", "n_samples": 1, "bpd_standard_error": 0.0}
    below = sentence(exact | {"bpd": -9.4e-9, "nll_nats": -4e-7})
    assert below == (
        "= 0.0000 +- 0.0000 bits/dim (0.00 nats), exact, K = 1; below 0 only by the rounding error of float32, so "
        "taken as 0"
    )
    for bpd in (8.000001, 8.00001):  # the rounding error is proportional to the number
        assert marks(exact | {"bpd": bpd}) == ""
    for bpd in (-2e-6, 8.00002):
        assert marks(exact | {"bpd": bpd}) == labels.OUT_OF_RANGE
        assert "(!)" in sentence(exact | {"bpd": bpd})


def test_what_is_not_known_is_called_so() -> None:
    one = sentence(GOOD | {"n_images": 1, "bpd_standard_error": math.inf})
    assert one.startswith("<= 5.5000 +- unknown bits/dim (11711.25 nats)")
    sampled_once = sentence(GOOD | FEW | {"n_samples": 1, "bpd_monte_carlo_error": math.inf})
    assert "Monte Carlo error unknown, K = 1." in sampled_once
    assert "+-" not in sentence(GOOD | {"bpd": math.inf, "bpd_standard_error": math.inf})
    seeds = sentence(GOOD | {"n_seeds": 3, "bpd_seed_spread": 0.0125})
    assert seeds.endswith("K = 1024, the mean of 3 seeds, which spread by 0.0125")


def test_a_density_is_in_no_range() -> None:
    for bpd in (-30.0, 30.0):
        text = sentence(GOOD | {"kind": "density", "n_samples": 1, "bpd": bpd})
        assert text == f"density {bpd:.4f} +- 0.2500 bits/dim (11711.25 nats), {labels.WORDS['density']}, K = 1"


def test_a_validation_number_says_what_it_is() -> None:
    tag = GOOD["protocol"]
    assert labels.of_validation("exact", 5.5, 11711.25, tag, 16) == (
        "= 5.5000 bits/dim (11711.25 nats), exact, its error not estimated"
    )
    assert labels.of_validation("lower", -0.0001, -0.01, tag, 16).endswith(
        "below 0 bits: a bound is above its model's true number on average, but may be below it by chance"
    )
    assert labels.of_validation("lower", 9.0, 19164.0, tag, 16) == (
        "<= 9.0000 bits/dim (!) (19164.00 nats), an upper bound, K = 16, its error not estimated. (!) Not to be "
        "believed as it stands: worse than uniform coding, which needs 8 bits/dim"
    )


def test_a_sentence_is_ascii() -> None:
    for kind in ("exact", "lower", "density"):
        for changes in ({}, FEW, {"bpd": -1.0}, {"bpd": 1e3}, {"bpd": math.inf}):
            assert sentence(GOOD | changes | {"kind": kind}).isascii()


def test_uniform_coding_is_that_of_the_levels() -> None:
    assert labels.uniform_bpd("digits/none/8x8x1/L17/test360/given-none") == pytest.approx(math.log2(17))
    assert labels.uniform_bpd("a tag without levels") == math.inf


def test_the_tables_mark_what_is_worse_than_uniform(tmp_path: Path) -> None:
    """Test the table of the README; ``tests/recipes/test_table.py`` tests those of the recipes."""
    folder = tmp_path / "results"
    write_results(folder, {"good": exact(bpd=1.5), "bad": exact(bpd=2.5)})
    text = table(folder)
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert "2.500 ± 0.034‡ |" in rows["bad"]
    assert "‡" not in rows["good"]
    assert text.count("‡ Worse than uniform coding") == 1
    assert "†" not in text


def test_a_comparison_says_which_side_is_out_of_range() -> None:
    sides = []
    for bpd in (1.5, 2.5):
        log_p = np.array([[-bpd * 4 * math.log(2)] * 5])
        numbers = Metrics(**metrics(bpd=bpd, nll_nats=-float(log_p.mean())))
        sides.append(Scored("vae", numbers, {}, lambda log_p=log_p: Images(log_p)))  # type: ignore[misc]
    good, bad = sides
    assert (number(good.numbers)[-1] == "‡", number(bad.numbers)[-1] == "‡") == (False, True)
    said = "B's number is worse than uniform coding, which needs 2 bits/dim (‡)."
    assert said in rows_of([(good, bad)])[0].notes
    assert not any("‡" in note for note in rows_of([(good, good)])[0].notes)
