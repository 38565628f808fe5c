"""The tables of the study: every proposal at every n, compared with the exact answer.

Two proposals are not methods. One is a mistake, for study: it draws the tasks off the critical path shorter, which
gives an infinite variance that no sample shows. The other is a yardstick: the least variance, found from the known
answer.

Every proposal has two separate generators, and the optimization has another one. All are derived from the same seed, so
no draw is used twice.

Invariants (``tests/studies/test_project_delay.py``): the same parameters give the same bytes
(``test_a_rerun_is_byte_identical``); the exact values in the tables are those of the chain
(``test_the_tables_say_what_the_parts_say``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitsperdim.core.files import write_csv, write_json
from bitsperdim.studies.project_delay import cross_entropy, estimators, proposals
from bitsperdim.studies.project_delay.chain import Chain
from bitsperdim.studies.project_delay.network import PROJECT, critical_path, finishing_times

if TYPE_CHECKING:
    from bitsperdim.config.params import ProjectDelaySection

TIMES = "\N{MULTIPLICATION SIGN}"
CURVE_POINTS = 280  # points of the curve of the distribution
CURVE_REACH = 1.4  # end of the curve, as a multiple of the deadline
WANTED_ERROR = 0.1  # relative error for which the tables give the number of draws

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Proposal:
    """A proposal: means with which durations are drawn.

    Attributes:
        key: key of the proposal in the tables.
        label: label of the proposal in the report.
        role: ``method``, ``mistake`` or ``yardstick``.
        means: (n_tasks,) means.
    """

    key: str
    label: str
    role: str
    means: np.ndarray


def all_proposals(section: ProjectDelaySection, chain: Chain, found: np.ndarray) -> list[Proposal]:
    """Return every proposal in the order of the report.

    Args:
        section: section with the scales of the proposals.
        chain: Markov chain of the project.
        found: (n_tasks,) means found by the cross-entropy method.
    """
    path = critical_path(PROJECT)
    everything = tuple(range(PROJECT.n_tasks))
    of_all = section.scale_all
    wrong = section.mistake
    listed = [
        Proposal("naive", "naive", "method", np.array(PROJECT.means)),
        Proposal(
            f"all_x{_key(of_all)}", f"all {TIMES} {of_all:g}", "method", proposals.scaled(PROJECT, of_all, everything)
        ),
    ]
    for scale in section.scale_critical:
        means = proposals.scaled(PROJECT, scale, path)
        listed.append(Proposal(f"critical_x{_key(scale)}", f"critical path {TIMES} {scale:g}", "method", means))
    means = proposals.scaled(PROJECT, wrong.scale_critical, path, wrong.scale_others)
    label = f"critical path {TIMES} {wrong.scale_critical:g}, others {TIMES} {wrong.scale_others:g}"
    return [
        *listed,
        Proposal("cross_entropy", "cross-entropy method", "method", found),
        Proposal("mistake", label, "mistake", means),
        Proposal("least_variance", "least variance", "yardstick", proposals.least_variance(chain, section.deadline)),
    ]


def study(section: ProjectDelaySection) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Run the whole study.

    Returns:
        The metrics, and the rows of each table by its name.

    Raises:
        InputError: the cross-entropy method does not reach the deadline.
    """
    chain = Chain(PROJECT)
    d = section.deadline
    probability = math.exp(chain.log_tail(d))
    rounds = cross_entropy.optimize(
        PROJECT, d, **section.cross_entropy.model_dump(), generator=_generator(section.seed, 0)
    )
    listed = all_proposals(section, chain, rounds[-1].means)
    estimates: list[dict[str, Any]] = []
    coverages: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    for index, proposal in enumerate(listed):
        variance = proposals.variance(chain, proposal.means, d)
        generator = _generator(section.seed, 2 * index + 1)
        for n_samples in section.n_samples:
            draws = estimators.draw(PROJECT, proposal.means, d, n_samples, generator)
            found = estimators.estimate(*draws, probability)
            exact_error = math.sqrt(variance / n_samples)
            row = {**asdict(found), "exact_error": exact_error}
            row["deviation"] = (found.probability - probability) / found.standard_error if found.n_late else 0.0
            estimates.append({"proposal": proposal.key, **row})
        metrics[proposal.key] = {
            "label": proposal.label,
            "role": proposal.role,
            **row,
            "variance_reduction_exact": probability * (1 - probability) / variance,
            "variance_is_infinite": math.isinf(variance),
            # above 1: the error bar is too short; 0: there is no error bar
            "error_factor": exact_error / found.standard_error if found.n_late else 0.0,
            "effective_share_all": proposals.effective_share(PROJECT, proposal.means),
            "n_samples_for_ten_percent": variance / (WANTED_ERROR * probability) ** 2,
        }
        sizes, r = section.replicate_samples, section.n_replicates
        draws = estimators.draw(PROJECT, proposal.means, d, sizes[-1] * r, _generator(section.seed, 2 * index + 2))
        log_event = estimators.of_late(*draws).reshape(sizes[-1], r)
        for n_samples in sizes:
            held = estimators.coverage(log_event[:n_samples], probability, variance)
            coverages.append({"proposal": proposal.key, **asdict(held)})
    means = {proposal.key: proposal.means for proposal in listed}
    given_delay = chain.mean_durations_given_delay(d).numpy()
    tables: dict[str, Rows] = {
        "estimates": estimates,
        "coverage": coverages,
        "distribution": _distribution(chain, d),
        "durations": [
            {
                "task": task + 1,
                "mean": PROJECT.means[task],
                "given_delay": float(given_delay[task]),
                "cross_entropy": float(means["cross_entropy"][task]),
                "least_variance": float(means["least_variance"][task]),
            }
            for task in range(PROJECT.n_tasks)
        ],
        "rounds": [
            {
                "round": number + 1,
                "level": done.level,
                "n_late": done.n_late,
                "variance_reduction_exact": (
                    probability * (1 - probability) / proposals.variance(chain, done.means, d)
                ),
            }
            for number, done in enumerate(rounds)
        ],
    }
    empty = [row["n_samples"] for row in estimates if row["proposal"] == "naive" and not row["n_late"]]
    summary = {
        "deadline": d,
        # if P were above the limit, n naive draws without a late one would have a probability below 5 %
        "naive_without_event": {"n_samples": max(empty, default=0), "limit": 1 - 0.05 ** (1 / max(empty, default=1))},
        "exact": {"probability": probability, "mean": chain.mean(), "n_states": len(chain.states)},
        "tasks": _tasks(),
        "cross_entropy_rounds": {"n_rounds": len(rounds), "n_drawn": len(rounds) * section.cross_entropy.n_samples},
        "n_samples": section.n_samples[-1],
        "n_replicates": section.n_replicates,
        "proposals": metrics,
    }
    return summary, tables


