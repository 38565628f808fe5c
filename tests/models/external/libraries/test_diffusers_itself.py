"""The bound of diffusion models beside ``diffusers`` itself: equal steps, a trained network, and saved folders.

Without the library, only the test of folders that are refused runs.
"""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bitsperdim
from bitsperdim.core.errors import InputError
from bitsperdim.models.external.libraries import diffusers as adapter
from bitsperdim.models.external.libraries.diffusers import DiscreteBound, adapt, open_folder
from support.diffusion import PREDICTIONS, VARIANCES, Flat, seeded


@pytest.fixture(scope="module")
def library() -> Any:
    """The library diffusers; without it, the tests are skipped."""
    return pytest.importorskip("diffusers")


def unet_of(library: Any, n_channels: int = 1, **options: Any) -> Any:
    """Return a small network for images of 8 x 8 pixels, in evaluation mode."""
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": n_channels, "norm_num_groups": 8}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "layers_per_block": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return library.UNet2DModel(block_out_channels=(16, 32), **{**sizes, **blocks, **options}).eval()


@pytest.mark.parametrize("is_clipped", [True, False])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("variance_type", VARIANCES)
def test_steps_are_those_of_the_scheduler(
    library: Any, variance_type: str, prediction_type: str, is_clipped: bool
) -> None:
    """Mean and standard deviation of ``step``, which is called twice with known noise, in float64."""
    options = {"clip_sample": is_clipped, "clip_sample_range": 0.7, "num_train_timesteps": 50, "beta_end": 0.2}
    kinds = {"variance_type": variance_type, "prediction_type": prediction_type}
    scheduler = library.DDPMScheduler(**options, **kinds)
    scheduler.alphas_cumprod, scheduler.one = scheduler.alphas_cumprod.double(), scheduler.one.double()
    shape = (3, 2, 4, 4)
    output = torch.randn(3, 4 if "learned" in variance_type else 2, 4, 4, generator=seeded(1), dtype=torch.float64)
    if variance_type == "learned":
        output[:, 2:] = output[:, 2:].exp()  # the scheduler takes it as the variance, and not as its logarithm
    network = Flat()
    network.forward = lambda x_t, t: SimpleNamespace(sample=output)  # type: ignore[method-assign]
    model, x_t = adapt((network, scheduler)), torch.randn(shape, generator=seeded(2), dtype=torch.float64)
    for t in (0, 1, 2, 20, 49):
        mean, log_variance = model.step(x_t, torch.full((3,), t))
        steps = [scheduler.step(output, t, x_t, generator=seeded(seed)).prev_sample for seed in (3, 4)]
        noises = [torch.randn(shape, generator=seeded(seed), dtype=torch.float64) for seed in (3, 4)]
        if t == 0:  # without noise
            torch.testing.assert_close(mean, steps[0], rtol=1e-9, atol=1e-9)
            continue
        if variance_type == "fixed_large_log":  # its step takes the root of a logarithm, which is negative
            assert bool(steps[0].isnan().all())
            torch.testing.assert_close(
                log_variance.exp().flatten(), scheduler.betas[t].double().expand(3), rtol=1e-4, atol=0
            )
            continue
        scale = (steps[1] - steps[0]) / (noises[1] - noises[0])
        torch.testing.assert_close((0.5 * log_variance).exp().expand(shape), scale, rtol=1e-6, atol=0)
        torch.testing.assert_close(mean, steps[0] - scale * noises[0], rtol=1e-9, atol=1e-9)
        if is_clipped and t < 20:
            free = DiscreteBound(network, library.DDPMScheduler(**{**options, "clip_sample": False}, **kinds))
            assert not torch.allclose(free.step(x_t, torch.full((3,), t))[0], mean, atol=1e-3)


def test_forward_noise_is_that_of_the_scheduler(library: Any) -> None:
    x, noise = torch.rand(4, 1, 2, 2, generator=seeded()), torch.randn(4, 1, 2, 2, generator=seeded(1))
    t = torch.tensor([0, 5, 500, 999])
    for scheduler in (library.DDPMScheduler(), library.DDIMScheduler(beta_schedule="squaredcos_cap_v2")):
        expected = scheduler.add_noise(x, noise, t)
        torch.testing.assert_close(adapt((Flat(), scheduler)).noisy(x.double(), t, noise.double()).float(), expected)


