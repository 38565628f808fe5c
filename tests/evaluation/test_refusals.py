"""Models and arguments that ``bitsperdim.evaluate`` refuses in one sentence, and methods that must agree."""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

import bitsperdim
from bitsperdim.core.errors import InputError
from bitsperdim.evaluation.result import Estimate
from support.foreign import Masked, Offering, Slopes, Vae, some_images

SHAPE = (1, 2, 2)
IMAGES = some_images(SHAPE, 3)


def number(model: object, images: Any = IMAGES, **options: Any) -> Estimate:
    return bitsperdim.evaluate(model, images, **{"n_levels": 3, **options})


def refused(words: str, model: object, *arguments: Any, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        number(model, *arguments, **options)
    sentence = str(caught.value)
    assert words in sentence
    assert sentence.endswith(".")
    assert not re.search(r"\.\.(?!\d|L)|  |\n", sentence.replace("(...)", "")), sentence


def test_two_methods_have_to_agree() -> None:
    net, other = Masked(), Masked(seed=1)
    assert number(Offering(net, logits=net.last, log_prob=net.mass)).nats == number(net.last, offers="logits").nats
    model = Offering(net, logits=net.last, log_prob=other.mass)
    refused("logits and log_prob disagree: for image ", model)
    assert number(model, offers="log_prob").nats == number(other.mass, offers="log_prob").nats
    below = Offering(net, log_prob=net.mass, bound=lambda x: net.mass(x) - torch.rand(len(x)))
    assert number(below).kind == "exact"
    above = Offering(net, log_prob=net.mass, bound=lambda x: net.mass(x) + 0.5 + torch.rand(len(x)))
    refused("log_prob and bound disagree: on 8 images, the mean of log P(x) is", above)
    for change in (
        lambda p: torch.where(torch.arange(len(p)) == 2, p - 1, torch.where(torch.arange(len(p)) == 3, p + 1, p)),
        lambda p: torch.where(torch.arange(len(p)) == 2, -torch.inf, p),
    ):
        crossed = functools.partial(lambda x, change: change(net.mass(x)), change=change)
        refused("disagree: for image ", Offering(net, logits=net.last, log_prob=crossed))
    impossible = Offering(
        log_prob=lambda x: torch.full((len(x),), -torch.inf), bound=lambda x: torch.full((len(x),), -torch.inf)
    )
    assert number(impossible).bits_per_dim == np.inf


def test_a_checkpoint_needs_weights_that_are_known(tmp_path: Path) -> None:
    net = Masked()
    refused(
        "checkpoint is not allowed with <lambda>, whose weights",
        lambda x: net.mass(x),
        offers="log_prob",
        checkpoint=tmp_path,
    )
    assert number(net.mass, offers="log_prob", checkpoint=tmp_path).kind == "exact"


def of_image_7(value: float) -> Any:
    """Return a model with log P(x) = -1 for all images except the eighth."""
    return lambda x, *_: torch.where((x == IMAGES[7]).flatten(1).all(1), value, -1.0)


class Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout())
        self.eval()
        self.net[0].train()

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x))


class Said(nn.Module):
    bitsperdim: Any = ("inputs",)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x))


class Key(Said):
    bitsperdim: Any = {"input": "unit"}  # noqa: RUF012 - as somebody may write it


