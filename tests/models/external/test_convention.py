"""The form of model inputs: every numbering of levels and every layout of images, compared with NumPy."""

import numpy as np
import pytest
import torch

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.convention import WORDS, Convention

SHAPE = (3, 2, 4)
LAYOUTS = {
    "channels_first": (lambda x: x, SHAPE),
    "channels_last": (lambda x: x.transpose(0, 2, 3, 1), (2, 4, 3)),
    "flat": (lambda x: x.reshape(len(x), -1), (24,)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_come_back(layout: str) -> None:
    convention, (by_numpy, inner) = Convention(layout=layout), LAYOUTS[layout]
    x = torch.arange(5 * 24).reshape(5, *SHAPE)
    given = convention.arranged(x)
    np.testing.assert_array_equal(given.numpy(), by_numpy(x.numpy()))
    assert given.shape[1:] == convention.inner_shape(SHAPE) == inner
    assert torch.equal(convention.back(given, SHAPE), x)
    of_levels = torch.stack([given, given + 1], dim=-1)
    assert torch.equal(convention.back(of_levels, SHAPE), torch.stack([x, x + 1], dim=-1))


def test_a_plane_comes_back() -> None:
    convention, x = Convention(layout="plane"), torch.arange(30).reshape(5, 1, 2, 3)
    assert torch.equal(convention.arranged(x), x[:, 0])
    assert torch.equal(convention.back(convention.arranged(x), (1, 2, 3)), x)
    with pytest.raises(InputError, match="'plane' is not allowed for images of 3 channels; choose another"):
        convention.inner_shape(SHAPE)


@pytest.mark.parametrize("n_levels", [2, 256, 300])
def test_levels_are_where_they_are_declared(n_levels: int) -> None:
    x = torch.tensor([0, 1, n_levels - 1])
    integers = Convention().numbered(x.int(), n_levels, torch.float32)
    assert integers.dtype == torch.int64
    assert torch.equal(integers, x)
    unit = Convention("unit").numbered(x, n_levels, torch.float64)
    assert unit.tolist() == [0.0, 1 / (n_levels - 1), 1.0]
    symmetric = Convention("symmetric").numbered(x, n_levels, torch.float64)
    assert symmetric.tolist() == [-1.0, 2 / (n_levels - 1) - 1, 1.0]


def test_unknown_words_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"inputs = '0..1' is not allowed; choose one of integers") as caught:
        Convention("0..1")  # type: ignore[arg-type]
    assert all(WORDS[word] in str(caught.value) for word in ("integers", "unit", "symmetric"))
    with pytest.raises(InputError, match="layout = 'NHWC' is not allowed; choose one of channels_first"):
        Convention(layout="NHWC")  # type: ignore[arg-type]
