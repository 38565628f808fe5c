"""One training step: the objective, its gradient over all processes, clipping, the optimizer, the weight average.

No step waits for a GPU: the host reads nothing back from it, and can prepare the next step meanwhile. (Exception:
spline flows gather values from their bins, and torch may have to wait to compute the derivative deterministically.)

If there are several processes, each takes its share of the batch. Gradients are averaged while they are computed
(DistributedDataParallel), weighted by the sizes of the shares. Then every process takes the same step.

Invariants (``tests/training/test_optimization.py``): the host does not wait in a step
(``test_a_step_waits_for_nothing``); every weight has a gradient (``test_every_weight_has_a_gradient``), so that no
process waits for a missing one; heads and log-weights are float32 in a network of bfloat16
(``test_heads_and_log_weights_are_of_float32``); a compiled objective is the same up to rounding
(``test_a_compiled_objective_is_the_same``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bitsperdim.config.families.base import FamilySection, TrainSection
from bitsperdim.core.errors import InputError
from bitsperdim.core.randomness import leave_uncompiled
from bitsperdim.estimators.log_weights import log_mean_exp
from bitsperdim.models import ImageModel, LatentModel
from bitsperdim.runtime.device import fast_precision
from bitsperdim.runtime.distributed import Share, world_size
from bitsperdim.training.schedule import WeighedDensity, kl_weight, learning_rate

FORMS_COMPILED = 64  # compiled forms of one function: layers of different sizes share the function
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def settings_on(device: torch.device, section: FamilySection, shared: TrainSection) -> TrainSection:
    """Return the settings of training; the precision ``auto`` is replaced by the fast precision of the device."""
    settings = section.settings(shared)
    if settings.precision != "auto":
        return settings
    return settings.model_copy(update={"precision": fast_precision(device)})


class Objective(nn.Module):
    """The training loss: minus the mean of the bound over images, nats.

    Args:
        model: model to train.
        precision: precision of its networks.
        generator: source of all its random numbers.
    """

    def __init__(self, model: ImageModel, precision: torch.dtype, generator: torch.Generator) -> None:
        """Store the model."""
        super().__init__()
        self.model, self.precision, self.generator = model, precision, generator

    def forward(
        self, x: Tensor, labels: Tensor | None, noise: Tensor | None, n_samples: int, kl_weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a scalar.

        The arguments are not checked, because reading their values in each step would make the host wait for a GPU. The
        weight of the KL term changes only the derivatives: the value is always minus the bound.

        Args:
            x: images, (B, C, H, W) uint8.
            labels: class labels, (B,) int64; None: the model is not conditioned on labels.
            noise: fixed dequantization noise, (K, B, C, H, W); None: the model draws its own noise.
            n_samples: number of samples K.
            kl_weight: weight of log p(z) - log q(z given x) in each log-weight, shape (); None: the weight is 1, or the
                model has no latent code.

        Raises:
            ValueError: ``kl_weight`` is given for a model without a latent code.
        """
        options: dict[str, Any] = {"labels": labels, "generator": self.generator, "noise": noise}
        weighed = None
        with torch.autocast(x.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            if kl_weight is not None:
                if not isinstance(self.model, LatentModel):
                    raise ValueError("a model without a latent code has no KL term to weight")
                options["encoded"] = weighed = WeighedDensity(self.model.encode(x), self.model.prior(), kl_weight)
            log_w = self.model.unchecked_log_weights(x, n_samples, **options)
        bound = bound_of(self.model, log_w)
        if weighed is not None and weighed.withheld is not None:
            bound = bound + (bound_of(self.model, log_w + weighed.withheld) - bound).detach()
        return -bound.mean()


def bound_of(model: ImageModel, log_w: Tensor) -> Tensor:
    """Return the bound from K log-weights (K, B), as (B,), nats.

    If the log-weights are draws of a bound, the bound is their mean; otherwise it is the logarithm of the mean weight.
    """
    return log_w.mean(0) if model.draws_bounds else log_mean_exp(log_w)


class Optimization:
    """The model in training, with its optimizer and its weight average.

    Args:
        model: initialised model, on its device.
        settings: settings of training.
        n_steps: number of steps of the whole training run.
        generator: source of the model's random numbers.

    Attributes:
        averaged: model with the moving average of the weights; None: weights are not averaged.
    """

    def __init__(self, model: ImageModel, settings: TrainSection, n_steps: int, generator: torch.Generator) -> None:
        """Create the optimizer and the objective, and compile the objective if the settings say so."""
        self.model, self.settings, self.n_steps = model, settings, n_steps
        self.averaged = copy.deepcopy(model).requires_grad_(False) if settings.average_decay else None
        self.optimizer = adam(model, settings)
        objective: nn.Module = Objective(model, DTYPES[settings.precision], generator)
        if settings.compile:
            let_compile()
            objective.compile()
        if world_size() > 1:
            objective = DistributedDataParallel(objective, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.objective = objective

    @property
    def candidate(self) -> ImageModel:
        """The model to validate: with averaged weights if weights are averaged."""
        return self.model if self.averaged is None else self.averaged

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, numbered from 0."""
        return learning_rate(self.settings, step, self.n_steps)

    def set_learning_rate(self, step: int) -> None:
        """Set the learning rate of the optimizer to that of a step, numbered from 0."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.learning_rate(step))
            else:
                group["lr"] = self.learning_rate(step)

    def kl_weight(self, step: int) -> float:
        """Return the weight of the KL term in a step, numbered from 0."""
        return kl_weight(self.settings, step, self.n_steps)

    def average_step(self, step: int) -> float:
        """Return the fraction by which the averaged weights move towards the new weights in a step; 1 in step 0."""
        return 1.0 if step == 0 else 1 - average_weight(self.settings.average_decay, step)

    def take_step(
        self, number: int, x: Tensor, labels: Tensor | None, noise: Tensor | None, n_samples: int, share: Share
    ) -> Tensor:
        """Take one training step.

        Args:
            number: number of the step, from 0.
            x: images, (B, C, H, W) uint8, this process's share of the batch.
            labels: class labels, (B,) int64; None: the model is not conditioned on labels.
            noise: fixed dequantization noise, (K, B, C, H, W); None: the model draws its own noise.
            n_samples: K of the objective.
            share: position and size of this share in the batch.

        Returns:
            the contribution of these images to the loss of the whole batch, nats per image of the batch, detached.
        """
        self.set_learning_rate(number)
        share_of_kl = self.kl_weight(number)
        # created on the device, since copying a number from the host would wait
        weight = None if share_of_kl == 1 else torch.full((), share_of_kl, device=x.device)
        return self.move(x, labels, noise, n_samples, share, weight, self.average_step(number))

    def move(
        self,
        x: Tensor,
        labels: Tensor | None,
        noise: Tensor | None,
        n_samples: int,
        share: Share,
        kl_weight: Tensor | None,
        average_step: float | Tensor,
    ) -> Tensor:
        """Take a step with the current learning rate; the result is that of :meth:`take_step`.

        Args:
            x: images, (B, C, H, W) uint8, this process's share of the batch.
            labels: class labels, (B,) int64; None: the model is not conditioned on labels.
            noise: fixed dequantization noise, (K, B, C, H, W); None: the model draws its own noise.
            n_samples: K of the objective.
            share: position and size of this share in the batch.
            kl_weight: weight of the KL term, as in :meth:`Objective.forward`.
            average_step: fraction, from 0 to 1, by which the averaged weights move towards the new weights; a number or
                a tensor ().
        """
        self.optimizer.zero_grad(set_to_none=True)
        # gradients are averaged over processes, whose shares may be uneven
        loss = self.differentiated(share.fraction * world_size(), x, labels, noise, n_samples, kl_weight)
        if self.settings.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip, foreach=True)
        self.optimizer.step()
        if self.averaged is not None:
            self.update_average(self.averaged, average_step)
        return loss.detach() * share.fraction

    def differentiated(self, factor: float, *batch: Any) -> Tensor:  # noqa: ANN401 - arguments of different types
        """Return the mean loss of some images; add its derivatives, times a factor, to the gradients of the weights.

        Args:
            factor: factor of the derivatives.
            batch: the arguments of :meth:`Objective.forward`.

        Raises:
            InputError: the settings ask for compilation, which fails on this machine or for this model.
        """
        if not self.settings.compile:
            return self._differentiated(factor, *batch)
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._differentiated(factor, *batch)
        except (TorchDynamoException, AssertionError) as error:  # compiled code may raise AssertionError
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"params.yaml: train.compile = true does not work here ({reason}); it must be false."
            ) from error

    def _differentiated(self, factor: float, *batch: Any) -> Tensor:  # noqa: ANN401 - arguments of different types
        loss = self.objective(*batch)
        (loss * factor).backward()
        return loss

    @torch.no_grad()
    def update_average(self, averaged: ImageModel, step: float | Tensor) -> None:
        """Move the averaged weights towards the current weights by the fraction ``step``, from 0 to 1."""
        kept: list[Tensor] = list(averaged.parameters())
        new: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(kept, new, [step] * len(kept) if isinstance(step, Tensor) else step)

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state as tensors, for :meth:`load`."""
        parts: dict[str, Mapping[str, Tensor]] = {"model": self.model.state_dict()}
        parts["average"] = {} if self.averaged is None else self.averaged.state_dict()
        for number, values in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer.{number}"] = values
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state from tensors, which may include other tensors."""
        self.model.load_state_dict(part_of(tensors, "model"))
        if self.averaged is not None:
            self.averaged.load_state_dict(part_of(tensors, "average"))
        content: dict[str, Any] = self.optimizer.state_dict()
        for number, parameter in enumerate(self.model.parameters()):
            if moments := part_of(tensors, f"optimizer.{number}"):
                content["state"][number] = {name: laid_out(value, parameter) for name, value in moments.items()}
        self.optimizer.load_state_dict(content)


