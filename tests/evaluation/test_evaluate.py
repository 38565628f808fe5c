"""``bitsperdim.evaluate``: one model gives one number through every method; misfits are refused in one sentence."""

import html
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

import bitsperdim
from bitsperdim.core.errors import InputError
from bitsperdim.evaluation import evaluate as module
from bitsperdim.evaluation.evaluate import ask, scored
from bitsperdim.evaluation.images import data_of
from bitsperdim.evaluation.result import Estimate
from bitsperdim.models.histogram import Histogram
from support.foreign import Masked, Offering, Slopes, Vae, some_images

SHAPE = (1, 2, 2)
IMAGES = some_images(SHAPE, 3)
D_LN2 = 4 * np.log(2)


def number(model: object, images: Any = IMAGES, **options: Any) -> Estimate:
    return bitsperdim.evaluate(model, images, **{"n_levels": 3, **options})


@pytest.mark.parametrize("form", ["log_prob", "logits", "conditionals"])
def test_exact_ways_in_are_the_same_number(form: str) -> None:
    net, truth = Masked(), -float(Masked().mass(IMAGES).double().mean().detach())
    functions = {"log_prob": net.mass, "logits": net.first}
    functions["conditionals"] = lambda x: td.Categorical(logits=net.last(x))
    found = number(Offering(net, **{form: functions[form]}))
    assert (found.kind, found.n_samples, found.monte_carlo_error) == ("exact", 1, 0.0)
    assert found.nats == pytest.approx(truth, rel=1e-6)
    assert found.bits_per_dim == pytest.approx(truth / D_LN2, rel=1e-6)
    assert found.is_verified == (form == "logits")
    if form != "log_prob":
        assert found.metrics.largest_leaked_gradient == 0
    assert number(functions[form], offers=form).nats == found.nats


def test_every_way_in_is_within_its_errors() -> None:
    """Seven means over 12 images are within 5 Monte Carlo errors; a false alarm in fewer than 5 of a million seeds."""
    net, slopes = Vae(), Slopes()
    log_p, elbo = (-float(value.mean()) / D_LN2 for value in net.truth(IMAGES))
    density = -float(slopes.truth(IMAGES, 3).mean()) / D_LN2
    ways = [
        (number(net), log_p),
        (number(net, proposal="encoder"), log_p),
        (number(net, proposal="prior"), log_p),
        (number(net.weights, offers="log_weights"), log_p),
        (number(Offering(net, log_weights=net.weights, bound=net.elbo)), log_p),
        (number(net.elbo, offers="bound"), elbo),
        (number(slopes, range=(0, 1)), density),
    ]
    for found, truth in ways:
        assert found.kind == "lower"
        assert abs(found.bits_per_dim - truth) < 5 * found.monte_carlo_error + 1e-3
        assert 0 < found.monte_carlo_error < 0.02


def test_the_proposal_of_a_code_is_refined_where_that_is_possible() -> None:
    """The encoder has the width 0.9 for every image; when refined it is near the posterior, and the ESS is larger."""
    refined, encoder = (number(Vae(), proposal=proposal) for proposal in ("refined", "encoder"))
    assert number(Vae()).nats == refined.nats
    assert [found.metrics.proposal for found in (refined, encoder)] == ["refined", "encoder"]
    assert refined.metrics.refined is not None
    assert encoder.metrics.refined is None
    assert refined.metrics.ess_median > encoder.metrics.ess_median
    assert refined.monte_carlo_error < 0.7 * encoder.monte_carlo_error

    class Stepped(Vae):
        """A decoder that rounds the code has no derivative in it."""

        def decode(self, z: Tensor) -> td.Distribution:
            return super().decode(z.detach().round())

    stepped = number(Stepped())
    assert stepped.metrics.proposal == "encoder"
    assert "|proposal:encoder|" in stepped.signature
    assert "proposal" not in number(Vae().weights, offers="log_weights").signature


