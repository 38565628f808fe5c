"""Variational autoencoders of pythae, which give an encoder, a decoder and a prior.

Models are taken that have a normal encoder, a standard normal prior and a Bernoulli decoder
(``reconstruction_loss="bce"``). It does not matter by which objective they were trained: the number is that of the
prior and the decoder, and the encoder is only a proposal. A Bernoulli decoder gives a mass of two levels only.

A saved model is a folder. Its networks are built by pythae itself, and only tensors are read from ``model.pt``. The
pickles in which pythae saves networks of the user are never opened.

Invariants (``tests/models/external/libraries/test_pythae.py``): the number is that of ``get_nll`` of pythae, within
Monte Carlo errors (``test_it_is_the_number_of_pythae``); a saved model comes back
(``test_a_saved_model_comes_back``). Besides (``test_stand_ins.py``): the masses are those of binary cross-entropy
(``test_masses_are_those_of_cross_entropy``); everything else is refused in one sentence, and no pickle is opened
(``test_a_folder_that_is_refused``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td

from bitsperdim.core.errors import InputError, shown
from bitsperdim.models.external.densities import LAYOUTS
from bitsperdim.models.external.distributions import first_line
from bitsperdim.models.external.libraries import refusal
from bitsperdim.models.external.weights import load_weights

ALLOWED = (
    *("VAE", "BetaVAE", "BetaTCVAE", "DisentangledBetaVAE", "FactorVAE"),
    *("IWAE", "CIWAE", "MIWAE", "PIWAE", "INFOVAE_MMD"),
)
ITS_OWN = "whose encoder or prior is not the plain normal distribution"
REFUSED = {
    "VAMP": "whose prior is a mixture that is learned",
    "VAE_IAF": "whose posterior has a flow",
    "VAE_LinNF": "whose posterior has a flow",
    "HVAE": "whose posterior is drawn by Hamiltonian dynamics",
    "RHVAE": "whose posterior is drawn by Hamiltonian dynamics",
    "SVAE": "whose codes lie on a sphere",
    "PoincareVAE": "whose codes lie in a hyperbolic space",
    "VQVAE": "whose prior over its discrete codes is not a part of it",
    "MSSSIM_VAE": "whose reconstruction loss is not a likelihood",
    "VAEGAN": "whose decoder was trained by a discriminator and has no likelihood",
    **dict.fromkeys(("Adversarial_AE", "WAE_MMD", "AE", "RAE_GP", "RAE_L2"), "which is not a likelihood model"),
}
WORDS = f"one of {', '.join(ALLOWED)} of pythae, with reconstruction_loss = 'bce'"
OTHERWISE = "give the model the methods encode, decode and prior yourself"
WEIGHTS, STATE = "model.pt", "model_state_dict"
FLOOR = -100.0  # smallest log-mass, nats: that of torch's binary_cross_entropy, with which pythae trains and scores
TINY = torch.finfo(torch.float32).tiny  # smaller masses have no derivative here, since it might overflow


def adapt(model: object) -> Latent:
    """Return the encoder, the decoder and the prior of a variational autoencoder of pythae.

    Raises:
        InputError: the model is of another class, or its decoder gives no mass of levels.
    """
    from pythae import models

    if type(model) not in [getattr(models, name) for name in ALLOWED if hasattr(models, name)]:
        is_of_pythae = isinstance(model, models.BaseAE)
        why = REFUSED.get(type(model).__name__, "which is a class of your own") if is_of_pythae else None
        raise refusal(model, "pythae", f"{WORDS}; otherwise {OTHERWISE}", why)
    return Latent(model)


class Latent:
    """The parts of a variational autoencoder.

    Args:
        model: model of pythae.

    Raises:
        InputError: the decoder is not a Bernoulli distribution.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - a class of pythae, which is not imported here
        """Store the model, and check its reconstruction loss."""
        self.model = model
        loss = getattr(model.model_config, "reconstruction_loss", None)
        if loss != "bce":
            why = (
                "a normal distribution of variance 1 around the reconstruction, which is a density and not the "
                "probability of an image"
                if loss == "mse"
                else "which is not known"
            )
            raise InputError(
                f"{type(model).__name__} has reconstruction_loss = {shown(loss)}, {why}; train it with 'bce' on "
                f"images of two levels, or {OTHERWISE}, with a decode that returns a distribution over the levels."
            )
        self.bitsperdim = {"offers": "encode", "inputs": "unit"}
        if (n_dimensions := len(model.model_config.input_dim or ())) in LAYOUTS:
            self.bitsperdim["layout"] = LAYOUTS[n_dimensions]

    def encode(self, x: Tensor) -> td.Normal:
        """Return q(z given x), batch shape (B, Z), of images (B, ...) from 0 to 1."""
        found = self.model.encoder(x)
        return td.Normal(found.embedding, (0.5 * found.log_covariance).exp())

    def decode(self, z: Tensor) -> Bits:
        """Return p(x given z) of images of two levels, for codes (N, Z)."""
        return Bits(self.model.decoder(z).reconstruction)

    def prior(self) -> td.Normal:
        """Return p(z), batch shape (Z,)."""
        like = next((each for each in self.model.parameters()), torch.zeros(()))
        zeros = torch.zeros(self.model.latent_dim, dtype=like.dtype, device=like.device)
        return td.Normal(zeros, torch.ones_like(zeros))