MASS = Masked().mass
REFUSED: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "no method": ("Linear offers none of the methods that", nn.Linear(1, 1).eval(), {}),
    "a class": ("Masked is a class; give a model that was made of it", Masked, {}),
    "training": ("Training is in training mode, in which dropout", Training(), {}),
    "training of a method": ("is in training mode", Masked().train().mass, {"offers": "log_prob"}),
    "offers": ("offers = 'nll' is not a method; choose one of conditionals", MASS, {"offers": "nll"}),
    "inputs": ("inputs = '0-1' is not allowed; choose one of integers", MASS, {"offers": "log_prob", "inputs": "0-1"}),
    "layout": (
        "layout = 'NCHW' is not allowed; choose one of channels_fir",
        MASS,
        {"offers": "log_prob", "layout": "NCHW"},
    ),
    "order": ("order = 'rows' is not allowed; choose raster", Masked().last, {"offers": "logits", "order": "rows"}),
    "no range": ("log_density needs `range`, the interval of all values", Slopes(), {}),
    "range of 3": (
        "range = (0, 1, 2) is not allowed; it must be two numbers (low, high).",
        Slopes(),
        {"range": (0, 1, 2)},
    ),
    "range of words": ("range = '01' is not allowed; it must be two numbers", Slopes(), {"range": "01"}),
    "range reversed": ("range = (1.0, 0.0) is not allowed; it must be two finite", Slopes(), {"range": (1, 0)}),
    "range infinite": ("range = (-inf, inf) is not allowed", Slopes(), {"range": (-np.inf, np.inf)}),
    "attribute": (
        "The attribute bitsperdim of Said must be a dict with some of the keys offers, inputs",
        Said().eval(),
        {},
    ),
    "attribute's key": ("The attribute bitsperdim of Key must be a dict", Key().eval(), {}),
    "labels": ("labels must be integers of shape (12,), not int64 of shape (3,).", MASS, {"labels": [0, 1, 2]}),
    "labels to encode": ("labels are not given to encode", Vae(), {"labels": [0] * 12}),
    "no n_levels": ("n_levels is missing", MASS, {"n_levels": None}),
    "density": ("Independent is a density and not a mass", td.Independent(td.Normal(torch.zeros(SHAPE), 1.0), 3), {}),
    "NaN": (
        "log_prob cannot be scored: a log-weight of image 7 is NaN or +inf.",
        of_image_7(np.nan),
        {"name": "log_prob", "offers": "log_prob"},
    ),
    "+inf": (
        "M cannot be scored: a log-weight of image 7 is NaN or +inf.",
        of_image_7(np.inf),
        {"name": "M", "offers": "log_prob"},
    ),
    "NaN of weights": (
        "a log-weight of image 7 is NaN",
        lambda x, k: of_image_7(np.nan)(x).expand(k, -1),
        {"offers": "log_weights"},
    ),
    "NaN of conditionals": (
        "cannot be scored: a log-mass is NaN",
        lambda x: torch.full((len(x), 1, 2, 2, 3), torch.nan),
        {"offers": "logits"},
    ),
    "NaN of a second": (
        "The method bound cannot be used: a log-weight of image 7 is NaN",
        Offering(log_prob=MASS, bound=of_image_7(np.nan)),
        {},
    ),
    "sum over the batch": (
        "log_prob must return shape (12,), but returned ()",
        lambda x: MASS(x).sum(),
        {"offers": "log_prob"},
    ),
    "(B, 1)": (
        "log_prob must return shape (12,), but returned (12, 1)",
        lambda x: MASS(x)[:, None],
        {"offers": "log_prob"},
    ),
    "swapped": (
        "log_weights must return shape (2, 1), but returned (1, 2)",
        lambda x, k: torch.zeros(len(x), k),
        {"offers": "log_weights", "n_samples": 12, "chunk_size": 12},
    ),
    "logits": ("logits returned logits of shape (", lambda x: torch.zeros(len(x), 7), {"offers": "logits"}),
    "an error inside": (
        "log_prob(int64 (12, 1, 2, 2)) of the model raised IndexError",
        lambda x: x[99].float(),
        {"offers": "log_prob"},
    ),
    "an error in the masses": (
        "raised ValueError when it was called with levels",
        lambda x: td.Categorical(logits=torch.zeros(len(x), 1, 2, 2, 2), validate_args=True),  # which zuko switches off
        {"offers": "conditionals"},
    ),
    "looks ahead": ("last cannot be scored: the model looks ahead", Masked(is_leaking=True).last, {"offers": "logits"}),
    "one number for each image": (
        "one number for each image, but masses of single sub-pixels",
        lambda x: Whole(),
        {"offers": "conditionals"},
    ),
    "n_samples": ("n_samples = 0 is not allowed; it must be an integer from 1 to 1,000,000.", MASS, {"n_samples": 0}),
    "batch_size": ("batch_size = True is not allowed", MASS, {"batch_size": True}),
    "chunk_size": ("chunk_size = 2.5 is not allowed", MASS, {"chunk_size": 2.5}),
    "proposal": ("proposal = 'best' is not allowed; it must be one of refined, encoder", MASS, {"proposal": "best"}),
    "seed": ("seed = -1 is not allowed; it must be an integer from 0 to", MASS, {"seed": -1, "subset": 3}),
    "subset": ("subset = 13 is not allowed; it must be an integer from 1 to 12", MASS, {"subset": 13}),
    "device": ("device = 'gpu' is not available (", MASS, {"offers": "log_prob", "device": "gpu"}),
    "meta": (
        "The model is on the device 'meta', where weights have no values; load the weights first.",
        Masked().to("meta").mass,
        {"offers": "log_prob"},
    ),
    "too many levels": (
        "log_density is allowed for at most 4,096 levels",
        Slopes(),
        {"range": (0, 1), "n_levels": 5000},
    ),
}


class Whole:
    def log_prob(self, x: Tensor) -> Tensor:
        return -x.flatten(1).sum(1).float()


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_sentence(case: str) -> None:
    words, model, options = REFUSED[case]
    refused(words, model, **options)


def test_colour_has_no_plane() -> None:
    refused(
        "layout = 'plane' is not allowed for images of 3 channels",
        Masked((3, 1, 2)).mass,
        some_images((3, 1, 2), 3),
        offers="log_prob",
        layout="plane",
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    refused("device = 'cuda' is not available (", MASS, offers="log_prob", device="cuda")
