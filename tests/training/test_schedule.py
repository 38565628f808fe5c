"""Learning rates of all steps, the weight of the KL term, and the optimizer compared with an independent one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import TrainSection
from bitsperdim.core.errors import InputError
from bitsperdim.likelihoods import DiagonalNormal
from bitsperdim.models import LatentModel
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.training.schedule import WeighedDensity, kl_weight, learning_rate
from bitsperdim.training.step import Objective, adam
from support.cases import small_model
from support.training_cases import SECTIONS, SETTINGS, power_cut, run, weights

BURDA: dict[str, Any] = {"betas": [0.99, 0.999], "eps": 1e-4, "initial_second_moment": 1.0}


def settings(**changes: Any) -> TrainSection:
    return TrainSection.model_validate({**SETTINGS, "warmup_steps": 0, **changes})


def rates(n_steps: int, **changes: Any) -> list[float]:
    return [learning_rate(settings(**changes), step, n_steps) for step in range(n_steps)]


def test_the_stages_are_those_of_burda() -> None:
    """With 3,280 epochs of two steps, rates, numbers of epochs and order of the eight stages are those of the paper."""
    found = rates(2 * 3280, schedule="stages", learning_rate=1e-3)
    expected = [
        rate for i in range(1, 9) for rate in [1e-4 * round(10.0 ** (1 - (i - 1) / 7.0), 1)] * (2 * 3 ** (i - 1))
    ]
    assert found == pytest.approx(expected, rel=1e-12)
    assert sorted({round(1e4 * rate, 6) for rate in found}) == [1.0, 1.4, 1.9, 2.7, 3.7, 5.2, 7.2, 10.0]


@pytest.mark.parametrize("n_steps", [1, 7, 100, 3279])
def test_fewer_steps_are_shared_out_likewise(n_steps: int) -> None:
    found = rates(n_steps, schedule="stages", learning_rate=1.0)
    for i in range(8):
        n = sum(rate == pytest.approx(round(10 ** (1 - i / 7), 1) / 10) for rate in found)
        assert abs(n - n_steps * 3**i / 3280) < 1
    assert found == sorted(found, reverse=True)


def test_an_exponential_falls_by_one_factor_to_the_final_rate() -> None:
    found = rates(40, schedule="exponential", learning_rate=0.1, final_learning_rate=1e-3, warmup_steps=4)
    assert found[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    factors = np.divide(found[5:], found[4:-1])
    assert factors == pytest.approx(np.full(35, 0.01 ** (1 / 36)))
    assert found[-1] * factors[0] == pytest.approx(1e-3)


def test_a_cosine_ends_at_the_final_rate() -> None:
    found = rates(40, learning_rate=0.1, final_learning_rate=0.02)
    assert found == pytest.approx([0.06 + 0.04 * math.cos(math.pi * step / 40) for step in range(40)])
    of_zero = rates(40, learning_rate=0.1)
    assert of_zero == [0.1 * 0.5 * (1 + math.cos(math.pi * (step / 40))) for step in range(40)]  # bit for bit


def test_the_weight_rises_to_one() -> None:
    weights = [kl_weight(settings(kl_warmup_steps=4), step, 40) for step in range(6)]
    assert weights == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [kl_weight(settings(kl_warmup_steps=100), step, 4) for step in range(4)] == [0.5, 1, 1, 1]
    assert kl_weight(settings(), 0, 40) == 1


@pytest.mark.parametrize("name", ["vae-bernoulli", "vae-two-layers"])
@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_kl_term_is_weighed(name: str, weight: float) -> None:
    """All derivatives equal those of weighted log-weights that are computed by hand; the loss does not change."""
    model = small_model(name)
    assert isinstance(model, LatentModel)
    model.train()
    x = torch.randint(model.n_levels, (5, *model.image_shape), generator=torch.Generator().manual_seed(1)).byte()
    objective = Objective(model, torch.float32, torch.Generator().manual_seed(2))
    loss = objective(x, None, None, 3, torch.full((), weight, dtype=torch.float64))
    found = torch.autograd.grad(loss, list(model.parameters()))
    proposal = model.encode(x)
    z = proposal.rsample(3, generator=torch.Generator().manual_seed(2))
    log_w = model.log_p_x_given_z(x, z) + weight * (model.prior().log_prob(z) - proposal.log_prob(z))
    by_hand = -(log_w.logsumexp(0) - math.log(3)).mean()
    for one, other in zip(found, torch.autograd.grad(by_hand, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    plain = Objective(model, torch.float32, torch.Generator().manual_seed(2))(x, None, None, 3)
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    assert torch.isclose(by_hand, plain, rtol=1e-9) == (weight == 1)


def test_a_weighed_density_stays_one_without_derivatives() -> None:
    proposal, prior = (DiagonalNormal(torch.full((2, 3), a).requires_grad_(), torch.zeros(2, 3)) for a in (1.0, 2.0))
    density, z = WeighedDensity(proposal, prior, torch.tensor(0.25)), torch.randn(4, 2, 3)
    assert torch.equal(density.mean, proposal.mean)
    assert density.log_prob(z).requires_grad
    assert not density.detach().log_prob(z).requires_grad
    torch.testing.assert_close(density.detach().log_prob(z), density.log_prob(z).detach())


def test_a_model_without_a_latent_code_has_no_kl_term() -> None:
    model = small_model("pixelcnn-three-levels")
    x = torch.zeros(2, *model.image_shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match="without a latent code"):
        Objective(model, torch.float32, torch.Generator())(x, None, None, 1, torch.ones(()))


def test_the_kl_term_is_weighed_in_the_first_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first three of twenty steps are weighted; the bounds in the curve never are."""
    asked: list[float | None] = []
    forward = Objective.forward

    def listening(self: Objective, x: Tensor, *rest: Any) -> Tensor:
        asked.append(None if rest[-1] is None else float(rest[-1]))
        return forward(self, x, *rest)

    monkeypatch.setattr(Objective, "forward", listening)
    warmed, plain = run("vae", epochs=2, kl_warmup_steps=4), run("vae", epochs=2)
    assert asked == [0.25, 0.5, 0.75] + [None] * 7 + [None] * 10
    assert warmed.curve[0]["validation_bpd"] != plain.curve[0]["validation_bpd"]
    still = {"learning_rate": 1e-30, "epochs": 1}
    one, other = (run("vae", kl_warmup_steps=n, **still).curve[0] for n in (0, 2))
    assert one["validation_bpd"] == other["validation_bpd"]
    assert one["train_bpd"] == pytest.approx(other["train_bpd"], rel=1e-5)  # the bound has the full KL term


