"""``metrics.json`` of a model: every key, its unit and meaning, and what is said of its number.

This is the one definition: the stages write it, and the report, the README, ``compare``, the leaderboard and the
recipes read it. :class:`Metrics` is what this version writes. :class:`AnyMetrics` is what any version wrote: a key that
the first ones did not have is None, for *unknown*, where an old file lacks it. A new key goes there, with None, and
into :class:`Metrics` without, if every model has it.

How the numbers are computed: :mod:`bitsperdim.evaluation.summary`, :mod:`bitsperdim.evaluation.latent_code`.
Test-set errors are the spread over test images / sqrt(N), of which copies count once; Monte Carlo errors are what
another draw of the K samples would change, and are contained in them. The ``metrics.json`` of the images is in
:mod:`bitsperdim.core.yardsticks`.

Invariants (``tests/core/test_metrics.py``): the committed files are written again to the byte
(``test_the_committed_files_are_the_same_bytes``); committed results of recipes are read
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
    """Annealing in both directions, of images drawn from the model: there log P(x) has two bounds. Nats per image."""

    n_images: int
    n_chains: int  # of each image
    n_steps: int  # from the start to the posterior: from the refined proposal where there is one, or the prior
    lower_nats: float  # the mean lower bound of log P(x)
    upper_nats: float  # the mean upper bound
    gap_nats: float  # upper minus lower
    gap_nats_standard_error: float  # over images


class AnnealedMetrics(Stored):
    """Annealed importance sampling of some test images, the first seed; nats per image.

    All keys but ``simulated`` are there together, or none is: then no test image was annealed.
    """

    n_images: int | None = None
    n_chains: int | None = None  # of each image
    n_steps: int | None = (
        None  # from the start to the posterior: from the refined proposal where there is one, or the prior
    )
    acceptance: float | None = None  # the share of proposed moves that were accepted
    log_p_nats: float | None = None  # the mean lower bound of log P(x)
    log_p_nats_standard_error: float | None = None  # over images
    monte_carlo_error_nats: float | None = None  # of log_p_nats
    importance_sampled_nats: float | None = None  # log P(x) of the same images by importance sampling
    above_importance_sampled_nats: float | None = None  # the difference, of the images that this gives any mass
    above_importance_sampled_nats_standard_error: float | None = None  # paired
    simulated: SimulatedMetrics | None = None  # where images were drawn

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        lacking = {key for key, value in self if value is None} - {"simulated"}
        if lacking and lacking != type(self).model_fields.keys() - {"simulated"}:
            raise ValueError(f"{', '.join(sorted(lacking))} must be there too")
        return self


class TruthMetrics(Stored):
    """The model against the distribution that the images were drawn from (:mod:`bitsperdim.estimators.truth`)."""

    bpd: float  # -log P_true(x) of the test images, bits per sub-pixel
    excess_bpd: float  # by which the number is above that: it estimates the divergence, which is never negative
    excess_bpd_standard_error: float  # paired, over test images, with the Monte Carlo noise in it
    evidence_nats: float  # the sum of log P(x) - log P_true(x), of the seed where it is largest
    critical_nats: float  # evidence that refutes
    level: float  # how often a right model is refuted, at most
    is_refuted: bool

    @property
    def reason(self) -> str | None:
        """Why the number is refuted, in words; None where it is not."""
        if not self.is_refuted:
            return None
        return (
            f"better than the truth by {self.evidence_nats:.4g} nats in all; a right model is so by "
            f"{self.critical_nats:.3g} with a probability of {self.level:g} at most"
        )


class ContrastMetrics(Stored):
    """Some test images by what was refined or replaced, the first seed, with the same K: *before*; and *after*."""

    proposal: Literal["encoder", "uniform", "variational"]  # before: of a latent code, or the own noise of a density
    n_images: int
    bpd: float  # of these images, before, bits per sub-pixel
    nll_nats: float  # likewise, nats per image
    nll_nats_after: float  # of the same images
    log_p_bias_nats: float  # this and the next four are of before: keys as of the model
    ess_median: float
    ess_below_10_share: float
    pareto_k_high_share: float | None = None  # from K = 1,000 on
    too_few_samples: bool
    gain_nats: float  # by how much the bound of log P(x) is higher after, of the images that both give any mass
    gain_nats_standard_error: float  # paired, over images
    n_passes: int  # through the network for each image, before: K
    n_passes_after: float  # K, gradients, what was thrown away and a fit; a gradient also needs a way back


class RefinedMetrics(Stored):
    """What the refinement of each image's proposal took, means over test images and seeds."""

    gradients_per_image: float  # each a pass through the decoder and back
    pilot_samples_per_image: float  # a pass each
    more_rounds_share: float  # of the images, those for which a covariance was fitted more than once
    has_covariance: bool = False  # or else the coordinates of each normal are independent


