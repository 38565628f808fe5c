"""Refined proposals: unbiased estimates, densities that match the draws, and independent images."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from bitsperdim.config.params import RefinedSection
from bitsperdim.evaluation import covariance, refined, scoring, summary
from bitsperdim.likelihoods import CorrelatedNormal, DiagonalNormal, LatentMixture, NormalChain
from bitsperdim.models import LatentModel
from bitsperdim.models.external.codes import ExternalCode
from bitsperdim.models.external.methods import offers_of
from bitsperdim.models.external.wrapping import wrap
from bitsperdim.runtime.checkpoints import Checkpoint
from support import annealing, laws
from support.cases import SMALL, small_model
from support.estimates import SECTION, prepared
from support.foreign import Vae, some_images

CPU = torch.device("cpu")
SHORT = RefinedSection(n_steps=12, n_samples=2, n_pilot=32, encoder_share=0.1, prior_share=0.2)
ALONE = RefinedSection(encoder_share=0.0, prior_share=0.0)
WITH_CODE = [name for name in SMALL if "vae" in name]


def refine(model: LatentModel, x: Tensor, section: RefinedSection = SHORT, first: int = 0) -> refined.Refined:
    return refined.refine(model, x, section, refined.generators_of(range(first, first + len(x)), 0, 0))


def weights(model: LatentModel, x: Tensor, proposal: LatentMixture, n_samples: int, seed: int = 1) -> Tensor:
    with torch.no_grad():
        return model.log_weights(x, n_samples, generator=annealing.seeded(seed), encoded=proposal)


@pytest.mark.parametrize("name", WITH_CODE)
def test_weights_average_to_the_mass(name: str) -> None:
    """They agree with quadrature for all likelihoods, two layers, convolutions; a false alarm in 1 of 100,000 seeds."""
    model = small_model(name)
    assert isinstance(model, LatentModel)
    x = laws.all_images(model.image_shape, model.n_levels)[::7][:8]
    with torch.no_grad():
        masses = laws.masses_by_quadrature(model, x)
    found = refine(model, x)
    assert not torch.equal(found.proposal.mean, model.encode(x).mean)
    annealing.means_are(weights(model, x, found.proposal, 4_000).exp() / masses, 1.0, 0.1)


def test_masses_of_all_images_add_up_to_one() -> None:
    """Each image has its own proposal, and the sum of all E[w] is 1; a false alarm in one of a million seeds."""
    model, x = annealing.curved()
    w = weights(model, x, refine(model, x).proposal, 4_000).exp()
    annealing.means_are(w.sum(1, keepdim=True), 1.0, 0.01)


def test_a_likelihood_in_float64_is_taken() -> None:
    """A decoder of an external model may return float64 for a code in float32; the proposal is almost the same."""

    class Double(Vae):
        def decode(self, z: Tensor) -> td.Distribution:
            return td.Categorical(logits=super().decode(z).logits.double())

    found = []
    for net in (Vae(), Double()):
        model = wrap(offers_of(net)[0], (1, 2, 2), 3)
        assert isinstance(model, LatentModel)
        found.append(refine(model, some_images((1, 2, 2), 3)[:4]).proposal.mean)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["vae-bernoulli", "vae-two-layers"])
def test_the_density_is_that_of_the_draws(name: str) -> None:
    """It integrates to one and has the moments of 40,000 draws on a grid; a false alarm in one of 60,000 seeds."""
    model = small_model(name)
    assert isinstance(model, LatentModel)
    x = laws.all_images(model.image_shape, model.n_levels)[[3, 9]]
    proposal = refine(model, x).proposal
    nodes = torch.linspace(-14, 14, 701, dtype=torch.float64)
    grid = torch.cartesian_prod(nodes, nodes)[:, None]  # (K, 1, 2)
    with torch.no_grad():
        density = proposal.log_prob(grid.expand(-1, 2, -1)).exp() * (nodes[1] - nodes[0]) ** 2  # (K, 2)
        drawn = proposal.rsample(40_000, generator=annealing.seeded())
    torch.testing.assert_close(density.sum(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    for moment in (lambda z: z, lambda z: z.square(), lambda z: z[..., :1] * z[..., 1:]):
        annealing.far_from_zero(annealing.z_score(moment(drawn) - (density[..., None] * moment(grid)).sum(0)))


@pytest.mark.parametrize(("width", "offset"), [(0.3, 0.0), (3.0, 0.0), (1.0, 2.0)])
def test_a_wrong_encoder_becomes_the_posterior(width: float, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders that are too narrow, too wide, or shifted by 2 standard deviations become the posterior, but widened."""
    model, x = annealing.conjugate(width), annealing.IMAGES
    exact, encode = model.posterior(x), model.encode
    monkeypatch.setattr(
        model, "encode", lambda x: encode(x).moved(torch.tensor(offset), torch.tensor(0.0, dtype=torch.float64))
    )
    section = ALONE.model_copy(update={"widening": 1.25, "n_steps": 200, "n_rounds": 0})
    (normal,) = refine(model, x, section).proposal.parts
    assert isinstance(normal, DiagonalNormal)
    standard = (normal.mean - exact.mean) * torch.exp(-exact.log_scale)
    assert standard.abs().max() < 0.05
    assert (normal.log_scale - exact.log_scale - math.log(1.25)).abs().max() < 0.05


