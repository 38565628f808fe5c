"""Mistakes in causal networks and in sampling, each of which a law must find (as in ``tests/test_mutants.py``)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import laws
from bitsperdim.likelihoods import CoupledLogisticMixture
from bitsperdim.models import AutoregressiveModel, autoregressive, conditional, gated_pixelcnn, pixelcnn_pp
from bitsperdim.models.gated_pixelcnn import GatedPixelCNN
from bitsperdim.models.look_ahead import largest_leaked_gradient
from bitsperdim.models.parts import activations, causal
from bitsperdim.models.parts.causal import CausalConv2d, CausalUpsampling
from bitsperdim.models.pixelcnn_pp import PixelCNNpp
from cases import small_model
from mutants import Mutant, must_die

SOFTMAX = {"likelihood": "categorical", "n_mixtures": 1}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def gated(**changes: Any) -> AutoregressiveModel:
    sizes = {"n_filters": 24, "n_layers": 2, "kernel_size": 3, "n_classes": None, **SOFTMAX, **changes}
    model = laws.scattered(GatedPixelCNN((1, 4, 4), 3, **sizes), spread=0.3)
    assert isinstance(model, AutoregressiveModel)
    return model


def plus() -> AutoregressiveModel:
    model = PixelCNNpp((1, 5, 5), 3, n_filters=6, n_blocks=1, n_scales=2, dropout=0.5, **SOFTMAX)
    scattered = laws.scattered(model, spread=0.5)
    assert isinstance(scattered, AutoregressiveModel)
    return scattered


# Laws.


def the_gated_one_is_causal() -> None:
    laws.causality_is_two_sided(gated(), laws.sees_offsets((1, 4, 4), None), generator())


def the_plus_one_is_causal() -> None:
    laws.causality_is_two_sided(plus(), laws.sees_offsets((1, 5, 5), None), generator())


def labels_matter() -> None:
    model, x = gated(n_classes=2), laws.all_images((1, 4, 4), 2)[:40]
    first, second = (model.log_weights(x, labels=torch.full((40,), label)) for label in (0, 1))
    assert (first - second).abs().max() > 1e-3


def cached_images_are_naive_images() -> None:
    for model in (gated(), plus(), small_model("pixelcnn-rgb")):
        assert isinstance(model, AutoregressiveModel)
        cached, naive = (
            autoregressive.ancestral_sample(model, 20, generator=generator(), use_cache=use_cache)
            for use_cache in (True, False)
        )
        assert torch.equal(cached, naive)


def the_cache_saves_work() -> None:
    model, x = plus().float(), torch.zeros(2, 1, 5, 5, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as one_pass:
        model.outputs(x)
    with FlopCounterMode(display=False) as all_pixels:
        autoregressive.ancestral_sample(model, 2, generator=generator())
    assert all_pixels.get_total_flops() <= 1.3 * one_pass.get_total_flops()  # an odd size has more coarse positions


def coupled_models_sum_to_one() -> None:
    for name in ("plus-rgb", "pixelcnn-coupled-rgb"):
        laws.masses_sum_to_one(small_model(name))


def the_image_is_the_product_of_conditionals() -> None:
    model = small_model("plus-rgb")
    assert isinstance(model, AutoregressiveModel)
    x = laws.all_images(model.image_shape, model.n_levels)[::7]
    expected = model.conditionals(x).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(model.log_weights(x)[0], expected, rtol=1e-12, atol=0)


def nothing_leaks() -> None:
    model = small_model("pixelcnn-rgb")
    assert isinstance(model, AutoregressiveModel)
    x = laws.all_images((3, 2, 2), 2)[[5, 900, 2048]]
    assert largest_leaked_gradient(model, x, generator=generator()) == 0


def derivatives_are_right() -> None:
    x = torch.randn(2, 3, 2, 2, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(activations.concatenated_elu, (x,))


def dropout_keeps_the_mean() -> None:
    mean = activations.dropped_out(torch.ones(10, 10, 20, 20), 0.25, generator()).mean().item()
    assert abs(mean - 1) < 4.9 * (0.25 / 0.75 / 40_000) ** 0.5


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
