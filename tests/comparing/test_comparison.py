"""Differences by hand, verdicts, refusals, and the conclusion from a bound beside an exact number."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from bitsperdim.comparing.comparison import Row, limited, refusal, rows_of
from bitsperdim.comparing.numbers import Images, NoImagesError, Scored
from bitsperdim.comparing.output import cells
from bitsperdim.core.errors import InputError
from bitsperdim.core.metrics import AnyMetrics
from support.laboratory import Laboratory
from support.metrics import metrics_of

Drawn = Callable[..., np.ndarray]


def scored(log_p: np.ndarray, model: str = "vae", **changes: Any) -> Scored:
    numbers = AnyMetrics(**metrics_of(np.atleast_2d(log_p), **changes))
    return Scored(model, numbers, {}, lambda: Images(np.atleast_2d(log_p)))


def row(a: Scored, b: Scored) -> Row:
    """Return the comparison of one pair."""
    return rows_of([(a, b)])[0]


def with_z(z: float, kinds: tuple[str, str] = ("exact", "exact")) -> Row:
    """Compare two results whose difference B - A in bits/dim has exactly this z."""
    noise = np.array([-1.0, 1.0] * 50)
    error = noise.std(ddof=1) / 10
    a = np.linspace(-20, -10, 100)
    return row(scored(a, kind=kinds[0]), scored(a + noise - z * error, kind=kinds[1]))


def test_it_is_the_formula_by_hand(drawn: Drawn) -> None:
    a, b = drawn(1), drawn(2, 0.3)
    found = row(scored(a), scored(b))
    differences = -(b - a) / (4 * math.log(2))
    assert found.bpd == pytest.approx(differences.mean())
    assert found.standard_error == pytest.approx(differences.std(ddof=1) / math.sqrt(40))
    assert found.z == pytest.approx(-ttest_rel(b, a).statistic)
    assert found.verdict == "better"
    back = row(scored(b), scored(a))
    assert (back.bpd, back.z, back.verdict) == (pytest.approx(-found.bpd), pytest.approx(-found.z), "worse")
    unpaired = math.hypot(found.a.numbers.bpd_standard_error, found.b.numbers.bpd_standard_error)
    assert found.standard_error < unpaired / 10


@pytest.mark.parametrize(
    ("z", "verdict"), [(-1.99, "better"), (-1.98, "cannot tell"), (1.98, "cannot tell"), (1.99, "worse")]
)
def test_verdicts_at_the_edge_of_the_interval(z: float, verdict: str) -> None:
    """The limit for a hundred images is 1.984, the quantile of t with 99 degrees of freedom."""
    found = with_z(z)
    assert found.z == pytest.approx(z)
    assert found.verdict == verdict


def test_a_model_beside_itself_is_the_same(drawn: Drawn) -> None:
    found = row(scored(drawn(1)), scored(drawn(1)))
    assert (found.verdict, found.bpd, found.standard_error, found.z) == ("same", 0, 0, None)
    assert found.notes == []
    constant = row(scored(np.arange(40.0)), scored(np.arange(40.0) - 1))
    assert (constant.verdict, constant.z) == ("worse", math.inf)
    one = row(scored(np.array([-3.0]), bpd_standard_error=math.inf), scored(np.array([-2.0])))
    assert (one.verdict, one.z) == ("cannot tell", 0)


def test_the_verdict_is_held_against_seeds_too(drawn: Drawn) -> None:
    """With very different seeds, a difference that is clear on the images is not clear beyond the seeds' noise."""
    a = drawn(1) + np.array([[-0.5], [0.0], [0.5]])
    small = np.tile([0.1, -0.1], 20)
    near, far = row(scored(a), scored(a + 0.4 + small)), row(scored(a), scored(a + 9 + small))
    for found, verdict in ((near, "cannot tell"), (far, "better")):
        assert found.noise is not None
        assert found.bpd is not None
        by_seed = np.std([-0.5, 0.0, 0.5], ddof=1) / math.sqrt(3) / (4 * math.log(2))
        assert found.noise.seeds == (pytest.approx(by_seed), pytest.approx(by_seed))
        assert found.z == pytest.approx(found.bpd / found.noise.combined)
        assert abs(found.bpd) > 1.96 * found.noise.images
        assert found.verdict == verdict
        words = [
            note for note in found.notes if note.startswith("The difference is clear beyond the noise of the test")
        ]
        assert len(words) == (verdict == "cannot tell")
    tiny = row(scored(a), scored(a + 0.01 * small + 0.0001))
    assert tiny.verdict == "cannot tell"
    assert not any("clear beyond the noise" in note for note in tiny.notes)
    between = row(scored(a), scored(a + 0.95 + small))
    assert between.noise is not None
    assert between.z is not None
    assert 1.96 < abs(between.z) < (between.limit or 0)  # would be clear only if the seeds' spread were known
    assert between.verdict == "cannot tell"


