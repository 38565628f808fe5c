"""The evaluator: it scores every image once, chunks change nothing, and invalid numbers are refused."""

import dataclasses
import sys

import pytest
import torch
from torch import Tensor

from bitsperdim.estimators.log_weights import bias, bound_against_k, extrapolation, jackknife, log_mean_exp
from bitsperdim.estimators.pareto import pareto_k
from bitsperdim.evaluation.estimate import Estimate, estimate, estimated_rows, n_columns
from bitsperdim.models import ImageModel
from bitsperdim.models.pixelcnn import PixelCNN
from support import laws
from support.cases import small_model

pytestmark = pytest.mark.processor


class Scripted(ImageModel):
    """A model whose log-weights are given by a table: row k, image value x -> table[k, x]."""

    def __init__(self, table: Tensor) -> None:
        super().__init__((1, 1, 1), table.shape[1])
        self.register_buffer("table", table)
        self.position = 0
        self.largest_request = 0

    def unchecked_log_weights(self, x: Tensor, n_samples: int = 1, **_: object) -> Tensor:
        self.largest_request = max(self.largest_request, n_samples * len(x))
        rows = [(self.position + k) % len(self.table) for k in range(n_samples)]
        self.position = (self.position + n_samples) % len(self.table)
        return self.table[rows][:, x.flatten().long()]

    def unchecked_sample(self, n_images: int, **_: object) -> Tensor:
        raise AssertionError("not asked for")


def scripted(table: list[list[float]]) -> ImageModel:
    return Scripted(torch.tensor(table, dtype=torch.float64)).eval()