def write(folder: Path, metrics: Mapping[str, Any], tables: Mapping[str, Rows]) -> None:
    """Write ``metrics.json`` and one CSV for each table into ``folder``."""
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", list(rows[0]), rows)
    write_json(folder / "metrics.json", metrics)


def _tasks() -> list[dict[str, Any]]:
    """Return the plan at the mean durations, with tasks numbered from 1."""
    finish = finishing_times(PROJECT, np.array([PROJECT.means]))[0]
    path = critical_path(PROJECT)
    return [
        {
            "task": task + 1,
            "mean": mean,
            "waits_for": [other + 1 for other in earlier],
            "start": float(finish[task]) - mean,
            "finish": float(finish[task]),
            "is_critical": task in path,
        }
        for task, (mean, earlier) in enumerate(zip(PROJECT.means, PROJECT.predecessors, strict=True))
    ]


def _distribution(chain: Chain, deadline: float) -> list[dict[str, float]]:
    step = CURVE_REACH * deadline / CURVE_POINTS  # the deadline itself is one of the points
    tails, density = chain.distribution(step, CURVE_POINTS)
    return [
        {"t": step * index, "tail": float(tail), "density": float(height)}
        for index, (tail, height) in enumerate(zip(tails, density, strict=True))
    ]


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, number]))


def _key(scale: float) -> str:
    return repr(float(scale)).removesuffix(".0").replace(".", "_")
