"""The method that a model offers: modules, objects, functions, distributions."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from bitsperdim.core.errors import InputError
from bitsperdim.models.external.methods import METHODS, is_training, module_of, offers_of
from support.foreign import Masked, Offering, Vae


def number(x: Tensor, *_: object) -> Tensor:
    return x.flatten(1).sum(1)


class Plain:
    """An object that is not a module and has methods as attributes."""

    def __init__(self, **functions: object) -> None:
        self.__dict__ |= functions


class Forward(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return number(x)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_found(method: str) -> None:
    functions = dict.fromkeys(("encode", "decode", "prior") if method == "encode" else (method,), number)
    for model in (Offering(**functions), Plain(**functions)):
        (offer,) = offers_of(model)
        assert offer.method == method
        assert set(offer.functions) == set(functions)
        assert offer.module is (model if isinstance(model, nn.Module) else None)
    if method != "encode":
        for model in (number, functools.partial(number), Forward().eval()):
            (offer,) = offers_of(model, method)
            assert offer.functions[method](torch.ones(2, 3)).tolist() == [3.0, 3.0]


def test_the_strongest_comes_first() -> None:
    model = Offering(**dict.fromkeys(("bound", "log_prob", "logits", "sample"), number))
    assert [offer.method for offer in offers_of(model)] == ["logits", "log_prob", "bound"]
    assert [offer.method for offer in offers_of(model, "bound")] == ["bound"]
    assert "sample" in offers_of(model)[0].functions


def test_a_prior_may_be_a_distribution_itself() -> None:
    class Prior(nn.Module):
        def sample(self, shape: tuple[int, ...]) -> Tensor:
            return torch.zeros(*shape, 2)

        def log_prob(self, z: Tensor) -> Tensor:
            return z.sum(-1)

    for prior in (td.Normal(0.0, 1.0), Prior()):
        (offer,) = offers_of(Plain(encode=number, decode=number, prior=prior))
        assert offer.functions["prior"]() is prior


def test_log_prob_of_a_density_is_meant_where_it_is_said() -> None:
    density = td.Independent(td.Uniform(torch.zeros(1, 2, 2), 1.0), 3)
    (offer,) = offers_of(density, "log_density")
    assert offer.functions["log_density"](torch.full((3, 1, 2, 2), 0.5)).tolist() == [0.0] * 3
    with pytest.raises(InputError, match="Independent is a density and not a mass; set offers = 'log_density'"):
        offers_of(density)
    mass = td.Independent(td.Categorical(logits=torch.zeros(1, 2, 2, 3)), 3)
    assert [offer.method for offer in offers_of(mass)] == ["log_prob"]


def test_the_module_behind_a_model_is_found() -> None:
    net = Masked()
    assert module_of(net) is net
    assert module_of(net.mass) is net
    assert module_of(functools.partial(net.mass)) is net
    assert list(module_of(Plain(net=net, values=net.last)) or ()) == [net]
    assert module_of(number) is module_of(Plain()) is module_of(Masked) is module_of(torch.exp) is None


def test_training_mode_is_seen_wherever_it_is() -> None:
    for model in (Vae(), Offering(Masked())):
        assert not is_training(model)
    net = Masked().train()
    for model in (net, net.mass, Offering(net).train(), Plain(net=net)):
        assert is_training(model)
    part = nn.Sequential(nn.Identity(), nn.Dropout()).eval()
    part[1].train()
    assert is_training(part)
    assert not is_training(number)


@pytest.mark.parametrize(
    ("model", "offers", "words"),
    [
        (
            nn.Linear(1, 1),
            None,
            "Linear offers none of the methods that give a likelihood: conditionals(x): a distribution",
        ),
        (Plain(encode=number, decode=number), None, "Plain offers none of the methods"),  # a prior is missing
        (Plain(encode=number), "encode", "Plain offers no encode: encode(x), decode(z) and prior(): distributions"),
        (number, None, "A plain function offers none of the methods"),
        (Plain(log_prob=number), "bound", "Plain offers no bound: bound(x)"),
        (Plain(log_prob=number), "nll", "offers = 'nll' is not a method; choose one of conditionals, logits, log_prob"),
        (Plain(log_prob=number), ["bound"], "offers = ['bound'] is not a method; choose one of"),
        (Masked, None, "Masked is a class; give a model that was made of it, Masked(...)."),
        (None, None, "NoneType offers none of the methods"),
    ],
)
def test_what_offers_nothing_is_refused(model: object, offers: str | None, words: str) -> None:
    with pytest.raises(InputError) as caught:
        offers_of(model, offers)
    assert words in str(caught.value)
    if offers is None and not isinstance(model, type):
        assert all(text in str(caught.value) for text in METHODS.values())