def images(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 100])
def test_no_image_is_dropped(batch_size: int) -> None:
    model = scripted([[-1.0, -2.0, -3.0, -4.0]])
    x = images(3, 1, 0, 2, 3, 3, 0)
    result = estimate(model, x, 1, chunk_size=1, batch_size=batch_size)
    assert result.log_p.tolist() == [-4, -2, -1, -3, -4, -4, -1]


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("name", ["vae-categorical", "gaussian-rgb"])
def test_chunks_change_nothing(name: str, chunk_size: int) -> None:
    model = small_model(name)
    x = laws.all_images(model.image_shape, model.n_levels)[:11]
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))

    def run(size: int) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        result = estimate(model, x, 7, chunk_size=size, batch_size=4, generator=generator, noise=noise)
        return torch.stack([result.log_p, result.elbo, result.standard_error, result.ess, result.jackknife])

    torch.testing.assert_close(run(chunk_size), run(7), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_image_has_its_own_label(batch_size: int) -> None:
    """Labels stay with their images in every batch: here a class gives -1, -2 or -3 nats for any image."""

    class Labelled(Scripted):
        def unchecked_log_weights(
            self, x: Tensor, n_samples: int = 1, *, labels: Tensor | None = None, **_: object
        ) -> Tensor:
            assert labels is not None
            return self.table[:, labels].expand(n_samples, len(x))

    model = Labelled(torch.tensor([[-1.0, -2.0, -3.0]], dtype=torch.float64)).eval()
    model.n_classes = 3
    labels = torch.tensor([2, 0, 1, 2, 1])
    result = estimate(model, images(0, 0, 0, 0, 0), 1, chunk_size=1, batch_size=batch_size, labels=labels)
    assert result.log_p.tolist() == [-3, -1, -2, -3, -2]


def test_memory_does_not_grow_with_k(monkeypatch: pytest.MonkeyPatch) -> None:
    """For any K the model is called for at most chunk x batch weights, and few weights are in memory at once."""
    module = sys.modules["bitsperdim.evaluation.estimate"]
    held: list[int] = []
    check = module._refuse_nan

    def spy(log_w: Tensor, first_image: int) -> None:
        held.append(log_w.numel())
        check(log_w, first_image)

    monkeypatch.setattr(module, "WEIGHTS_AT_ONCE", 3_500)
    monkeypatch.setattr(module, "_refuse_nan", spy)
    model = scripted([[-1.0, -2.0]])
    x = images(*[0, 1] * 10)
    result = estimate(model, x, 1000, chunk_size=16, batch_size=6)
    assert max(held) == 3_000  # three images at a time
    assert sum(held) == 20_000
    assert model.largest_request == 16 * 3
    assert result.log_p.tolist() == pytest.approx([-1, -2] * 10)
    held.clear()
    estimate(model, x, 10_000, chunk_size=16, batch_size=6)
    assert max(held) == 10_000  # at least one image is scored at a time


def test_the_columns_are_those_of_the_weights() -> None:
    table = [[-1.0, -7.0], [-3.0, -7.5], [-2.0, -9.0], [-5.0, -6.0]]
    result = estimate(scripted(table), images(0, 1), 4, chunk_size=3, batch_size=2)
    log_w = torch.tensor(table, dtype=torch.float64)
    assert result.kind == "lower"
    assert result.n_samples == 4
    torch.testing.assert_close(result.log_p, log_mean_exp(log_w))
    torch.testing.assert_close(result.elbo, log_w.mean(0))
    w = log_w.exp()
    torch.testing.assert_close(result.ess, w.sum(0) ** 2 / (w**2).sum(0))
    torch.testing.assert_close(result.standard_error, w.std(0) / w.mean(0) / 2)
    torch.testing.assert_close(result.bias, bias(log_w))
    assert (result.bias < 0).all()
    torch.testing.assert_close(result.jackknife, jackknife(log_w))
    torch.testing.assert_close(result.extrapolation, extrapolation(log_w))
    assert (result.jackknife > result.log_p).all()


@pytest.mark.parametrize(("n_samples", "judged"), [(1, False), (999, False), (1_000, True), (1_500, True)])
def test_k_is_judged_from_a_thousand_samples_on(n_samples: int, judged: bool) -> None:
    """For fewer samples k-hat is NaN, and for one sample jackknife and extrapolation too; the batch changes nothing."""
    log_w = 2 * torch.randn(n_samples, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = [
        estimate(scripted(log_w.tolist()), images(0, 1, 2), n_samples, chunk_size=400, batch_size=size)
        for size in (1, 3)
    ]
    for result in results:
        if judged:
            torch.testing.assert_close(result.pareto_k, pareto_k(log_w), rtol=1e-12, atol=0)
        else:
            assert result.pareto_k.isnan().all()
        for name in ("jackknife", "extrapolation"):
            assert getattr(result, name).isnan().all() == (n_samples == 1)


def test_an_exact_model_needs_one_pass_and_has_no_monte_carlo_error() -> None:
    model = small_model("pixelcnn-binary-3x3")
    x = laws.all_images((1, 3, 3), 2)
    result = estimate(model, x, 500, chunk_size=8, batch_size=100)
    assert result.kind == "exact"
    assert result.n_samples == 1
    assert abs(result.log_p.exp().sum().item() - 1) < laws.ROUNDING
    assert not result.standard_error.any()
    assert not result.bias.any()
    for same in (result.elbo, result.jackknife, result.extrapolation):
        assert torch.equal(same, result.log_p)
    assert result.pareto_k.isnan().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_plus_infinity_are_fatal_and_name_the_image(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="log-weight of image 3 is NaN or"):
        estimate(scripted([[-1.0, bad]]), images(0, 0, 0, 1, 0), 1, chunk_size=1, batch_size=2)


def test_minus_infinity_is_kept() -> None:
    result = estimate(scripted([[-1.0, -torch.inf]]), images(0, 1), 1, chunk_size=1, batch_size=2)
    assert result.log_p.tolist() == [-1, -torch.inf]


def test_a_model_that_looks_ahead_is_not_exact() -> None:
    """It gets no number, whatever the gradient mode; and rows are not joined without the check for looking ahead."""
    model = small_model("pixelcnn-rgb")
    assert isinstance(model, PixelCNN)
    assert model.first.mask is not None
    x = laws.some_images(model, 5)
    assert estimate(model, x, 1, chunk_size=1, batch_size=5).largest_leaked_gradient == 0
    vae = small_model("vae-rgb")
    assert estimate(vae, laws.some_images(vae, 5), 1, chunk_size=1, batch_size=5).largest_leaked_gradient is None
    rows = estimated_rows(model, x, 1, chunk_size=1)
    with pytest.raises(ValueError, match="needs the return value of check_scorable"):
        Estimate.of_rows(model, 1, rows, None)
    model.first.mask[-1, -1, -1, -1] = 1
    for mode in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with mode, pytest.raises(ValueError, match=r"^the model looks ahead: a log-mass changes by \S+ nats per level"):
            estimate(model, laws.some_images(model, 5), 1, chunk_size=1, batch_size=5)
    model.first.mask[-1, -1, -1, -1] = 0
    with torch.inference_mode():
        assert estimate(model, laws.some_images(model, 5), 1, chunk_size=1, batch_size=5).kind == "exact"


def test_progress_tells_images_done_and_their_mean() -> None:
    seen: list[tuple[int, float]] = []
    estimate(
        scripted([[-1.0, -2.0]]),
        images(0, 1, 1),
        1,
        chunk_size=1,
        batch_size=2,
        progress=lambda n, mean: seen.append((n, mean)),
    )
    assert seen == [(2, -1.5), (3, pytest.approx(-5 / 3))]


@pytest.mark.parametrize("name", ["vae-categorical", "flow-maf", "pixelcnn-three-levels"])
def test_parts_are_joined_to_the_whole(name: str) -> None:
    """All columns and bounds of parts that share a generator equal those of the whole; another order differs."""
    model, k = small_model(name), 6
    x = laws.all_images(model.image_shape, model.n_levels)[:7]
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    whole = estimate(model, x, k, chunk_size=4, batch_size=3, generator=torch.Generator().manual_seed(2), noise=noise)
    generator = torch.Generator().manual_seed(2)
    parts = [
        estimated_rows(model, x[i : i + 3], k, chunk_size=4, generator=generator, noise=noise[i : i + 3])
        for i in (0, 3, 6)
    ]
    assert {part.shape[1] for part in parts} == {n_columns(model, k)}
    leak = 0.0 if model.is_exact else None
    joined = Estimate.of_rows(model, k, torch.cat(parts), leak)
    for field in dataclasses.fields(Estimate):
        one, other = (getattr(each, field.name) for each in (joined, whole))
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == other
    assert joined.bounds.shape == (len(joined.block_sizes), 7)
    assert not torch.equal(Estimate.of_rows(model, k, torch.cat(parts[::-1]), leak).log_p, whole.log_p)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 12, 1023, 1024, 1025])
def test_there_is_a_bound_for_each_size(k: int) -> None:
    """The sizes are powers of two, then K; there are as many bounds as sizes."""
    sizes, bounds = bound_against_k(torch.zeros(k, 1))
    assert len(sizes) == len(bounds)
    assert sizes == [2**i for i in range(20) if 2**i < k] + [k]