def test_a_side_with_one_seed_has_an_unknown_noise(drawn: Drawn) -> None:
    several, one = drawn(1) + np.array([[-0.5], [0.5]]), drawn(2)
    for a, b, side in ((several, one, "B"), (one, several, "A")):
        notes = row(scored(a), scored(b)).notes
        assert f"{side} has one seed: its seed noise is unknown, and the verdict ignores it." in notes
    assert not any("seed" in note for note in row(scored(one), scored(drawn(3))).notes)


def test_the_monte_carlo_noise_is_that_of_both(drawn: Drawn) -> None:
    found = row(scored(drawn(1), bpd_monte_carlo_error=0.003), scored(drawn(2), bpd_monte_carlo_error=0.004))
    assert found.monte_carlo_error == pytest.approx(0.005)
    assert row(scored(drawn(1), bpd_monte_carlo_error=math.inf), scored(drawn(2))).monte_carlo_error == math.inf


def test_seeds_are_averaged_image_by_image(drawn: Drawn) -> None:
    three = np.stack([drawn(3), drawn(4), drawn(5)])
    assert row(scored(drawn(1)), scored(three)).bpd == row(scored(drawn(1)), scored(three.mean(0))).bpd


@pytest.mark.parametrize(
    ("kinds", "z", "verdict", "words"),
    [
        (("exact", "lower"), -5, "better", "conclusion is that B is better, if its bound is clearly below"),
        (("exact", "lower"), 5, "cannot tell", "Here it is above, and the bound may be loose."),
        (("exact", "lower"), 1, "cannot tell", "Here it is not."),
        (("lower", "exact"), 5, "worse", "conclusion is that A is better, if its bound is clearly below"),
        (("lower", "exact"), -5, "cannot tell", "Here it is above, and the bound may be loose."),
        (("lower", "lower"), 5, "worse", "Both numbers are upper bounds: the verdict is on the bounds"),
        (("exact", "exact"), 5, "worse", "No parameter differs"),
    ],
)
def test_a_bound_beside_an_exact_number_allows_one_conclusion(
    kinds: tuple[str, str], z: float, verdict: str, words: str
) -> None:
    """A bound below an exact number wins, because its model's number is lower still; from one above nothing follows."""
    found = with_z(z, kinds)
    assert found.verdict == verdict
    assert words in " ".join(found.notes)
    if "exact" in kinds and "lower" in kinds:
        exact, bound = ("A", "B") if kinds[0] == "exact" else ("B", "A")
        assert f"{exact} is exact, and {bound} is an upper bound of its negative log-likelihood" in found.notes[0]


