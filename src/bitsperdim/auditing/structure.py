"""Checks of the parts of a model: masses of sub-pixels, their order, the decoder, the samples of a bound.

The checks are exact, or have a stated level. They verify the kind of a number: normalized parts that are combined in
the right way give a likelihood.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from bitsperdim.auditing.check import LEVEL, Case, Check, failed, not_applicable, passed
from bitsperdim.core.errors import InputError
from bitsperdim.core.randomness import stream
from bitsperdim.core.units import nats_to_bits
from bitsperdim.likelihoods import Likelihood
from bitsperdim.models.conditional import ConditionalModel
from bitsperdim.models.external.distributions import ExternalLikelihood
from bitsperdim.models.external.wrapping import ORDERS, ExternalConditionals, ExternalLatent, wrap
from bitsperdim.models.look_ahead import TOLERATED, check_causality, cuts_of

ROUNDING = 1e-4  # tolerated error of the log of the total mass of a sub-pixel in float32, in nats
N_SUMMED = 4  # images whose masses are added up
MASSES_AT_ONCE = 2**26
N_DRAWN = 4_096
NARROWER = 0.9  # standard deviation of f, relative to that of the draws
UNCLEAR = 0.2  # relative error above which a ratio is too noisy to test
N_TRIED = 256  # images times repeats whose first weight is drawn with K = 1 and with a larger K
K_TRIED = 8
NO_MODEL = "Only numbers were given, without a model."
OWN = "It is a model of this package, which is verified by its own tests."


def masses_sum_to_one(case: Case) -> Check:
    """Add up the masses of all levels of every sub-pixel, for some images or codes."""
    name = "masses sum to one"
    if case.asked is None:
        return not_applicable(name, NO_MODEL)
    if case.method == "own":
        return not_applicable(name, OWN)
    if case.method not in ("conditionals", "logits", "encode"):
        return not_applicable(name, f"{case.method} gives no masses of single sub-pixels.")
    model, catches = case.model, "levels that are left out or counted twice, such as the edges, or a floor under masses"
    n_images = max(1, min(N_SUMMED, MASSES_AT_ONCE // (model.n_dims * model.n_levels)))
    rows = case.rows(n_images)
    with torch.no_grad():
        likelihood = _likelihood(case, rows)
        if not isinstance(likelihood, ExternalLikelihood):
            return not_applicable(name, "It is a likelihood of this package, which is verified by its own tests.")
        try:
            log_total = torch.logsumexp(likelihood.log_masses().double(), dim=-1)
        except InputError:
            return not_applicable(name, "decode gives masses of whole images, not of single sub-pixels.")
    worst, size = float(log_total.abs().max()), nats_to_bits(abs(float(log_total.mean())))
    if worst <= ROUNDING:
        words = f"The masses of all {model.n_levels} levels of {log_total.numel():,} sub-pixels add up to one."
        return passed(name, words, catches, nats_to_bits(ROUNDING))
    least, most = math.exp(float(log_total.min())), math.exp(float(log_total.max()))
    words = f"The masses of the {model.n_levels} levels of a sub-pixel add up to {least:.6g} to {most:.6g}, not to one."
    return failed(name, words, size)


def _likelihood(case: Case, rows: np.ndarray) -> Likelihood:
    """Return the model's distribution of the sub-pixels, given images or given codes that the model draws."""
    model = case.model
    if isinstance(model, ConditionalModel):
        return model.conditionals(case.images(rows), case.labels(rows))
    if not isinstance(model, ExternalLatent):
        raise TypeError(f"{type(model).__name__} gives no masses of sub-pixels")
    generator = stream("evaluation", case.seed, device=model.device)
    return model.decode(model.draw_latents(1, len(rows), generator=generator))