def test_the_derivative_is_that_of_the_bound() -> None:
    """On average it equals the plain derivative of the bound with k = 4; a false alarm in one of 250,000 seeds."""
    model, x = annealing.conjugate(0.6), annealing.IMAGES[:1]
    n = 4_000
    images = x.expand(n, -1, -1, -1)
    noise = torch.randn(4, n, 2, generator=annealing.seeded(), dtype=torch.float64)
    gradients = []
    for ours in (True, False):
        offsets = torch.full((2, n, 2), 0.3, dtype=torch.float64, requires_grad=True)
        proposal = model.encode(images).moved(*offsets)
        if ours:
            bound = refined.surrogate(model, images, proposal, noise)
        else:
            z = proposal.from_noise(noise)
            bound = torch.logsumexp(model.log_joint(images, z) - proposal.log_prob(z), 0) - math.log(4)
        (gradient,) = torch.autograd.grad(bound.sum(), offsets)
        gradients.append(gradient.movedim(1, 0))  # (n, 2, 2)
    doubly, plain = gradients
    assert (doubly.mean(0).abs() > 0.05).all()
    annealing.far_from_zero(annealing.z_score(doubly - plain))
    assert (doubly.var(0) < plain.var(0)).all()


class TwoModes(LatentModel):
    """The prior of z is a mixture of two normals far apart, and the image does not depend on z: log P(x) = log 1."""

    def __init__(self) -> None:
        super().__init__((1, 1, 1), 2)
        self.register_buffer("at", torch.tensor(6.0, dtype=torch.float64))

    def prior(self) -> DiagonalNormal:
        return DiagonalNormal(torch.zeros(1, dtype=torch.float64), torch.full((1,), math.log(6.0), dtype=torch.float64))

    def encode(self, x: Tensor) -> DiagonalNormal:
        return self.prior().expand(len(x)).moved(torch.full((len(x), 1), 0.8, dtype=torch.float64), torch.tensor(0.0))

    def decode(self, z: Tensor) -> Any:
        raise AssertionError("there is no likelihood of levels here")

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        modes = [DiagonalNormal(sign * self.at[None], torch.zeros(1, dtype=torch.float64)) for sign in (-1, 1)]
        both = torch.stack([mode.log_prob(z) for mode in modes])
        return torch.logsumexp(both, 0) - math.log(2) - self.prior().log_prob(z)