def test_a_mean_of_bounds_is_a_bound_at_any_number_of_draws() -> None:
    few, many = (number(Vae().elbo, offers="bound", n_samples=k) for k in (4, 1024))
    assert abs(few.bits_per_dim - many.bits_per_dim) < 5 * np.hypot(few.monte_carlo_error, many.monte_carlo_error)
    assert many.metrics.log_p_bias_nats == 0
    assert many.metrics.nll_jackknife_nats is None
    assert number(Vae()).metrics.nll_jackknife_nats is not None


@pytest.mark.parametrize("interval", [(-1, 1), (0.0, 256.0), [-0.5, 0.5]])
def test_constants_of_a_density_are_ours(interval: Any) -> None:
    first = number(Slopes(), range=(0, 1), n_samples=16)
    other = number(Slopes(tuple(interval)), range=interval, n_samples=16)
    assert other.bits_per_dim == pytest.approx(first.bits_per_dim, rel=1e-5)


def test_what_a_model_says_of_itself_is_taken_and_an_argument_comes_first() -> None:
    net = Masked(inputs="unit", layout="flat")
    model = Offering(net, logits=net.last)
    model.bitsperdim = {"inputs": "unit", "layout": "flat"}
    assert number(model).nats == pytest.approx(number(Offering(Masked(), logits=Masked().last)).nats, rel=1e-6)
    model.bitsperdim = {"inputs": "symmetric", "layout": "plane", "offers": "logits", "order": "raster"}
    assert (
        number(model, inputs="unit", layout="flat").nats
        == number(net.last, offers="logits", inputs="unit", layout="flat").nats
    )
    slopes = Slopes((-1.0, 1.0))
    slopes.bitsperdim = {"range": (-1, 1)}
    assert number(slopes, n_samples=3).nats == number(slopes, range=(-1, 1), n_samples=3).nats


@pytest.mark.parametrize("model", [Vae(), Vae().elbo, Slopes()])
def test_seeds_repeat_and_the_global_generator_is_left_alone(model: Any) -> None:
    options: dict[str, Any] = {
        "n_samples": 6,
        "range": (0, 1),
        "offers": "bound" if callable(model) and not isinstance(model, nn.Module) else None,
    }
    before = torch.get_rng_state()
    torch.manual_seed(1)
    one = number(model, **options)
    torch.manual_seed(2)
    same, other = number(model, **options), number(model, seed=1, **options)
    assert np.array_equal(one.log_p, same.log_p)
    assert not np.array_equal(one.log_p, other.log_p)
    torch.set_rng_state(before)
    number(model, **options)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sizes", [{"batch_size": 1}, {"batch_size": 5}, {"chunk_size": 1}, {"chunk_size": 500}])
def test_sizes_change_no_exact_number_and_a_bound_within_its_errors(sizes: dict[str, int]) -> None:
    net = Masked()
    assert np.allclose(
        number(net.mass, offers="log_prob", **sizes).log_p, number(net.mass, offers="log_prob").log_p, atol=1e-5
    )
    one, other = number(Vae(), n_samples=200), number(Vae(), n_samples=200, **sizes)
    room = 5 * np.hypot(one.monte_carlo_error, other.monte_carlo_error)  # a false alarm in 1 of a million seeds
    assert abs(one.bits_per_dim - other.bits_per_dim) < room
    assert (other.n_samples, len(other.log_p)) == (200, 12)


def test_a_subset_is_seeded_and_its_protocol_says_so() -> None:
    images = np.arange(81).reshape(81, 1, 1, 1)
    found = [
        bitsperdim.evaluate(
            lambda x: -x.flatten().double(), images, n_levels=81, offers="log_prob", subset=9, seed=seed
        )
        for seed in (0, 0, 4)
    ]
    assert np.array_equal(found[0].log_p, found[1].log_p)
    assert not np.array_equal(found[0].log_p, found[2].log_p)
    assert "/test9of81-seed4/" in found[2].metrics.protocol
    with pytest.raises(InputError, match="are not compared"):
        bitsperdim.compare(found[0], found[2])


