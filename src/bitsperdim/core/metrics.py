"""``metrics.json`` of a model: every key with its unit and meaning, and the text about its number.

This module is the only definition. The stages write the file; the report, the README, ``compare``, the leaderboard and
the recipes read it. :class:`Metrics` describes the files that this version writes. :class:`AnyMetrics` describes the
files of all versions: a key that was added later is None, for *unknown*, if an old file lacks it. Add a new key to
:class:`AnyMetrics` with the default None; if every model has it, add it also to :class:`Metrics`, without a default.

:mod:`bitsperdim.evaluation.summary` and :mod:`bitsperdim.evaluation.latent_code` compute the numbers. A test-set error
is the standard deviation over test images / sqrt(N), where copies of an image count once. A Monte Carlo error is the
standard error due to the draw of the K samples; the test-set error includes it. :mod:`bitsperdim.core.yardsticks`
defines the ``metrics.json`` of the images.

Invariants (``tests/core/test_metrics.py``): writing the committed files again gives the same bytes
(``test_the_committed_files_are_the_same_bytes``); committed results of recipes can be read
(``test_old_results_are_read_and_what_they_do_not_know_is_none``).
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import model_validator

from bitsperdim.core import labels
from bitsperdim.core.labels import TOLERATED_SHARE
from bitsperdim.core.stored import HASH_DIGITS, OfImages, Stored


class SimulatedMetrics(Stored):
    """Annealing in both directions for images drawn from the model: log P(x) has two bounds there, nats per image."""

    n_images: int
    n_chains: int  # chains per image
    n_steps: int  # steps from the refined proposal, or the prior if there is none, to the posterior
    lower_nats: float  # mean lower bound of log P(x)
    upper_nats: float  # mean upper bound
    gap_nats: float  # upper minus lower
    gap_nats_standard_error: float  # standard error over images


class AnnealedMetrics(Stored):
    """Annealed importance sampling of some test images, with the model of the first seed; nats per image.

    Either all keys except ``simulated`` have values, or none of them has: then no test image was annealed.
    """

    n_images: int | None = None
    n_chains: int | None = None  # chains per image
    n_steps: int | None = None  # steps from the refined proposal, or the prior if there is none, to the posterior
    acceptance: float | None = None  # share of proposed moves that were accepted
    log_p_nats: float | None = None  # mean lower bound of log P(x)
    log_p_nats_standard_error: float | None = None  # standard error over images
    monte_carlo_error_nats: float | None = None  # Monte Carlo error of log_p_nats
    importance_sampled_nats: float | None = None  # log P(x) of the same images by importance sampling
    above_importance_sampled_nats: float | None = None  # mean difference; images without any mass there are left out
    above_importance_sampled_nats_standard_error: float | None = None  # standard error of the paired differences
    simulated: SimulatedMetrics | None = None  # only if images were drawn from the model

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        lacking = {key for key, value in self if value is None} - {"simulated"}
        if lacking and lacking != type(self).model_fields.keys() - {"simulated"}:
            raise ValueError(f"{', '.join(sorted(lacking))} must also have a value")
        return self


class TruthMetrics(Stored):
    """The model compared with the true distribution of the images (:mod:`bitsperdim.estimators.truth`)."""

    bpd: float  # -log P_true(x) of the test images, bits per sub-pixel
    excess_bpd: float  # the model's bpd minus the true one: an estimate of the divergence, which is never negative
    excess_bpd_standard_error: float  # of paired differences over test images, Monte Carlo noise included
    evidence_nats: float  # the sum of log P(x) - log P_true(x), for the seed with the largest sum
    critical_nats: float  # evidence above this value refutes the number
    level: float  # largest probability that a correct model is refuted
    is_refuted: bool

    @property
    def reason(self) -> str | None:
        """Why the number is refuted, in words; None if it is not refuted."""
        if not self.is_refuted:
            return None
        return (
            f"better than the truth by {self.evidence_nats:.4g} nats in all; for a correct model, the probability of "
            f"{self.critical_nats:.3g} nats or more is at most {self.level:g}"
        )


class ContrastMetrics(Stored):
    """Some test images scored before and after the proposal was refined or replaced; first seed, the same K."""

    proposal: Literal["encoder", "uniform", "variational"]  # before: encoder of a latent code, or a density's own noise
    n_images: int
    bpd: float  # of these images, before, bits per sub-pixel
    nll_nats: float  # of these images, before, nats per image
    nll_nats_after: float  # of these images, after, nats per image
    log_p_bias_nats: float  # this key and the next four describe *before*; they mean the same as for the model
    ess_median: float
    ess_below_10_share: float
    pareto_k_high_share: float | None = None  # only from K = 1,000 on
    too_few_samples: bool
    gain_nats: float  # increase of the bound of log P(x), over images with mass above 0 both before and after
    gain_nats_standard_error: float  # standard error of paired differences over images
    n_passes: int  # passes through the network per image, before: K
    n_passes_after: float  # passes after: K, gradients, discarded samples, a fit; a gradient needs a backward pass too


class RefinedMetrics(Stored):
    """The cost of refining the proposal of each image, as means over test images and seeds."""

    gradients_per_image: float  # each is a forward and a backward pass through the decoder
    pilot_samples_per_image: float  # each is one forward pass
    more_rounds_share: float  # share of the images for which a covariance was fitted more than once
    has_covariance: bool = False  # if false, the coordinates of each normal are independent


class TermsMetrics(Stored):
    """The two terms of the evidence lower bound under one proposal, nats per image: the bound is minus their sum."""

    distortion_nats: float  # -log p(x given z), mean over the proposal
    rate_nats: float  # log q(z) - log p(z), mean over the proposal

    @property
    def elbo_nats(self) -> float:
        """The evidence lower bound, nats per image."""
        return -self.distortion_nats - self.rate_nats


class RateDistortionMetrics(Stored):
    """The terms and the gaps of the bound at K = 1, for some test images and the first seed; nats per image."""

    n_images: int
    n_samples: int  # samples with which each term is estimated
    log_p_nats: float  # the bound with K samples for the same images
    encoder: TermsMetrics
    normal: TermsMetrics  # for each image, the normal with the highest bound that was found
    amortization_gap_nats: float  # bound of that normal minus bound of the encoder
    amortization_gap_nats_standard_error: float  # of paired differences over images, Monte Carlo noise included
    approximation_gap_nats: float  # log_p_nats minus bound of that normal
    approximation_gap_nats_standard_error: float  # of paired differences over images, Monte Carlo noise included


NoiseName = Literal["uniform", "truncated_normal", "gaussian", "variational", "sequential", "fitted"]


class SolverMetrics(Stored):
    """The error that the steps of a grid leave in a number, measured with longer steps."""

    error_nats: float  # standard error of the mean over images, nats per image
    error_bpd: float  # the same in bits per sub-pixel
    order: int  # order of the method: halving the steps divides its error by 2^order if they are short enough
    observed_order: float  # the same as observed; NaN: longer steps gave the same numbers

    @property
    def reason(self) -> str | None:
        """Why the error may be larger than it says, in words; None if it falls with the steps as it should."""
        if not self.observed_order < self.order / 2:
            return None
        return (
            f"its solver error does not fall with the steps as it should (order {self.observed_order:.1f} instead of "
            f"{self.order}), so that more steps are needed"
        )


class OriginMetrics(Stored):
    """The files of an external model, and the method by which it gives its likelihoods."""

    file: str  # its code, below external/
    sha256: str
    offers: str  # name of the method
    weights: str | None = None
    weights_sha256: str | None = None
    library: str | None = None  # name and version of the library of which the model is

    @property
    def in_words(self) -> str:
        """The files with the first digits of their hashes, the name of the method, and the library."""
        text = f"{self.file} (SHA-256 {self.sha256[:HASH_DIGITS]}), asked by {self.offers}"
        text += "" if self.library is None else f", a model of {self.library}"
        if self.weights is None or self.weights_sha256 is None:
            return text
        return f"{text}, with the weights {self.weights} (SHA-256 {self.weights_sha256[:HASH_DIGITS]})"


class AnyMetrics(OfImages):
    """``results/<model>/metrics.json`` of any version; a key that the file lacks is None.

    Numbers are means over the test images, and over training seeds if there are several.
    """

    kind: Literal["exact", "lower", "estimate", "density"]  # lower: a lower bound of log P(x); estimate: one with a
    # solver error that is not negligible; density: a density of integers
    n_images: int  # N, the number of test images
    n_distinct_images: int | None = None  # number of distinct test images; None: not counted
    n_training_images: int | None = None  # test images that are also training images; None: not counted
    n_near_training_images: int | None = None  # other test images that are nearly training images; None: not counted
    n_seeds: int  # number of trained models, each from its own seed
    n_samples: int  # K, importance samples per image; 1 for an exact number
    n_parameters: int  # number of parameters of the model
    bpd: float  # -log P(x), bits per sub-pixel; smaller is better
    bpd_standard_error: float  # test-set error, bits per sub-pixel
    bpd_monte_carlo_error: float  # bits per sub-pixel; infinite if one sample cannot show it
    nll_nats: float  # -log P(x), nats per image
    nll_nats_standard_error: float  # test-set error, nats
    nll_nats_monte_carlo_error: float  # Monte Carlo error, nats
    log_p_bias_nats: float  # estimated bias, nats; negative: the bound of log P(x) is too low
    bias_exceeds_standard_error: bool  # absolute values; if true, the number says more about K than about the model
    too_few_samples: bool | None = None  # bias above the error, or a small ESS or a high k-hat for more than 5 %
    ess_below_10_share: float | None = None  # share of the images whose effective sample size is below 10
    elbo_nats: float  # the bound of log P(x) at K = 1, nats
    ess_median: float  # median effective sample size over images and seeds, from 1 to K
    ess_smallest: float  # smallest effective sample size of any image and seed
    n_impossible_images: int  # images with probability 0; if there are any, the number is infinite

    # keys that exist only where they apply
    nll_jackknife_nats: float | None = None  # the bound without its leading bias, nats: an estimate, not a bound
    nll_jackknife_nats_error: float | None = None  # nats; only if the weights are known to have light tails
    nll_extrapolated_nats: float | None = None  # the same by another method: the bounds extrapolated against 1 / K
    pareto_k_median: float | None = None  # median k-hat of the weights over images, from K = 1,000 on
    pareto_k_limit: float | None = None  # if k-hat is above it, neither bias nor Monte Carlo error can be believed
    pareto_k_high_share: float | None = None  # share of the images above the limit
    bpd_without_training_images: float | None = None  # bpd of the other test images, if some are training images
    bpd_without_near_training_images: float | None = None  # bpd without near and equal ones, if some are near
    bpd_without_near_training_images_standard_error: float | None = None  # test-set error of that bpd
    proposal: Literal["refined", "encoder", "prior"] | None = None  # source of the samples of a latent code
    refined: RefinedMetrics | None = None  # if the proposal is refined
    solver: SolverMetrics | None = None  # if an equation is solved on a grid
    noise: NoiseName | None = None  # dequantization noise of a density
    contrast: ContrastMetrics | None = None  # if proposals are refined, or the noise is not the density's own
    bpd_seed_spread: float | None = None  # standard deviation of bpd over seeds, if there are several
    bpd_by_seed: dict[str, float] | None = None  # seed -> its bpd
    largest_leaked_gradient: float | None = None  # autoregressive models: gradient of a log-mass by hidden values; 0
    n_units: int | None = None  # dimensions of the latent code, if there is one and more than one test image
    n_active_units: int | None = None  # latent dimensions whose posterior mean changes with the image
    annealed: AnnealedMetrics | None = None  # for models with a latent code
    rate_distortion: RateDistortionMetrics | None = None  # for models with a latent code: terms of the bound at K = 1
    truth: TruthMetrics | None = None  # if the images were drawn from a known distribution
    origin: OriginMetrics | None = None  # for an external model
    verified: bool | None = None  # for an external model: whether its kind was checked and not only declared

    @property
    def is_sampled(self) -> bool:
        """Whether the number depends on random samples."""
        return self.kind in labels.SAMPLED

    @property
    def is_flagged(self) -> bool:
        """Whether there were too few samples to believe the number; the first versions checked only the bias."""
        return self.bias_exceeds_standard_error if self.too_few_samples is None else self.too_few_samples

    @property
    def is_out_of_range(self) -> bool:
        """Whether the number is worse than uniform coding, below 0, or better than the truth."""
        return self.range_reason is not None

    @property
    def range_reason(self) -> str | None:
        """Why the number is out of range, in words; None if it is in range."""
        reason = labels.range_reason(self.kind, self.bpd, self.protocol, self.bpd_monte_carlo_error)
        return reason or (self.truth.reason if self.truth else None)

    @property
    def is_of_seen_images(self) -> bool:
        """Whether test images that are (nearly) training images matter to the number; False if they were not counted.

        They matter if they are more than 5 % of all test images, or if the number without them differs by more than its
        standard error. Both are checked for the equal images alone, and for equal and near images together.
        """
        n_equal = self.n_training_images or 0
        n_seen = n_equal + (self.n_near_training_images or 0)
        return self._matter(n_equal, self.bpd_without_training_images) or self._matter(
            n_seen, self.bpd_without_near_training_images
        )

    def _matter(self, n_seen: int, others: float | None) -> bool:
        moves = abs(self.bpd - others) if others is not None and math.isfinite(others) else 0.0
        return n_seen > 0 and (n_seen > TOLERATED_SHARE * self.n_images or moves > self.bpd_standard_error)

    @property
    def seen_in_words(self) -> str | None:
        """How many test images are (nearly) training images, in words; None if there are none, or nobody counted."""
        found = []
        if self.n_training_images:
            text = f"{self.n_training_images:,} of the {self.n_images:,} test images are training images too"
            others = self.bpd_without_training_images
            found.append(text if others is None else f"{text}, and without them it is {others:.4f} bits/dim")
        if self.n_near_training_images:
            more, them = (" more", "both") if found else ("", "them")
            text = (
                f"{self.n_near_training_images:,}{more} of the {self.n_images:,} test images are nearly training images"
            )
            others, error = self.bpd_without_near_training_images, self.bpd_without_near_training_images_standard_error
            if others is not None and error is not None:
                text += f", and without {them} it is {others:.4f} bits/dim (standard error {error:.2g})"
            found.append(text)
        return "; ".join(found) or None

    @property
    def bpd_of_seeds(self) -> list[float]:
        """The bits per dimension of each seed; empty if there is only one seed, or if they are not known."""
        return list((self.bpd_by_seed or {}).values())

    @property
    def sign(self) -> str:
        """The relation sign before the number."""
        return labels.SIGNS[self.kind]

    @property
    def words(self) -> str:
        """The kind of the number in words."""
        return labels.WORDS[self.kind]

    @property
    def marks(self) -> str:
        """The marks behind the number if it should not be believed; otherwise empty."""
        found = (
            (labels.TOO_FEW, self.is_flagged),
            (labels.OUT_OF_RANGE, self.is_out_of_range),
            (labels.SEEN, self.is_of_seen_images),
        )
        return "".join(mark for mark, is_there in found if is_there)


class Metrics(AnyMetrics):
    """``results/<model>/metrics.json`` of this version: keys that old files may lack are required."""

    n_distinct_images: int
    n_training_images: int
    too_few_samples: bool
    ess_below_10_share: float

    @property
    def reasons(self) -> list[str]:
        """The reasons why the number should not be believed, in ASCII words; empty if there are none."""
        found = []
        if self.n_impossible_images:
            found.append(f"{self.n_impossible_images} of {self.n_images} test images have probability 0")
        noise = self.bpd_monte_carlo_error
        found += labels.doubts(self.kind, self.bpd, self.protocol, self.bpd_standard_error, noise)
        if self.truth is not None and self.truth.reason is not None:
            found.append(self.truth.reason)
        if self.is_of_seen_images:
            found.append(str(self.seen_in_words))
        if self.kind == "estimate" and self.solver is not None and self.solver.reason is not None:
            found.append(self.solver.reason)
        if not self.too_few_samples:
            return found
        few = []
        if self.bias_exceeds_standard_error:
            few.append(f"its bias, about {self.log_p_bias_nats:.2g} nats, exceeds its standard error")
        if self.ess_below_10_share > TOLERATED_SHARE:
            share = f"{100 * self.ess_below_10_share:.3g} %"
            few.append(f"{share} of the test images have an effective sample size below 10")
        of_images = "" if few and "images" in few[-1] else " of the test images"
        if (high := self.pareto_k_high_share or 0.0) > TOLERATED_SHARE:
            few.append(f"{100 * high:.3g} %{of_images} have weights with a heavy tail")
        return [*found, labels.too_few(self.n_samples, few)]

    @property
    def sentence(self) -> str:
        """The likelihood in one ASCII sentence: the number, its errors, its kind, K, and the reasons for doubt."""
        why = self.reasons
        shown = labels.number(self.kind, self.bpd, why, self.bpd_standard_error)
        text = f"{shown} ({self.nll_nats:z.2f} nats), {self.words}"
        if self.is_sampled:
            noise = self.bpd_monte_carlo_error
            text += f", Monte Carlo error {f'{noise:.1g}' if math.isfinite(noise) else 'unknown'}"
        if self.solver is not None:
            text += f", solver error {self.solver.error_bpd:.1g}"
        text += f", K = {self.n_samples}"
        if self.bpd_seed_spread is not None:
            text += f", the mean of {self.n_seeds} seeds, which spread by {self.bpd_seed_spread:.4f}"
        if self.n_distinct_images < self.n_images:
            verb = "is" if self.n_distinct_images == 1 else "are"
            text += f"; of {self.n_images:,} test images {self.n_distinct_images:,} {verb} distinct"
        if self.kind == "exact" and -labels.ROUNDING_BPD <= self.bpd < 0:
            text += "; below 0 only by the rounding error of float32, so taken as 0"
        if (seen := self.seen_in_words) and seen not in why:
            text += f"; {seen}"
        return text + labels.because(why)
