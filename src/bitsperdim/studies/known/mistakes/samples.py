"""Mistakes with latent models: importance weights, their terms, their mean, and the number K."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitsperdim.estimators.log_weights import log_mean_exp
from bitsperdim.studies.known.mistakes.bench import Bench
from bitsperdim.studies.known.mistakes.mistake import DoesNotApplyError, Foreign, Made, Mistake
from bitsperdim.studies.known.mistakes.models import VAE

UNIT = {"inputs": "unit"}
MASS = ("sum over tiny images", "annealed mass", "slice", "range", "codes")
N_CHUNKS = 8
PATIENCE = 10  # factor for the number of questions: a sum that is too small is refuted only by about a thousand sums
N_FIXED = 16  # samples of the bound with fixed random numbers
REMEMBERED = 2.0  # nats by which the decoder favours the encoded image
Weights = Callable[[VAE, Tensor, int], Tensor]


def bound(bench: Bench) -> Tensor:
    """Return the right number: the logarithm of the mean of K weights, (N,)."""
    return log_mean_exp(bench.log_weights)


def of_weights(weights: Weights, patience: int = 1) -> Callable[[Bench], Foreign]:
    """Return a model that offers ``log_weights``; ``patience`` multiplies the number of images that checks ask for."""

    def made(bench: Bench) -> Foreign:
        def around(vae: VAE) -> Callable[[Tensor, int], Tensor]:
            return torch.no_grad()(lambda x, n: weights(vae, x, n))

        def build(image_shape: tuple[int, int, int], n_levels: int) -> object:
            return around(VAE(image_shape, n_levels).eval())

        n_asked = patience * bench.section.n_asked
        return Foreign(around(bench.vae), {"offers": "log_weights", "build": build, "n_asked": n_asked})

    return made


def drawn(bench: Bench, vae: VAE, **options: Any) -> Tensor:  # noqa: ANN401 - options of VAE.weights
    """Return the bound of a changed model, with the random numbers of the right model, (N,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        return log_mean_exp(vae.weights(bench.test, bench.section.n_samples, **options).double())


def one_sample(bench: Bench) -> Made:
    """Print the bound of one sample as a likelihood."""
    return Made(bench.log_weights[0], bound(bench))


def mean_of_logarithms(bench: Bench) -> Made:
    """Average the logarithms of the chunks' means instead of the means."""
    if len(bench.log_weights) < 2 * N_CHUNKS:
        raise DoesNotApplyError(f"There are fewer than {2 * N_CHUNKS} samples.")
    chunks = bench.log_weights.chunk(N_CHUNKS)
    return Made(torch.stack([log_mean_exp(chunk) for chunk in chunks]).mean(0), bound(bench))


def sum_inside(bench: Bench) -> Made:
    """Add up the log-weights of all images in a batch before taking the mean over samples."""
    n_samples = bench.section.n_samples

    @torch.no_grad()
    def log_prob(x: Tensor) -> Tensor:
        of_batch = bench.vae.weights(x, n_samples).double().sum(1)
        return (log_mean_exp(of_batch[:, None]) / len(x)).expand(len(x))

    wrong = log_mean_exp(bench.log_weights.sum(1)[:, None]) / len(bench.test)
    return Made(wrong.expand(len(bench.test)), bound(bench), Foreign(log_prob, {"offers": "log_prob"}))


def k_ignored(bench: Bench) -> Made:
    """Draw one sample, however large K is."""
    model = of_weights(lambda vae, x, n: vae.weights(x, 1).expand(n, -1))(bench)
    return Made(bench.log_weights[0], bound(bench), model)


def largest(bench: Bench) -> Made:
    """Take the largest weight instead of the mean."""
    model = of_weights(lambda vae, x, n: vae.weights(x, n).amax(0).expand(n, -1))(bench)
    return Made(bench.log_weights.amax(0), bound(bench), model)


def averaged_already(bench: Bench) -> Made:
    """Return the logarithm of the mean of K weights K times."""
    model = of_weights(lambda vae, x, n: log_mean_exp(vae.weights(x, n)).expand(n, -1))(bench)
    return Made(bound(bench), bound(bench), model)


def without(patience: int = 1, **options: bool) -> Callable[[Bench], Made]:
    """Return a mistake that leaves out a term of the weights."""

    def made(bench: Bench) -> Made:
        model = of_weights(lambda vae, x, n: vae.weights(x, n, **options), patience)(bench)
        return Made(drawn(bench, bench.vae, **options), bound(bench), model)

    return made


def remembers(bench: Bench) -> Made:
    """Let the decoder see the image that was encoded last."""
    model = bench.like(VAE, bench.vae, remembers=REMEMBERED)
    return Made(drawn(bench, model), bound(bench), Foreign(model, UNIT))


def variance_as_scale(bench: Bench) -> Made:
    """Draw with the variance instead of the standard deviation."""
    model = bench.like(VAE, bench.vae, draws_variance=True)
    return Made(drawn(bench, model), bound(bench), Foreign(model, UNIT))


def fresh_draw(bench: Bench) -> Made:
    """Offer one draw of the bound as log P."""
    model = torch.no_grad()(lambda x: bench.vae.weights(x, 1)[0])
    return Made(bench.log_weights[0], bound(bench), Foreign(model, {"offers": "log_prob"}))


def without_chance(vae: VAE) -> Callable[[Tensor], Tensor]:
    """Return a bound whose random numbers are always the same, (B,) nats."""

    @torch.no_grad()
    def log_prob(x: Tensor) -> Tensor:
        q = vae.encode(x / (vae.n_levels - 1))
        noise = torch.randn(N_FIXED, 1, q.mean.shape[1], generator=torch.Generator().manual_seed(0))
        z = q.mean + q.stddev * noise
        masses = vae.decode(z.flatten(0, 1)).log_prob(x.expand(N_FIXED, *x.shape).flatten(0, 1)).flatten(1).sum(1)
        log_w = masses.unflatten(0, (N_FIXED, len(x))) + (vae.prior().log_prob(z) - q.log_prob(z)).sum(-1)
        return log_mean_exp(log_w)

    return log_prob


def fixed_draws(bench: Bench) -> Made:
    """Offer a bound whose random numbers are always the same as log P."""
    log_prob = without_chance(bench.vae)
    return Made(log_prob(bench.test), bound(bench), Foreign(log_prob, {"offers": "log_prob"}))


MISTAKES = (
    Mistake(
        "A bound of one sample for a likelihood",
        "The bound with K = 1 is printed as the likelihood of the model.",
        one_sample,
        "law",
        law="evaluation/test_evaluate.py::test_a_number_is_never_bare",
        source="phlippe/CategoricalNF issue 2 (importance sampling was missing in the test; its author shows how)",
    ),
    Mistake(
        "The mean of logarithms",
        f"K samples are drawn in {N_CHUNKS} parts, and the bounds of the parts are averaged.",
        mean_of_logarithms,
        "law",
        law="evaluation/test_estimate.py::test_chunks_change_nothing",
    ),
    Mistake(
        "The sum over the batch inside the logarithm",
        "The log-weights of all images of a batch are added up before the mean over samples is taken.",
        sum_inside,
        "audit",
        checks=("alone or in a batch",),
        law="evaluation/test_evaluate.py::test_sizes_change_no_exact_number_and_a_bound_within_its_errors",
        source="breze-no-salt/breze pull request 85 (a correction, open)",
    ),
    Mistake(
        "K ignored",
        "K weights are asked for, and one draw is given K times.",
        k_ignored,
        "audit",
        checks=("samples",),
        law="evaluation/test_proposals.py::test_draws_from_the_prior_do_not_depend_on_chunks_and_differ_between_images",
    ),
    Mistake(
        "The largest weight for the mean",
        "The largest of K weights stands where their mean should.",
        largest,
        "audit",
        checks=("samples",),
        law="estimators/test_log_weights.py::test_against_plain_arithmetic",
    ),
    Mistake(
        "Averaged already",
        "The logarithm of the mean of K weights is given as each of them: the number is right, its error is not.",
        averaged_already,
        "audit",
        checks=("samples",),
        law="estimators/test_log_weights.py::test_error_and_bias_match_repetition",
    ),
    Mistake(
        "Weights without the prior",
        "log p(z) is left out of the log-weights.",
        without(log_prior=False),
        "audit",
        checks=MASS,
        law="evaluation/test_proposals.py::test_estimates_are_within_their_errors",
    ),
    Mistake(
        "Weights without the encoder",
        "log q(z given x) is left out of the log-weights.",
        without(PATIENCE, log_q=False),
        "audit",
        checks=MASS,
        law="evaluation/test_proposals.py::test_estimates_are_within_their_errors",
        source="scverse/scvi-tools issue 369 (another wrong term in the weights; fixed by pull request 370)",
    ),
    Mistake(
        "A decoder that remembers the image",
        "A connection that goes round the code tells the decoder the image.",
        remembers,
        "audit",
        checks=("decoder",),
    ),
    Mistake(
        "A variance used as a scale",
        "The encoder draws with the variance where its density has the standard deviation.",
        variance_as_scale,
        "audit",
        checks=("samples",),
        law="likelihoods/test_normal.py::test_weights_of_draws_in_one_call_average_to_the_mass",
        source="bjlkeng/sandbox issue 10 (in a bits-back coder; fixed)",
    ),
    Mistake(
        "A draw of a bound offered as log P",
        "log_prob returns one draw of a lower bound.",
        fresh_draw,
        "audit",
        checks=("alone or in a batch", "repeatable"),
    ),
    Mistake(
        "A bound without chance offered as log P",
        "log_prob returns a lower bound whose random numbers are always the same; no small version of it is given.",
        fixed_draws,
        "open",
        checks=MASS,
    ),
)
