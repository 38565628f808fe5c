r"""Diffusion models of Hugging Face ``diffusers``: a bound of log P(x) of integer images, with its terms apart.

A UNet and a scheduler define a chain of T steps. With images x_0 = 2 x / (L-1) - 1 and
:math:`\bar\alpha_t` = ``scheduler.alphas_cumprod[t - 1]``, the bound (Ho et al. 2020, "Denoising Diffusion
Probabilistic Models", eq. 5) is

.. math::
    -\log P(x) \le \mathrm{KL}(q(x_T | x_0) \| N(0, I))
        + \sum_{t=2}^T \mathrm E \, \mathrm{KL}(q(x_{t-1} | x_t, x_0) \| p(x_{t-1} | x_t))
        - \mathrm E \log P(x | x_1)

The terms are called ``prior``, ``diffusion`` and ``reconstruction``. They are sums over sub-pixels, in nats.

- The means of p, also the clipping of the predicted image, are those of ``DDPMScheduler.step``; so are its variances.
  The exception is ``fixed_large_log``: it is the variance of ``fixed_large`` here, while ``step`` (version 0.42) takes
  the root of its logarithm and returns NaN.
- ``learned`` means that the network returns the variance, as in ``step``, and not its logarithm.
- A ``DDIMScheduler`` has the same forward process, but its sampler is deterministic. It gets the bound of the
  ancestral sampler with the variance ``fixed_small``.
- P(x given x_1) is the mass that a normal gives to the cell of level x, with infinite outer cells. The sampler rounds
  the mean of its last step and adds no noise, which defines no variance. As in the code of Ho et al. (``fixed``) and of
  Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models" (``learned_range``), the variance of the
  last step, t = 1, is therefore computed with the posterior variance of the step t = 2.
- All T steps of training count, whatever number of steps a sampler takes.

The sum over t is estimated from few steps without bias, unless all are asked for. Each image gets steps at equal
distances with one random offset, as in Kingma et al. 2021, "Variational Diffusion Models". The distance is measured
mostly by the logarithm of the variance of the noise, because terms are largest where it grows fastest. For three
networks trained briefly on the digits (T = 1000), a draw with 20 such steps was 1.3 to 1.6 times as noisy as a draw
with all steps; with 20 steps at equal distances of t it was about 30 times as noisy.

Invariants (``tests/models/external/libraries/test_diffusers.py``, and for the last one
``tests/models/external/libraries/test_diffusers_itself.py``):

1. Each term is that of quadrature, and the bound is not above log P(x) of the chain
   (``test_terms_are_those_of_quadrature``).
2. With the best network and many steps, the bound reaches the entropy (``test_the_bound_reaches_the_entropy``).
3. The masses of all levels sum to one (``test_masses_of_the_decoder_sum_to_one``).
4. Drawn steps have no bias (``test_every_step_is_drawn_as_often_as_it_should``, ``test_drawn_steps_have_no_bias``).
5. The steps of p are those of ``diffusers`` (``test_steps_are_those_of_the_scheduler``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitsperdim.core.errors import InputError, shown
from bitsperdim.likelihoods.discretized import DiscretizedNormal
from bitsperdim.models.external.distributions import first_line

PREDICTIONS = ("epsilon", "v_prediction", "sample")
SMALL = ("fixed_small", "fixed_small_log")
LARGE = ("fixed_large", "fixed_large_log")
LEARNED = ("learned", "learned_range")
VARIANCES = (*SMALL, *LARGE, *LEARNED)
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
PIPELINES = ("DDPMPipeline", "DDIMPipeline")
PARTS = {"unet": ("UNet2DModel",), "scheduler": SCHEDULERS}  # of a pipeline, and the classes that they may have
WEIGHTS = "diffusion_pytorch_model.safetensors"
N_STEPS = 20  # number of drawn steps for each image
EVENLY = 0.1  # share of the draws that go to all steps alike, so that no step is drawn too rarely
AT_ONCE = 64  # smallest number of noisy images for which the network is called, if there are so many


class Pipeline(NamedTuple):
    """A network and its scheduler."""

    unet: Any
    scheduler: Any


class DiscreteBound:
    """The bound of a diffusion model for images of integers.

    Args:
        unet: network in evaluation mode; ``unet(x_t, t).sample`` is its prediction, with t from 0 to T-1.
        scheduler: scheduler with ``alphas_cumprod`` and ``config``.
        n_steps: number of steps that are drawn for each image to estimate the sum over t; None: all T steps.

    Raises:
        InputError: the network or the scheduler has no bound, or its bound is not supported.
    """

    bitsperdim: Mapping[str, str] = {"offers": "bound", "inputs": "integers"}

    def __init__(self, unet: Any, scheduler: Any, n_steps: int | None = N_STEPS) -> None:  # noqa: ANN401 - of a library
        """Compute the numbers of the chain in float64."""
        if n_steps is not None and (not isinstance(n_steps, int) or isinstance(n_steps, bool) or n_steps < 1):
            raise InputError(
                f"n_steps = {shown(n_steps)} is not allowed; it must be a positive integer, or None for all."
            )
        _check_unet(unet)
        self.unet, self.n_steps, self.config = unet, n_steps, _checked_config(scheduler)
        self.alphas = _checked_alphas(scheduler, self.config)  # (T,), as are all numbers below
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas[:-1]])
        noise, noise_before = 1 - self.alphas, 1 - before
        self.betas = 1 - self.alphas / before
        self.from_start = before.sqrt() * self.betas / noise
        self.from_noisy = (self.alphas / before).sqrt() * noise_before / noise
        self.variances = noise_before / noise * self.betas  # of q(x_{t-1} given x_t, x_0); of the first step it is 0
        growth = torch.log1p(-self.alphas[1:]) - torch.log1p(-self.alphas[:-1])
        self.shares = EVENLY / len(growth) + (1 - EVENLY) * growth / growth.sum()  # of each step in the draws

    @property
    def settings(self) -> str:
        """All settings that determine the number, without spaces, for signatures."""
        config, drawn = self.config, "all" if self.n_steps is None else self.n_steps
        prediction, variance = config.get("prediction_type", PREDICTIONS[0]), config.get("variance_type", VARIANCES[0])
        clip = f"clip-{config.get('clip_sample_range', 1.0):g}" if config.get("clip_sample", True) else "no-clip"
        schedule = hashlib.sha256(self.alphas.numpy().tobytes()).hexdigest()[:12]
        return f"{drawn}-of-{self.n_chain}-steps,{prediction},{variance},{clip},schedule-{schedule}"

    @property
    def n_chain(self) -> int:
        """The number of steps of the chain, T."""
        return len(self.alphas)

    def bound(self, x: Tensor, n_levels: int) -> Tensor:
        """Return one draw of the lower bound of log P(x) in nats, (B,) float64.

        Args:
            x: images, (B, C, H, W), int64, values 0..L-1.
            n_levels: number of levels L.
        """
        return -sum(self.terms(x, n_levels).values(), torch.zeros((), dtype=torch.float64))

    def terms(self, x: Tensor, n_levels: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return one draw of ``prior``, ``diffusion`` and ``reconstruction`` in nats, (B,) float64 each.

        Their sum is minus the bound. Only ``prior`` is the same in every draw.

        Args:
            x: images, (B, C, H, W), int64, values 0..L-1.
            n_levels: number of levels L.
            generator: random number generator on the device of the images; None: the global generator.

        Raises:
            InputError: the images are not integers, or do not fit the network; or the network predicts something that
                defines no normal distribution.
        """
        self.check_images(x)
        start = 2 * x.double() / (n_levels - 1) - 1
        n_images = len(x)
        steps, weights = self.drawn_steps(n_images, x.device, generator)
        at_once = max(1, AT_ONCE // n_images)
        diffusion = torch.zeros(n_images, dtype=torch.float64, device=x.device)
        for rows, weighted in zip(steps.split(at_once), weights.split(at_once), strict=True):
            wide, t = start.repeat(len(rows), 1, 1, 1), rows.flatten()
            kl = self.divergence(wide, t, _normal(wide, generator))
            diffusion = diffusion + (weighted * kl.reshape(rows.shape)).sum(0)
        return {
            "prior": self.prior(start),
            "diffusion": diffusion,
            "reconstruction": self.reconstruction(x, n_levels, _normal(start, generator)),
        }

    def prior(self, start: Tensor) -> Tensor:
        """Return the divergence of q(x_T given x_0) from N(0, I) in nats, (B,), for x_0 (B, C, H, W) float64."""
        last = self.alphas[-1].to(start.device)
        return 0.5 * (last * start.square() - last - torch.log1p(-last)).flatten(1).sum(1)

    def divergence(self, start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the divergence of q(x_{t-1} given x_t, x_0) from p(x_{t-1} given x_t) in nats, (B,) float64.

        Args:
            start: x_0, (B, C, H, W) float64.
            t: index of the step of each image, (B,) int64, from 1 to T-1.
            noise: standard normal noise that makes x_t, (B, C, H, W) float64.
        """
        x_t = self.noisy(start, t, noise)
        mean, log_variance = self.step(x_t, t)
        variance = _at(self.variances, t)
        squares = (_at(self.from_start, t) * start + _at(self.from_noisy, t) * x_t - mean).square()
        log_ratio = log_variance - variance.log()
        return 0.5 * (log_ratio + torch.expm1(-log_ratio) + squares * torch.exp(-log_variance)).flatten(1).sum(1)

    def reconstruction(self, x: Tensor, n_levels: int, noise: Tensor) -> Tensor:
        """Return -log P(x given x_1) in nats, (B,) float64.

        Args:
            x: images, (B, C, H, W), int64, values 0..L-1.
            n_levels: number of levels L.
            noise: standard normal noise that makes x_1, (B, C, H, W) float64.
        """
        t = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        x_1 = self.noisy(2 * x.double() / (n_levels - 1) - 1, t, noise)
        return -decoder(*self.step(x_1, t), n_levels).log_prob(x).flatten(1).sum(1)

    def noisy(self, start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return x_t from x_0 and standard normal noise, (B, C, H, W) float64, for indices t (B,)."""
        alphas = _at(self.alphas, t)
        return alphas.sqrt() * start + (1 - alphas).sqrt() * noise

    def step(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of p(x_{t-1} given x_t), (B, C, H, W), and its log-variance, which broadcasts to that shape.

        Args:
            x_t: noisy images, (B, C, H, W) float64.
            t: index of the step of each image, (B,) int64, from 0 to T-1.

        Raises:
            InputError: the network returns another shape, or variances that are not positive.
        """
        dtype = next((each.dtype for each in self.unet.parameters() if each.is_floating_point()), torch.float32)
        given = self.unet(x_t.to(dtype), t).sample.double()
        is_learned = self.variance_type in LEARNED
        n_channels = x_t.shape[1]
        expected = (len(x_t), n_channels * (1 + is_learned), *x_t.shape[2:])
        if tuple(given.shape) != expected:
            raise InputError(
                f"For noisy images {tuple(x_t.shape)} the network must return shape {expected} with variance_type = "
                f"{self.variance_type!r}, but it returned {tuple(given.shape)}."
            )
        predicted, of_variance = given[:, :n_channels], given[:, n_channels:]
        image = self._image(predicted, x_t, t)
        mean = _at(self.from_start, t) * image + _at(self.from_noisy, t) * x_t
        return mean, self._log_variance(of_variance, t)

    @property
    def variance_type(self) -> str:
        """The variance of p, one of :data:`VARIANCES`."""
        return str(self.config.get("variance_type", "fixed_small"))  # DDIM has no such key

    def _image(self, predicted: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the image x_0 that the network predicts."""
        alphas, kind = _at(self.alphas, t), self.config.get("prediction_type", "epsilon")
        if kind == "epsilon":
            image = (x_t - (1 - alphas).sqrt() * predicted) / alphas.sqrt()
        elif kind == "v_prediction":
            image = alphas.sqrt() * x_t - (1 - alphas).sqrt() * predicted
        else:
            image = predicted
        if self.config.get("clip_sample", True):
            limit = float(self.config.get("clip_sample_range", 1.0))
            image = image.clamp(-limit, limit)
        return image

    def _log_variance(self, predicted: Tensor, t: Tensor) -> Tensor:
        """Return the log-variance of p(x_{t-1} given x_t)."""
        if self.variance_type == "learned":
            if not bool((predicted > 0).all()):
                raise InputError(
                    "variance_type = 'learned' needs a network whose second half of channels is positive, because "
                    "DDPMScheduler takes it as the variance; this network returned a value that is not positive."
                )
            return predicted.log()
        smallest = _at(self.variances, t.clamp(min=1)).log()  # the variance of the first step is 0
        if self.variance_type in SMALL:
            return smallest
        largest = _at(self.betas, t).log()
        if self.variance_type in LARGE:
            return torch.where(_at(torch.arange(self.n_chain), t) == 0, smallest, largest)
        share = (predicted + 1) / 2
        return share * largest + (1 - share) * smallest

    def drawn_steps(
        self, n_images: int, device: torch.device, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw the steps of the divergences for each image, and return them with their weights.

        Returns:
            Indices from 1 to T-1, (n, B) int64, and weights, (n, B) float64: the mean of the weighted sum of any terms
            is their sum over all steps.
        """
        if self.n_steps is None:
            every = torch.arange(1, self.n_chain, device=device)[:, None].expand(-1, n_images)
            return every, torch.ones(every.shape, dtype=torch.float64, device=device)
        return self.steps_at(torch.rand(n_images, dtype=torch.float64, generator=generator, device=device))

    def steps_at(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steps and weights of :meth:`drawn_steps` for uniform offsets in (0, 1), (B,) float64."""
        assert self.n_steps is not None
        device, n_steps = offsets.device, self.n_steps
        ends = self.shares.cumsum(0).to(device)
        places = (torch.arange(n_steps, device=device)[:, None] + offsets) / n_steps * ends[-1]
        index = torch.searchsorted(ends, places, right=True).clamp(max=len(ends) - 1)
        return index + 1, 1 / (n_steps * self.shares.to(device)[index])

    def check_images(self, x: Tensor) -> None:
        """Refuse images of another type, size or number of channels than the network is made for.

        Raises:
            InputError: the images do not fit; the message says what the network takes.
        """
        if x.is_floating_point():
            raise InputError("A diffusion model takes inputs = 'integers' here: the scaling to [-1, 1] is done for it.")
        config = _mapping(self.unet)
        size = config.get("sample_size")
        size = (size, size) if isinstance(size, int) else size
        channels = config.get("in_channels", x.shape[1])
        if channels != x.shape[1] or (size is not None and tuple(size) != tuple(x.shape[2:])):
            wanted = f"{channels} channels" + ("" if size is None else f" and {size[0]} x {size[1]} pixels")
            raise InputError(
                f"The network is made for images of {wanted}, not for images {tuple(x.shape[1:])} (C, H, W)."
            )


def decoder(mean: Tensor, log_variance: Tensor, n_levels: int) -> DiscretizedNormal:
    """Return P(x given x_1): the masses that a normal on the scale from -1 to 1 gives to the cells of the levels.

    Args:
        mean: mean, (B, C, H, W) float64.
        log_variance: log-variance, broadcasts to the shape of the mean.
        n_levels: number of levels L; the cells have the width 2 / (L-1), and both outer cells reach to infinity.
    """
    in_levels = (n_levels - 1) / 2
    return DiscretizedNormal((mean + 1) * in_levels, 0.5 * log_variance + math.log(in_levels), n_levels)


def adapt(model: object, n_steps: int | None = N_STEPS) -> DiscreteBound:
    """Return the bound of a diffusion model of ``diffusers``.

    Args:
        model: a ``DDPMPipeline``, another object with ``unet`` and ``scheduler``, or a tuple (unet, scheduler).
        n_steps: number of steps that are drawn for each image to estimate the sum over t; None: all.

    Raises:
        InputError: it is another model, or one whose bound is not supported.
    """
    if isinstance(model, tuple) and not hasattr(model, "unet") and len(model) == len(PARTS):
        model = Pipeline(*model)
    if not hasattr(model, "unet") or not hasattr(model, "scheduler"):
        raise InputError(
            f"{type(model).__name__} has no unet and scheduler; give a DDPMPipeline, or a tuple (unet, scheduler)."
        )
    components = getattr(model, "components", PARTS)
    more = sorted(set(components) - set(PARTS)) if isinstance(components, Mapping) else []
    if more:
        raise InputError(_more(type(model).__name__, more))
    return DiscreteBound(model.unet, model.scheduler, n_steps)


def open_folder(folder: Path) -> Pipeline:
    """Load the network and the scheduler of a pipeline that ``save_pretrained`` wrote; nothing is downloaded.

    Args:
        folder: folder with model_index.json, and with the files of unet and scheduler in folders of these names or
            beside it. Weights must be safetensors.

    Raises:
        InputError: a file is missing or cannot be read, or the pipeline is not supported.
    """
    index = _json(folder / "model_index.json")
    found = {name: kind for name, kind in index.items() if not name.startswith("_") and kind != [None, None]}
    more = sorted(set(found) - set(PARTS))
    if more:
        raise InputError(_more(str(folder), more))
    if index.get("_class_name") not in PIPELINES:
        raise InputError(
            f"{folder} holds a pipeline of class {shown(index.get('_class_name'))}; allowed are {', '.join(PIPELINES)}."
        )
    for name, classes in PARTS.items():
        kind = found.get(name)
        if not isinstance(kind, list) or len(kind) != 2 or kind[0] != "diffusers" or kind[1] not in classes:
            allowed = " or ".join(f"diffusers.{each}" for each in classes)
            raise InputError(
                f"{folder / 'model_index.json'}: {name} = {shown(kind)} is not allowed; it must be {allowed}."
            )
    of_unet, of_scheduler = (folder / name if (folder / name).is_dir() else folder for name in PARTS)
    if not (of_unet / WEIGHTS).is_file():
        raise InputError(
            f"{of_unet} has no {WEIGHTS}; other files of weights are not opened, because a pickle could run any code: "
            f"save the pipeline with save_pretrained(folder, safe_serialization=True)."
        )
    try:
        import diffusers
    except ImportError as error:
        raise InputError(f"{folder} cannot be loaded without the library diffusers: {first_line(error)}.") from error
    options: dict[str, Any] = {"local_files_only": True}
    try:
        unet = diffusers.UNet2DModel.from_pretrained(of_unet, use_safetensors=True, low_cpu_mem_usage=False, **options)
        scheduler = getattr(diffusers, found["scheduler"][1]).from_pretrained(of_scheduler, **options)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise InputError(
            f"{folder} cannot be loaded by diffusers: {type(error).__name__}: {first_line(error)[:200]}."
        ) from error
    return Pipeline(unet.eval(), scheduler)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}); it must be written by save_pretrained."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}; it must hold the parts of a pipeline.")
    return content


def _more(name: str, more: list[str]) -> str:
    return (
        f"{name} has {', '.join(more)} besides unet and scheduler; only pipelines of pixels without a text or a latent "
        f"space are supported, since the bound of the others is not one of these two parts alone."
    )


def _mapping(part: object) -> Mapping[str, Any]:
    config = getattr(part, "config", {})
    return config if isinstance(config, Mapping) else vars(config)


def _check_unet(unet: object) -> None:
    if not isinstance(unet, nn.Module):
        raise InputError(f"unet is {type(unet).__name__}; it must be a torch.nn.Module, such as UNet2DModel.")
    config = _mapping(unet)
    if config.get("cross_attention_dim") is not None:
        raise InputError(f"{type(unet).__name__} needs a text or another condition; only UNet2DModel is supported.")
    for key in ("class_embed_type", "num_class_embeds"):
        if config.get(key) is not None:
            raise InputError(
                f"{type(unet).__name__} has {key} = {shown(config[key])}: a network conditioned on the class is not "
                f"supported, only one without classes."
            )


def _checked_config(scheduler: object) -> Mapping[str, Any]:
    """Return the configuration of a scheduler, or raise InputError if its bound is not supported."""
    names = [each.__name__ for each in type(scheduler).__mro__]
    if not any(name in names for name in SCHEDULERS):
        raise InputError(
            f"{names[0]} is not supported, only {' and '.join(SCHEDULERS)}; if the network was trained with the same "
            f"noise, give DDPMScheduler.from_config(scheduler.config)."
        )
    config = _mapping(scheduler)
    for key, allowed in (("prediction_type", PREDICTIONS), ("variance_type", VARIANCES)):
        if config.get(key, allowed[0]) not in allowed:
            raise InputError(f"{key} = {shown(config[key])} is not supported; allowed are {', '.join(allowed)}.")
    if config.get("thresholding", False):
        raise InputError("thresholding = True is not supported; allowed is False (clip_sample may be True).")
    return config


def _checked_alphas(scheduler: Any, config: Mapping[str, Any]) -> Tensor:  # noqa: ANN401 - of a library
    """Return alphas_cumprod, (T,) float64 on the CPU, or raise InputError if they define no chain."""
    alphas = torch.as_tensor(scheduler.alphas_cumprod).detach().double().cpu()
    n_chain, last = len(alphas), float(alphas[-1])
    inner = alphas[:-1]
    is_chain = n_chain > 1 and bool((alphas.diff() < 0).all() & (inner > 0).all() & (inner < 1).all()) and last >= 0
    if not is_chain:
        raise InputError("alphas_cumprod of the scheduler must be at least 2 decreasing numbers between 0 and 1.")
    if config.get("num_train_timesteps", n_chain) != n_chain:
        raise InputError(
            f"num_train_timesteps = {shown(config['num_train_timesteps'])} does not fit the {n_chain} values of "
            f"alphas_cumprod of the scheduler; both must be the same number."
        )
    if last == 0 and config.get("prediction_type", PREDICTIONS[0]) == "epsilon":
        raise InputError(
            "prediction_type = 'epsilon' is not allowed with alphas_cumprod that end at 0 (rescale_betas_zero_snr = "
            "True), since the predicted noise then says nothing about the image; allowed are v_prediction and sample."
        )
    return alphas


def _at(numbers: Tensor, t: Tensor) -> Tensor:
    """Return the numbers of the steps t (B,), of shape (B, 1, 1, 1)."""
    return numbers.to(t.device)[t][:, None, None, None]


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, dtype=torch.float64, generator=generator, device=like.device)