@pytest.mark.parametrize("lower", ["exact", "lower"])
@pytest.mark.parametrize("worse", ["exact", "lower"])
def test_a_worse_number_makes_a_worse_model_only_where_it_is_exact(lower: str, worse: str) -> None:
    """All four cases in both directions; a difference that is not clear establishes nothing."""
    for found, verdict in ((with_z(5, (lower, worse)), "worse"), (with_z(-5, (worse, lower)), "better")):
        assert found.is_established == (worse == "exact")
        expected = "cannot tell" if (lower, worse) == ("exact", "lower") else verdict
        assert found.verdict == expected
        on_bounds = {"cannot tell": "cannot tell", verdict: f"a {verdict} bound"}[expected]
        assert cells(found)[-1] == (verdict if found.is_established else on_bounds)
    assert not with_z(1, (lower, worse)).is_established


@pytest.mark.parametrize("other", ["exact", "lower", "estimate"])
@pytest.mark.parametrize("z", [-5.0, 5.0])
def test_from_an_estimate_nothing_follows(other: str, z: float) -> None:
    for kinds, side in (((other, "estimate"), "B"), (("estimate", other), "A")):
        found = with_z(z, kinds)
        assert (found.verdict, found.is_established) == ("cannot tell", False)
        sides = "A and B" if other == "estimate" else side
        assert found.notes[0].startswith(f"{sides}: an estimate: its solver error is not negligible")


def test_bounds_with_different_numbers_of_samples_say_so(drawn: Drawn) -> None:
    found = row(scored(drawn(1), n_samples=8), scored(drawn(2), n_samples=64))
    assert "The bounds have K = 8 and 64: more samples alone make a bound better." in found.notes


def test_flagged_numbers_are_marked(drawn: Drawn) -> None:
    both = row(scored(drawn(1), too_few_samples=True), scored(drawn(2), too_few_samples=True))
    assert any(note.startswith("A and B have too few samples (†)") for note in both.notes)
    old = {"too_few_samples": None, "bias_exceeds_standard_error": True}  # keys of the first commits
    assert any(note.startswith("B has too few") for note in row(scored(drawn(1)), scored(drawn(2), **old)).notes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "density"}, "B is a density evaluated at integers, not a likelihood, so it cannot be compared."),
        (
            {"protocol": "other/none/2x2x1/L256/test40/given-none"},
            "the protocols differ in data set (tiny and other): tiny/none/2x2x1/L256/test40/given-none and "
            "other/none/2x2x1/L256/test40/given-none.",
        ),
        (
            {"protocol": "tiny/dynamic/2x2x1/L2/test40/given-none"},
            "binarization (none and dynamic), levels (L256 and L2)",
        ),
        ({"protocol": "tiny/none/2x2x1/L256/test39/given-none"}, "differ in test size (test40 and test39)"),
        ({"protocol": "tiny/none/2x2x1/L256/test40/given-label"}, "what is given (given-none and given-label)"),
        ({"protocol": "an old tag"}, "the protocols differ: tiny/none/2x2x1/L256/test40/given-none and an old tag."),
        ({"test_sha256": "f" * 64}, "the test images differ (SHA-256 0123456789ab and ffffffffffff): another split"),
    ],
)
def test_what_is_not_comparable_is_refused_with_the_reason(changes: dict[str, Any], reason: str, drawn: Drawn) -> None:
    found = row(scored(drawn(1)), scored(drawn(2), **changes))
    assert (found.verdict, found.bpd, found.z) == ("refused", None, None)
    assert found.reason is not None
    assert reason in found.reason
    assert refusal(scored(drawn(1), kind="density").numbers, scored(drawn(1)).numbers) is not None


def test_infinite_numbers_are_a_sentence(drawn: Drawn) -> None:
    impossible = drawn(1)
    impossible[:3] = -np.inf
    found = row(scored(drawn(2), kind="exact"), scored(impossible, kind="exact"))
    assert (found.verdict, found.bpd, found.standard_error, found.z) == ("worse", math.inf, None, None)
    assert found.notes[0] == ("B gives 3 test images no mass: its number is infinite, and the difference has no error.")
    both = row(scored(impossible), scored(impossible))
    assert (both.verdict, both.bpd) == ("cannot tell", None)
    assert "both numbers are infinite" in both.notes[0]
    # an infinite bound says nothing about its model
    assert row(scored(drawn(2), kind="exact"), scored(impossible)).verdict == "cannot tell"
    assert limited("worse", found.a.numbers, found.b.numbers) == ("worse", [])
    assert row(scored(impossible, kind="exact"), scored(drawn(2), kind="exact")).verdict == "better"