def causality(case: Case) -> Check:
    """Change the values that a conditional must not know, and test whether the conditional changes."""
    name = "causality"
    if case.asked is None:
        return not_applicable(name, NO_MODEL)
    model = case.model
    if not isinstance(model, ConditionalModel):
        return not_applicable(name, f"{case.method} has no conditionals whose order could be tested.")
    images = torch.from_numpy(case.data.images)
    labels = None if case.data.labels is None else torch.from_numpy(case.data.labels)
    try:
        check_causality(model, images, labels=labels, seed=case.seed)
    except ValueError as error:
        what = str(error).partition("; mend its masks")[0]
        other = _another_order(case, images, labels)
        hint = f" It does not with order = {other!r}." if other else ""
        gained = _gained(case, model)
        return failed(name, f"{what[:1].upper()}{what[1:]}.{hint}", gained if gained > 0 else None)
    tolerance = torch.finfo(model.dtype).eps ** TOLERATED
    words = (
        "No conditional changes when values that it must not know change, and none has a derivative with respect to "
        "them."
    )
    catches = "a conditional that depends on its own value or on a later one at a position that was tested"
    return passed(name, words, catches, nats_to_bits(tolerance))


def _another_order(case: Case, images: Tensor, labels: Tensor | None) -> str | None:
    """Return another order of the sub-pixels in which the model does not look ahead, if there is one."""
    model = case.model
    if not isinstance(model, ExternalConditionals):
        return None
    for order in ORDERS:
        other = wrap(
            model.offer,
            model.image_shape,
            model.n_levels,
            convention=model.convention,
            n_classes=model.n_classes,
            order=order,
        )
        if isinstance(other, ConditionalModel) and not torch.equal(other.order, model.order):
            try:
                check_causality(other, images, labels=labels, seed=case.seed)
            except ValueError:
                continue
            return order
    return None


@torch.no_grad()
def _gained(case: Case, model: ConditionalModel) -> float:
    """Estimate how much the model gains by looking ahead, in bits/dim.

    The estimate is the loss of the conditionals, at sub-pixels chosen at random, when all values that they must not
    know are taken from another image.
    """
    rows = case.rows(8)
    images, labels = case.images(rows).long(), case.labels(rows)
    generator = stream("causality", case.seed, device=model.device)
    before = model.conditionals(images, labels).log_prob(images)
    gained = []
    for cut in cuts_of(images, generator):
        hidden = torch.where(model.order >= cut, images.roll(1, 0), images)
        after = model.conditionals(hidden, labels).log_prob(images)
        gained.append((before - after)[(model.order == cut).expand(before.shape)])
    return nats_to_bits(float(torch.cat(gained).mean()))


@torch.no_grad()
def decoder(case: Case) -> Check:
    """Check that the decoder and the prior depend on the image through its code only."""
    name = "decoder"
    model = None if case.asked is None else case.model
    if not isinstance(model, ExternalLatent):
        return not_applicable(name, NO_MODEL if model is None else f"{case.method} has no decoder.")
    rows = case.rows(4)
    images = case.images(rows)
    others = (case.data.n_levels - 1) - images
    generator = stream("evaluation", case.seed, device=model.device)
    z = model.draw_latents(2, len(images), generator=generator)
    scores = []
    for encoded in (images, others):
        model.encode(encoded)
        scores.append(torch.stack([model.log_p_x_given_z(images, z), model.prior().log_prob(z)]).double())
    difference = float((scores[0] - scores[1]).abs().max())
    tolerance = ROUNDING * (1 + float(scores[0][scores[0].isfinite()].abs().max()) / model.n_dims) * model.n_dims
    if difference <= tolerance:
        words = "Decoder and prior give the same result for a code, whichever image was encoded before."
        catches = "a decoder that remembers the image, for example by connections that bypass the code"
        return passed(name, words, catches, case.in_bits_per_dim(tolerance))
    words = "What the decoder or the prior says of a code depends on the image that was encoded before."
    return failed(name, words, case.in_bits_per_dim(difference))


@torch.no_grad()
def samples(case: Case) -> Check:
    """Check whether samples agree with their densities, and whether K samples are K separate draws."""
    name = "samples"
    if case.asked is None:
        return not_applicable(name, NO_MODEL)
    model = case.model
    if isinstance(model, ExternalLatent):
        return _samples_of_codes(case, model, name)
    if case.method in ("log_weights", "bound"):
        return _samples_of_weights(case, name)
    why = "Only this package draws random numbers here." if case.is_sampled else "Nothing is sampled."
    return not_applicable(name, why)


