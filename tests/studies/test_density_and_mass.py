"""The study of density and mass agrees with closed forms, many digits, quadrature and codes that are decoded."""

from __future__ import annotations

import heapq
import itertools
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

from bitsperdim.core.files import StoredArray, write_json, write_npy
from bitsperdim.core.units import nats_to_bits
from bitsperdim.estimators.log_weights import leading_bias
from bitsperdim.studies import density_and_mass
from bitsperdim.studies.density_and_mass import bound, coding, collapse, hypotheses
from support.cases import write_study

FAR = 4.9  # a two-sided z of 4.9 is exceeded by chance once in a million
# (a) two hypotheses


def test_the_posterior_is_that_of_the_closed_form() -> None:
    """The posteriors are the numbers in the essay, 0.6225 and 0.3775, and sigmoid(1/2) to the last digit."""
    said = hypotheses.summary()
    assert said["likelihood_ratio"] == pytest.approx(math.exp(0.5), rel=1e-15)
    assert said["posterior_b"] == pytest.approx(1 / (1 + math.exp(-0.5)), rel=1e-15)
    assert round(said["posterior_b"], 4) == 0.6225
    assert round(said["posterior_a"], 4) == 0.3775
    assert hypotheses.posterior(0.2, 0.3, prior_b=0.1) == pytest.approx(0.03 / 0.21)


@pytest.mark.parametrize("centre", [1.0, 0.0, -3.5, 12.0])
@pytest.mark.parametrize("width", [16.0, 3.0, 0.5, 1e-3, 1e-9])
def test_intervals_agree_with_many_digits(centre: float, width: float) -> None:
    with mpmath.workdps(60):
        low, high = mpmath.mpf(centre) - mpmath.mpf(width) / 2, mpmath.mpf(centre) + mpmath.mpf(width) / 2
        exact = mpmath.erfc(low / mpmath.sqrt(2)) / 2 - mpmath.erfc(high / mpmath.sqrt(2)) / 2
        found = hypotheses.interval_probability(centre, width, 0.0)
        # a rounded centre changes the density in the tail by |centre| eps
        assert abs(found / exact - 1) < 1e-12


def test_the_ratio_of_intervals_tends_to_the_ratio_of_densities() -> None:
    """To leading order the ratio is e^(1/2) (1 - w^2 / 24): p''/p is 0 under A and -1 under B at y = 1."""
    rows = hypotheses.by_width()
    ratios = [row["ratio"] for row in rows]
    assert ratios == sorted(ratios)
    assert ratios[0] == pytest.approx(1, abs=1e-6)  # an interval that contains all the mass gives no information
    for row in rows:
        if row["width"] < 0.1:
            expected = math.exp(0.5) * (1 - row["width"] ** 2 / 24)
            assert row["ratio"] == pytest.approx(expected, rel=1e-2 * row["width"] ** 2)
    assert ratios[-1] == pytest.approx(math.exp(0.5), rel=1e-7)


def test_a_unit_changes_the_densities_and_not_the_ratio() -> None:
    units = hypotheses.by_unit()
    for name, per_metre in hypotheses.UNITS.items():
        assert units[name]["density_a"] * per_metre == pytest.approx(units["metre"]["density_a"], rel=1e-14)
        assert units[name]["ratio"] == pytest.approx(math.exp(0.5), rel=1e-13)
        assert hypotheses.interval_probability(per_metre, 0.1 * per_metre, 0.0, per_metre) == pytest.approx(
            hypotheses.interval_probability(1.0, 0.1, 0.0), rel=1e-13
        )


# (b) the collapse