def without_images(log_p: np.ndarray, **changes: Any) -> Scored:
    def nowhere() -> Images:
        raise NoImagesError("x.csv is not there; restore it.")

    return replace(scored(log_p, **changes), images=nowhere)


@pytest.mark.parametrize(
    ("z", "verdict"), [(-2.03, "better"), (-2.02, "cannot tell"), (2.02, "cannot tell"), (2.03, "worse")]
)
@pytest.mark.parametrize("sides", ["A", "B", "AB"])
def test_without_the_images_the_difference_is_unpaired(z: float, verdict: str, sides: str, drawn: Drawn) -> None:
    """The verdict uses the errors of the two numbers; a note names the missing file."""
    kinds = {"kind": "exact", "bpd_standard_error": 0.03}, {"kind": "exact", "bpd_standard_error": 0.04}
    a, b = (
        (without_images if side in sides else scored)(drawn(0) - shift * 4 * math.log(2), **changes)
        for side, shift, changes in zip("AB", (0, 0.05 * z), kinds, strict=True)
    )
    found = row(a, b)
    assert (found.verdict, found.error_is) == (verdict, "unpaired")
    assert (found.bpd, found.standard_error) == (pytest.approx(0.05 * z), pytest.approx(0.05))
    assert found.z == pytest.approx(z)
    assert found.notes[0] == "Unpaired: x.csv is not there; restore it."
    assert row(scored(drawn(0)), scored(drawn(1))).error_is == "paired"
    assert row(scored(drawn(0), kind="density"), b).error_is is None


@pytest.mark.parametrize(("n_distinct", "verdict"), [(19, "cannot tell"), (20, "worse"), (None, "worse")])
@pytest.mark.parametrize("side", ["A", "B"])
def test_an_unpaired_difference_counts_distinct_images(
    side: str, n_distinct: int | None, verdict: str, drawn: Drawn
) -> None:
    """The smaller known number of distinct images counts: 40 images with 19 distinct ones give no verdict."""
    a, b = (
        without_images(drawn(0) - shift, kind="exact", n_distinct_images=n_distinct if name == side else None)
        for name, shift in (("A", 0), ("B", 600))
    )
    found = row(a, b)
    assert (found.verdict, found.error_is) == (verdict, "unpaired")
    assert ("No verdict: there are 19 distinct test images, and a verdict needs 20." in found.notes) == (
        n_distinct == 19
    )


