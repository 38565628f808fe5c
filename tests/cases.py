"""The table of small models to which the laws apply."""

from __future__ import annotations

import torch

from bitsperdim.models import ImageModel, build

PIXELCNN = {"n_filters": 12, "n_blocks": 1, "kernel_size": 3, "likelihood": "categorical", "n_mixtures": 1}
VAE = {"latent_size": 2, "hidden_sizes": [6, 5], "likelihood": "categorical", "n_mixtures": 1}
COUPLED = {"likelihood": "coupled_logistic", "n_mixtures": 2}
SMALL: dict[str, tuple[str, dict, tuple[int, int, int], int]] = {
    "histogram-grey": ("histogram", {"pseudocount": 0.5}, (1, 2, 3), 3),
    "histogram-rgb": ("histogram", {"pseudocount": 1.0}, (3, 1, 2), 2),
    "pixelcnn-binary-3x3": ("pixelcnn", PIXELCNN, (1, 3, 3), 2),
    "pixelcnn-three-levels": ("pixelcnn", PIXELCNN, (1, 2, 3), 3),
    "pixelcnn-rgb": ("pixelcnn", PIXELCNN, (3, 2, 2), 2),
    "pixelcnn-two-channels": ("pixelcnn", PIXELCNN, (2, 2, 1), 4),
    "pixelcnn-bernoulli": ("pixelcnn", {**PIXELCNN, "likelihood": "bernoulli"}, (1, 3, 3), 2),
    "pixelcnn-normal": ("pixelcnn", {**PIXELCNN, "likelihood": "normal"}, (2, 1, 2), 4),
    "pixelcnn-logistics": ("pixelcnn", {**PIXELCNN, "likelihood": "logistic", "n_mixtures": 2}, (1, 2, 3), 3),
    "pixelcnn-coupled-rgb": ("pixelcnn", {**PIXELCNN, **COUPLED}, (3, 1, 2), 3),
    "pixelcnn-coupled-two-channels": ("pixelcnn", {**PIXELCNN, **COUPLED, "n_mixtures": 1}, (2, 2, 1), 4),
    "vae-bernoulli": ("vae", {**VAE, "likelihood": "bernoulli"}, (1, 2, 2), 2),
    "vae-categorical": ("vae", VAE, (1, 2, 2), 3),
    "vae-logistic": ("vae", {**VAE, "likelihood": "logistic"}, (1, 2, 2), 3),
    "vae-normal": ("vae", {**VAE, "likelihood": "normal"}, (3, 1, 1), 4),
    "vae-logistics": ("vae", {**VAE, "likelihood": "logistic", "n_mixtures": 2}, (1, 2, 2), 3),
    "vae-coupled-rgb": ("vae", {**VAE, **COUPLED}, (3, 1, 1), 4),
    "vae-rgb": ("vae", VAE, (3, 1, 1), 4),
    "gaussian-grey": ("gaussian", {}, (1, 1, 2), 3),
    "gaussian-rgb": ("gaussian", {}, (3, 1, 1), 4),
}


def small_model(name: str, seed: int = 0) -> ImageModel:
    """Build a case in float64, initialised on random images, with weights far from their start."""
    family, params, shape, n_levels = SMALL[name]
    generator = torch.Generator().manual_seed(seed)
    model = build(family, params, shape, n_levels, seed=seed).double()
    images = torch.randint(n_levels, (50, *shape), generator=generator).to(torch.uint8)
    model.initialise(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.eval()