class Bits:
    """Independent sub-pixels of the levels 0 and 1.

    Args:
        p: probability of level 1, (N, ...) in any shape, in the order of the sub-pixels.
    """

    def __init__(self, p: Tensor) -> None:
        """Store the probabilities."""
        self.p = p

    def log_prob(self, levels: Tensor) -> Tensor:
        """Return log p in nats of levels (N, ...) int64, in their shape.

        Raises:
            InputError: there are other levels than 0 and 1, or the decoder does not return probabilities.
        """
        largest = int(levels.max())
        if largest > 1:
            raise InputError(
                f"reconstruction_loss = 'bce' gives probabilities of images of two levels, but these have level "
                f"{largest}; binarize them (`binarization`), if the model was trained on such images."
            )
        if not bool(((self.p >= 0) & (self.p <= 1)).all()):
            raise InputError(
                "The decoder must return probabilities from 0 to 1 with reconstruction_loss = 'bce', but some values "
                "lie outside; its last layer should be a sigmoid."
            )
        p = self.p.reshape(levels.shape)
        mass = torch.where(levels == 1, p, 1 - p)
        return torch.where(mass < TINY, mass.detach().log().clamp_min(FLOOR), mass.clamp_min(TINY).log())


def open_folder(folder: Path) -> nn.Module:
    """Return the model in a folder that ``save`` or a training of pythae wrote, in evaluation mode.

    Raises:
        InputError: the folder holds no such model, a model that is not allowed, or pickled networks.
    """
    from pythae import models

    path = folder / "model_config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name = str(content.pop("name"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder} is not a model of pythae: {path.name} is missing or damaged ({type(error).__name__}); give the "
            f"folder that model.save or a training wrote, such as .../final_model."
        ) from error
    kind = name.removesuffix("Config").removesuffix("_")
    if kind not in ALLOWED or not hasattr(models, kind):
        why = REFUSED.get(kind, ITS_OWN)
        raise InputError(f"{folder} holds {shown(kind)}, {why}; it must be {WORDS}.")
    pickles = sorted(each.name for each in folder.glob("*.pkl"))
    pickles += [] if content.get("uses_default_encoder", True) else ["encoder.pkl"]
    pickles += [] if content.get("uses_default_decoder", True) else ["decoder.pkl"]
    if pickles:
        raise InputError(
            f"{folder} holds networks of your own in {pickles[0]}, a pickle, which could run any code and is not "
            f"opened; build the model in a Python file, and load its weights with --weights {folder / WEIGHTS} "
            f"--weights-key {STATE}."
        )
    try:
        model: nn.Module = getattr(models, kind)(getattr(models, name).from_dict(content))
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} does not describe a {kind} of this version of pythae ({type(error).__name__}: "
            f"{first_line(error)})."
        ) from error
    load_weights(model, folder / WEIGHTS, STATE)
    return model.eval()
