"""Yardsticks, compared with entropies computed by hand and with files read back."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitsperdim.core.files import StoredArray, write_npy
from bitsperdim.core.units import bits_per_dim
from bitsperdim.data import yardsticks as module
from bitsperdim.data.yardsticks import code_length, contact_sheet, empirical_entropy, yardsticks
from bitsperdim.models.histogram import Histogram


def test_entropy_of_known_distributions() -> None:
    """Four images of two sub-pixels: a fair four-sided die (2 bits) and a constant (0 bits)."""
    images = np.array([[0, 7], [1, 7], [2, 7], [3, 7]], dtype=np.uint8).reshape(4, 1, 1, 2)
    assert empirical_entropy(images)[0] == pytest.approx(1)
    skewed = np.array([0, 0, 0, 1], dtype=np.uint8).reshape(4, 1, 1, 1)
    assert empirical_entropy(skewed)[0] == pytest.approx(0.8112781, abs=1e-7)


def test_the_bias_of_the_entropy_is_the_leading_one() -> None:
    """2,000 repetitions of 50 draws from a fair eight-sided die: mean bias within 10 % (next order: 2 %)."""
    rng = np.random.default_rng(0)
    images = rng.integers(8, size=(50, 1, 40, 50), dtype=np.uint8)
    entropy, bias = empirical_entropy(images)
    assert entropy - 3 == pytest.approx(bias, rel=0.1)
    assert bias == pytest.approx(-7 / (100 * np.log(2)), rel=0.01)
    assert empirical_entropy(np.zeros((5, 1, 2, 2), np.uint8)) == (0, 0)


def test_entropy_is_below_that_of_any_independent_model() -> None:
    """Gibbs: the training histogram, evaluated on the test set, cannot beat the histogram of the test set itself."""
    rng = np.random.default_rng(0)
    train, test = (rng.binomial(7, 0.3, size=(n, 1, 3, 3)).astype(np.uint8) for n in (200, 100))
    model = Histogram((1, 3, 3), 8, pseudocount=0.1).double()
    model.initialise(torch.from_numpy(train))
    bits = bits_per_dim(model.log_weights(torch.from_numpy(test)).mean().item(), (1, 3, 3))
    entropy, _ = empirical_entropy(test)
    assert entropy < bits < entropy + 0.2


def test_the_sheet_holds_every_image_once() -> None:
    images = np.arange(5 * 2 * 3 * 4, dtype=np.uint8).reshape(5, 2, 3, 4)
    sheet = contact_sheet(images, n_columns=2)
    assert sheet.shape == (2, 9, 8)
    assert np.array_equal(sheet[:, 3:6, 4:8], images[3])
    assert not sheet[:, 6:, 4:].any()
    assert sheet.astype(int).sum() == images.astype(int).sum()


@pytest.mark.parametrize(("height", "width"), [(2, 8), (8, 2), (4, 4)])
def test_the_sheet_is_square_whatever_the_shape_of_the_images(height: int, width: int) -> None:
    """A long strip would have other neighbours and another code length: 36 images of 16 pixels give 24 by 24."""
    assert contact_sheet(np.zeros((36, 1, height, width), np.uint8)).shape == (1, 24, 24)


def test_a_sheet_larger_than_webp_allows_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The length is the sum over the parts, and images wider than a file allows raise no error."""
    sheet = np.random.default_rng(0).integers(256, size=(1, 50, 70), dtype=np.uint8)
    whole = {file_format: code_length(sheet, 256, file_format) for file_format in ("PNG", "WEBP")}
    monkeypatch.setattr("bitsperdim.data.yardsticks.MAX_SIDE", 30)
    parts = [sheet[:, y : y + 30, x : x + 30] for y in (0, 30) for x in (0, 30, 60)]
    for file_format, length in whole.items():
        cut = code_length(sheet, 256, file_format)
        assert cut == sum(code_length(part, 256, file_format) for part in parts) > length
    monkeypatch.undo()
    assert code_length(np.zeros((1, 1, 17_000), np.uint8), 256, "WEBP") < 500


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("n_levels", [2, 17, 256])
def test_noise_cannot_be_compressed_and_a_constant_can(channels: int, n_levels: int) -> None:
    """Independent equally likely values need log2 L bits: a lossless code beats this by at most 1 %, by chance."""
    rng = np.random.default_rng(0)
    images = rng.integers(n_levels, size=(100, channels, 16, 16), dtype=np.uint8)
    found = yardsticks(images, n_levels)
    assert found["uniform_bpd"] == pytest.approx(np.log2(n_levels))
    for name in ("png_bpd", "webp_bpd", "png_single_bpd"):
        assert 0.99 * found["uniform_bpd"] < found[name] < 9 + 4
    assert found["png_single_bpd"] > found["png_bpd"]
    constant = yardsticks(np.ones_like(images), n_levels)
    assert constant["entropy_bpd"] == 0
    assert constant["png_bpd"] < 0.1
    assert constant["webp_bpd"] < 0.1


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_codes_are_lossless(file_format: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    save = Image.Image.save

    def spy(self: Image.Image, buffer: io.BytesIO, *args: object, **kwargs: object) -> None:
        save(self, buffer, *args, **kwargs)
        written.append(buffer.getvalue())

    monkeypatch.setattr(Image.Image, "save", spy)
    sheet = np.random.default_rng(0).integers(256, size=(channels, 20, 30), dtype=np.uint8)
    assert code_length(sheet, 256, file_format) == len(written[0])
    picture = np.asarray(Image.open(io.BytesIO(written[0])).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(picture, np.broadcast_to(sheet, (3, 20, 30)))


def test_the_measure_of_a_file_in_parts_is_that_of_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entropies do not depend on the parts; code lengths are sums over the sheets."""
    images = np.random.default_rng(0).binomial(9, 0.4, size=(53, 3, 4, 5)).astype(np.uint8)
    whole = yardsticks(images, 10)
    write_npy(tmp_path / "images.npy", images.shape, images.dtype, [images])
    stored = StoredArray(tmp_path / "images.npy")
    assert yardsticks(stored, 10) == whole
    monkeypatch.setattr(module, "COUNTED_AT_ONCE", 7)
    monkeypatch.setattr(module, "PAGE_VALUES", 20 * 60)
    parts = yardsticks(stored, 10)
    assert parts["entropy_bpd"] == pytest.approx(whole["entropy_bpd"], rel=1e-12)
    assert parts["entropy_bias_bpd"] == pytest.approx(whole["entropy_bias_bpd"], rel=1e-12)
    assert parts["png_single_bpd"] == whole["png_single_bpd"]
    sheets = [contact_sheet(part) for part in (images[:20], images[20:40], images[40:])]
    assert parts["png_bpd"] == 8 * sum(code_length(sheet, 10, "PNG") for sheet in sheets) / images.size
    assert parts["webp_bpd"] == 8 * sum(code_length(sheet, 10, "WEBP") for sheet in sheets) / images.size