class TermsMetrics(Stored):
    """The two terms of the evidence lower bound under one proposal, nats per image: the bound is minus their sum."""

    distortion_nats: float  # -log p(x given z), the mean over the proposal
    rate_nats: float  # log q(z) - log p(z), likewise

    @property
    def elbo_nats(self) -> float:
        """The bound."""
        return -self.distortion_nats - self.rate_nats


class RateDistortionMetrics(Stored):
    """The terms of the bound at K = 1 and what it is short of, of some test images, the first seed; nats per image."""

    n_images: int
    n_samples: int  # of each term
    log_p_nats: float  # the bound of K samples of the same images
    encoder: TermsMetrics
    normal: TermsMetrics  # of each image the normal with the highest bound that was found
    amortization_gap_nats: float  # the bound of that normal less the encoder's
    amortization_gap_nats_standard_error: float  # paired, over images, with the Monte Carlo noise in it
    approximation_gap_nats: float  # log_p_nats less the bound of that normal
    approximation_gap_nats_standard_error: float  # likewise


class OriginMetrics(Stored):
    """Where a model that was made elsewhere comes from, and the method that it is asked by."""

    file: str  # its code, below external/
    sha256: str
    offers: str  # the method
    weights: str | None = None
    weights_sha256: str | None = None

    @property
    def in_words(self) -> str:
        """The files with the first digits of their hashes, and the method."""
        text = f"{self.file} (SHA-256 {self.sha256[:HASH_DIGITS]}), asked by {self.offers}"
        if self.weights is None or self.weights_sha256 is None:
            return text
        return f"{text}, with the weights {self.weights} (SHA-256 {self.weights_sha256[:HASH_DIGITS]})"