def adam(model: ImageModel, settings: TrainSection) -> torch.optim.AdamW:
    r"""Return the AdamW optimizer of all weights; the second moments may start from a value other than zero.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
              \theta_t = \theta_{t-1} - \eta_t \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    The code of Burda et al. 2016 (``optimizers.py``) uses beta_1 = 0.99, epsilon = 1e-4 and v_0 = 1, which makes the
    first thousands of steps smaller. Their code adds epsilon to the root of v_t; this optimizer adds it to the root of
    the corrected moment. With v_0 = 1, this difference changes no step by more than 1e-4 of its size.
    """
    rate: float | Tensor = settings.learning_rate
    if settings.capture:  # a graph repeats numbers from the host, so the rate is a tensor on the device
        rate = torch.full((), settings.learning_rate, device=next(model.parameters()).device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=rate,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
        capturable=settings.capture,
    )
    if settings.initial_second_moment:
        for parameter in model.parameters():
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.full_like(parameter, settings.initial_second_moment),
            }
    return optimizer


def let_compile() -> None:
    """Set the options of torch's compiler that these models need."""
    import torch._dynamo  # imported here because the import takes a second

    torch._dynamo.config.recompile_limit = FORMS_COMPILED
    leave_uncompiled()


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``part`` and a dot, with the rest of the name as the key."""
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor`` with the strides of a parameter: a fused optimizer reads both in the order of memory."""
    return torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor


def average_weight(decay: float, n_averaged: int) -> float:
    """Return the weight of the past in a moving average; it rises to ``decay``, so that the start loses influence."""
    return min(decay, (1 + n_averaged) / (10 + n_averaged))