def of_burda(start: Tensor, gradients: list[Tensor], rate: float) -> tuple[Tensor, Tensor]:
    """Return the weights after Adam from second moments of 1: as published, and as in the code of Burda et al."""
    published, theirs = start.clone(), start.clone()
    m, v = torch.zeros_like(start), torch.ones_like(start)
    for t, g in enumerate(gradients, start=1):
        m, v = 0.99 * m + 0.01 * g, 0.999 * v + 0.001 * g**2
        published = published - rate * (m / (1 - 0.99**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-4)
        alpha = rate * math.sqrt(1 - 0.999**t) / (1 - 0.99**t)
        theirs = theirs - alpha * m / (v.sqrt() + 1e-4)
    return published, theirs


def test_adam_of_burda_by_an_independent_one() -> None:
    """Gradients have very different sizes, one is 0; the other place of epsilon changes no step by more than 1e-4."""
    model = small_model("vae-bernoulli")
    optimizer = adam(model, settings(learning_rate=1e-2, **BURDA))
    generator = torch.Generator().manual_seed(0)
    parameters = list(model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    scales = [10.0 ** (-number % 5) if number else 0.0 for number in range(len(parameters))]
    gradients = [
        [scale * torch.randn(p.shape, generator=generator, dtype=p.dtype) for _ in range(60)]
        for p, scale in zip(parameters, scales, strict=True)
    ]
    for step in range(60):
        for parameter, of_all in zip(parameters, gradients, strict=True):
            parameter.grad = of_all[step].clone()
        optimizer.step()
    for parameter, start, of_all in zip(parameters, before, gradients, strict=True):
        published, theirs = of_burda(start, of_all, 1e-2)
        torch.testing.assert_close(parameter.detach(), published, rtol=1e-10, atol=1e-12)
        # 60 steps of one rate; none is longer than the rate times the largest ratio of a gradient to its root
        longest = max(float((g.abs() / (1e-3 * g**2 + 0.9).sqrt()).max()) for g in of_all)
        torch.testing.assert_close(published, theirs, rtol=0, atol=60 * 1e-2 * longest * 1e-4 + 1e-15)


def test_second_moments_that_start_at_one_make_small_steps() -> None:
    """For a gradient of 0.01, the first step is rate * gradient * sqrt((1 - beta2) / beta2), not about the rate."""
    moved = {}
    for start in (0.0, 1.0):
        model = small_model("vae-bernoulli")
        optimizer = adam(model, settings(learning_rate=1e-2, **{**BURDA, "initial_second_moment": start}))
        weight = next(model.parameters())
        before = weight.detach().clone()
        weight.grad = torch.full_like(weight, 0.01)
        optimizer.step()
        moved[start] = float((before - weight.detach()).max())
    assert moved[0.0] == pytest.approx(1e-2 / (1 + 1e-4 / 0.01), rel=1e-6)
    assert moved[1.0] == pytest.approx(1e-2 * 0.01 * math.sqrt(0.001 / 0.999), rel=1e-5)


def test_the_settings_of_the_optimizer_reach_the_training() -> None:
    """Each setting changes the weights."""
    changes: list[dict[str, Any]] = [
        {},
        {"betas": [0.99, 0.999]},
        {"betas": [0.9, 0.99]},
        {"eps": 1e-2},
        {"initial_second_moment": 1.0},
        {"final_learning_rate": 0.005},
        {"schedule": "stages"},
        {"schedule": "exponential", "final_learning_rate": 0.005},
        {"kl_warmup_steps": 4},
    ]
    found = [weights(run("vae", **change)).numpy().tobytes() for change in changes]
    assert len(set(found)) == len(changes)


@pytest.mark.parametrize("stop_at", [1, 7])
@pytest.mark.parametrize(
    "changes",
    [
        BURDA,
        {"schedule": "stages"},
        {"schedule": "exponential", "final_learning_rate": 1e-4},
        {"kl_warmup_steps": 9},
        {"weight_decay": 0.1, "kl_warmup_steps": 9, **BURDA},
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    changes: dict[str, Any], stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each setting of the optimizer is interrupted inside the first and the second of four epochs of five steps."""
    whole = run("iwae", **changes)
    checkpoint = Checkpoint(tmp_path / "one", "one", interval=0.0)
    with power_cut(stop_at):
        run("iwae", checkpoint=checkpoint, **changes)
    resumed = run("iwae", checkpoint=checkpoint, **changes)
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.curve == resumed.curve


def test_no_warm_up_of_the_kl_term_with_derivatives_of_the_bound() -> None:
    section = FAMILIES["vae"].model_validate(
        {**SECTIONS["vae"], "doubly_reparameterized": True, "train": {"kl_warmup_steps": 5}}
    )
    with pytest.raises(
        InputError, match=r"v\.train\.kl_warmup_steps = 5 is not allowed with v\.doubly_reparameterized"
    ):
        section.check_training("v", section.settings(settings()))