class AnyMetrics(OfImages):
    """``results/<model>/metrics.json`` of any version: a key of later ones is None where the file lacks it.

    Numbers are means over the test images, and over training seeds where there are several.
    """

    kind: Literal["exact", "lower", "density"]  # lower: a lower bound of log P(x); density: of whole numbers
    n_images: int  # N, test images
    n_distinct_images: int | None = None  # that differ from each other; None: nobody looked
    n_training_images: int | None = None  # test images that are training images too; None: nobody looked
    n_near_training_images: int | None = None  # others that are nearly training images; None: nobody looked
    n_seeds: int  # trained models, from as many seeds
    n_samples: int  # K, importance samples of each image; 1 where the number is exact
    n_parameters: int  # of the model
    bpd: float  # -log P(x), bits per sub-pixel; smaller is better
    bpd_standard_error: float  # test-set error, bits per sub-pixel
    bpd_monte_carlo_error: float  # bits per sub-pixel; infinite where one sample cannot tell
    nll_nats: float  # -log P(x), nats per image
    nll_nats_standard_error: float  # test-set error, nats
    nll_nats_monte_carlo_error: float  # nats
    log_p_bias_nats: float  # estimated, nats; negative: the bound of log P(x) is too low
    bias_exceeds_standard_error: bool  # in size: then the number says more about K than about the model
    too_few_samples: bool | None = None  # a bias above the error, or a small ESS or a high k-hat of more than 5 %
    ess_below_10_share: float | None = None  # share of the images whose effective sample size is below 10
    elbo_nats: float  # the bound of log P(x) at K = 1, nats
    ess_median: float  # effective sample size, 1 to K, over images and seeds
    ess_smallest: float  # of any image and seed
    n_impossible_images: int  # that got no mass: then the number is infinite

    # where it applies
    nll_jackknife_nats: float | None = None  # a bound without its leading bias, nats: an estimate, no bound
    nll_jackknife_nats_error: float | None = None  # nats; where the weights are known to be light
    nll_extrapolated_nats: float | None = None  # the same by another way, from the bounds against 1 / K
    pareto_k_median: float | None = None  # k-hat of the weights over images, from K = 1,000 on
    pareto_k_limit: float | None = None  # above which neither bias nor Monte Carlo error can be believed
    pareto_k_high_share: float | None = None  # share of the images above the limit
    bpd_without_training_images: float | None = None  # of the others, where some test images are training images
    bpd_without_near_training_images: float | None = None  # without near and equal ones, where some are near
    bpd_without_near_training_images_standard_error: float | None = None  # test-set error of that
    proposal: Literal["refined", "encoder", "prior"] | None = None  # that the samples of a latent code came from
    refined: RefinedMetrics | None = None  # where it is refined
    noise: Literal["uniform", "variational", "sequential", "fitted"] | None = None  # of a density, in each cell
    contrast: ContrastMetrics | None = None  # where proposals are refined, or noise is not the density's own
    bpd_seed_spread: float | None = None  # of several seeds: the standard deviation of their bpd
    bpd_by_seed: dict[str, float] | None = None  # seed -> its bpd
    largest_leaked_gradient: float | None = None  # of autoregressive models: of a log-mass, by what it must not know; 0
    n_units: int | None = None  # of the latent code, where there is one and more than one test image
    n_active_units: int | None = None  # whose posterior mean moves with the image
    annealed: AnnealedMetrics | None = None  # of models with a latent code
    rate_distortion: RateDistortionMetrics | None = None  # likewise: the bound at K = 1 in its terms
    truth: TruthMetrics | None = None  # where the images were drawn from a known distribution
    origin: OriginMetrics | None = None  # of a model that was made elsewhere
    verified: bool | None = None  # of such a model: whether its kind is more than what it declares

    @property
    def is_flagged(self) -> bool:
        """Whether there were too few samples to believe the number; the first versions looked at the bias alone."""
        return self.bias_exceeds_standard_error if self.too_few_samples is None else self.too_few_samples

    @property
    def is_out_of_range(self) -> bool:
        """Whether the number is worse than uniform coding, below 0, or better than the truth."""
        return self.range_reason is not None

    @property
    def range_reason(self) -> str | None:
        """How it is out of range, in words; None where it is not."""
        reason = labels.range_reason(self.kind, self.bpd, self.protocol, self.bpd_monte_carlo_error)
        return reason or (self.truth.reason if self.truth else None)

    @property
    def is_of_seen_images(self) -> bool:
        """Whether test images that are training images too, or nearly, matter to the number; False where nobody looked.

        They do where they are more than 5 % of all, or where the number of the others is more than its standard error
        away: those that are equal alone, or these and the near ones.
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
        """How many test images are training images too, or nearly, in words; None where none is, or nobody looked."""
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
        """The bits per dimension of each seed; empty where there is one, or where they are not known."""
        return list((self.bpd_by_seed or {}).values())

    @property
    def sign(self) -> str:
        """What stands before the number."""
        return labels.SIGNS[self.kind]

    @property
    def words(self) -> str:
        """What the number is."""
        return labels.WORDS[self.kind]

    @property
    def marks(self) -> str:
        """What stands behind the number where it is not to be believed as it stands; empty elsewhere."""
        found = (
            (labels.TOO_FEW, self.is_flagged),
            (labels.OUT_OF_RANGE, self.is_out_of_range),
            (labels.SEEN, self.is_of_seen_images),
        )
        return "".join(mark for mark, is_there in found if is_there)


class Metrics(AnyMetrics):
    """``results/<model>/metrics.json`` as this version writes it: what an old file may lack is there."""

    n_distinct_images: int
    n_training_images: int
    too_few_samples: bool
    ess_below_10_share: float

    @property
    def reasons(self) -> list[str]:
        """Why the number is not to be believed as it stands, in words, ASCII; empty where it is."""
        found = []
        if self.n_impossible_images:
            found.append(f"{self.n_impossible_images} of {self.n_images} test images have probability 0")
        noise = self.bpd_monte_carlo_error
        found += labels.doubts(self.kind, self.bpd, self.protocol, self.bpd_standard_error, noise)
        if self.truth is not None and self.truth.reason is not None:
            found.append(self.truth.reason)
        if self.is_of_seen_images:
            found.append(str(self.seen_in_words))
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
        """What the file says of the likelihood, in ASCII: the number, its errors, what it is, K, and reasons."""
        why = self.reasons
        shown = labels.number(self.kind, self.bpd, why, self.bpd_standard_error)
        text = f"{shown} ({self.nll_nats:z.2f} nats), {self.words}"
        if self.kind == "lower":
            noise = self.bpd_monte_carlo_error
            text += f", Monte Carlo error {f'{noise:.1g}' if math.isfinite(noise) else 'unknown'}"
        text += f", K = {self.n_samples}"
        if self.bpd_seed_spread is not None:
            text += f", the mean of {self.n_seeds} seeds, which spread by {self.bpd_seed_spread:.4f}"
        if self.n_distinct_images < self.n_images:
            verb = "is" if self.n_distinct_images == 1 else "are"
            text += f"; of {self.n_images:,} test images {self.n_distinct_images:,} {verb} distinct"
        if self.kind == "exact" and -labels.ROUNDING_BPD <= self.bpd < 0:
            text += "; below 0 by no more than float32 rounds, so 0"
        if (seen := self.seen_in_words) and seen not in why:
            text += f"; {seen}"
        return text + labels.because(why)