def test_labels_are_given_to_the_model_and_are_in_the_protocol() -> None:
    labels = np.arange(12) % 4
    seen: list[Tensor] = []

    def log_prob(x: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return -1.0 - y.float()

    found = number(log_prob, offers="log_prob", labels=labels, batch_size=5)
    assert torch.cat(seen).tolist() == labels.tolist()
    assert found.nats == pytest.approx(1 + labels.mean())
    assert "/given-label4-" in found.metrics.protocol
    data = data_of(IMAGES, 3, labels=labels)
    assert number(log_prob, data, n_levels=None, offers="log_prob", labels=labels).nats == found.nats
    other = number(log_prob, data, n_levels=None, offers="log_prob", labels=np.zeros(12, dtype=int))
    assert other.nats == 1.0
    part = number(log_prob, data, n_levels=None, offers="log_prob", labels=labels, subset=1)
    assert part.nats == 1.0 + float(np.sum(data.subset(1).labels))
    both = Offering(None, log_prob=log_prob, log_density=lambda y: torch.zeros(len(y)))
    assert number(both, labels=labels, range=(0, 1)).nats == found.nats


def test_labels_of_training_images_may_be_more(tmp_path: Path) -> None:
    arrays = {"train": np.zeros((6, 2, 2), dtype=np.uint8), "test": np.ones((2, 2, 2), dtype=np.uint8)}
    np.savez(tmp_path / "a.npz", **arrays, train_labels=np.arange(6), test_labels=np.array([0, 1]))
    data = bitsperdim.load_data(tmp_path / "a.npz", n_levels=3, folder=tmp_path)
    found = number(lambda x, y: -1.0 - y.float(), data, n_levels=None, offers="log_prob", labels=data.labels)
    assert found.nats == 1.5


def test_our_own_models_and_wrapped_ones_are_scored_too() -> None:
    own = Histogram(SHAPE, 3, pseudocount=1.0).eval()
    own.initialise(IMAGES)
    found = number(own)
    assert found.kind == "exact"
    assert found.verified_by == ("construction",)
    wrapped = ask(Masked().last, data_of(IMAGES, 3), offers="logits").model
    assert number(wrapped).nats == number(Masked().last, offers="logits").nats
    assert number(wrapped).metrics.kind == "exact"


class Stopping(nn.Module):
    """A model with a latent code that may be interrupted at a call of its encoder."""

    def __init__(self, at: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.net, self.at, self.n_calls = Vae(seed=seed), at, 0
        self.eval()

    def log_weights(self, x: Tensor, n_samples: int) -> Tensor:
        self.n_calls += 1
        if self.n_calls == self.at:
            raise KeyboardInterrupt
        return self.net.weights(x, n_samples)


def test_interrupted_it_goes_on_to_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"n_samples": 8, "chunk_size": 4, "batch_size": 3, "checkpoint": tmp_path / "kept"}
    whole = number(Stopping(), n_samples=8, chunk_size=4, batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        number(Stopping(at=6), **options)  # one call checks the shape, and each batch makes two calls
    rest = Stopping()
    found = number(rest, **options)
    assert "resumes from a checkpoint with 6 of 12 images done" in capsys.readouterr().out
    assert rest.n_calls == 5
    assert found.log_p.tobytes() == whole.log_p.tobytes()
    assert found.metrics == whole.metrics
    assert found.signature == whole.signature


class Warmer(Stopping):
    """Another source code with the same weights."""

    def log_weights(self, x: Tensor, n_samples: int) -> Tensor:
        return super().log_weights(x, n_samples) - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"model": Stopping(seed=1)},
        {"model": Warmer(), "name": "Stopping"},
        {"seed": 1},
        {"n_samples": 9},
        {"images": some_images(SHAPE, 3, seed=1)},
        {"inputs": "unit"},
    ],
)
def test_another_measurement_does_not_take_it_over(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"n_samples": 8, "chunk_size": 4, "batch_size": 3, "checkpoint": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        number(Stopping(at=6), **options)
    model = changes.pop("model", None) or Stopping()
    if changes.get("inputs"):
        model.net = Vae(inputs="unit")
    found = number(model, **{**options, **changes})
    assert "goes on" not in capsys.readouterr().out
    assert len(found.log_p) == 12


def test_a_number_is_never_bare() -> None:
    exact, bound = number(Masked().last, offers="logits"), number(Vae(), n_samples=500)
    assert str(exact).startswith(f"last: = {exact.bits_per_dim:.4f} +- {exact.standard_error:.4f} bits/dim (!) (")
    assert "exact, K = 1; of 12 test images 11 are distinct; verified by logits, causality. (!) Not to be" in str(exact)
    assert str(bound).startswith(f"Vae: <= {bound.bits_per_dim:.4f} +- {bound.standard_error:.4f} bits/dim (!) (")
    assert f"an upper bound, Monte Carlo error {bound.monte_carlo_error:.1g}, K = 500; of 12 test" in str(bound)
    assert "; its kind is declared by the model and not verified. (!) Not to be believed as it stands: worse" in str(
        bound
    )
    assert repr(bound) == f"<Estimate {bound}>"
    assert bound.flags == ["worse than uniform coding, which needs 1.585 bits/dim"]
    good = number(
        lambda x: torch.full((len(x),), -2.0),
        np.arange(44).reshape(11, 1, 2, 2),
        n_levels=44,
        offers="log_prob",
        name="good",
    )
    assert str(good) == (
        "good: = 0.7213 +- 0.0000 bits/dim (2.00 nats), exact, K = 1, 11 images; "
        "its kind is declared by the model and not verified."
    )
    assert good.flags == []
    for text in (str(exact), str(bound), str(good)):
        assert text.isascii()
        assert ".." not in text


def test_the_summary_the_table_and_the_notebook_say_the_same() -> None:
    found = number(Vae(), n_samples=50, name="<b>mine\n&</b>")
    summary = found.summary()
    for words in ("Monte Carlo     0.0", "test-set error  0.", "K = 50; effective", "nats per image", found.signature):
        assert words in summary
    assert "Monte Carlo" not in number(Masked().last, offers="logits").summary()
    frame = found.to_pandas()
    assert list(frame.columns) == [
        *("image", "log_p_nats", "bits_per_dim", "monte_carlo_error_nats", "bias_nats", "ess", "pareto_k"),
    ]
    assert frame["image"].tolist() == list(range(12))
    assert frame["log_p_nats"].tolist() == found.log_p.tolist()
    assert -frame["log_p_nats"].mean() == pytest.approx(found.nats)
    assert frame["bits_per_dim"].mean() == pytest.approx(found.bits_per_dim)
    page = found._repr_html_()
    assert "<b>" not in page
    assert html.escape(found.signature) in page
    assert page.count("<tr>") == page.count("</tr>") == 9


def test_a_model_on_other_images_is_refused() -> None:
    asked = ask(Masked((3, 1, 2)).mass, data_of(some_images((3, 1, 2), 3), 3), offers="log_prob")
    with pytest.raises(InputError, match="images of shape"):
        scored(asked, data_of(IMAGES, 3))


def test_the_names_are_there_and_cost_nothing_until_they_are_asked_for() -> None:
    program = (
        "import sys, bitsperdim; heavy = {'torch', 'numpy', 'pandas'} & set(sys.modules); assert not heavy, heavy;"
        "names = dir(bitsperdim); assert set(bitsperdim.__all__) <= set(names); assert len(names) == len(set(names))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert bitsperdim.evaluate is module.evaluate
    for name in bitsperdim.__all__:
        assert callable(getattr(bitsperdim, name))
    with pytest.raises(AttributeError, match="module 'bitsperdim' has no attribute 'score'"):
        bitsperdim.score  # noqa: B018 - the access itself is tested
