"""A grid shows every image once, enlarged without smoothing, with levels stretched from black to white."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitsperdim.data.pictures import (
    GREY,
    LATER,
    NOT_SEEN,
    OWN,
    TARGET_WIDTH,
    evenly_spaced,
    write_grid,
    write_receptive_field,
)


def test_pictures_are_spaced_over_the_whole_set() -> None:
    images = np.arange(10).reshape(10, 1, 1, 1)
    assert evenly_spaced(images, 4).flatten().tolist() == [0, 2, 5, 7]
    for n_images in (10, 64):
        assert np.array_equal(evenly_spaced(images, n_images), images)


@pytest.mark.parametrize("channels", [1, 3, 2])
def test_every_pixel_is_where_it_should_be(channels: int, tmp_path: Path) -> None:
    """Five images of 2x3 in rows of three: cells of 3x4 with a line between them; the sixth place is grey."""
    images = np.random.default_rng(0).integers(5, size=(5, channels, 2, 3), dtype=np.uint8)
    write_grid(tmp_path / "grid.png", images, 5)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.ndim == (3 if channels == 3 else 2)
    scale = TARGET_WIDTH // (3 * 4)
    assert picture.shape[:2] == ((2 * 3 - 1) * scale, (3 * 4 - 1) * scale)
    small = picture[::scale, ::scale].reshape(5, 11, -1)
    assert np.array_equal(np.repeat(np.repeat(small, scale, 0), scale, 1).reshape(picture.shape), picture)
    for number in range(5):
        row, column = divmod(number, 3)
        cell = small[3 * row : 3 * row + 2, 4 * column : 4 * column + 3]
        drawn = channels if channels == 3 else 1
        expected = np.rint(images[number, :drawn].transpose(1, 2, 0) * 63.75)
        assert np.array_equal(cell, expected)
    assert (small[2] == GREY).all()
    assert (small[3:, 8:] == GREY).all()


def test_a_receptive_field_has_its_colours(tmp_path: Path) -> None:
    """The pixel itself, later pixels and pixels outside have their colours; brightness follows the logarithm."""
    seen = np.array([[0.0, 1e-6, 1.0], [1e-3, 0.0, 0.0]])
    write_receptive_field(tmp_path / "field.png", seen, 1, 1)
    picture = np.asarray(Image.open(tmp_path / "field.png"))
    scale = picture.shape[0] // 2
    colours = [[tuple(map(int, pixel)) for pixel in row] for row in picture[::scale, ::scale]]
    assert colours == [[NOT_SEEN, (40,) * 3, (255,) * 3], [(148,) * 3, OWN, LATER]]
    write_receptive_field(tmp_path / "none.png", np.zeros((2, 2)), 0, 0)
