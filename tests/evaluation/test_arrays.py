"""Log-likelihoods of another framework give the same number as the model itself."""

from typing import Any

import numpy as np
import pytest
import torch

import bitsperdim
from bitsperdim.core.errors import InputError
from support.foreign import Masked, Vae, some_images

IMAGES = some_images((1, 2, 2), 3)


def test_arrays_are_the_number_of_the_model() -> None:
    with torch.no_grad():
        log_p = Masked().mass(IMAGES)
    by_model = bitsperdim.evaluate(Masked().mass, IMAGES, n_levels=3, offers="log_prob")
    for given in (log_p, log_p.numpy(), log_p.tolist(), log_p.double()):
        by_arrays = bitsperdim.estimate_of_arrays(given, images=IMAGES, n_levels=3)
        assert by_arrays.metrics == by_model.metrics.model_copy(update={"n_parameters": 0})
        assert not by_arrays.is_verified
    bound = bitsperdim.estimate_of_arrays(log_p, images=IMAGES, n_levels=3, kind="lower")
    assert (bound.kind, bound.n_samples, bound.bits_per_dim) == ("lower", 1, by_model.bits_per_dim)
    assert "K = 1, so neither its bias nor its Monte Carlo error can be estimated" in str(bound)


def test_log_weights_are_the_number_of_the_model() -> None:
    with torch.no_grad():
        log_w = Vae().weights(IMAGES, 50)
    by_model = bitsperdim.evaluate(
        lambda x, k: log_w[:k, : len(x)], IMAGES, n_levels=3, offers="log_weights", n_samples=50, chunk_size=50
    )
    by_arrays = bitsperdim.estimate_of_arrays(log_w=log_w, images=IMAGES, n_levels=3)
    assert by_arrays.metrics == by_model.metrics
    assert by_arrays.n_samples == 50


def test_other_values_are_another_signature() -> None:
    found = [
        bitsperdim.estimate_of_arrays(np.full(12, value), images=IMAGES, n_levels=3).signature for value in (-3.0, -4.0)
    ]
    assert found[0] != found[1]


def test_an_impossible_image_makes_the_number_infinite() -> None:
    log_p = np.full(12, -3.0)
    log_p[4] = -np.inf
    found = bitsperdim.estimate_of_arrays(log_p, images=IMAGES, n_levels=3)
    assert found.bits_per_dim == np.inf
    assert "1 of 12 test images have probability 0" in str(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "Give either log_p, one log-likelihood for each image, or log_w, log-weights of shape (K, N)"),
        ({"log_p": np.zeros(12), "log_w": np.zeros((2, 12))}, "Give either log_p"),
        ({"log_p": np.zeros(12), "kind": "upper"}, "kind = 'upper' is not allowed; it must be exact or lower."),
        ({"log_p": np.zeros(11)}, "log_p must have the shape (12,) for these images, not (11,)."),
        ({"log_p": np.zeros((1, 12))}, "log_p must have the shape (12,) for these images, not (1, 12)."),
        ({"log_w": np.zeros((12, 5))}, "log_w must have the shape (K, 12) for these images, not (12, 5)."),
        ({"log_w": np.zeros(12)}, "log_w must have the shape (K, 12) for these images, not (12,)."),
        ({"log_w": np.zeros((0, 12))}, "log_w must have the shape (K, 12) for these images, not (0, 12)."),
        ({"log_p": np.zeros(12, dtype=int)}, "log_p must be floating-point numbers in nats, not int64."),
        ({"log_p": "many"}, "log_p must be floating-point numbers in nats, not <U4."),
        (
            {"log_p": np.where(np.arange(12) == 7, np.nan, -1)},
            "log_p of image 7 is nan; the logarithm of a probability is never",
        ),
        ({"log_w": np.where(np.arange(24).reshape(2, 12) == 15, np.inf, -1)}, "log_w of image 3 is inf; the logarithm"),
    ],
)
def test_what_are_no_log_likelihoods_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        bitsperdim.estimate_of_arrays(images=IMAGES, n_levels=3, **arguments)
    assert words in str(caught.value)
