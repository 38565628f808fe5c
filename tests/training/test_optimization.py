"""A step never waits for the device, moves every weight, keeps likelihoods in float32, and can be compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bitsperdim.core import randomness
from bitsperdim.core.errors import InputError
from bitsperdim.likelihoods import DiagonalNormal, Likelihood
from bitsperdim.models import ImageModel
from bitsperdim.models.normalizing_flow import NormalizingFlow
from bitsperdim.models.parts.dequantization import Dequantizer
from bitsperdim.training import trainer
from bitsperdim.training.step import Objective
from support.training_cases import SECTIONS, prepared, run, weights

TRAINED = [name for name in SECTIONS if name not in ("histogram", "gaussian")]
aten = torch.ops.aten
# operations that wait because they read a number back from the device, or copy one from the host
WAITS = {
    aten._local_scalar_dense.default: "item(), float(), int() or bool() of a tensor",
    aten.equal.default: "torch.equal",
    aten.is_nonzero.default: "the truth of a tensor",
    aten.nonzero.default: "nonzero, or where of one argument",
    aten.masked_select.default: "masked_select",
    aten.lift_fresh.default: "torch.tensor() of Python numbers",
    aten._unique2.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


def refused(*_: Any) -> Any:
    raise AssertionError("the step waits: it reads numbers")


class NoWaiting(TorchDispatchMode):
    """Refuses all operations that would make the host wait for a GPU, or the GPU for the host."""

    def __enter__(self) -> NoWaiting:
        self.patch = pytest.MonkeyPatch()
        for name in ("tolist", "numpy", "cpu"):  # a dispatch mode does not see these for CPU tensors
            self.patch.setattr(Tensor, name, refused)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.patch.undo()
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        assert func not in WAITS, f"the step waits: {WAITS[func]}"
        if func in INDEXING:
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), "a mask as an index"
        if func is aten._to_copy.default and kwargs:
            device = kwargs.get("device")
            assert device is None or torch.device(device) == args[0].device, "a copy between devices"
        return func(*args, **(kwargs or {}))


def each_step(patch: pytest.MonkeyPatch, inside: Callable[[], Any], after: Callable[[Any], None]) -> None:
    """Run every step inside a context, and call a function with the trainer after it."""
    take_step = trainer._Trainer.take_step

    def doing(self: Any, *batch: Any) -> Tensor:
        with inside():
            loss = take_step(self, *batch)
        after(self)
        return loss

    patch.setattr(trainer._Trainer, "take_step", doing)


@pytest.mark.parametrize("binarization", ["none", "dynamic"])
@pytest.mark.parametrize("model", TRAINED)
def test_a_step_waits_for_nothing(model: str, binarization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with clipping, an average, labels and bfloat16 do not wait, nor does drawing images without fixed noise."""
    data = prepared(binarization, n_levels=2 if binarization == "dynamic" else 4)
    data.images["validation"] = np.minimum(data.images["validation"], data.description.n_levels - 1)
    steps: list[int] = []
    each_step(monkeypatch, NoWaiting, lambda trainer: steps.append(trainer.state.step))
    if model != "realnvp":  # its noise comes from the host by design
        batch = trainer.Presentation.batch

        def drawing(self: Any, *arguments: Any) -> Any:
            with NoWaiting():
                return batch(self, *arguments)

        monkeypatch.setattr(trainer.Presentation, "batch", drawing)
    options: dict[str, Any] = {"epochs": 1, "gradient_clip": 0.1, "average_decay": 0.5}
    if model in ("vae", "iwae"):
        options["kl_warmup_steps"] = 2
    if model == "gated_pixelcnn":
        options["n_classes"] = 4
        data.labels.update({name: (array[:, 0, 0, 0] % 4).astype(np.int64) for name, array in data.images.items()})
    run(model, data, precision="bfloat16", **options)
    run(model, data, precision="float32", **options)
    assert steps == [*range(1, 6), *range(1, 6)]


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.tensor([1.0, 2.0]),
        lambda x: x.to("meta"),
    ],
)
def test_waiting_is_noticed(waiting: Callable[[Tensor], Any]) -> None:
    x = torch.arange(3.0)
    waiting(x)
    with pytest.raises(AssertionError), NoWaiting():
        waiting(x)


