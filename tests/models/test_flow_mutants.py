"""Classic mistakes in flows and their noise, each with the law that must find it (as in ``tests/test_mutants.py``)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bitsperdim.models import flow, realnvp
from bitsperdim.models.parts import dequantization
from bitsperdim.models.parts.bijections import ActNorm, AffineCoupling, Logit
from bitsperdim.models.parts.dequantization import VariationalDequantizer
from bitsperdim.models.realnvp import RealNVP
from bitsperdim.training import trainer
from models import test_dequantization as noises
from models import test_every_model
from models import test_flows as flows
from support.mutants import Mutant, must_die
from training import test_training

N_NODES = 6  # in each piece: enough for the laws to hold with their tolerances


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def flow_is_unbiased() -> None:
    with torch.no_grad():
        flows.weights_average_to_the_mass_of_the_cell("flow-variational", generator(), 20_000, n_nodes=N_NODES)


def flow_has_its_jacobian() -> None:
    flows.test_ladj_is_the_jacobian("realnvp-grey", generator())


def flow_integrates_to_one() -> None:
    flows.integrates_to_one("realnvp-plane", n_nodes=N_NODES)


def images_are_independent() -> None:
    for name in ("realnvp-rgb", "realnvp-grey"):
        test_every_model.test_images_are_independent(name, generator())


def every_normalisation_starts_right() -> None:
    flows.test_every_normalisation_starts_at_mean_0_and_spread_1(generator())


def flow_moves_everything() -> None:
    flows.test_every_stack_of_couplings_moves_everything(generator())


def noise_moves_everything() -> None:
    noises.test_learned_noise_moves_every_place_given_another()


def no_mass_in_half_precision_is_lost() -> None:
    flows.test_no_mass_is_lost_in_half_precision("maf")


def noise_never_touches_zero() -> None:
    noises.test_the_top_cell_stays_below_one(256)


def fixed_noise_is_fixed() -> None:
    test_training.test_fixed_noise_stays_with_its_image()


TRANSFORMED, COUPLED, LOGIT, NORMALISED = (
    VariationalDequantizer.transformed,
    AffineCoupling.forward,
    Logit.forward,
    ActNorm.forward,
)


def on_the_batch(self: ActNorm, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    z, ladj = NORMALISED(self, y, context)
    return (z - z.mean(0)) / (z.std(0) + 1e-3), ladj


def one_place(self: ActNorm, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return (y - self.shift) * torch.exp(self.log_scale), self.log_scale.sum().expand(len(y))


def drawn_anew(self: Any, index: Tensor) -> Tensor:
    return torch.rand(1, len(index), *self.images.shape[1:])


def latent_dropped(self: RealNVP, y: Tensor) -> tuple[Tensor, Tensor]:
    z, ladj = TO_NORMAL(self, y)
    return torch.cat([torch.zeros_like(z[:, : z.shape[1] // 2]), z[:, z.shape[1] // 2 :]], dim=1), ladj


TO_NORMAL = RealNVP.to_normal


def with_sign(self: Any, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    u, log_r = TRANSFORMED(self, x, v)
    return u, -log_r


def without_density(self: Any, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    u, log_r = TRANSFORMED(self, x, v)
    return u, torch.zeros_like(log_r)


CHECKERBOARD, HALF_OF_THE_CHANNELS = realnvp.checkerboard, realnvp.half_of_the_channels


def never_odd(height: int, width: int, *, odd: bool) -> Tensor:
    return CHECKERBOARD(height, width, odd=False)


def never_second(n_channels: int, *, second: bool) -> Tensor:
    return HALF_OF_THE_CHANNELS(n_channels, second=False)


MUTANTS = {
    "couplings that never change the colour of the board": Mutant(
        realnvp, "checkerboard", never_odd, flow_moves_everything
    ),
    "couplings that never change the half of the channels": Mutant(
        realnvp, "half_of_the_channels", never_second, flow_moves_everything
    ),
    "noise of every other place alone": Mutant(dequantization, "checkerboard", never_odd, noise_moves_everything),
    "normalisation that never starts": Mutant(
        ActNorm, "initialise", lambda self, y: None, every_normalisation_starts_right
    ),
    "maps of half precision": Mutant(
        flow, "at_least_float32", lambda outputs: outputs, no_mass_in_half_precision_is_lost
    ),
    "noise density forgotten": Mutant(VariationalDequantizer, "transformed", without_density, flow_is_unbiased),
    "noise density of the wrong sign": Mutant(VariationalDequantizer, "transformed", with_sign, flow_is_unbiased),
    "logistic density for that of the noise": Mutant(
        dequantization, "logistic_log_density", lambda h: torch.nn.functional.logsigmoid(h.double()), flow_is_unbiased
    ),
    "Jacobian of the logit forgotten": Mutant(
        Logit,
        "forward",
        lambda self, y, context=None: (LOGIT(self, y)[0], 0 * LOGIT(self, y)[1]),
        flow_has_its_jacobian,
    ),
    "Jacobian of the logit of the wrong sign": Mutant(
        Logit, "forward", lambda self, y, context=None: (LOGIT(self, y)[0], -LOGIT(self, y)[1]), flow_is_unbiased
    ),
    "coupling ladj of the wrong sign": Mutant(
        AffineCoupling,
        "forward",
        lambda self, y, context=None: (COUPLED(self, y, context)[0], -COUPLED(self, y, context)[1]),
        flow_integrates_to_one,
    ),
    "normalised once for each channel, not for each pixel": Mutant(
        ActNorm, "forward", one_place, flow_has_its_jacobian
    ),
    "batch statistics": Mutant(ActNorm, "forward", on_the_batch, images_are_independent),
    "factored-out half dropped": Mutant(RealNVP, "to_normal", latent_dropped, flow_has_its_jacobian),
    "noise of exactly zero": Mutant(dequantization, "HALF_A_STEP", 0.0, noise_never_touches_zero),
    "fixed noise drawn anew": Mutant(trainer.Presentation, "fixed_noise", drawn_anew, fixed_noise_is_fixed),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_die(MUTANTS[name], monkeypatch)