def test_a_mode_that_is_left_is_still_found() -> None:
    """The normal alone settles on one mode and is off by log 2, which its weights do not show; the mixture is right.

    A false alarm occurs in one of a million seeds.
    """
    model, x = TwoModes().eval(), torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    section = ALONE.model_copy(update={"n_samples": 1, "n_steps": 200})
    found = {
        share: weights(model, x, refine(model, x, section.model_copy(update={"encoder_share": share})).proposal, 40_000)
        for share in (0.0, 0.05)
    }
    assert abs(float(found[0.0].exp().mean()) - 0.5) < 0.02
    annealing.means_are(found[0.05].exp(), 1.0, 0.1)


def test_images_are_independent() -> None:
    """The proposal of an image does not depend on its batch; its index and the seed determine it."""
    model, x = annealing.curved()
    whole = refine(model, x[:6]).proposal.mean
    torch.testing.assert_close(refine(model, x[2:4], first=2).proposal.mean, whole[2:4], rtol=0, atol=1e-9)
    again = refined.refine(model, x[:6], SHORT, refined.generators_of(range(6), 0, 0)).proposal.mean
    assert torch.equal(again, whole)
    for numbers, seeds in ((range(1, 7), (0, 0)), (range(6), (1, 0)), (range(6), (0, 1))):
        other = refined.refine(model, x[:6], SHORT, refined.generators_of(numbers, *seeds)).proposal.mean
        assert (other - whole).abs().amin(1).min() > 1e-9


def test_draws_of_a_mixture_do_not_depend_on_chunks_and_have_its_shares() -> None:
    parts = [DiagonalNormal(torch.full((50, 1), at), torch.zeros(50, 1)) for at in (-30.0, 0.0, 30.0)]
    mixture, generator = LatentMixture(parts, [0.7, 0.2, 0.1]), annealing.seeded()
    whole = mixture.rsample(60, generator=annealing.seeded())
    assert torch.equal(torch.cat([mixture.rsample(n, generator=generator) for n in (1, 20, 39)]), whole)
    n = whole.numel()
    for at, share in zip((-30, 0, 30), (0.7, 0.2, 0.1), strict=True):
        count = int(((whole - at).abs() < 15).sum())
        assert abs(count - n * share) < laws.FAR * math.sqrt(n * share * (1 - share))
    inner = torch.where(whole.abs() < 15, whole, torch.nan)
    assert (
        abs(float(inner[~inner.isnan()].std()) - 1) < 0.2
    )  # the number that selects the component is not used in the draw
    with pytest.raises(ValueError, match="shares that add up to 1"):
        LatentMixture(parts, [0.7, 0.2, 0.2])


def test_a_moved_chain_is_moved_in_every_layer() -> None:
    """Each normal, given the layer before, is moved by its own offsets; offsets of zero change nothing."""
    model = small_model("vae-two-layers")
    assert isinstance(model, LatentModel)
    chain = model.encode(laws.all_images(model.image_shape, 2)[:3])
    assert isinstance(chain, NormalChain)
    zeros, noise = torch.zeros(3, 2, dtype=torch.float64), torch.randn(5, 3, 2, generator=annealing.seeded()).double()
    assert torch.equal(chain.moved(zeros, zeros).from_noise(noise), chain.from_noise(noise))
    shift, factor = zeros + torch.tensor([0.5, -1.0]), zeros + torch.tensor([0.2, 0.4])
    moved = chain.moved(shift, factor)
    z = moved.from_noise(noise)
    first, second = z.split(1, dim=-1)
    given = chain.links[0](first)
    expected = chain.first.mean + torch.exp(chain.first.log_scale) * (0.5 + math.exp(0.2) * noise[..., :1])
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, given.mean + torch.exp(given.log_scale) * (-1 + math.exp(0.4) * noise[..., 1:]))
    by_hand = td.Normal(given.mean - torch.exp(given.log_scale), torch.exp(given.log_scale + 0.4)).log_prob(second)
    by_hand = by_hand + moved.first.log_prob(first)[..., None]
    torch.testing.assert_close(moved.log_prob(z), by_hand[..., 0])
    torch.testing.assert_close(moved.detach().log_prob(z), moved.log_prob(z))


