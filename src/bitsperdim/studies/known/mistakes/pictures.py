"""Mistakes in the choice of the images that are scored, and in the comparison of numbers."""

from __future__ import annotations

import contextlib
import io

import torch
from torch import Tensor
from torch.nn import functional

from bitsperdim.comparing.estimates import compare
from bitsperdim.evaluation.evaluate import evaluate
from bitsperdim.evaluation.images import Data
from bitsperdim.studies.known.mistakes.bench import PSEUDO, Bench
from bitsperdim.studies.known.mistakes.mistake import DoesNotApplyError, Foreign, Made, Mistake, number_of
from bitsperdim.studies.known.mistakes.models import Cells, frequencies, looked_up

N_CANDIDATES = 64
MARGIN = 2


def fitted(x: Tensor, n_levels: int) -> Cells:
    """Return a model of independent sub-pixels fitted to the levels of images."""
    return Cells(frequencies(x, n_levels, PSEUDO))


def beside(bench: Bench, wrong: tuple[Data, Tensor], right: tuple[Data, Tensor], name: str) -> Made:
    """Return two numbers for different images, and a request to compare them."""
    a = bench.estimate(right[1], right[0], "the test set")
    b = bench.estimate(wrong[1], wrong[0], name)
    return Made(b.bits_per_dim, a.bits_per_dim, provoke=lambda: compare(a, b))


def of_cells(bench: Bench) -> tuple[Data, Tensor]:
    """Return the test images and their log P under independent sub-pixels."""
    return bench.data, bench.cells.log_p(bench.test)


def trained_on_test(bench: Bench) -> Made:
    """Score training images as if they were test images."""
    x = bench.train[: len(bench.test)]
    options = {"inputs": "unit", "images": x, "train": bench.train.numpy()}
    wrong = number_of(bench.raster.log_p(x), bench)
    return Made(wrong, number_of(bench.log_p, bench), Foreign(bench.raster, options))


def nearly_trained_on(bench: Bench) -> Made:
    """Score training images in which one sub-pixel has another level."""
    x = bench.train[: len(bench.test)].clone()
    place = x[:, -1, -1, -1]
    x[:, -1, -1, -1] = torch.where(place > 0, place - 1, place + 1)
    options = {"inputs": "unit", "images": x, "train": bench.train.numpy()}
    wrong = number_of(bench.raster.log_p(x), bench)
    return Made(wrong, number_of(bench.log_p, bench), Foreign(bench.raster, options))