def test_an_unpaired_difference_knows_bounds_seeds_and_infinity(drawn: Drawn) -> None:
    """It has all properties of a paired difference, but equal numbers with an error are not called the same."""
    worse = row(scored(drawn(0), kind="exact"), without_images(drawn(0) - 60, kind="lower"))
    assert (worse.verdict, worse.error_is) == ("cannot tell", "unpaired")
    equal = row(scored(drawn(0)), without_images(drawn(0)))
    assert (equal.verdict, equal.bpd, equal.z) == ("cannot tell", 0, 0)
    assert not any("No parameter differs" in note for note in equal.notes)
    constant = row(scored(np.zeros(40)), without_images(np.zeros(40)))
    assert (constant.verdict, constant.z) == ("same", None)  # an error of zero means that all images have one value
    several = drawn(1) + np.array([[-0.5], [0.0], [0.5]])
    seeds = row(scored(several), without_images(drawn(0)))
    assert seeds.noise is not None
    assert seeds.noise.seeds == (pytest.approx(0.5 / math.sqrt(3) / (4 * math.log(2))), None)
    impossible = drawn(1)
    impossible[:3] = -np.inf
    for count, words in ((3, "3"), (0, "some")):
        infinite = without_images(impossible, kind="exact", n_impossible_images=count)
        found = row(scored(drawn(0)), infinite)
        assert (found.verdict, found.bpd, found.error_is) == ("worse", math.inf, None)
        assert found.notes[0].startswith(f"B gives {words} test images no mass: its number is infinite")
    assert row(infinite, infinite).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bpd_standard_error": math.inf}, "B's number has no standard error"),
        ({"bpd_by_seed": None}, "B lacks the numbers of its 2 seeds"),
        ({"bpd_by_seed": {"0": 1.0, "1": math.inf}}, "B lacks the numbers of its 2 seeds"),
    ],
)
def test_without_images_and_errors_it_is_one_sentence(changes: dict[str, Any], words: str, drawn: Drawn) -> None:
    two = np.stack([drawn(1), drawn(2)])
    for a in (scored(drawn(0)), without_images(drawn(0))):
        found = row(a, without_images(two, **changes))
        assert (found.verdict, found.bpd, found.error_is) == ("refused", None, None)
        assert found.reason == f"{words}, and x.csv is not there; restore it."
    swapped = row(without_images(two, **changes), scored(drawn(0)))
    assert swapped.reason == f"A{words[1:]}, and x.csv is not there; restore it."


def test_one_image_without_its_log_likelihood_tells_nothing() -> None:
    one = row(scored(np.array([-3.0])), without_images(np.array([-2.0]), bpd_standard_error=0.0))
    assert one.verdict == "refused"  # A has no standard error
    both = {"bpd_standard_error": 0.0}
    found = row(scored(np.array([-3.0]), **both), without_images(np.array([-2.0]), **both))
    assert (found.verdict, found.standard_error) == ("cannot tell", math.inf)