@pytest.mark.parametrize("n_rounds", [0, 2])
def test_what_it_costs_is_counted(n_rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = annealing.conjugate(), []
    joint = model.log_joint

    def counted(x: Tensor, z: Tensor) -> Tensor:
        passes.append((z.requires_grad, z.shape[:2].numel()))
        return joint(x, z)

    monkeypatch.setattr(model, "log_joint", counted)
    section = ALONE.model_copy(update={"n_steps": 20, "n_samples": 2, "n_rounds": n_rounds, "n_pilot": 64})
    found = refine(model, annealing.IMAGES, section)
    # 20 steps with 2 samples; then 64 samples for a fit, and 128 that check it, with gradients for a possible next fit
    assert found.n_gradients.tolist() == [40 + (192 if n_rounds else 0)] * 3
    assert found.n_pilot.tolist() == [0] * 3
    assert found.n_rounds.tolist() == [min(n_rounds, 1)] * 3
    assert sum(n for with_gradient, n in passes if with_gradient) == int(found.n_gradients.sum())
    assert all(with_gradient for with_gradient, _ in passes)
    assert found.costs.tolist() == [[int(found.n_gradients[0]), 0, min(n_rounds, 1)]] * 3


def test_a_large_code_keeps_independent_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result has the same bits as with no rounds at all."""
    model, x = annealing.Coupled().eval(), annealing.IMAGES
    without = refine(model, x, ALONE.model_copy(update={"n_rounds": 0})).proposal.parts
    assert isinstance(refine(model, x, ALONE).proposal.parts[0], CorrelatedNormal)
    monkeypatch.setattr(covariance, "LARGEST", 1)
    alone = refine(model, x, ALONE).proposal.parts
    for one, other in zip(without, alone, strict=True):
        assert isinstance(one, DiagonalNormal)
        assert isinstance(other, DiagonalNormal)
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.log_scale, other.log_scale)


@pytest.mark.parametrize("n_rounds", [0, 2])
def test_an_image_without_any_mass_stays_where_it_is(n_rounds: int) -> None:
    """It has no derivative and gives no NaN: its weights stay zero, and the other images are refined."""
    model, x = annealing.conjugate(0.5), annealing.IMAGES
    like = annealing.LinearGaussian.log_p_x_given_z
    with pytest.MonkeyPatch.context() as patch:

        def impossible(self: annealing.LinearGaussian, x: Tensor, z: Tensor) -> Tensor:
            return like(self, x, z).masked_fill((x == annealing.IMAGES[1]).flatten(1).all(1), -math.inf)

        patch.setattr(annealing.LinearGaussian, "log_p_x_given_z", impossible)
        found = refine(
            model, x, ALONE.model_copy(update={"n_steps": 5, "n_rounds": n_rounds, "widening": 1.0})
        ).proposal
    (normal,) = found.parts
    assert isinstance(normal, CorrelatedNormal if n_rounds else DiagonalNormal)
    assert torch.equal(normal.mean[1], model.encode(x).mean[1])
    assert normal.mean.isfinite().all()
    assert (normal.mean[0] != model.encode(x).mean[0]).all()


def test_an_evaluation_with_refined_proposals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed scoring has the same bits; the metrics name the proposal and its costs; the encoder's number differs."""
    data, model = prepared("vae-bernoulli"), small_model("vae-bernoulli").float()
    section = SECTION.model_copy(update={"proposal": "refined", "refined": SHORT})
    evaluate = partial(scoring.evaluate_seed, model, data, section, 7, CPU, title="this")
    whole, work, calls = evaluate(), refined.refine, []

    def stopping(*args: Any) -> refined.Refined:
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return work(*args)

    monkeypatch.setattr(scoring.refined, "refine", stopping)
    place = Checkpoint(tmp_path / "one", "one")
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint=place)
    again = evaluate(checkpoint=place)
    assert len(calls) == 4  # three blocks, the second one twice
    assert whole.costs is not None
    assert again.costs is not None
    for name in ("log_p", "ess", "bounds", "costs"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    metrics = summary.summarise({7: whole}, model, data.description, scoring.proposal_of(model, section)).metrics
    assert metrics.proposal == "refined"
    assert metrics.refined is not None
    assert metrics.refined.gradients_per_image == pytest.approx(float(whole.costs[:, 0].mean()))
    assert metrics.refined.pilot_samples_per_image == pytest.approx(float(whole.costs[:, 1].mean()))
    by_encoder = scoring.evaluate_seed(model, data, SECTION, 7, CPU)
    assert by_encoder.costs is None
    assert (by_encoder.log_p != whole.log_p).all()


@pytest.mark.parametrize("name", ["pixelcnn-binary-3x3", "flow-maf", "histogram-grey"])
def test_without_a_code_it_changes_nothing(name: str) -> None:
    data, model = prepared(name), small_model(name).float()
    section = SECTION.model_copy(update={"proposal": "refined"})
    one, other = (scoring.evaluate_seed(model, data, each, 7, CPU) for each in (SECTION, section))
    assert torch.equal(one.log_p, other.log_p)
    assert other.costs is None
    assert scoring.proposal_of(model, section) is None


class Foreign(annealing.LinearGaussian):
    """The conjugate model with an encoder that is one of three kinds of torch distributions."""

    kind = "normal"

    def encode(self, x: Tensor) -> ExternalCode:  # type: ignore[override]
        own = super().encode(x)
        base = td.Normal(own.mean + 0.5, 2 * own.log_scale.exp())
        given = {
            "normal": base,
            "student": td.StudentT(torch.tensor(3.0, dtype=torch.float64), base.loc, base.scale),
            "flow": td.TransformedDistribution(
                base, [td.AffineTransform(0.3, 0.8)]
            ),  # has neither a mean nor a standard deviation
        }[self.kind]
        return ExternalCode(td.Independent(given, 1), "encode", (len(x),), CPU)

    def encode_as_normal(self, x: Tensor) -> DiagonalNormal:
        return self.encode(x).as_normal()


@pytest.mark.parametrize("kind", ["normal", "student", "flow"])
def test_an_encoder_from_elsewhere_is_refined_as_a_normal(kind: str) -> None:
    """E[w] = P(x) for any distribution, with its share in the mixture; a false alarm in one of 300,000 seeds."""
    model, x = Foreign().eval(), annealing.IMAGES
    model.kind = kind
    section = SHORT.model_copy(update={"n_steps": 100, "prior_share": 0.0})
    found = refine(model, x, section).proposal
    assert [type(part) for part in found.parts] == [CorrelatedNormal, ExternalCode]
    log_w = weights(model, x, found, 3_000) - model.log_p(x)
    annealing.means_are(log_w.exp(), 1.0, 0.03)
    assert (log_w.std(0) < 0.6 * weights(model, x, LatentMixture([model.encode(x)], [1.0]), 3_000).std(0)).all()


def test_what_cannot_be_refined() -> None:
    model = small_model("vae-bernoulli").train()
    assert isinstance(model, LatentModel)
    x = laws.all_images(model.image_shape, 2)
    with pytest.raises(ValueError, match="refining a proposal needs a model in evaluation mode"):
        refine(model, x)

    class Discrete(TwoModes):  # it keeps the encoder's proposal
        has_derivatives = False

    section = SECTION.model_copy(update={"proposal": "refined"})
    assert not refined.is_refined(Discrete(), section)
    assert scoring.proposal_of(Discrete(), section) == "encoder"
    assert scoring.proposal_of(TwoModes(), section) == "refined"
