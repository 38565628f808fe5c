"""The study of a rare delay agrees with closed forms, brute force, many digits and simulation."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

from bitsperdim.core.errors import InputError
from bitsperdim.studies import project_delay
from bitsperdim.studies.project_delay import cross_entropy, estimators, proposals
from bitsperdim.studies.project_delay.chain import Chain
from bitsperdim.studies.project_delay.network import PROJECT, Project, completion_times, critical_path, finishing_times
from support.cases import TINY_DELAY

FAR = 4.9  # a two-sided z of 4.9 is exceeded by chance once in a million
DEADLINE = 70.0
CHAIN = Chain(PROJECT)
SERIES = Project((2.0, 3.0), ((), (0,)))
PARALLEL = Project((2.0, 3.0), ((), ()))


def all_paths(project: Project) -> list[tuple[int, ...]]:
    """Return all chains of tasks by brute force: each task waits for the one before it, the first waits for none."""
    return [
        tasks
        for size in range(1, project.n_tasks + 1)
        for tasks in itertools.combinations(range(project.n_tasks), size)
        if not project.predecessors[tasks[0]]
        and all(earlier in project.predecessors[later] for earlier, later in itertools.pairwise(tasks))
    ]


def simulated(project: Project, n_samples: int) -> np.ndarray:
    return np.random.default_rng(1).standard_exponential((n_samples, project.n_tasks)) * project.means


# the project


def test_the_completion_time_is_that_of_the_longest_path() -> None:
    durations = simulated(PROJECT, 200)
    expected = np.max([durations[:, list(path)].sum(1) for path in all_paths(PROJECT)], axis=0)
    assert completion_times(PROJECT, durations) == pytest.approx(expected, rel=1e-14)
    assert finishing_times(PROJECT, durations).max(1) == pytest.approx(expected, rel=1e-14)
    assert completion_times(PARALLEL, durations[:, :2]) == pytest.approx(durations[:, :2].max(1))


def test_the_critical_path_is_the_longest_at_the_means() -> None:
    lengths = {path: sum(PROJECT.means[task] for task in path) for path in all_paths(PROJECT)}
    path = critical_path(PROJECT)
    assert path == max(lengths, key=lambda tasks: lengths[tasks])
    assert [task + 1 for task in path] == [1, 2, 4, 10]
    for durations in simulated(PROJECT, 50):
        found = critical_path(PROJECT, durations)
        assert found in lengths
        assert durations[list(found)].sum() == pytest.approx(completion_times(PROJECT, durations[None])[0])
    assert critical_path(Project((2.0, 2.0, 1.0, 1.0), ((), (), (0, 1), (1, 0)))) == (
        0,
        2,
    )  # the first of equally long paths


@pytest.mark.parametrize(
    ("means", "predecessors"),
    [((1.0,), ()), ((0.0,), ((),)), ((math.inf,), ((),)), ((1.0, 1.0), ((1,), ())), ((1.0,), ((0,),))],
)
def test_what_is_no_project_is_refused(means: tuple[float, ...], predecessors: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="task"):
        Project(means, predecessors)


# the chain


def test_the_exact_values_are_those_published() -> None:
    assert len(CHAIN.states) == 51
    assert math.exp(CHAIN.log_tail(DEADLINE)) == pytest.approx(3.2115e-5, abs=5e-10)
    assert CHAIN.mean() == pytest.approx(18.2101, abs=5e-5)


def test_two_tasks_agree_with_closed_forms() -> None:
    """Tasks in sequence have the hypoexponential distribution; parallel tasks take the larger of two durations."""
    a, b = 1 / 2, 1 / 3
    for t in (0.0, 0.3, 5.0, 60.0):
        in_a_row = (a * math.exp(-b * t) - b * math.exp(-a * t)) / (a - b)
        together = math.exp(-a * t) + math.exp(-b * t) - math.exp(-(a + b) * t)
        assert math.exp(Chain(SERIES).log_tail(t)) == pytest.approx(in_a_row, rel=1e-12)
        assert math.exp(Chain(PARALLEL).log_tail(t)) == pytest.approx(together, rel=1e-12)
    assert Chain(SERIES).mean() == pytest.approx(5.0, rel=1e-14)
    assert Chain(PARALLEL).mean() == pytest.approx(2 + 3 - 1 / (a + b), rel=1e-14)
    steps, density = Chain(SERIES).distribution(0.5, 40)
    t = 0.5 * np.arange(41)
    assert density == pytest.approx(a * b / (a - b) * (np.exp(-b * t) - np.exp(-a * t)), rel=1e-12, abs=1e-15)
    assert steps[0] == 1


@pytest.mark.parametrize(("t", "scale"), [(70.0, 1.0), (70.0, 0.4), (1.0, 1.0)])
def test_tails_agree_with_many_digits(t: float, scale: float) -> None:
    """Erlang tails, and the whole project by the power series of its generator, which needs many digits."""
    equal = Project((2.0 * scale,) * 5, ((), (0,), (1,), (2,), (3,)))
    with mpmath.workdps(60):
        x = mpmath.mpf(t) / (2 * mpmath.mpf(scale))
        erlang = mpmath.exp(-x) * sum(x**k / mpmath.factorial(k) for k in range(5))
        assert abs(math.exp(Chain(equal).log_tail(t)) / erlang - 1) < 1e-11
    project = Project(tuple(scale * mean for mean in PROJECT.means), PROJECT.predecessors)
    assert math.exp(Chain(project).log_tail(t)) == pytest.approx(float(tail_by_series(project, t)), rel=1e-11)


def tail_by_series(project: Project, t: float) -> mpmath.mpf:
    """Return P(T >= t) by e^(tA) 1 = sum of (tA)^k 1 / k!, with enough digits for terms as large as e^900."""
    chain = Chain(project)
    with mpmath.workdps(460):
        rates = [1 / mpmath.mpf(mean) for mean in project.means]
        leaving = [sum(rates[task] for before, _, task in chain.steps if before == s) for s in range(len(chain.states))]
        vector = [mpmath.mpf(1)] * (len(chain.states) - 1) + [mpmath.mpf(0)]
        total, order = mpmath.mpf(1), 0
        while max(abs(value) for value in vector) > mpmath.mpf(10) ** -60:
            order += 1
            after = [-leaving[s] * vector[s] for s in range(len(vector) - 1)] + [mpmath.mpf(0)]
            for before, to, task in chain.steps:
                after[before] += rates[task] * vector[to]
            vector = [value * mpmath.mpf(t) / order for value in after]
            total += vector[0]
        return total


def test_the_distribution_is_the_one_simulated() -> None:
    """At 29 times; some share of n draws deviates by more than 4.9 standard errors in 3 of 100,000 runs."""
    times = completion_times(PROJECT, simulated(PROJECT, 100_000))
    tails, density = CHAIN.distribution(2.0, 29)
    for index in range(1, 30):
        error = math.sqrt(tails[index] * (1 - tails[index]) / len(times))
        assert abs((times >= 2.0 * index).mean() - tails[index]) < FAR * error + 1e-9
    fine, heights = CHAIN.distribution(0.01, 6_000)
    assert 0.005 * (heights[:-1] + heights[1:]).sum() == pytest.approx(1 - fine[-1], abs=1e-6)
    assert np.trapezoid(fine, dx=0.01) == pytest.approx(CHAIN.mean(), abs=1e-2)
    assert heights[::200][:30] == pytest.approx(density, rel=1e-9, abs=1e-15)
    assert abs(times.mean() - CHAIN.mean()) < FAR * times.std() / math.sqrt(len(times))


def test_durations_given_a_delay_are_those_simulated() -> None:
    """Each of ten means deviates by over 4.9 standard errors once in a million runs; none is below the true mean."""
    durations = simulated(PROJECT, 200_000)
    late = durations[completion_times(PROJECT, durations) >= 25.0]
    expected = CHAIN.mean_durations_given_delay(25.0).numpy()
    assert (np.abs(late.mean(0) - expected) < FAR * late.std(0) / math.sqrt(len(late))).all()
    assert (CHAIN.mean_durations_given_delay(DEADLINE).numpy() > PROJECT.means).all()


# proposals


def test_weights_are_ratios_of_densities() -> None:
    means = np.array(PROJECT.means) * np.linspace(0.4, 5, 10)
    durations = simulated(PROJECT, 20)
    log_p, log_q = (
        torch.distributions.Exponential(1 / torch.tensor(of)).log_prob(torch.from_numpy(durations)).sum(1)
        for of in (np.array(PROJECT.means), means)
    )
    assert proposals.log_weights(PROJECT, means, durations) == pytest.approx((log_p - log_q).numpy(), rel=1e-12)
    assert proposals.log_weights(PROJECT, np.array(PROJECT.means), durations) == pytest.approx(np.zeros(20), abs=1e-14)


def test_the_second_moment_is_the_one_simulated() -> None:
    """The mean of squared weights is simulated by draws from the proposal itself at a deadline that is not rare, and by
    draws from the tilted project at a rare one; each z of 4.9 is exceeded by chance once in a million runs.
    """
    means = proposals.scaled(PROJECT, 1.5, critical_path(PROJECT), 1.2)
    log_w, is_late = estimators.draw(PROJECT, means, 25.0, 200_000, np.random.default_rng(2))
    squares = torch.exp(2 * estimators.of_late(log_w, is_late))
    exact = math.exp(proposals.log_second_moment(CHAIN, 1 / torch.from_numpy(means), 25.0))
    assert abs(float(squares.mean()) - exact) < FAR * float(squares.std()) / math.sqrt(len(squares))

    means = proposals.scaled(PROJECT, 4.0, critical_path(PROJECT))
    own = np.array(PROJECT.means)
    tilted = Project(tuple(1 / (2 / own - 1 / means)), PROJECT.predecessors)
    constant = (means / own**2 * tilted.means).prod()
    best = proposals.least_variance(Chain(tilted), DEADLINE)
    found = estimators.estimate(*estimators.draw(tilted, best, DEADLINE, 200_000, np.random.default_rng(3)), 1.0)
    exact = math.exp(proposals.log_second_moment(CHAIN, 1 / torch.from_numpy(means), DEADLINE))
    assert found.ess > 300
    assert abs(constant * found.probability - exact) < FAR * constant * found.standard_error


def test_the_exact_variances_are_those_worked_out() -> None:
    """For one task, E[w^2 1{t >= d}] = s^2 / (2 s - 1) e^(-(2 - 1/s) d); for naive draws, the variance is P (1 - P)."""
    one = Chain(Project((3.0,), ((),)))
    for scale in (0.6, 1.0, 4.0):
        second = scale**2 / (2 * scale - 1) * math.exp(-(2 - 1 / scale) * 5.0 / 3)
        expected = second - math.exp(-10.0 / 3)
        assert proposals.variance(one, np.array([3.0 * scale]), 5.0) == pytest.approx(expected, rel=1e-12)
    p = math.exp(CHAIN.log_tail(DEADLINE))
    assert proposals.variance(CHAIN, np.array(PROJECT.means), DEADLINE) == pytest.approx(p * (1 - p), rel=1e-11)
    everything = np.array(PROJECT.means) * 4
    assert proposals.effective_share(PROJECT, everything) == pytest.approx((7 / 16) ** 10, rel=1e-14)
    assert proposals.variance(CHAIN, everything, 1e-9) == pytest.approx((16 / 7) ** 10 - 1, rel=1e-9)


def test_half_the_mean_has_infinite_variance() -> None:
    for task in range(PROJECT.n_tasks):
        for scale, is_finite in ((0.501, True), (0.5, False), (0.2, False)):
            means = proposals.scaled(PROJECT, scale, (task,), 2.0)
            assert math.isfinite(proposals.variance(CHAIN, means, DEADLINE)) == is_finite
            assert (proposals.effective_share(PROJECT, means) > 0) == is_finite


@pytest.mark.parametrize("deadline", [20.0, 70.0, 200.0])
def test_the_least_variance_is_the_least(deadline: float) -> None:
    best = proposals.least_variance(CHAIN, deadline)
    least = proposals.log_second_moment(CHAIN, 1 / torch.from_numpy(best), deadline)
    rng = np.random.default_rng(0)
    for size in (1e-3, 0.1):
        for _ in range(20):
            other = best * np.exp(size * rng.standard_normal(10))
            assert proposals.log_second_moment(CHAIN, 1 / torch.from_numpy(other), deadline) > least
    for other in (np.array(PROJECT.means), CHAIN.mean_durations_given_delay(deadline).numpy()):
        assert proposals.variance(CHAIN, best, deadline) < proposals.variance(CHAIN, other, deadline)


# the cross-entropy method


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_method_finds_the_durations_of_late_projects(seed: int) -> None:
    """The method reduces the exact variance by a factor of at least 100; over 12 seeds, the smallest factor was 176.

    A round also has heavy weights, and one of them can move a mean. Means on the critical path are within a quarter.
    """
    rounds = cross_entropy.optimize(
        PROJECT,
        DEADLINE,
        n_samples=20_000,
        elite_share=0.1,
        n_final=2,
        max_rounds=50,
        generator=np.random.default_rng(seed),
    )
    levels = [done.level for done in rounds]
    assert levels == sorted(levels)
    assert levels[-2:] == [DEADLINE, DEADLINE]
    assert all(done.n_late >= 2_000 for done in rounds)
    found, exact = rounds[-1].means, CHAIN.mean_durations_given_delay(DEADLINE).numpy()
    assert (found >= PROJECT.means).all()
    path = list(critical_path(PROJECT)[:3])
    assert found[path] == pytest.approx(exact[path], rel=0.25)
    p = math.exp(CHAIN.log_tail(DEADLINE))
    assert p * (1 - p) / proposals.variance(CHAIN, found, DEADLINE) > 100


@pytest.mark.parametrize("n_samples", [1_000, 1_004, 1_009])
def test_no_level_is_higher_than_the_share_of_the_draws_that_must_reach_it(n_samples: int) -> None:
    """This also holds if the share is not a whole number of draws."""
    rounds = cross_entropy.optimize(
        PROJECT,
        30.0,
        n_samples=n_samples,
        elite_share=0.3,
        n_final=1,
        max_rounds=50,
        generator=np.random.default_rng(0),
    )
    assert len(rounds) > 1
    assert all(done.n_late >= 0.3 * n_samples for done in rounds)
    assert all(done.n_late <= 0.3 * n_samples + 2 for done in rounds[:-1])


def test_a_deadline_out_of_reach_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"reached .* in 2 rounds, but not project_delay.deadline = 70; raise") as e:
        cross_entropy.optimize(
            PROJECT,
            DEADLINE,
            n_samples=100,
            elite_share=0.5,
            n_final=1,
            max_rounds=2,
            generator=np.random.default_rng(0),
        )
    assert "\n" not in str(e.value)


# estimates


def test_estimates_are_unbiased_with_the_exact_variance() -> None:
    """The test makes 400 estimates of a moderate probability with three proposals.

    The mean deviates by more than 4.9 of its standard errors once in a million runs. The spread of 400 estimates has a
    relative standard error of about 3.5 %, and 5 times as much is allowed.
    """
    deadline, n, r = 30.0, 500, 400
    p = math.exp(CHAIN.log_tail(deadline))
    for index, scale in enumerate((1.0, 1.4, 1.8)):
        means = proposals.scaled(PROJECT, scale, critical_path(PROJECT))
        draws = estimators.draw(PROJECT, means, deadline, n * r, np.random.default_rng(index))
        found = torch.logsumexp(estimators.of_late(*draws).reshape(n, r), 0).exp() / n
        exact = math.sqrt(proposals.variance(CHAIN, means, deadline) / n)
        assert abs(float(found.mean()) - p) < FAR * exact / math.sqrt(r)
        assert float(found.std()) == pytest.approx(exact, rel=0.18)
        whole = estimators.estimate(*draws, p)
        assert whole.probability == pytest.approx(float(found.mean()), rel=1e-12)
        assert whole.standard_error == pytest.approx(exact / math.sqrt(r), rel=0.1)
        assert whole.variance_reduction == pytest.approx(p * (1 - p) / (n * exact**2), rel=0.2)


def test_an_estimate_is_that_of_the_textbook() -> None:
    log_w = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    is_late = torch.tensor([True, False, True, False])
    found = estimators.estimate(log_w, is_late, 0.25)
    y = np.array([math.exp(0.5), 0.0, math.exp(2.0), 0.0])
    w = log_w.exp().numpy()
    assert found.n_late == 2
    assert found.probability == pytest.approx(y.mean(), rel=1e-14)
    assert found.standard_error == pytest.approx(y.std(ddof=1) / 2, rel=1e-14)
    assert found.ess == pytest.approx(y.sum() ** 2 / (y**2).sum(), rel=1e-14)
    assert found.ess_all == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-14)
    assert found.variance_reduction == pytest.approx(0.25 * 0.75 / y.var(ddof=1), rel=1e-14)


def test_no_late_draw_has_an_unknown_error() -> None:
    found = estimators.estimate(torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.bool), 0.1)
    assert (found.probability, found.n_late, found.ess, found.variance_reduction) == (0, 0, 0, 0)
    assert found.standard_error == math.inf
    held = estimators.coverage(torch.full((9, 3), -torch.inf, dtype=torch.float64), 0.1, 0.09)
    assert (held.coverage, held.empty, held.error_ratio) == (0, 1, 0)


def test_intervals_of_a_fair_coin_hold_as_often_as_promised() -> None:
    """Of 1,000 intervals from 400 naive draws with P = 0.34, 95 % contain P, up to 4.9 standard errors of the share."""
    deadline, n, r = 20.0, 400, 1_000
    p = math.exp(CHAIN.log_tail(deadline))
    means = np.array(PROJECT.means)
    draws = estimators.draw(PROJECT, means, deadline, n * r, np.random.default_rng(5))
    held = estimators.coverage(estimators.of_late(*draws).reshape(n, r), p, p * (1 - p))
    assert abs(held.coverage - 0.95) < FAR * math.sqrt(0.95 * 0.05 / r) + 0.005  # 0.005: n is finite
    assert held.error_ratio == pytest.approx(1, abs=0.02)
    assert held.coverage_error == pytest.approx(math.sqrt(held.coverage * (1 - held.coverage) / r))


def test_a_coverage_is_that_of_its_replicates() -> None:
    """Three replicates of four draws, by hand: 1 +- 0, 1/4 +- 1/4 and 1/2 +- 1/sqrt(12); the ratio is the median."""
    log_event = torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0]], dtype=torch.float64).log()
    found = estimators.coverage(log_event, 0.5, 1.0)
    assert (found.n_samples, found.empty) == (4, 0)
    assert found.coverage == pytest.approx(2 / 3)
    assert found.coverage_error == pytest.approx(math.sqrt(2 / 27))
    assert found.error_ratio == pytest.approx(0.25 / 0.5)


def test_chunks_are_the_draws_of_one_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    means = np.array(PROJECT.means) * 2
    whole = estimators.draw(PROJECT, means, 30.0, 1_000, np.random.default_rng(0))
    monkeypatch.setattr(estimators, "CHUNK", 7)
    parts = estimators.draw(PROJECT, means, 30.0, 1_000, np.random.default_rng(0))
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-13, atol=1e-13)
    assert torch.equal(parts[1], whole[1])


# the tables


def test_the_tables_say_what_the_parts_say() -> None:
    metrics, tables = project_delay.study(TINY_DELAY)
    p = math.exp(CHAIN.log_tail(DEADLINE))
    keys = ["naive", "all_x4", "critical_x2", "critical_x3_5", "cross_entropy", "mistake", "least_variance"]
    assert list(metrics["proposals"]) == keys
    assert [row["proposal"] for row in tables["estimates"]] == [key for key in keys for _ in range(2)]
    assert metrics["exact"] == {"probability": p, "mean": CHAIN.mean(), "n_states": 51}
    assert metrics["naive_without_event"]["n_samples"] == 2_000
    assert (1 - metrics["naive_without_event"]["limit"]) ** 2_000 == pytest.approx(0.05)
    naive, wrong, best = (metrics["proposals"][key] for key in ("naive", "mistake", "least_variance"))
    assert naive["variance_reduction_exact"] == pytest.approx(1, rel=1e-10)
    assert naive["standard_error"] == math.inf
    assert naive["deviation"] == naive["error_factor"] == 0
    assert wrong["variance_is_infinite"]
    assert wrong["variance_reduction_exact"] == 0
    assert wrong["n_samples_for_ten_percent"] == math.inf
    assert best["n_samples_for_ten_percent"] == pytest.approx(1549.16, abs=0.1)
    for item in metrics["proposals"].values():
        if item["n_late"]:  # above 1 the bar is too short, below 1 too long
            assert item["error_factor"] * item["standard_error"] == pytest.approx(item["exact_error"])
            assert item["deviation"] * item["standard_error"] == pytest.approx(item["probability"] - p)
    assert len({item["error_factor"] > 1 for item in metrics["proposals"].values()}) == 2
    for row in tables["estimates"]:
        exact = metrics["proposals"][row["proposal"]]["exact_error"]
        assert row["exact_error"] == pytest.approx(exact * math.sqrt(2_000 / row["n_samples"]))
    late = next(row for row in tables["distribution"] if row["t"] == pytest.approx(DEADLINE))
    assert late["tail"] == pytest.approx(p, rel=1e-10)
    assert [row["mean"] for row in tables["durations"]] == list(PROJECT.means)
    assert [task["task"] for task in metrics["tasks"] if task["is_critical"]] == [1, 2, 4, 10]
    assert metrics["tasks"][8] == {
        "task": 9,
        "mean": 2.0,
        "waits_for": [5, 6, 7],
        "start": 10.0,
        "finish": 12.0,
        "is_critical": False,
    }


def test_no_two_parts_of_the_study_share_their_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two proposals, or an estimate and its replicates, never share draws, because they would share their errors."""
    module, asked = sys.modules["bitsperdim.studies.project_delay.study"], []

    def generator(seed: int, number: int) -> np.random.Generator:
        asked.append((seed, number))
        return np.random.default_rng([seed, number])

    monkeypatch.setattr(module, "_generator", generator)
    project_delay.study(TINY_DELAY)
    assert len(asked) == len(set(asked)) == 1 + 2 * 7


def test_a_rerun_is_byte_identical(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        project_delay.write(tmp_path / folder, *project_delay.study(TINY_DELAY))
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    tables = ["coverage.csv", "distribution.csv", "durations.csv", "estimates.csv", "metrics.json", "rounds.csv"]
    assert names == tables
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    other = project_delay.study(TINY_DELAY.model_copy(update={"seed": 1}))
    project_delay.write(tmp_path / "third", *other)
    for name, is_drawn in (("estimates.csv", True), ("coverage.csv", True), ("distribution.csv", False)):
        same = (tmp_path / "first" / name).read_bytes() == (tmp_path / "third" / name).read_bytes()
        assert same != is_drawn