DISTRIBUTIONS = {
    "fair coin": np.array([0.5, 0.5]),
    "black": np.array([0.87, 0.13]),
    "gaps": np.array([0.5, 0.0, 0.0, 0.2, 0.3, 0.0]),
    "one": np.array([0.0, 1.0]),
    "digits": np.array([0.5, *[0.03] * 14, 0.08]),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_dequantized_data_keep_the_entropy_as_a_bound(name: str) -> None:
    p = DISTRIBUTIONS[name]
    fits = collapse.fit_both(p, 300, 0.1, np.random.default_rng(0))
    entropy = nats_to_bits(collapse.entropy(p))
    assert all(row["dequantized_bits"] > entropy for row in fits.rows)
    assert fits.rows[-1]["dequantized_bits"] >= fits.mass_bits >= entropy
    assert fits.rows[-1]["dequantized_bits"] < entropy + 0.5  # the fit has made progress
    assert fits.rows[-1]["raw_bits"] < entropy - 3


def test_a_density_of_whole_numbers_falls_without_end() -> None:
    """In the end, each step lowers every log-scale by half the step size, so O(b) steps reach a bound of b bits."""
    p = DISTRIBUTIONS["gaps"]
    rows = collapse.fit_both(p, 2_000, 0.25, np.random.default_rng(0)).rows
    bits = np.array([row["raw_bits"] for row in rows])
    assert (np.diff(bits) < 0).all()
    for lowest in (-10, -100, -300):
        assert bits[-1] < lowest
    per_step = (bits[-1] - bits[-2]) / (rows[-1]["step"] - rows[-2]["step"])
    assert per_step == pytest.approx(-nats_to_bits(0.25 / 2), rel=1e-6)


def test_the_smallest_scale_is_that_of_the_density_that_collapses() -> None:
    """With a single level, the height of the peak gives its width; the fit to x + u keeps the width of a cell."""
    fits = collapse.fit_both(DISTRIBUTIONS["one"], 500, 0.25, np.random.default_rng(0))
    assert fits.smallest_scale < 1e-20
    assert fits.rows[-1]["raw_bits"] == pytest.approx(math.log2(math.sqrt(2 * math.pi) * fits.smallest_scale))


def test_a_step_is_the_scaled_gradient() -> None:
    """A step agrees with autograd divided by the information that the docstring states."""
    rng = np.random.default_rng(0)
    x, u, p = np.array([0.0, 1.0, 3.0]), rng.random(3), np.array([0.5, 0.2, 0.3])
    mixture = collapse.NormalMixture(x, np.array([0.3, 0.3, 0.4]), 0.3 * rng.random(3), np.array([-0.3, 0.2, 0.1]))
    logits = torch.tensor(np.log(mixture.weights), requires_grad=True)
    shifts, log_scales = (torch.tensor(v, requires_grad=True) for v in (mixture.shifts, mixture.log_scales))
    components = torch.distributions.Normal(torch.tensor(x) + shifts, log_scales.exp())
    log_p = torch.logsumexp(torch.log_softmax(logits, 0) + components.log_prob(torch.tensor(x + u)[:, None]), -1)
    assert mixture.log_density(x, u) == pytest.approx(log_p.detach().numpy(), rel=1e-13)
    (torch.tensor(p) @ log_p).backward()
    scales = np.exp(mixture.log_scales)
    with torch.no_grad():  # responsibilities of the components
        log_parts = torch.log_softmax(logits, 0) + components.log_prob(torch.tensor(x + u)[:, None])
        total = (torch.tensor(p)[:, None] * torch.softmax(log_parts, -1)).sum(0).numpy()
    moved = [mixture.weights.copy(), mixture.shifts.copy(), mixture.log_scales.copy()]
    mixture.step(x, u, p, 0.1)
    gradients = [logits.grad, shifts.grad, log_scales.grad]
    # the gradient with respect to the logits is sum r - pi, which is already the natural gradient of the weights
    informations = [np.ones(3), total / scales**2, 2 * total]
    for before, after, gradient, information in zip(
        moved, (mixture.weights, mixture.shifts, mixture.log_scales), gradients, informations, strict=True
    ):
        assert gradient is not None
        assert after - before == pytest.approx(0.1 * gradient.numpy() / information, rel=1e-12)
    assert mixture.weights.sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("step_size", [0.1, 0.25])
@pytest.mark.parametrize("kind", ["many levels", "rare levels", "one that has almost all", "two levels"])
def test_no_levels_overflow(kind: str, step_size: float) -> None:
    """Shares of 256 levels are uneven, so initial weights are far above or below the responsibilities."""
    shares = {
        "many levels": 1 + np.random.default_rng(0).random(256),
        "rare levels": np.random.default_rng(0).random(256) ** 12 + 1e-9,
        "one that has almost all": np.array([1e6, *np.ones(255)]),
        "two levels": np.array([1.0, 1e-7]),
    }[kind]
    with np.errstate(all="raise", under="ignore"):
        fits = collapse.fit_both(shares / shares.sum(), 600, step_size, np.random.default_rng(1))
    values = np.array([list(row.values()) for row in fits.rows])
    assert np.isfinite(values).all()
    assert fits.rows[-1]["raw_bits"] < -30  # each step lowers it by about half the step size, in nats
    assert fits.rows[-1]["dequantized_bits"] >= fits.mass_bits >= 0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_expectation_over_noise_is_exact(name: str) -> None:
    fits = collapse.fit_both(DISTRIBUTIONS[name], 150, 0.1, np.random.default_rng(1))
    assert fits.quadrature_error < 1e-9


# (c) the bound


def test_the_masses_sum_to_one_and_agree_with_many_digits() -> None:
    log_masses = bound.log_masses()
    assert log_masses.exp().sum().item() == pytest.approx(1, abs=1e-15)

    def cdf(y: float) -> mpmath.mpf:
        parts = zip(bound.WEIGHTS, bound.LOCS, bound.SCALES, strict=True)
        return sum(w / (1 + mpmath.exp((mpmath.mpf(m) - y) / mpmath.mpf(s))) for w, m, s in parts)

    with mpmath.workdps(40):
        for x in range(bound.N_LEVELS):
            exact = mpmath.log(cdf(x + 1) - cdf(x))
            assert abs(log_masses[x + 1].item() - exact) < 1e-13
        assert abs(log_masses[0].item() - mpmath.log(cdf(0))) < 1e-13
    assert bound.by_quadrature()[2].log().tolist() == pytest.approx(log_masses[1:-1].tolist(), abs=1e-12)


def test_the_mean_log_density_is_below_the_log_mass() -> None:
    elbo, cv_squared, _ = bound.by_quadrature()
    assert (elbo < bound.log_masses()[1:-1]).all()
    assert (cv_squared > 0).all()


def gap_of_two_samples() -> float:
    """Return the exact gap at K = 2: the average of log((p + p') / 2) over both samples, on a grid of nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    u = torch.tensor((np.arange(100)[:, None] + (nodes + 1) / 2).ravel() / 100)
    w = torch.tensor(np.tile(weights / 2, 100) / 100)
    log_mass = bound.log_masses()[1:-1]
    share = torch.softmax(log_mass, 0)
    total = 0.0
    for level in range(bound.N_LEVELS):
        log_p = bound.log_density(level + u)
        both = torch.logaddexp(log_p[:, None], log_p) - math.log(2)  # mean of two samples
        total += float(share[level] * (log_mass[level] - w @ both @ w))
    return total


def test_the_gap_is_the_one_by_quadrature() -> None:
    """There are three z-scores; each exceeds FAR once in a million."""
    result = bound.estimate_again_and_again(200, 256, torch.Generator().manual_seed(3))
    rows = {row["n_samples"]: row for row in result.against_k}
    assert abs(rows[1]["gap"] - result.summary["gap_exact"]) < FAR * rows[1]["gap_error"]
    assert abs(rows[2]["gap"] - gap_of_two_samples()) < FAR * rows[2]["gap_error"]
    last = rows[256]
    second_order = 2 * last["leading"] ** 2  # order CV^4 / K^2
    assert abs(last["gap"] - last["leading"]) < FAR * last["gap_error"] + second_order
    gaps = [row["gap"] for row in result.against_k]
    assert gaps == sorted(gaps, reverse=True)  # for every seed, because the blocks are nested
    assert rows[256]["coverage"] > 0.9
    assert rows[2]["coverage"] < 0.7
    assert rows[256]["error_ratio"] == pytest.approx(1, abs=0.15)


def test_the_leading_order_is_that_of_the_estimator() -> None:
    """The evaluator's estimate of the leading bias agrees with the quadrature of CV^2, over many samples."""
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, cv_squared, _ = bound.by_quadrature()
    for level in (2, 5):
        estimated = leading_bias(bound.log_density(level + u)[:, None]).item()
        assert estimated == pytest.approx(-cv_squared[level].item() / (2 * len(u)), rel=0.05)


# (d) codes


def kraft(lengths: np.ndarray) -> float:
    return float((0.5 ** lengths.astype(float)).sum())


def best_lengths(p: list[float]) -> float:
    """Return the smallest mean length of any prefix code, by trying all lengths that satisfy Kraft's inequality."""
    choices = itertools.product(range(1, len(p)), repeat=len(p))
    return min(float(np.dot(p, c)) for c in choices if sum(0.5**length for length in c) <= 1)


def test_the_error_of_a_coverage_is_that_of_independent_levels() -> None:
    """With one level the error is binomial; with two levels of equal shares it is smaller by the root of two."""
    log_w = torch.randn(8, 1, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth, one = torch.full((2,), 0.5, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    alone = bound._error_bars(log_w, truth[:1], one)
    share = alone["coverage"]
    assert 0.6 < share < 0.99
    assert alone["coverage_error"] == pytest.approx(math.sqrt(share * (1 - share) / 399))
    both = bound._error_bars(log_w.expand(8, 2, 400), truth, one.expand(2) / 2)
    assert both["coverage"] == pytest.approx(share)
    assert both["coverage_error"] == pytest.approx(alone["coverage_error"] / math.sqrt(2))


def test_huffman_codes_are_complete_and_optimal() -> None:
    rng = np.random.default_rng(0)
    # the textbook's case (Cover and Thomas, example 5.6.1): lengths 2 2 2 3 3, mean 2.3 bits
    assert sorted(coding.huffman_lengths([0.25, 0.25, 0.2, 0.15, 0.15])) == [2, 2, 2, 3, 3]
    assert coding.huffman_lengths([5.0]).tolist() == [0]
    for n in (2, 3, 17, 256):
        p = rng.dirichlet(np.full(n, 0.3)) + 1e-12
        p /= p.sum()
        lengths = coding.huffman_lengths(p)
        assert kraft(lengths) == pytest.approx(1, abs=1e-15)
        mean, entropy = float(p @ lengths), nats_to_bits(collapse.entropy(p))
        assert entropy <= mean < entropy + 1
        shannon = coding.shannon_lengths([int(w) for w in np.maximum(1, p * 1e9)])
        assert kraft(shannon) <= 1
        assert mean <= float(p @ shannon) + 1e-9
    for _ in range(5):
        p = rng.dirichlet(np.ones(5))
        assert float(p @ coding.huffman_lengths(p)) == pytest.approx(best_lengths(p.tolist()), rel=1e-12)


def test_shannon_lengths_are_exact_at_powers_of_two() -> None:
    assert coding.shannon_lengths([1, 1, 2, 4]).tolist() == [3, 3, 2, 1]
    counts = [1, 2**40 - 1]
    assert coding.shannon_lengths(counts).tolist() == [40, 1]


@pytest.mark.parametrize("counts", [[1, 1], [0, 7], [100, 1, 0, 3], list(range(1, 60)), [10**6, *[1] * 255]])
def test_messages_are_read_back(counts: list[int]) -> None:
    rng = np.random.default_rng(0)
    p = np.array(counts) / sum(counts)
    message = rng.choice(len(p), size=500, p=p).tolist()
    state = coding.write_state(message, counts)
    assert coding.read_state(state, counts, 500) == message
    surprise = nats_to_bits(-np.log(p[message]).sum())
    assert state.bit_length() - 1 - coding.FIRST_BITS == pytest.approx(surprise, abs=2)
    seen = np.flatnonzero(counts)
    table = coding.words(coding.huffman_lengths([counts[i] for i in seen]))
    symbols = [int(np.searchsorted(seen, s)) for s in message]
    bits = "".join(table[s] for s in symbols)
    assert coding.read_words(bits, table, 500) == symbols
    for word, other in itertools.permutations(table, 2):
        assert not other.startswith(word)


def test_a_message_read_with_another_code_is_noticed() -> None:
    state = coding.write_state([0, 1, 2] * 20, [3, 2, 1])
    with pytest.raises(ValueError, match="was not written with these frequencies"):
        coding.read_state(state, [1, 2, 3], 60)
    with pytest.raises(ValueError, match="ends in the middle of a word"):
        coding.read_words("01", ["00", "01", "1"], 2)


def test_the_wrong_code_costs_the_divergence() -> None:
    counts = np.array([500, 20, 0, 60, 100])
    result = coding.messages(counts, 4_000, np.random.default_rng(0))
    p = counts / counts.sum()
    for name, frequencies in coding.made_for(counts).items():
        code, q = result["codes"][name], np.array(frequencies) / sum(frequencies)
        seen = p > 0
        cross = nats_to_bits(-float(p[seen] @ np.log(q[seen])))
        assert code["cross_entropy_bits"] == pytest.approx(cross, rel=1e-12)
        assert code["divergence_bits"] >= 0
        assert abs(code["message_bits"] - cross) < FAR * code["message_error_bits"] + 2 / 4_000
    assert result["codes"]["data"]["divergence_bits"] == 0
    assert coding.divergence(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == math.inf
    one_way = coding.divergence(np.array([0.9, 0.1]), np.array([0.5, 0.5]))
    assert one_way == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))


def test_the_table_of_words_holds_the_most_frequent_levels() -> None:
    """Of equally frequent levels, the first comes first; a level that does not occur has no word."""
    counts = np.array([5, 0, 2, 9, 9, 1])
    table = coding.code_table(counts)
    assert [row["level"] for row in table] == [3, 4, 0, 2, 5]
    assert coding.code_table(counts, 3) == table[:3]
    lengths = dict(zip((0, 2, 3, 4, 5), coding.huffman_lengths([5, 2, 9, 9, 1]), strict=True))
    for row in table:
        assert row["probability"] == pytest.approx(counts[row["level"]] / 26)
        assert row["surprise_bits"] == pytest.approx(-math.log2(row["probability"]))
        assert row["shannon_length"] == math.ceil(row["surprise_bits"])
        assert len(row["word"]) == lengths[row["level"]]


def test_blocks_approach_the_entropy() -> None:
    counts = np.array([87, 13])
    entropy = nats_to_bits(collapse.entropy(counts / 100))
    rows = coding.blocks(counts)
    assert [row["block"] for row in rows] == list(range(1, coding.MAX_BLOCK + 1))
    for row in rows:
        for key in ("huffman_bits", "shannon_bits"):
            assert entropy <= row[key] < entropy + 1 / row["block"]
    assert rows[-1]["huffman_bits"] < entropy + 0.01
    assert max(row["words"] for row in coding.blocks(np.arange(1, 18))) <= coding.MAX_BLOCKS


# the whole study


def prepared(folder: Path, images: np.ndarray, n_levels: int) -> Path:
    """Write training images as ``dequantize`` does."""
    write_npy(folder / "train" / "images.npy", images.shape, images.dtype, [images])
    described = {
        "image_shape": images.shape[1:],
        "n_levels": n_levels,
        "train_levels": n_levels,
        "binarization": "none",
        "n_images": {"train": len(images)},
        "test_sha256": "",
        "protocol": "",
    }
    write_json(folder / "description.json", described)
    return folder


def test_the_levels_are_counted_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 5, (100, 1, 4, 5), dtype=np.uint8)
    folder = prepared(tmp_path, images, 7)
    everything = density_and_mass.count_levels(folder, 10**6)
    assert everything.counts.tolist() == np.bincount(images.ravel(), minlength=7).tolist()
    assert (everything.n_images, everything.n_pixels) == (100, 2_000)

    read: list[int] = []
    original = StoredArray.__getitem__

    def spy(self: StoredArray, rows: np.ndarray) -> np.ndarray:
        read.extend(rows.tolist())
        return original(self, rows)

    monkeypatch.setattr(StoredArray, "__getitem__", spy)
    some = density_and_mass.count_levels(folder, 219)
    assert (some.n_images, some.n_pixels) == (10, 200)
    assert read == list(range(0, 100, 10))  # rows are spread over the set, and read once
    assert density_and_mass.count_levels(folder, 1).n_images == 1


@pytest.mark.parametrize("counts", [[40, 3, 0, 7, 50], [9, 1], [0, 5], [1, *[0] * 254, 1]])
def test_a_rerun_is_byte_identical(counts: list[int], tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        write_study(tmp_path / name, counts)
        written.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())})
    assert written[0] == written[1]
    assert len(written[0]) == 10
    assert b"nan" not in b"".join(written[0].values()).lower()


def test_the_heap_is_that_of_the_textbook() -> None:
    """The mean length equals the sum of all merged weights, which is another way to compute it."""
    weights = np.random.default_rng(2).random(40)
    heap, total = list(weights), 0.0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    assert float(weights @ coding.huffman_lengths(weights)) == pytest.approx(total, rel=1e-12)