def test_models_are_paired_by_name_or_as_asked(laboratory: Laboratory, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    laboratory.write("old", drawn(2))
    laboratory.commit()
    laboratory.git("rm", "-r", "--quiet", "results/old")
    laboratory.write("vae", drawn(3, 0.5))
    laboratory.write("iwae", drawn(4))
    found = laboratory.compare("HEAD")
    assert [item.name for item in found.rows] == ["vae"]
    assert (found.only_in_a, found.only_in_b) == (["old"], ["iwae"])
    two = laboratory.compare("HEAD", pair=("vae", "iwae"))
    assert [item.name for item in two.rows] == ["vae -> iwae"]
    assert laboratory.compare("HEAD", pair=(None, "vae")).rows[0].bpd == found.rows[0].bpd
    with pytest.raises(
        InputError, match=r"There is no model 'iwae' in revision HEAD \(.*\); its models are old, vae\."
    ):
        laboratory.compare("HEAD", models=["iwae"])
    laboratory.git("rm", "-r", "--quiet", "--cached", "results")
    (laboratory.root / "results" / "vae" / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"No model is in both: revision HEAD .* write A:MODEL B:MODEL"):
        laboratory.compare("HEAD")


def test_parameters_that_matter_to_a_model_are_listed(laboratory: Laboratory, drawn: Drawn) -> None:
    """Those of data, evaluation, training and its own section; a training change that the model overrides is none, and
    neither is a default that is written, or a key that is one in no family.
    """
    for model in ("vae", "iwae"):
        laboratory.write(model, drawn(1))
    laboratory.commit()
    laboratory.params["train"]["epochs"] = 20
    laboratory.params["vae"]["latent_size"] = 8
    laboratory.params["vae"]["n_mixtures"] = 1
    laboratory.params["iwae"]["noise"] = None
    laboratory.params["evaluate"]["annealed"] = {"n_steps": 61, "n_chains": 4}
    for model in ("vae", "iwae"):
        laboratory.write(model, drawn(2))
    laboratory.commit()
    vae, iwae = sorted(laboratory.compare("HEAD^", "HEAD").rows, key=lambda item: item.name, reverse=True)
    shared = ("evaluate.annealed.n_steps", (60, 61), (True, True))
    assert [(item.key, item.values, item.is_set) for item in vae.parameters] == [
        shared,
        ("train.epochs", (10, 20), (True, True)),
        ("vae.latent_size", (16, 8), (True, True)),
    ]
    assert [(item.key, item.values, item.is_set) for item in iwae.parameters] == [
        shared,
        ("iwae.noise", (None, None), (False, True)),
    ]
    two = laboratory.compare("HEAD", "HEAD", pair=("vae", "iwae")).rows[0]
    assert [item.key for item in two.parameters] == [
        *("iwae|vae.latent_size", "iwae|vae.noise", "iwae|vae.train_samples", "train.epochs")
    ]


def test_where_nothing_can_be_compared_the_reasons_are_the_error(laboratory: Laboratory, drawn: Drawn) -> None:
    for model in ("vae", "iwae"):
        laboratory.write(model, drawn(1))
    laboratory.commit()
    for model in ("vae", "iwae"):
        laboratory.write(model, drawn(1), test_sha256="f" * 64)
    with pytest.raises(InputError, match=r"^iwae, vae: the protocol is the same, but the test images differ"):
        laboratory.compare("HEAD")


def test_verdicts_count_how_many_are_compared() -> None:
    """One difference of 2.3 errors is clear, nine together are not, unless all nine are the same difference."""
    rng = np.random.default_rng(0)
    a = rng.normal(-20, 5, 200)

    def beyond(noise: np.ndarray) -> tuple[Scored, Scored]:
        noise = (noise - noise.mean()) / noise.std(ddof=1)
        return scored(a, kind="exact"), scored(a + noise - 2.3 / math.sqrt(200), kind="exact")

    pairs = [beyond(rng.normal(size=200)) for _ in range(9)]
    alone = rows_of(pairs[:1])[0]
    assert (alone.verdict, alone.n_compared, alone.limit) == ("worse", 1, pytest.approx(1.972, abs=1e-3))
    together = rows_of(pairs)
    assert {item.verdict for item in together} == {"cannot tell"}
    assert {item.n_compared for item in together} == {9}
    assert all(item.limit == pytest.approx(2.81, abs=0.06) for item in together)  # t of Sidak's 0.57 % is 2.80
    assert all(
        any(note.startswith("This difference would be clear if it were the only one") for note in item.notes)
        for item in together
    )
    same = rows_of(pairs[:1] * 9)
    assert {item.verdict for item in same} == {"worse"}
    identical = (scored(a, kind="exact"), scored(a, kind="exact"))
    beside = rows_of([pairs[0], *[identical] * 8])  # identical results cannot be called different by chance
    assert [item.verdict for item in beside] == ["worse", *["same"] * 8]


def test_few_or_skewed_images_give_no_verdict() -> None:
    rng = np.random.default_rng(1)
    few = row(scored(np.zeros(19)), scored(rng.normal(-9, 1, 19)))
    assert (few.verdict, few.limit) == ("cannot tell", math.inf)
    assert "No verdict: there are 19 distinct test images, and a verdict needs 20." in few.notes
    skewed = row(scored(np.zeros(100)), scored(-np.exp(2 * rng.normal(size=100))))
    assert skewed.verdict == "cannot tell"
    assert any(note.startswith("No verdict: the differences of the images are skewed (") for note in skewed.notes)


def test_images_that_were_trained_on_are_named(drawn: Drawn) -> None:
    seen = {"n_training_images": 10, "bpd_without_training_images": 1.25}
    words = "10 of the 40 test images are training images too, and without them it is 1.2500 bits/dim (§)."
    assert f"A and B: {words}" in row(scored(drawn(0), **seen), scored(drawn(1), **seen)).notes
    assert f"B: {words}" in row(scored(drawn(0)), scored(drawn(1), **seen)).notes
    assert not any("training images" in note for note in row(scored(drawn(0)), scored(drawn(1))).notes)
