"""Mistakes in causal networks and in sampling, each of which a law must find (as in ``tests/test_mutants.py``)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bitsperdim.likelihoods import CoupledLogisticMixture
from bitsperdim.models import autoregressive, conditional, gated_pixelcnn, pixelcnn_pp
from bitsperdim.models.parts import activations, causal
from bitsperdim.models.parts.causal import CausalConv2d, CausalUpsampling
from likelihoods import test_coupled
from models import (
    test_activations,
    test_causality,
    test_every_model,
    test_gated_pixelcnn,
    test_pixelcnn_pp,
    test_sampling,
)
from support.mutants import Mutant, must_die


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def the_gated_one_is_causal() -> None:
    test_gated_pixelcnn.test_there_is_no_blind_spot(generator())


def the_plus_one_is_causal() -> None:
    test_pixelcnn_pp.test_causality_is_two_sided((1, 5, 5), test_pixelcnn_pp.ONE, generator())


def labels_matter() -> None:
    test_gated_pixelcnn.test_each_class_is_a_mass(generator())


def cached_images_are_naive_images() -> None:
    for name in CACHED:
        test_sampling.test_cached_images_are_naive_images(name)


def the_cache_saves_work() -> None:
    test_sampling.test_the_cache_saves_work(CACHED[0])


def coupled_models_sum_to_one() -> None:
    for name in ("plus-rgb", "pixelcnn-coupled-rgb"):
        test_every_model.test_masses_sum_to_one(name)


def the_image_is_the_product_of_conditionals() -> None:
    test_coupled.test_an_image_is_the_product_of_its_conditionals(generator())


def nothing_leaks() -> None:
    test_causality.test_nothing_leaks("pixelcnn-rgb", generator())


def derivatives_are_right() -> None:
    test_activations.test_derivatives(torch.contiguous_format, generator())


def dropout_keeps_the_mean() -> None:
    test_activations.test_a_share_is_dropped(0.5)


CACHED = [name for name in test_sampling.CASES if "1x7x9-categorical" in name]  # one for each family


# Mutants.


def without_a_new_row(self: Any, x: Tensor, memory: Any, n_rows: int, left: int, right: int) -> Tensor:
    if self.rows is None:
        self.rows = x.new_zeros(x.shape[0], n_rows, left + memory.width + right, x.shape[1])
    columns = slice(left, left + memory.width) if memory.column is None else slice(left + memory.column, None)
    values = x.squeeze(2).transpose(1, 2)
    self.rows[:, -1, columns.start : columns.start + values.shape[1]] = values
    return self.rows


def of_the_last_coarse_place(self: Any, x: Tensor | None, size: tuple[int, int], memory: Any = None) -> Tensor:
    """Cache one coarse position instead of a whole row."""
    if memory is None or self.n_left:
        return UPSAMPLE(self, x, size, memory)
    known = memory.of(self, self.known)
    known.rows = known.rows if x is None else x
    if memory.column is None:
        return F.conv_transpose2d(known.rows, known.weight[:, :, memory.row % 2][:, :, None], self.bias, (1, 2))
    return F.linear(known.rows.flatten(1), known.matrix[memory.row % 2, memory.column % 2], self.bias)[..., None, None]


def one_row_early(self: Any, x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    full = F.pad(F.conv_transpose2d(x, weight, self.bias, 2), (0, 1, 0, 1))
    return full[..., 1 : size[0] + 1, self.n_left : self.n_left + size[1]]


UPSAMPLE = CausalUpsampling.forward


def vertical_stack_of_the_own_row(*args: Any, **kwargs: Any) -> CausalConv2d:
    rows = kwargs.get("rows", (0, 0))
    return CausalConv2d(*args, **{**kwargs, "rows": (rows[0], 0)})


def without_mixture_weights(self: Any, x: Tensor) -> Tensor:
    return torch.logsumexp(self.components(x.double()).log_prob(x[..., None]).sum(-4), -1).flatten(-2).sum(-1)


def an_indicator_per_channel(self: Any, x: Tensor) -> Tensor:
    log_p = self.components(x.double().expand(self.loc.shape[:-1])).log_prob(x[..., None])
    log_pi = torch.log_softmax(self.logits, -1).unsqueeze(-4)
    return torch.logsumexp(log_pi + log_p, -1).flatten(-3).sum(-1)


def unsigned_backward(ctx: Any, gradient: Tensor) -> Tensor:
    (values,) = ctx.saved_tensors
    n_maps = values.shape[1] // 2
    change = (values.clamp(max=0) + 1) * gradient
    return change[:, :n_maps] + change[:, n_maps:]


def through_a_full_pass(model: Any, x: Tensor, row: int, column: int, memory: Any, labels: Tensor | None) -> Tensor:
    return model.outputs(x, labels)[:, :, row : row + 1, column : column + 1]


def order_of_memory(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.arange(math.prod(shape), device=device).reshape(shape)


MUTANTS = {
    "vertical stack starts in its own row": Mutant(
        gated_pixelcnn, "CausalConv2d", vertical_stack_of_the_own_row, the_gated_one_is_causal
    ),
    "labels ignored": Mutant(
        gated_pixelcnn.Gate,
        "forward",
        lambda self, hidden, labels: torch.tanh(hidden.chunk(2, 1)[0]) * torch.sigmoid(hidden.chunk(2, 1)[1]),
        labels_matter,
    ),
    "horizontal stream looks right": Mutant(pixelcnn_pp, "HORIZONTAL", pixelcnn_pp.VERTICAL, the_plus_one_is_causal),
    "coarse maps one row early": Mutant(CausalUpsampling, "whole", one_row_early, the_plus_one_is_causal),
    "told nothing by the vertical stream": Mutant(
        pixelcnn_pp, "at_place", lambda row, memory: torch.zeros_like(row), the_plus_one_is_causal
    ),
    "rows above forgotten": Mutant(causal._LayerMemory, "put", without_a_new_row, cached_images_are_naive_images),
    "one coarse place remembered": Mutant(
        CausalUpsampling, "forward", of_the_last_coarse_place, cached_images_are_naive_images
    ),
    "a cache that computes all": Mutant(autoregressive, "outputs_at", through_a_full_pass, the_cache_saves_work),
    "mixture weights forgotten": Mutant(
        CoupledLogisticMixture, "log_prob_of_images", without_mixture_weights, coupled_models_sum_to_one
    ),
    "an indicator for each channel": Mutant(
        CoupledLogisticMixture, "log_prob_of_images", an_indicator_per_channel, the_image_is_the_product_of_conditionals
    ),
    "check in the order of memory": Mutant(conditional, "sub_pixel_order", order_of_memory, nothing_leaks),
    "derivative without its sign": Mutant(
        activations._ConcatenatedELU, "backward", staticmethod(unsigned_backward), derivatives_are_right
    ),
    "dropout without its scale": Mutant(
        activations,
        "dropped_out",
        lambda x, share, generator: x * (torch.rand(x.shape, generator=generator) >= share),
        dropout_keeps_the_mean,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_die(MUTANTS[name], monkeypatch, (AssertionError, RuntimeError))
