"""Wrapped external models: each method gives the same result, and a wrong return value is refused.

True values come from enumeration, quadrature or closed forms (``tests/support/foreign.py``). Statistical tests have
fixed seeds.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.estimators.log_weights import log_mean_exp, standard_error
from bitsperdim.evaluation.annealed import ais
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.convention import Convention
from bitsperdim.models.external.external import External
from bitsperdim.models.external.methods import offers_of
from bitsperdim.models.external.wrapping import ExternalConditionals, ExternalLatent, places, wrap
from bitsperdim.models.look_ahead import check_causality
from support.foreign import Masked, Offering, Own, Slopes, Vae, every_image, some_images

LAYOUTS = ("channels_first", "channels_last", "flat", "plane")
INPUTS = ("integers", "unit", "symmetric")
EXACT = {
    "log_prob": lambda net: {"log_prob": net.mass},
    "logits last": lambda net: {"logits": net.last},
    "logits first": lambda net: {"logits": net.first},
    "conditionals": lambda net: {"conditionals": lambda x: td.Categorical(logits=net.last(x))},
    "independent": lambda net: {"conditionals": lambda x: td.Independent(td.Categorical(logits=net.last(x)), 1)},
    "own": lambda net: {"conditionals": lambda x: Own(torch.log_softmax(net.last(x), -1))},
}


def wrapped(model: object, shape: tuple[int, int, int] = (1, 2, 2), n_levels: int = 3, **options: Any) -> External:
    offers, words = options.pop("offers", None), ("inputs", "layout")
    convention = Convention(**{word: options.pop(word) for word in words if word in options})
    return wrap(offers_of(model, offers)[0], shape, n_levels, convention=convention, **options)


def log_p(model: ImageModel, x: Tensor, n_samples: int = 1) -> Tensor:
    """Return the estimate of log P(x), (B,)."""
    return log_mean_exp(model.log_weights(x, n_samples, generator=torch.Generator().manual_seed(5)).double())


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize(("shape", "n_levels"), [((1, 2, 2), 3), ((3, 1, 2), 2), ((1, 2, 2), 256), ((1, 1, 3), 300)])
def test_every_layout_and_every_way_to_count_is_the_same_number(
    shape: tuple[int, int, int], n_levels: int, form: str
) -> None:
    x = some_images(shape, n_levels)
    truth = Masked(shape, n_levels).mass(x)
    for layout in LAYOUTS[: 4 if shape[0] == 1 else 3]:
        for inputs in INPUTS:
            net = Masked(shape, n_levels, inputs=inputs, layout=layout)
            model = wrapped(Offering(net, **EXACT[form](net)), shape, n_levels, inputs=inputs, layout=layout)
            found = model.log_weights(x.int())
            assert found.shape == (1, len(x))
            torch.testing.assert_close(found[0], truth, rtol=1e-5, atol=1e-5)
            assert model.kind == "exact"


def test_masses_of_all_images_sum_to_one() -> None:
    net, x = Masked(), every_image((1, 2, 2), 3)
    for form, functions in EXACT.items():
        total = float(wrapped(Offering(net, **functions(net))).log_weights(x)[0].double().exp().sum().detach())
        assert total == pytest.approx(1, abs=1e-5), form


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inputs", INPUTS)
def test_every_way_in_is_the_same_number(layout: str, inputs: str) -> None:
    """Within 5 Monte Carlo errors of the truth for 12 images, 2 ways: fewer than 3 of 100,000 seeds fail by chance."""
    x, net = some_images((1, 2, 2), 3), Vae(inputs=inputs, layout=layout)
    truth, _ = Vae().truth(x)
    words = {"inputs": inputs, "layout": layout}
    for model in (wrapped(net, **words), wrapped(net.weights, offers="log_weights", **words)):
        log_w = model.log_weights(x, 4000, generator=torch.Generator().manual_seed(3)).double()
        off = (log_mean_exp(log_w) - truth).abs()
        assert bool((off < 5 * standard_error(log_w) + 1e-4).all()), off / standard_error(log_w)
        assert model.kind == "lower"
    exact = wrapped(Offering(net, log_prob=lambda x: net.truth(x)[0].float()), **words)
    torch.testing.assert_close(exact.log_weights(x)[0].double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("code", [(1,), (1, 1, 1)])
def test_a_code_of_any_shape_goes_back_as_it_came(code: tuple[int, ...]) -> None:
    x = some_images((3, 1, 2), 4)
    flat, shaped = wrapped(Vae((3, 1, 2), 4), (3, 1, 2), 4), wrapped(Vae((3, 1, 2), 4, code=code), (3, 1, 2), 4)
    torch.testing.assert_close(log_p(shaped, x, 50), log_p(flat, x, 50))


def test_draws_of_a_bound_have_its_mean() -> None:
    """The mean over 12 images is within 5 standard errors: fewer than 1 of a million seeds fails by chance."""
    x, net = some_images((1, 2, 2), 3), Vae()
    model = wrapped(net.elbo, offers="bound")
    assert model.draws_bounds
    drawn = model.log_weights(x, 1000, generator=torch.Generator().manual_seed(1)).detach().double().mean(1)
    assert abs(float(drawn.mean() - net.truth(x)[1].mean())) < 5 * float(drawn.std()) / 1000**0.5


def test_a_bound_is_given_the_number_of_levels_if_it_takes_it() -> None:
    x = some_images((1, 2, 2), 3)
    functions = (lambda x: -x.double().flatten(1).sum(1), lambda x, n_levels: -n_levels * x.double().flatten(1).sum(1))
    without, with_levels = (wrapped(each, offers="bound").log_weights(x, 2) for each in functions)
    torch.testing.assert_close(with_levels, 3 * without)


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 1, 2)])
def test_constants_of_a_density_are_ours(shape: tuple[int, int, int]) -> None:
    """Within 5 Monte Carlo errors of the mass of each cell: with 12 images, fewer than 1 of 100,000 seeds fails."""
    x, found = some_images(shape, 8), {}
    for interval in ((0.0, 1.0), (-1.0, 1.0), (0.0, 256.0), (-0.5, 0.5)):
        model = wrapped(Slopes(interval, shape), shape, 8, interval=interval)
        log_w = model.log_weights(x, 500, generator=torch.Generator().manual_seed(2))
        found[interval] = log_mean_exp(log_w)
    truth = Slopes(shape=shape).truth(x, 8)
    assert bool(((found[0.0, 1.0] - truth).abs() < 5 * standard_error(log_w) + 1e-5).all())
    for other in found.values():
        torch.testing.assert_close(other, found[0.0, 1.0], rtol=1e-5, atol=1e-5)


def test_a_density_sees_its_interval_and_never_its_upper_end() -> None:
    seen = []

    def log_density(y: Tensor) -> Tensor:
        seen.append(y)
        return torch.zeros(len(y))

    model = wrapped(log_density, (1, 1, 2), 4, offers="log_density", interval=(0.0, 2.0), layout="flat")
    top = torch.full((1, 1, 1, 2), 3)
    noise = torch.full((1, 1, 1, 2), 1 - 2**-24, dtype=torch.float32)
    assert model.log_weights(top, 1, noise=noise).tolist() == [[pytest.approx(2 * torch.log(torch.tensor(0.5)).item())]]
    assert seen[0].shape == (1, 2)
    assert seen[0].dtype == torch.float32
    assert 1.5 < float(seen[0].max()) < 2


def test_what_a_density_draws_itself_is_seeded() -> None:
    def log_density(y: Tensor) -> Tensor:
        return -y.flatten(1).sum(1) + torch.randn(len(y))

    model, x = wrapped(log_density, offers="log_density", interval=(0.0, 1.0)), some_images((1, 2, 2), 3)
    before = torch.get_rng_state()
    assert torch.equal(log_p(model, x, 3), log_p(model, x, 3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["encode", "log_weights", "bound", "log_density"])
def test_seeds_repeat_to_the_bit_and_the_global_generator_is_left_alone(method: str) -> None:
    x, net = some_images((1, 2, 2), 3), Vae()
    model = {
        "encode": lambda: wrapped(net),
        "log_weights": lambda: wrapped(net.weights, offers="log_weights"),
        "bound": lambda: wrapped(net.elbo, offers="bound"),
        "log_density": lambda: wrapped(Slopes(), interval=(0.0, 1.0)),
    }[method]()
    before = torch.get_rng_state()
    one, same, other = (model.log_weights(x, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(one.unique()) > 24  # no draw is used twice


def test_annealing_agrees_with_quadrature() -> None:
    """Within 5 Monte Carlo errors for each of 6 images: if normal, fewer than 1 of 100,000 seeds fails by chance."""
    x, net = some_images((1, 2, 2), 3, 6), Vae()
    model = wrapped(net)
    assert isinstance(model, ExternalLatent)
    found = ais(model, x, n_chains=64, n_steps=30, n_leapfrog=3, generator=torch.Generator().manual_seed(0))
    truth, _ = net.truth(x)
    assert bool(((found.log_p - truth).abs() < 5 * found.standard_error + 1e-4).all())
    assert float(found.standard_error.max()) < 0.2


def test_gradients_reach_the_weights_of_the_model() -> None:
    x = some_images((1, 2, 2), 3)
    masked, vae, slopes = Masked(), Vae(), Slopes()
    cases: list[tuple[nn.Module, External]] = [
        (masked, wrapped(Offering(masked, **form(masked)))) for form in EXACT.values()
    ]
    cases += [(vae, wrapped(vae)), (slopes, wrapped(slopes, interval=(0.0, 1.0)))]
    for net, model in cases:
        model.zero_grad()
        (-log_mean_exp(model.log_weights(x, 3, generator=torch.Generator().manual_seed(0))).mean()).backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name
    by_ours, by_hand = (masked.start.grad, torch.autograd.grad(-masked.mass(x).mean(), masked.start)[0])
    torch.testing.assert_close(by_ours, by_hand)


def test_a_model_stays_in_its_mode() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    net.eval()
    net[1].train()
    wrapped(Offering(None, log_prob=len))
    model = wrapped(net, offers="log_prob")
    assert not net.training
    assert net[1].training
    assert not model.training


@pytest.mark.parametrize("order", ["raster", "planes", "reversed"])
def test_an_order_that_is_said_is_looked_at(order: str) -> None:
    shape = (2, 1, 2)
    raster = places("raster", shape)
    given: Any = order if order != "reversed" else (3 - raster).numpy()
    at = places(given, shape)
    assert at.flatten().sort().values.tolist() == [0, 1, 2, 3]
    by_place = at.flatten().argsort()  # the sub-pixel at each position of the order

    def logits(x: Tensor) -> Tensor:  # each sub-pixel sees the earlier ones in this order
        flat = x.double().flatten(1)[:, by_place]
        before = (flat.cumsum(1) - flat)[:, by_place.argsort()]
        return torch.stack([before, -before, before.sin()], dim=-1).reshape(len(x), *shape, 3)

    x = some_images(shape, 3)
    model = wrapped(logits, shape, offers="logits", order=given)
    assert isinstance(model, ExternalConditionals)
    assert check_causality(model, x) == 0
    wrong = wrapped(logits, shape, offers="logits", order="planes" if order == "raster" else "raster")
    with pytest.raises(ValueError, match="the model looks ahead"):
        check_causality(wrong, x)


@pytest.mark.parametrize("form", ["logits last", "conditionals"])
def test_a_model_that_looks_ahead_is_caught(form: str) -> None:
    for inputs in ("integers", "unit"):
        net = Masked(is_leaking=True, inputs=inputs)
        model = wrapped(Offering(net, **EXACT[form](net)), inputs=inputs)
        with pytest.raises(ValueError, match="looks ahead"):
            check_causality(model, some_images((1, 2, 2), 3))


def test_images_are_drawn_by_the_model_or_from_its_code() -> None:
    net, black = Masked(), lambda n: torch.zeros(n, 2, 2, dtype=torch.int64)
    assert wrapped(Offering(net, log_prob=net.mass, sample=black), layout="plane").sample(5).shape == (5, 1, 2, 2)
    drawn = wrapped(Vae()).sample(300, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (300, 1, 2, 2)
    assert set(drawn.unique().tolist()) == {0, 1, 2}
    with pytest.raises(InputError, match=r"The model has no method sample\(n\), so no images can be drawn."):
        wrapped(Offering(net, log_prob=net.mass)).sample(5)
    with pytest.raises(InputError, match=r"sample\(5\) must return integers of shape \(5, 1, 2, 2\), but returned fl"):
        wrapped(Offering(net, log_prob=net.mass, sample=lambda n: torch.zeros(n, 1, 2, 2))).sample(5)


def fail(*_: object) -> None:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied.\nAt line 3.")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


RETURNS: list[tuple[str, Any, str]] = [
    (
        "log_prob",
        lambda x: x.float().mean(),
        "log_prob must return shape (12,), but returned (): a sum or mean over ima",
    ),
    ("log_prob", lambda x: torch.zeros(len(x), 1), "must return shape (12,), but returned (12, 1): sum over the sub-"),
    ("log_prob", lambda x: -x.float(), "but returned (12, 1, 2, 2): sum over the sub-pixels of an image."),
    (
        "log_prob",
        lambda x: x.flatten(1).sum(1),
        "must return a tensor of floating-point numbers, but returned int64 (12",
    ),
    ("log_prob", lambda x: 1.5, "must return a tensor of floating-point numbers, but returned 1.5."),
    (
        "log_prob",
        lambda x: torch.zeros(12).half(),
        "log_prob returned float16 (12,), which is too coarse for a sum over",
    ),
    ("log_prob", lambda x: [0.0] * 12, "must return a tensor of floating-point numbers, but returned list."),
    (
        "log_prob",
        fail,
        "log_prob(int64 (12, 1, 2, 2)) of the model raised RuntimeError: mat1 and mat2 shapes cannot be mu",
    ),
    (
        "log_weights",
        lambda x, k: torch.zeros(len(x), k),
        "log_weights must return shape (5, 12), but returned (12, 5).",
    ),
    ("log_weights", lambda x: torch.zeros(len(x)), "log_weights(int64 (12, 1, 2, 2), 5) of the model raised TypeError"),
    ("bound", lambda x: torch.zeros(len(x), 4), "bound must return shape (12,), but returned (12, 4): sum over"),
    ("log_density", lambda y: torch.zeros(()), "log_density must return shape (60,), but returned ()"),
    (
        "logits",
        lambda x: torch.zeros(len(x), 2, 2),
        "logits returned logits of shape (12, 2, 2); for a batch of 12 and",
    ),
    (
        "conditionals",
        lambda x: td.Normal(torch.zeros(len(x), 1, 2, 2), 1.0),
        "conditionals returned Normal, which is a",
    ),
]


@pytest.mark.parametrize(("method", "function", "words"), RETURNS)
def test_what_is_refused(method: str, function: Any, words: str) -> None:
    model = wrapped(function, offers=method, **({"interval": (0.0, 1.0)} if method == "log_density" else {}))
    with pytest.raises(InputError) as caught:
        model.log_weights(some_images((1, 2, 2), 3), 5)
    assert words in str(caught.value)
    assert ".." not in str(caught.value).replace("0..2", "")
    assert "\n" not in str(caught.value)


def test_a_density_of_coarse_weights_is_refused_and_masses_are_added_in_float32() -> None:
    with pytest.raises(
        InputError, match=r"not allowed with weights of type torch.bfloat16, .*; call model.float\(\) first."
    ):
        wrapped(Slopes().bfloat16(), interval=(0.0, 1.0))
    masses = torch.full((12, 1, 2, 2, 3), 1 / 3).log().half()
    found = wrapped(lambda x: Own(masses), offers="conditionals").log_weights(some_images((1, 2, 2), 3))
    assert found.dtype == torch.float32
    assert torch.equal(found[0], masses.float()[..., 0].flatten(1).sum(1))


def vae_with(**changes: Any) -> Offering:
    net = Vae()
    return Offering(net, **{"encode": net.encode, "decode": net.decode, "prior": net.prior, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encode": lambda x: x}, "encode returned Tensor; it must return a distribution of the latent code"),
        (
            {"decode": lambda z: td.Normal(torch.zeros(len(z), 1, 2, 2), 1.0)},
            "decode returned Normal, which is a density",
        ),
        ({"decode": fail}, "decode(float32 (60, 1)) of the model raised RuntimeError"),
        ({"prior": fail}, "prior() of the model raised RuntimeError"),
        (
            {"prior": lambda: td.Normal(torch.zeros(3), 1.0)},
            "codes of shape (1,) for each image, but prior one of codes of",
        ),
        ({"prior": lambda: td.Normal(0.0, 1.0)}, "but prior one of codes of shape ()"),
        ({"encode": lambda x: td.Normal(torch.zeros(1), 1.0)}, "for 12 images it must begin with 12"),
    ],
)
def test_what_is_no_latent_model_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        wrapped(vae_with(**changes)).log_weights(some_images((1, 2, 2), 3), 5)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (
            "log_density",
            {},
            "log_density needs `range`, the interval of all values, such as (0, 1). Level x has the cell",
        ),
        (
            "log_density",
            {"interval": (1.0, 0.0)},
            "range = (1.0, 0.0) is not allowed; it must be two finite numbers, the",
        ),
        ("log_density", {"interval": (0.0, float("inf"))}, "range = (0.0, inf) is not allowed"),
        ("log_density", {"interval": (float("nan"), 1.0)}, "range = (nan, 1.0) is not allowed"),
        ("log_density", {"interval": (0.0, 1.0), "n_levels": 5000}, "allowed for at most 4,096 levels"),
        (
            "log_prob",
            {"layout": "plane", "shape": (3, 2, 2)},
            "layout = 'plane' is not allowed for images of 3 channels",
        ),
        (
            "logits",
            {"order": "snake"},
            "order = 'snake' is not allowed; choose raster (pixel by pixel, channels inside)",
        ),
        (
            "logits",
            {"order": [[[0, 1], [2, 2]]]},
            "order must hold each of 0..3 once, in the shape (1, 2, 2) (C, H, W).",
        ),
        ("logits", {"order": torch.arange(4)}, "order must hold each of 0..3 once"),
        ("encode", {"n_classes": 3}, "labels are not given to encode; a model with labels must offer log_prob, logits"),
    ],
)
def test_options_that_do_not_fit_are_refused(method: str, options: dict[str, Any], words: str) -> None:
    model = Vae() if method == "encode" else Offering(**{method: len})
    with pytest.raises(InputError) as caught:
        wrapped(model, **options)
    assert words in str(caught.value)


def test_an_interruption_is_no_error_of_the_model() -> None:
    with pytest.raises(KeyboardInterrupt):
        wrapped(interrupted, offers="log_prob").log_weights(some_images((1, 2, 2), 3))
