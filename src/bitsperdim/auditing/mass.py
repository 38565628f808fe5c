"""Checks of total mass: the probabilities of all images must add up to one, or at least not to more.

The methods are in :mod:`.chance` (Markov and Ville), :mod:`.tiny` (all images of a tiny shape), :mod:`.annealing` (all
images of the real shape, estimated by sampling) and :mod:`.drawing` (the model's own draws).

For a bound, only a total mass above one is an error: a mass below one makes the number worse, never better. A number
that is declared exact needs a total mass of one.

Invariants (``tests/auditing/test_mass.py``): correct models pass; known mistakes are caught without knowing which one
to look for; an error slightly larger than the size that a check says it catches is caught, and a slightly smaller one
is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from scipy.special import stdtrit
from torch import Tensor

from bitsperdim.auditing import annealing, drawing
from bitsperdim.auditing.chance import (
    EVIDENCE,
    HALF,
    excess_evidence,
    label,
    log_weights,
    n_in_time,
    smallest_excess,
    solver_allowance,
)
from bitsperdim.auditing.check import LEVEL, Case, Check, failed, not_applicable, passed
from bitsperdim.auditing.tiny import MOST, Tiny, every_image, is_of_its_size_only, tiny_model
from bitsperdim.core.errors import InputError
from bitsperdim.core.randomness import stream, stream_seed
from bitsperdim.core.units import NATS_PER_BIT
from bitsperdim.estimators.log_weights import log_mean_exp
from bitsperdim.estimators.pareto import JUDGED_FROM, pareto_k
from bitsperdim.estimators.truth import against_truth
from bitsperdim.models.density import DensityModel
from bitsperdim.models.external.external import NoLevelsError
from bitsperdim.models.external.wrapping import ExternalConditionals

TOLERATED = 1e-4  # error per sub-pixel, in nats, that is tolerated in float32 sums
TINY, SAMPLER, ANNEALED, SLICE = 102, 103, 104, 105  # purposes of random numbers
MOST_REPEATS = 1024
SHARE = 0.5  # share of a check's time for its longest part
N_CHAINS = 16
MOST_STEPS = 2**14
N_PILOT = 64  # images
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # shares of sub-pixels that are redrawn
MOST_COUNTED, MOST_DRAWN = 2**14, 2**10
N_FIRST = 8  # images drawn first, to measure the time
MOST_MOVES = 256
N_SLICED = (8, 4)  # number of images, and of sub-pixels in each
T = TypeVar("T")


def sum_over_tiny_images(case: Case) -> Check:
    """Add up the probabilities of all images, for a model of images small enough to be counted.

    Estimated probabilities are summed repeatedly. Weights have heavy tails, so that an excess is tested by betting
    (:mod:`.chance`), which needs no variance.
    """
    name = "sum over tiny images"
    if reason := _nothing_to_ask(case):
        return not_applicable(name, reason)
    tiny = tiny_model(case)
    if isinstance(tiny, str):
        return not_applicable(name, tiny)
    images = every_image(tiny.model.image_shape, tiny.model.n_levels)
    of_kind = _exact_sum if tiny.model.is_exact else _sum_of_bounds if tiny.model.draws_bounds else _sum_of_weights
    check = of_kind(case, name, tiny, images)
    if check.is_failed and tiny.is_smaller and is_of_its_size_only(case, tiny):
        return not_applicable(name, "A constant of the model seems to count the sub-pixels of its own images only.")
    return check


def _exact_sum(case: Case, name: str, tiny: Tiny, images: Tensor) -> Check:
    log_p = log_weights(case, images, _generator(case, TINY), model=tiny.model)
    log_total, tolerance = float(torch.logsumexp(log_p, 0)), _rounding(case) * tiny.model.n_dims
    bpd = tiny.model.n_dims * NATS_PER_BIT
    words = f"The probabilities of all {len(images):,} images of {tiny.words} add up to {_mass(log_total)}"
    if abs(log_total) <= tolerance:
        catches = "constants that are wrong, and masses that do not sum to one"
        return passed(name, f"{words}.", catches, (tolerance + abs(log_total)) / bpd)
    reason = "more than one" if log_total > 0 else "less than one: what is said to be exact is not the mass of an image"
    return failed(name, f"{words}, {reason}.", abs(log_total) / bpd)


def _sum_of_weights(case: Case, name: str, tiny: Tiny, images: Tensor) -> Check:
    once, n_repeats = _repeats(case, tiny, images)
    allowed = solver_allowance(case, images, tiny.model)
    log_totals = torch.stack([once().logsumexp(0) for _ in range(n_repeats)]) - allowed
    n, log_mean = len(log_totals), float(log_mean_exp(log_totals[:, None]))
    bpd = tiny.model.n_dims * NATS_PER_BIT
    error = float(log_totals.exp().std()) / n**0.5 if n > 1 else math.inf
    words = f"The weights of all {len(images):,} images of {tiny.words} add up to {_mass(log_mean)} +- {error:.2g}"
    if allowed:
        words += f", after {allowed:.2g} nats are taken off for the solver error"
    if excess_evidence(log_totals) >= HALF:
        return failed(name, f"{words}, more than one.", max(log_mean, 0.0) / bpd, LEVEL)
    if not isinstance(tiny.model, DensityModel) and _misses_mass(log_totals):
        return failed(
            name,
            f"{words}, less than one: the mean of the weights is not the mass of an image.",
            -log_mean / bpd,
            LEVEL,
        )
    if isinstance(tiny.model, DensityModel) and log_mean < 0 and 1 - math.exp(log_mean) > 3 * error:
        words += ", so that some of the mass lies outside the range of the values, which costs bits and gains none"
    catches = "constants that are wrong, and weights whose mean is more than a mass"
    return passed(name, f"{words}.", catches, smallest_excess(log_totals) / bpd, LEVEL)


def _misses_mass(log_totals: Tensor) -> bool:
    r"""Return whether totals refute a mean of at least one, at half of the level; the test of an excess has the rest.

    For numbers that are not negative, :math:`P(\bar W \le E W - t) \le e^{-n t^2 / (2 E W^2)}`: the lower tail needs
    only a second moment (Maurer 2003, "A bound on the deviation probability for sums of non-negative random
    variables"). The second moment is estimated, and doubled. If the tail index says that it may not exist, the result
    is False.
    """
    n = len(log_totals)
    if n < JUDGED_FROM or not float(pareto_k(log_totals[:, None])) < 0.5:
        return False
    totals = log_totals.exp()
    second = 2 * max(1.0, float(totals.square().mean()))
    return 1 - float(totals.mean()) > math.sqrt(2 * second * HALF / n)


def _sum_of_bounds(case: Case, name: str, tiny: Tiny, images: Tensor) -> Check:
    r"""Test whether the lower bound :math:`\sum q (B - \log q) \le \log \sum e^B` is above zero.

    Draws of B give unbiased estimates of this bound. The best q for half of the draws is used; the other half is tested
    with Student's t.
    """
    once, n_repeats = _repeats(case, tiny, images)
    half = max(4, n_repeats // 2)
    total = torch.zeros(len(images), dtype=torch.float64)
    for _ in range(half):
        total += once()
    log_q = (total / half).log_softmax(0)
    # an impossible image has q = 0; its product of 0 and minus infinity counts as 0
    values = [torch.where(log_q > -math.inf, log_q.exp() * (once() - log_q), 0.0).sum() for _ in range(half)]
    tolerance = _rounding(case) * tiny.model.n_dims + solver_allowance(case, images, tiny.model)
    words = f"By its bounds the probabilities of all {len(images):,} images of {tiny.words} add up to at least"
    return _bound_check(name, words, torch.stack(values), tolerance, tiny.model.n_dims)


def _bound_check(name: str, words: str, values: Tensor, tolerance: float, n_dims: int) -> Check:
    """Test whether values (R,) in nats have a mean above zero; it is a lower bound of the log of the total mass."""
    mean, bpd = float(values.mean()), n_dims * NATS_PER_BIT
    error = float(values.std()) / len(values) ** 0.5
    critical = tolerance + float(stdtrit(len(values) - 1, 1 - LEVEL)) * error
    words = f"{words} {_mass(mean)} (+- {error:.2g} in its logarithm)"
    if mean > critical:
        return failed(name, f"{words}, more than one.", mean / bpd, LEVEL)
    catches_bpd = (critical - mean) / bpd if mean > -math.inf else None
    return passed(name, f"{words}.", "bounds that are too high", catches_bpd, LEVEL)


def _repeats(case: Case, tiny: Tiny, images: Tensor) -> tuple[Callable[[], Tensor], int]:
    """Return a function that draws one log-weight for each image, (L^D,), and how often there is time to call it."""
    generator = _generator(case, TINY)

    def once() -> Tensor:
        return log_weights(case, images, generator, model=tiny.model)

    _, seconds = _timed(case, once)
    return once, n_in_time(SHARE * case.seconds, seconds, MOST_REPEATS)


def sampler(case: Case) -> Check:
    """Test whether the model draws images with the probabilities that it states; draws are taken to be independent."""
    name = "sampler"
    if reason := _nothing_to_ask(case):
        return not_applicable(name, reason)
    offer = None if case.asked is None else case.asked.offer
    if offer is None or "sample" not in offer.functions:
        why = (
            "is a model of this package, which draws its samples from its masses"
            if offer is None
            else "has no method sample(n) of its own"
        )
        return not_applicable(name, f"The model {why}.")
    if not case.model.is_exact:
        return not_applicable(name, "Only a bound is known for the probability of an image that the model draws.")
    generator = _generator(case, SAMPLER)
    try:
        drawn, seconds = _timed(case, partial(_drawn, case, N_FIRST, generator))
        is_counted = case.data.n_levels**case.model.n_dims <= MOST
        most = MOST_COUNTED if is_counted else MOST_DRAWN
        while len(drawn) < most and 3 * seconds < SHARE * case.seconds:  # the next call takes about 2 * seconds
            more, spent = _timed(case, partial(_drawn, case, len(drawn), generator))
            drawn, seconds = torch.cat([drawn, more]), seconds + spent
    except NoLevelsError as error:
        return failed(name, str(error))
    except InputError as error:  # the model draws something else, such as images between 0 and 1
        return not_applicable(name, str(error))
    if is_counted:
        return _counted(case, name, drawn)
    start = annealing.fitted(drawn[: len(drawn) // 2], case.data.n_levels)
    tested = drawn[len(drawn) // 2 :]
    log_fitted = start.log_p(tested.flatten(1).long())
    if isinstance(case.model, ExternalConditionals):
        return _conditionals(case, case.model, name, drawn, log_fitted)
    return _exchanged(case, name, drawn, log_fitted, generator)


def _drawn(case: Case, n_images: int, generator: torch.Generator) -> Tensor:
    """Draw images, (B, C, H, W), and return them on the CPU.

    Raises:
        ValueError: the model did not draw images.
    """
    drawn = case.model.unchecked_sample(n_images, labels=label(case, n_images, case.model), generator=generator)
    case.model.check(drawn, label(case, n_images, case.model))
    case.clock.count(n_images * case.model.n_dims)
    return drawn.cpu()


def _counted(case: Case, name: str, drawn: Tensor) -> Check:
    n_levels, n_dims = case.data.n_levels, case.model.n_dims
    log_p = log_weights(case, every_image(case.data.image_shape, n_levels), _generator(case, SAMPLER))
    powers = n_levels ** torch.arange(n_dims - 1, -1, -1)
    counts = torch.bincount((drawn.flatten(1).long() * powers).sum(1), minlength=len(log_p))
    if bool((counts[log_p.isneginf()] > 0).any()):
        return failed(name, "The model draws an image whose probability is zero.")
    test = drawing.g_test(log_p.softmax(0).numpy(), counts.numpy(), stream_seed("evaluation", case.seed, SAMPLER))
    scale = 2 * len(drawn) * n_dims * NATS_PER_BIT
    words = f"{len(drawn):,} images that the model drew are"
    if test.is_refuted:
        size = (test.statistic - test.mean) / scale
        return failed(name, f"{words} not distributed according to its probabilities of all images.", size, LEVEL)
    words += " distributed according to its probabilities of all images"
    return passed(name, f"{words}.", "a sampler that draws from another distribution", test.critical / scale, LEVEL)


def _conditionals(case: Case, model: ExternalConditionals, name: str, drawn: Tensor, log_fitted: Tensor) -> Check:
    evidence = drawing.conditional_evidence(case, model, drawn, log_fitted)
    scale = len(drawn) * model.n_dims * NATS_PER_BIT
    if evidence == math.inf:
        return failed(name, "The model draws an image whose probability is zero.")
    if evidence >= EVIDENCE:
        return failed(
            name,
            f"{len(drawn):,} images that the model drew are more likely at another temperature, or under another "
            f"distribution, than under its own conditionals.",
            evidence / scale,
            LEVEL,
        )
    return passed(
        name,
        f"{len(drawn):,} images that the model drew are not more likely under any of {drawing.N_ALTERNATIVES} other "
        f"distributions than under its own conditionals.",
        "a sampler with another temperature or with noise, measured by its divergence from the conditionals",
        (EVIDENCE + math.log(drawing.N_ALTERNATIVES)) / scale,
        LEVEL,
    )


def _exchanged(case: Case, name: str, drawn: Tensor, log_fitted: Tensor, generator: torch.Generator) -> Check:
    n_dims, ask = case.model.n_dims, _asker(case, generator)
    x, bpd = drawn.flatten(1).long(), n_dims * NATS_PER_BIT
    log_p, seconds = _timed(case, partial(ask, x))
    if bool(log_p.isneginf().any()):
        return failed(name, "The model draws an image whose probability is zero.")
    gain = log_fitted - log_p[-len(log_fitted) :]
    if float(gain.sum()) >= HALF:
        size = float(gain.mean()) / bpd
        words = "Images that the model drew are more likely under independent sub-pixels fitted to its other draws"
        return failed(name, f"{words} than under its own probabilities.", size, LEVEL)
    n_steps = n_in_time(SHARE * case.seconds, seconds, MOST_MOVES)
    proposals = annealing.fitted(torch.from_numpy(case.data.images), case.data.n_levels)
    before, after = annealing.moved(ask, proposals, x, n_steps, torch.Generator().manual_seed(_seed(case, SAMPLER)))
    test = drawing.Exchanged(after - before, LEVEL / 2)
    words = f"In {n_steps} Metropolis steps from {len(x):,} images that the model drew, the mean of log P(x)"
    if abs(test.mean) > test.critical:
        words += f" changes by {test.mean:+.3g} nats, although it should not change for images drawn from P"
        return failed(name, f"{words}.", abs(test.mean) / bpd, LEVEL)
    catches = "a sampler that draws from another distribution, measured by this change"
    catches_bpd = test.critical / bpd if test.critical > 0 else None  # zero: no image moved
    return passed(name, f"{words} does not change.", catches, catches_bpd, LEVEL)


def annealed_mass(case: Case) -> Check:
    """Estimate the total mass without bias, by annealing from a known distribution f (:mod:`.annealing`).

    The mean of the estimate is the total mass, so that an estimate above 1 / level refutes a mass of at most 1. For a
    model that draws bounds B, a lower bound of the log of the total mass is tested instead: the mean over f of
    B - log f.
    """
    name = "annealed mass"
    if reason := _nothing_to_ask(case):
        return not_applicable(name, reason)
    generator = _generator(case, ANNEALED)
    ask, n_dims = _asker(case, generator), case.model.n_dims
    start = annealing.fitted(torch.from_numpy(case.data.images), case.data.n_levels)
    steps = torch.Generator().manual_seed(_seed(case, ANNEALED))
    if case.model.draws_bounds:
        return _bounds_of_known(case, name, start, ask, steps)
    trial = 4  # steps; the first call may compile, or allocate
    annealing.pilot(ask, start, N_CHAINS, 1, steps)
    _, seconds = _timed(case, lambda: annealing.pilot(ask, start, N_CHAINS, trial, steps))
    n_steps = n_in_time(SHARE * case.seconds, seconds / (trial + 2), MOST_STEPS)
    n_pilot = max(2, n_steps // 4)
    path = annealing.pilot(ask, start, N_CHAINS, n_pilot, steps)
    log_mass = float(log_mean_exp(annealing.anneal(ask, start, path, N_CHAINS, n_steps, steps)[:, None]))
    bpd = n_dims * NATS_PER_BIT
    words = f"An unbiased estimate of the total probability of all images, by annealing in {n_steps:,} steps, is"
    if log_mass >= EVIDENCE:
        words += f" {_mass(log_mass)}; for a correct model it would almost never be so large"
        return failed(name, f"{words}.", log_mass / bpd, LEVEL)
    words += f" {_mass(log_mass)}; only an estimate far above 1 would show an error"
    catches_bpd = (EVIDENCE - log_mass) / bpd if log_mass > -math.inf else None
    return passed(name, f"{words}.", "masses that are too large everywhere", catches_bpd, LEVEL)


def _bounds_of_known(
    case: Case, name: str, start: annealing.Independent, ask: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Check:
    image = torch.from_numpy(case.data.images[0]).flatten().long()
    ways = [start.near(image, share) for share in SHARES]
    best, best_mean, seconds = ways[0], -math.inf, math.inf
    for way in ways:
        x = way.draw(N_PILOT, generator)
        drawn, seconds = _timed(case, partial(ask, x))
        mean = float((drawn - way.log_p(x)).mean())
        if mean > best_mean:
            best, best_mean = way, mean
    n_drawn = max(N_PILOT, n_in_time(SHARE * case.seconds, seconds / N_PILOT, 2**14))
    x = best.draw(n_drawn, generator)
    values = ask(x) - best.log_p(x)
    words = "According to its bounds for images drawn from a known distribution, the total probability is at least"
    return _bound_check(name, words, values, 0.0, case.model.n_dims)


def known_truth(case: Case) -> Check:
    """Test whether the model beats the true probabilities by more than chance (:mod:`bitsperdim.estimators.truth`)."""
    name = "known truth"
    if case.log_p_true is None:
        words = "The true probabilities of the images are not known; if you know them, pass them as log_p_true."
        return not_applicable(name, words)
    if case.result.kind == "density":
        return not_applicable(name, "The number is a density, not a probability mass.")
    scores, n_images = case.result.scores, len(case.log_p_true)
    draws_bounds = case.asked is not None and case.model.draws_bounds
    errors = scores.standard_error.numpy() if draws_bounds else None
    solver = case.result.metrics.solver
    found = against_truth(
        scores.log_p.numpy(),
        case.log_p_true,
        bound_errors=errors,
        n_draws=case.result.n_samples,
        solver_error=0.0 if solver is None else solver.error_nats,
        level=LEVEL,
    )
    total, critical = found.evidence, found.critical
    bpd = n_images * math.prod(case.data.image_shape) * NATS_PER_BIT
    in_bits = case.in_bits_per_dim(abs(found.excess)), case.in_bits_per_dim(found.standard_error)
    size = f"{in_bits[0]:.4f} +- {in_bits[1]:.4f} bits/dim ({abs(total):.4g} nats in all)"
    words = f"On {n_images:,} images the model is {size}"
    if found.is_refuted:
        words += f" better than the truth; a correct model exceeds {critical:.3g} with probability {LEVEL:g} at most"
        return failed(name, f"{words}.", total / bpd, LEVEL)
    words += f" {'better' if total > 0 else 'worse'} than the truth"
    catches_bpd = (critical - total) / bpd if math.isfinite(critical - total) else None
    catches = "log-likelihoods that are too high, if the images are independent draws from the truth"
    return passed(name, f"{words}.", catches, catches_bpd, LEVEL)


def slice_of_images(case: Case) -> Check:
    """Add up the probabilities of images that differ in one sub-pixel only.

    The sum is the probability of the other sub-pixels, which is far below one. So this check catches only gross errors:
    a density used as a mass, or a missing normalization.
    """
    name = "slice"
    if reason := _nothing_to_ask(case):
        return not_applicable(name, reason)
    if case.model.draws_bounds:
        return not_applicable(name, "Single draws of a bound are too noisy to be added up as probabilities.")
    n_levels, n_dims = case.data.n_levels, case.model.n_dims
    ask = _asker(case, _generator(case, SLICE))
    places = torch.Generator().manual_seed(_seed(case, SLICE))
    started = case.clock.now()
    log_sums: list[float] = []
    for image in case.images(case.rows(N_SLICED[0])).cpu().flatten(1).long():
        for place in torch.randperm(n_dims, generator=places)[: N_SLICED[1]]:
            x = image.repeat(n_levels, 1)
            x[:, place] = torch.arange(n_levels)
            if not log_sums or case.clock.now() - started < SHARE * case.seconds:
                log_sums.append(float(torch.logsumexp(ask(x), 0)))
    # an estimated sum may be above one by chance: Markov's inequality for each slice
    allowed = _rounding(case) * n_dims if case.model.is_exact else EVIDENCE + math.log(len(log_sums))
    largest, bpd, level = max(log_sums), n_dims * NATS_PER_BIT, 0.0 if case.model.is_exact else LEVEL
    words = f"The probabilities of images that differ in one sub-pixel add up to at most {_mass(largest)}"
    if largest > allowed:
        return failed(name, f"{words}, more than one.", largest / bpd, level)
    catches_bpd = (allowed - largest) / bpd if largest > -math.inf else None
    return passed(name, f"{words} in {len(log_sums)} such sums.", "gross errors only", catches_bpd, level)


def _nothing_to_ask(case: Case) -> str:
    """Return why there is no probability mass to check, or an empty string."""
    if case.asked is None:
        return "Only numbers were given, without a model."
    return "The number is a density, not a probability mass." if case.result.kind == "density" else ""


def _asker(case: Case, generator: torch.Generator) -> annealing.Ask:
    """Return a function from flat images (B, D) to log-weights (B,) on the CPU."""

    def ask(x: Tensor) -> Tensor:
        images = x.reshape(-1, *case.data.image_shape)
        levels = images.to(torch.uint8 if case.data.n_levels <= 256 else torch.int32)
        return log_weights(case, levels, generator)

    return ask


def _timed(case: Case, work: Callable[[], T]) -> tuple[T, float]:
    started = case.clock.now()
    return work(), case.clock.now() - started


def _generator(case: Case, purpose: int) -> torch.Generator:
    """Return the generator for the model's random numbers, on its device."""
    return stream("evaluation", case.seed, purpose, 0, device=case.model.device)


def _seed(case: Case, purpose: int) -> int:
    """Return the seed of the random numbers that this module draws."""
    return stream_seed("evaluation", case.seed, purpose, 1)


def _rounding(case: Case) -> float:
    """Return the tolerated error of a sum, in nats per sub-pixel."""
    return TOLERATED * (1.0 if case.model.dtype in (torch.float32, torch.float64) else 100.0)


def _mass(log_mass: float) -> str:
    """Return a mass as text, given its logarithm: 0.9998, or e^-123.4 if the mass is far from one."""
    return f"{math.exp(log_mass):.6g}" if abs(log_mass) < 5 else f"e^{log_mass:.1f}"
