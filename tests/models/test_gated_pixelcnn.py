"""The two stacks of the gated PixelCNN: their receptive field, and the effect of labels."""

import itertools

import pytest
import torch

from bitsperdim.models.gated_pixelcnn import GatedPixelCNN
from bitsperdim.models.inputs import check_labels
from support import laws

SIZES = {"n_filters": 24, "n_layers": 2, "kernel_size": 3, "likelihood": "categorical", "n_mixtures": 1}


def gated(shape: tuple[int, int, int], n_levels: int = 3, **changes: object) -> GatedPixelCNN:
    model = GatedPixelCNN(shape, n_levels, **{**SIZES, "n_classes": None, **changes})
    scattered = laws.scattered(model, spread=0.3)
    assert isinstance(scattered, GatedPixelCNN)
    return scattered


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((1, 5, 5), {"n_layers": 1}),
        ((1, 4, 6), {}),
        ((1, 6, 7), {"kernel_size": 5, "n_layers": 1}),
        ((3, 3, 4), {"n_layers": 1}),
        ((3, 4, 3), {"kernel_size": 5, "n_layers": 1}),
        ((2, 1, 7), {"kernel_size": 7}),
        ((4, 3, 1), {}),
        ((3, 3, 3), {"likelihood": "logistic", "n_mixtures": 2}),
        ((3, 3, 3), {"likelihood": "coupled_logistic", "n_mixtures": 2}),
    ],
)
def test_causality_is_two_sided(shape: tuple[int, int, int], changes: dict, generator: torch.Generator) -> None:
    sizes = {**SIZES, **changes}
    field = laws.gated_receptive_field(sizes["kernel_size"], sizes["n_layers"])
    laws.causality_is_two_sided(gated(shape, **changes), laws.sees_offsets(shape, field), generator)


def test_there_is_no_blind_spot(generator: torch.Generator) -> None:
    """The promised field grows to both sides in every row above; an image within reach is completely seen."""
    for n_layers in (1, 4, 12):
        field = laws.gated_receptive_field(7, n_layers)
        reach = 3 + n_layers
        rows_above = itertools.product(range(-reach, 0), range(-reach, reach + 1))
        assert set(rows_above) <= field  # the plain stack does not even have (-1, 4)
    shape = (1, 4, 4)
    laws.causality_is_two_sided(gated(shape), laws.sees_offsets(shape, None), generator)


def test_each_class_is_a_mass(generator: torch.Generator) -> None:
    """Masses given each label sum to one, labels change the result, and the model stays causal with labels."""
    shape, n_classes = (1, 2, 3), 3
    model = gated(shape, 2, n_classes=n_classes)
    images = laws.all_images(shape, 2)
    masses = torch.stack(
        [model.log_weights(images, labels=torch.full((len(images),), label))[0].exp() for label in range(n_classes)]
    )
    torch.testing.assert_close(masses.sum(1), torch.ones(n_classes).double(), rtol=0, atol=laws.ROUNDING)
    assert (masses[0] - masses[1]).abs().max() > 1e-3
    assert (masses[1] - masses[2]).abs().max() > 1e-3
    labels = torch.randint(n_classes, (8,), generator=generator)
    laws.causality_is_two_sided(model, laws.sees_offsets(shape, None), generator, labels)


def test_samples_follow_their_class() -> None:
    """Mean image of 4,000 samples per class: one of 18 values is 4.9 standard errors off once in 58,000 seeds."""
    shape = (1, 2, 3)
    model = gated(shape, 2, n_classes=3)
    images = laws.all_images(shape, 2)
    for label in range(3):
        masses = model.log_weights(images, labels=torch.full((len(images),), label))[0].exp()
        expected = masses @ images.flatten(1).double()
        labels = torch.full((4_000,), label)
        drawn = model.sample(4_000, labels=labels, generator=torch.Generator().manual_seed(label)).flatten(1).double()
        error = (expected * (1 - expected) / 4_000).sqrt()
        assert ((drawn.mean(0) - expected) / error).abs().max() < laws.FAR