def selected(bench: Bench) -> Made:
    """Train many models in the same way, and choose the best one on the test images."""
    n_train = len(bench.train)
    scores: dict[str, list[Tensor]] = {"validation": [], "test": []}
    for number in range(N_CANDIDATES):
        rows = torch.randint(n_train, (max(2, n_train // 4),), generator=bench.generator(100 + number))
        model = fitted(bench.train[rows], bench.n_levels)
        for split, found in scores.items():
            found.append(model.log_p(bench.images.splits[split]))
    best = {split: int(torch.stack(found).mean(1).argmax()) for split, found in scores.items()}
    return Made(scores["test"][best["test"]], scores["test"][best["validation"]])


def static_for_dynamic(bench: Bench) -> Made:
    """Compare a number for images that were binarized once with a number for images that are binarized dynamically."""
    if bench.n_levels == 2:
        raise DoesNotApplyError("The images are binarized already.")
    grey = {split: x / (bench.n_levels - 1) for split, x in bench.images.splits.items()}
    static = {split: (x > 0.5).long() for split, x in grey.items()}
    dynamic = {
        split: torch.bernoulli(x, generator=bench.generator(10 + number)).long()
        for number, (split, x) in enumerate(grey.items())
    }
    sides = []
    for name, images in (("static", static), ("dynamic", dynamic)):
        data = bench.under(bench.named(images["test"], n_levels=2), name)
        sides.append((data, fitted(images["train"], 2).log_p(images["test"])))
    return beside(bench, sides[0], sides[1], "static images")


def other_preparation(bench: Bench) -> Made:
    """Smooth the images, as another resizing method would, and keep the name of the data set."""

    def smoothed(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x.float(), 3, stride=1, padding=1, count_include_pad=False).round().long()

    images = {split: smoothed(x) for split, x in bench.images.splits.items()}
    log_p = fitted(images["train"], bench.n_levels).log_p(images["test"])
    return beside(bench, (bench.named(images["test"]), log_p), of_cells(bench), "images that were prepared otherwise")


def fewer_levels(bench: Bench) -> Made:
    """Compare a number for images with half as many levels with a number for images with all levels."""
    if bench.n_levels == 2:
        raise DoesNotApplyError("Images of two levels cannot have fewer levels.")
    half = (bench.n_levels + 1) // 2
    log_p = fitted(bench.train // 2, half).log_p(bench.test // 2)
    return beside(
        bench, (bench.named(bench.test // 2, n_levels=half), log_p), of_cells(bench), "images of fewer levels"
    )


def padded(bench: Bench) -> Made:
    """Add a black margin around the images, and divide by the number of all their sub-pixels."""
    data, log_p = of_cells(bench)
    larger = functional.pad(bench.test, (MARGIN, MARGIN, MARGIN, MARGIN))
    return beside(bench, (bench.named(larger), log_p), (data, log_p), "images with a margin")


def given_the_class(bench: Bench) -> Made:
    """Compare a number of a model that is given the class with a number of a model that is not."""
    labels = bench.images.labels
    if not {"train", "test"} <= set(labels):
        raise DoesNotApplyError("The images have no labels.")
    known = torch.from_numpy(labels["train"])
    n_classes = 1 + max(int(found.max()) for found in labels.values())
    masses = torch.stack(
        [frequencies(bench.train[known == label], bench.n_levels, PSEUDO) for label in range(n_classes)]
    )

    def log_prob(x: Tensor, labels: Tensor) -> Tensor:
        return looked_up(masses[labels].log(), x).flatten(1).sum(1)

    data, log_p = of_cells(bench)

    told = "a model that is told the class"
    with contextlib.redirect_stderr(io.StringIO()):
        wrong = evaluate(log_prob, data, labels=labels["test"], offers="log_prob", name=told)
    right = bench.estimate(log_p, data, "one that is not")
    return Made(torch.from_numpy(wrong.log_p.copy()), log_p, provoke=lambda: compare(right, wrong))


MISTAKES = (
    Mistake(
        "Training images for test images",
        "The images that are scored are those that the model was trained on.",
        trained_on_test,
        "audit",
        checks=("copies",),
        law="data/test_repeated.py::test_what_is_stored_says_which_images_are_the_same",
        source="yburda/iwae pull request 1 (a file of binarized MNIST; corrected by it)",
    ),
    Mistake(
        "Test images that are nearly training images",
        "The images that are scored are training images in which one sub-pixel has another level.",
        nearly_trained_on,
        "audit",
        checks=("copies",),
        law="data/test_near.py::test_copies_that_were_made_are_found",
        source="cvjena/cifair (the list of near-duplicates of CIFAR-10)",
    ),
    Mistake(
        "Selection on the test set",
        f"Of {N_CANDIDATES} models that are trained alike the best one on the test images is taken.",
        selected,
        "open",
        law="training/test_training.py::test_the_trainer_never_sees_the_test_set",
        source="EugenHotaj/pytorch-generative (scored after each epoch); Keng's essay on PixelCNN",
    ),
    Mistake(
        "Static for dynamic binarization",
        "A number for images that were binarized once, at one half, is compared with a number for random binarization.",
        static_for_dynamic,
        "comparison",
        law="data/test_preparation.py::test_the_protocol_tag_says_what_was_scored",
        source="casperkaae/parmesan issues 8 and 18; a table of the SeRe-VAE paper (Table 2)",
    ),
    Mistake(
        "Other images under the same name",
        "The images were resized in another way, but the name of the data set is the same.",
        other_preparation,
        "comparison",
        law="comparing/test_comparison.py::test_what_is_not_comparable_is_refused_with_the_reason",
        source="thu-ml/i-DODE, README (3.43 and 3.69 bits/dim on two ImageNet32); tensorflow/datasets issue 4662",
    ),
    Mistake(
        "Fewer levels",
        "A number for images with half as many levels is compared with a number for images with all levels.",
        fewer_levels,
        "comparison",
        law="data/test_preparation.py::test_the_protocol_tag_says_what_was_scored",
        source="asked in rosinality/glow-pytorch issues 13 and 35 (5 bits and 8 bits)",
    ),
    Mistake(
        "Padded images",
        f"A black margin of {MARGIN} sub-pixels costs no bits, but its sub-pixels are counted as dimensions.",
        padded,
        "comparison",
        law="comparing/test_comparison.py::test_what_is_not_comparable_is_refused_with_the_reason",
        source="EugenHotaj/pytorch-generative (MNIST padded to 32 x 32; its numbers are nats, which stay)",
    ),
    Mistake(
        "Told the class",
        "A number of a model that is given the class is compared with a number of a model that is not.",
        given_the_class,
        "comparison",
        law="evaluation/test_evaluate.py::test_labels_are_given_to_the_model_and_are_in_the_protocol",
    ),
)