@pytest.mark.parametrize("model", TRAINED)
def test_every_weight_has_a_gradient(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes wait for the gradient of every weight."""
    steps: list[int] = []

    def look(trainer: Any) -> None:
        steps.append(trainer.state.step)
        missing = [name for name, weight in trainer.model.named_parameters() if weight.grad is None]
        assert missing == []

    each_step(monkeypatch, torch.enable_grad, look)
    run(model, epochs=1)
    assert steps == [1, 2, 3, 4, 5]


LIKELIHOODS = ("categorical", "logistic", "normal", "coupled_logistic")


@pytest.mark.parametrize(
    ("model", "likelihood"),
    # a flow has no head with a likelihood, so it is tested once
    [(model, name) for model in TRAINED for name in (LIKELIHOODS if "likelihood" in SECTIONS[model] else [None])],
)
def test_heads_and_log_weights_are_of_float32(
    model: str, likelihood: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks compute in bfloat16; inputs and results of likelihoods are float32 and never rounded to bfloat16."""
    has_head = likelihood is not None
    seen: list[tuple[str, torch.dtype]] = []
    of_head: list[Tensor] = []

    def note(what: str, value: object) -> None:
        if isinstance(value, Tensor) and value.is_floating_point():
            seen.append((what, value.dtype))
        elif isinstance(value, Likelihood | DiagonalNormal):
            for name, part in vars(value).items():
                note(f"{type(value).__name__}.{name}", part)
        elif isinstance(value, tuple):
            for part in value:
                note(what, part)

    def listen(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def listening(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            if isinstance(result, Likelihood):  # the result of a head: keep its inputs
                of_head.append(arguments[1])
            elif isinstance(result, DiagonalNormal):
                of_head.extend([result.mean, result.log_scale])
            note(f"{owner.__name__}.{name}", result)
            return result

        monkeypatch.setattr(owner, name, listening)

    built: list[ImageModel] = []
    build = trainer.build

    def building(*arguments: Any, **options: Any) -> ImageModel:
        built.append(build(*arguments, **options))
        kind = type(built[0])
        listen(kind, "unchecked_log_weights")
        if has_head:
            listen(type(built[0].head), "__call__")
        for cls, name in ((NormalizingFlow, "log_density"), (Dequantizer, "__call__")):
            listen(cls, name)
        if hasattr(kind, "encode"):
            listen(kind, "encode")
        return built[0]

    monkeypatch.setattr(trainer, "build", building)
    convolutions: list[torch.dtype] = []
    options = {"likelihood": likelihood} if has_head else {}
    with TorchFunctionDtypes(convolutions):
        run(model, precision="bfloat16", epochs=1, **options)
    assert torch.bfloat16 in convolutions  # the network itself uses bfloat16
    assert any("log_weights" in what for what, _ in seen)
    assert has_head == any(("." in what and "logits" in what) or "loc" in what for what, _ in seen)
    assert [what for what, dtype in seen if dtype not in (torch.float32, torch.float64)] == []
    assert has_head == bool(of_head)
    assert [values.dtype for values in of_head if is_rounded(values)] == []


def is_rounded(values: Tensor) -> bool:
    """Return whether bfloat16 can represent every value exactly."""
    return torch.equal(values.bfloat16().to(values.dtype), values)


class TorchFunctionDtypes(TorchDispatchMode):
    """Records the dtypes of the results of matrix products and convolutions."""

    def __init__(self, seen: list[torch.dtype]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (aten.convolution.default, aten.addmm.default, aten.mm.default):
            self.seen.append(result.dtype)
        return result


@pytest.fixture
def compiling() -> Iterator[None]:
    """Remove everything that a test has compiled."""
    drawn = randomness._rows_drawn
    yield
    randomness._rows_drawn = drawn
    torch._dynamo.reset()


def assert_compiled_is_the_same(model: str, **changes: Any) -> None:
    plain, compiled = run(model, **changes), run(model, compile=True, **changes)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-4, atol=1e-5)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert compiled.curve[-1]["train_bpd"] == pytest.approx(plain.curve[-1]["train_bpd"], rel=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="there is no C++ compiler")
@pytest.mark.filterwarnings("default")  # the compiler causes warnings
@pytest.mark.usefixtures("compiling")
def test_a_compiled_objective_is_the_same() -> None:
    """It is tested in one form, with the compiler that generates C++."""
    assert_compiled_is_the_same("vae", epochs=2, batch_size=75)


@pytest.mark.parametrize(("model", "changes"), [("conv_vae", {}), ("flow", {}), ("iwae", {"kl_warmup_steps": 2})])
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("compiling")
def test_what_is_traced_is_the_same(model: str, changes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing, which all compilers share, changes neither the noise nor derivatives that a model modifies."""
    compiler = torch.nn.Module.compile
    used: list[torch.nn.Module] = []

    def tracing(self: torch.nn.Module) -> None:
        used.append(self)
        compiler(self, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", tracing)
    assert_compiled_is_the_same(model, epochs=1, **changes)
    assert [type(module).__name__ for module in used] == ["Objective"]


def without_a_compiler() -> Exception:
    from torch._dynamo.exc import BackendCompilerFailed

    return BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), None)


def with_wrong_strides() -> Exception:
    return AssertionError("expected size 64==64, stride 640==1280 at dim=0\nError in op: input")


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("problem", [without_a_compiler, with_wrong_strides])
def test_what_cannot_be_compiled_is_told_in_a_sentence(
    problem: Callable[[], Exception], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error may occur in the loss or in its derivatives."""

    def failing(*_: Any) -> Tensor:
        raise problem()

    forward = Objective.forward

    def failing_later(self: Any, *batch: Any) -> Tensor:
        loss = forward(self, *batch)
        loss.register_hook(failing)
        return loss

    monkeypatch.setattr(Objective, "forward", failing if where == "forward" else failing_later)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    with pytest.raises(InputError, match=r"train.compile = true does not work here \([^\n]*\); it must be false"):
        run("vae", epochs=1, compile=True)


def test_another_assertion_is_not_taken_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> Tensor:
        raise AssertionError("a mistake")

    monkeypatch.setattr(Objective, "forward", mistaken)
    with pytest.raises(AssertionError, match="a mistake"):
        run("vae", epochs=1)