def test_a_chain_of_ddim_has_the_variance_of_full_noise(library: Any) -> None:
    scheduler = library.DDIMScheduler(num_train_timesteps=50)
    scheduler.set_timesteps(50)
    model = adapt((Flat(), scheduler))
    for t in (1, 2, 20, 49):
        _, log_variance = model.step(torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.tensor([t]))
        expected = float(scheduler._get_variance(t, t - 1))
        assert float(log_variance.exp()) == pytest.approx(expected, rel=1e-3)  # float32 there


def test_a_trained_network_is_better_than_chance(library: Any) -> None:
    data = bitsperdim.load_data("digits")
    start = 2 * torch.from_numpy(data.train).float() / (data.n_levels - 1) - 1
    unet = unet_of(library).train()
    scheduler = library.DDPMScheduler(num_train_timesteps=100, beta_start=0.004, beta_end=0.2)
    optimizer = torch.optim.Adam(unet.parameters(), 4e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(100):
            images = start[torch.randint(len(start), (64,))]
            noise, t = torch.randn(images.shape), torch.randint(100, (64,))
            loss = (unet(scheduler.add_noise(images, noise, t), t).sample - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    pipeline = library.DDPMPipeline(unet.eval(), scheduler)
    result = bitsperdim.evaluate(adapt(pipeline), data, n_samples=2, subset=60)
    assert result.kind == "lower"
    assert 2 < result.bits_per_dim < math.log2(data.n_levels) - 0.5


def test_a_saved_pipeline_comes_back_without_a_network(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.DDPMPipeline(unet_of(library), library.DDPMScheduler(num_train_timesteps=9)).save_pretrained(tmp_path)
    monkeypatch.setattr(socket, "socket", None)  # any connection would fail
    x = torch.randint(17, (2, 1, 8, 8), generator=seeded())
    expected = adapt((unet_of(library), library.DDPMScheduler(num_train_timesteps=9))).terms(x, 17, seeded())
    found = open_folder(tmp_path)
    assert not found.unet.training
    assert torch.equal(sum(adapt(found).terms(x, 17, seeded()).values()), sum(expected.values()))
    for part in ("unet", "scheduler"):  # older folders have all files beside each other
        for file in (tmp_path / part).iterdir():
            file.rename(tmp_path / file.name)
        (tmp_path / part).rmdir()
    assert torch.equal(sum(adapt(open_folder(tmp_path)).terms(x, 17, seeded()).values()), sum(expected.values()))
    (tmp_path / adapter.WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(InputError, match=f"{tmp_path} cannot be loaded by diffusers: "):
        open_folder(tmp_path)


INDEX: dict[str, Any] = {
    "_class_name": "DDPMPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (None, "model_index.json cannot be read (FileNotFoundError); it must be written by save_pretrained."),
        ([], "model_index.json holds list; it must hold the parts of a pipeline."),
        (
            {**INDEX, "vae": ["diffusers", "AutoencoderKL"]},
            " has vae besides unet and scheduler; only pipelines of pixels",
        ),
        ({**INDEX, "_class_name": "Mine"}, "holds a pipeline of class 'Mine'; allowed are DDPMPipeline, DDIMPipeline."),
        (
            {**INDEX, "unet": ["mine", "UNet2DModel"]},
            "unet = ['mine', 'UNet2DModel'] is not allowed; it must be diffusers",
        ),
        (
            {**INDEX, "scheduler": ["diffusers", "PNDMScheduler"]},
            "it must be diffusers.DDPMScheduler or diffusers.DDIMS",
        ),
        (
            INDEX,
            "unet has no diffusion_pytorch_model.safetensors; other files of weights are not opened, because a pick",
        ),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, index: Any, words: str) -> None:
    """Before the library is imported, and without opening a pickle."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    if index is not None:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as caught:
        open_folder(tmp_path)
    assert words in str(caught.value)