def test_labels_that_are_no_class_are_one_sentence() -> None:
    model = gated((1, 2, 2), n_classes=3)
    with pytest.raises(Exception, match=r"n_classes = 3 needs labels, but these images have no labels"):
        check_labels(model, {})
    labels = torch.tensor([0, 3]).numpy()
    with pytest.raises(Exception, match=r"takes labels from 0 to 2, but those of the test images go from 0 to 3"):
        check_labels(model, {"test": labels})
    check_labels(gated((1, 2, 2)), {})
    with pytest.raises(ValueError, match="needs labels"):
        model.log_weights(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


def test_a_label_says_nothing_at_the_start() -> None:
    """Before training all classes are equal: differences are learned, not drawn at random."""
    model = GatedPixelCNN((1, 3, 3), 3, **SIZES, n_classes=4)
    x = laws.all_images((1, 3, 3), 2)[:5]
    first = model.log_weights(x, labels=torch.zeros(5, dtype=torch.int64))
    second = model.log_weights(x, labels=torch.tensor([1, 2, 3, 0, 1]))
    assert torch.equal(first, second)


@pytest.mark.parametrize("silenced", ["vertical_gate", "horizontal_gate"])
def test_a_label_acts_in_both_stacks(silenced: str) -> None:
    """Without labels in one kind of gate, those in the other still have an effect; without both, there is none."""
    model = gated((1, 4, 4), n_classes=2)
    x = laws.all_images((1, 4, 4), 2)[:40]

    def differs() -> bool:
        first, second = (model.log_weights(x, labels=torch.full((40,), label)) for label in (0, 1))
        return bool((first - second).abs().max() > 1e-3)

    other = {"vertical_gate": "horizontal_gate", "horizontal_gate": "vertical_gate"}[silenced]
    for kind, expected in ((silenced, True), (other, False)):
        gates = [getattr(layer, kind) for layer in model.both_stacks]
        for gate in gates[:-1] if kind == "vertical_gate" else gates:  # the last vertical gate is not used
            torch.nn.init.zeros_(gate.of_label.weight)
        assert differs() is expected


def test_dropout_is_of_training_alone_and_drawn_by_the_generator(generator: torch.Generator) -> None:
    model, plain = gated((1, 4, 4), dropout=0.5), gated((1, 4, 4))
    x = torch.randint(3, (4, 1, 4, 4), generator=generator).to(torch.uint8)

    def log_p(seed: int) -> torch.Tensor:
        return model.log_weights(x, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(log_p(1), plain.log_weights(x))
    model.train()
    assert torch.equal(log_p(1), log_p(1))
    assert not torch.equal(log_p(1), log_p(2))


@pytest.mark.parametrize("stack", ["vertical", "horizontal"])
def test_dropout_acts_in_both_stacks(stack: str, generator: torch.Generator) -> None:
    """If the other stack's part is cut off, two draws still differ."""
    model = gated((1, 4, 4), dropout=0.5).train()
    with torch.no_grad():
        for layer in model.both_stacks:
            if stack == "horizontal":  # the vertical stack says nothing
                layer.down.weight.zero_()
            else:  # only the last layer's horizontal values are read, and they depend on the vertical stack alone
                layer.horizontal.weight.zero_()
    x = torch.randint(3, (4, 1, 4, 4), generator=generator).to(torch.uint8)
    dropped: list[torch.Size] = []
    original = model.dropped_out

    def recorded(gated: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        dropped.append(gated.shape)
        is_vertical = len(dropped) <= len(model.both_stacks) - 1  # the vertical stack is computed first
        return original(gated, generator) if is_vertical == (stack == "vertical") else gated

    model.dropped_out = recorded  # type: ignore[method-assign]
    draws = []
    for seed in (1, 2):
        dropped.clear()
        draws.append(model.log_weights(x, generator=torch.Generator().manual_seed(seed)))
        assert len(dropped) == 2 * len(model.both_stacks) - 1
    assert not torch.equal(*draws)