def _samples_of_codes(case: Case, model: ExternalLatent, name: str) -> Check:
    """Test for encoder and prior, with density q, whether E[f(z) / q(z)] = 1 over their draws.

    f is a normal density that is fitted to other draws of the same distribution, and is slightly narrower.
    """
    encoded, prior = model.encode(case.images(case.rows(1))), model.prior()
    level_z, least = float(-ndtri(LEVEL / 4)), 0.0
    for what, code in (("the encoder", encoded), ("the prior", prior)):
        generator = stream("evaluation", case.seed, 1, device=model.device)
        drawn = code.rsample(2 * N_DRAWN, generator=generator)
        z, log_q = drawn.reshape(2 * N_DRAWN, -1).double(), code.log_prob(drawn).reshape(-1).double()
        if len(z[:, 0].unique()) < N_DRAWN:
            return not_applicable(name, f"The codes of {what} are not continuous.")
        fitted, held = z.split(N_DRAWN)
        mean, scale = fitted.mean(0), NARROWER * fitted.std(0)
        log_f = (-0.5 * ((held - mean) / scale).square() - scale.log() - 0.5 * math.log(math.tau)).sum(1)
        ratio = (log_f - log_q[N_DRAWN:]).exp()
        average, error = float(ratio.mean()), float(ratio.std()) / N_DRAWN**0.5
        if not math.isfinite(average) or error > UNCLEAR * average:
            of_torch = {type(each.given).__module__.partition(".")[0] for each in (encoded, prior)} == {"torch"}
            words = "The ratio of densities varies too much to test draws against densities"
            if of_torch:
                return passed(
                    name, f"{words}, but encoder and prior are distributions of torch.", "nothing beyond that"
                )
            return not_applicable(name, f"{words}.")
        if abs(average - 1) > level_z * error:
            words = f"Draws of {what} are not of the density that it says: its total mass looks like {average:.4g}."
            return failed(name, words, case.in_bits_per_dim(abs(math.log(average))), LEVEL)
        least = max(least, math.log1p(2 * level_z * error))
    catches = "a density that differs from that of the draws, such as a variance used as a scale, or a missing constant"
    words = "The draws of encoder and prior agree with the densities that these distributions report."
    return passed(name, words, catches, case.in_bits_per_dim(least), LEVEL)


def _samples_of_weights(case: Case, name: str) -> Check:
    """Test whether the K rows are draws from one distribution that does not depend on K."""
    rows = case.rows(8)
    images, labels = case.images(rows), case.labels(rows)
    n_repeats = math.ceil(N_TRIED / len(images))

    def drawn(k: int, seed: int) -> Tensor:
        generator = stream("evaluation", case.seed, 2, seed, device=case.model.device)
        return case.model.unchecked_log_weights(images, k, labels=labels, generator=generator).double()

    many = torch.stack([drawn(K_TRIED, seed) for seed in range(n_repeats)])  # (repeats, K, B)
    few = torch.stack([drawn(1, 1_000 + seed) for seed in range(n_repeats)])[:, 0]
    if bool((many == many[:, :1]).all()) and not bool((many == many[:1]).all()):
        words = "The K rows are equal, but differ from call to call: they share their random numbers, or K is ignored."
        return failed(name, words)
    level_z = float(-ndtri(LEVEL / 4))
    least = 0.0
    for what, values in (("K = 1", few), ("the last row", many[:, -1])):
        difference = values - many[:, 0]
        if not bool(difference.isfinite().all()):
            return not_applicable(name, "Some weights are 0, so that their logarithms have no mean to compare.")
        average = float(difference.mean())
        error = max(float(difference.std()) / difference.numel() ** 0.5, 1e-12)
        if abs(average) > level_z * error + ROUNDING * float(many.abs().mean()):
            words = (
                f"On average, log-weights of {what} differ by {average:.3g} nats from those of the first of {K_TRIED} "
                f"rows: a row depends on K or on its position."
            )
            return failed(name, words, case.in_bits_per_dim(abs(average)), LEVEL)
        least = max(least, 2 * level_z * error)
    words = f"The {K_TRIED} rows are draws from one distribution, whatever K is."
    catches = "a K that is ignored or already averaged over, and rows that share their random numbers"
    return passed(name, words, catches, case.in_bits_per_dim(least), LEVEL)
