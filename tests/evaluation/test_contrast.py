"""The gain from refined proposals or other noise: paired numbers, which are reported and decide nothing."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitsperdim.core.randomness import stream
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.evaluation import contrast, scoring, summary
from bitsperdim.evaluation.estimate import estimated_rows
from bitsperdim.models import build
from bitsperdim.runtime.checkpoints import Checkpoint
from support.cases import FLOW, LEARNED, UNIFORM, small_model
from support.estimates import SECTION, prepared

CPU = torch.device("cpu")
NAME = "vae-bernoulli"
REFINED = SECTION.refined.model_copy(update={"n_steps": 3, "n_samples": 2, "n_pilot": 32})
ASKED = SECTION.model_copy(update={"proposal": "refined", "refined": REFINED, "n_contrast": 6})
FIT = SECTION.fitted_noise.model_copy(update={"n_filters": 6, "epochs": 2, "batch_size": 50})
FITTED = ASKED.model_copy(update={"noise": "fitted", "fitted_noise": FIT})
ONE = {**FLOW, "n_transforms": 1}
CASES = {
    "encoder": (NAME, lambda: small_model(NAME), ASKED),
    "uniform": ("flow-maf", lambda: build("flow", {**ONE, **UNIFORM}, (1, 1, 2), 3), ASKED),
    "variational": ("flow-maf", lambda: build("flow", {**ONE, **LEARNED}, (1, 1, 2), 3), ASKED),
    "fitted": ("realnvp-plane", lambda: small_model("realnvp-plane"), FITTED),
}


def found(case: str = "encoder", checkpoint: Checkpoint | None = None, **data: Any) -> contrast.Contrast:
    name, made, section = CASES[case]
    images, model = prepared(name), made().float().eval()
    for key, value in data.items():
        getattr(images, key)["test"] = value
    after = scoring.evaluate_seed(model, images, section, 7, CPU)
    result = contrast.contrast(model, images, after, section, CPU, checkpoint)
    assert result is not None
    return result


@pytest.mark.parametrize("case", CASES)
def test_the_contrast_is_its_numbers(case: str) -> None:
    """Six images are scored in blocks of four and two, with their own samples; the difference is paired."""
    name, made, _ = CASES[case]
    result, model = found(case), made().float().eval()
    chosen = torch.randperm(10, generator=stream("contrast_images", 0))[:6].sort().values
    assert torch.equal(result.chosen, chosen)
    images = torch.from_numpy(prepared(name).images["test"])[chosen]
    before = {"proposal": "encoder"} if case == "encoder" else {"noise_from": "own"}
    rows = [
        estimated_rows(
            model, images[first : first + 4], 12, chunk_size=5, generator=stream("contrast", 0, first), **before
        )
        for first in (0, 4)
    ]
    log_p = torch.cat(rows)[:, 0]
    assert torch.equal(result.before.log_p, log_p)
    difference = result.after.log_p[chosen] - log_p
    assert not difference.eq(0).any()
    metrics = result.metrics((1, 2, 2))
    assert metrics["proposal"] == ("uniform" if case == "fitted" else case)
    assert metrics["n_images"] == 6
    assert metrics["gain_nats"] == pytest.approx(float(difference.mean()))
    assert metrics["gain_nats_standard_error"] == pytest.approx(float(difference.std()) / math.sqrt(6))
    assert metrics["nll_nats"] == pytest.approx(-float(log_p.mean()))
    assert metrics["bpd"] == pytest.approx(-float(log_p.mean()) / 4 / math.log(2))
    assert metrics["nll_nats_after"] == pytest.approx(-float(result.after.log_p[chosen].mean()))
    assert metrics["ess_median"] == pytest.approx(float(result.before.ess.median()))
    assert "pareto_k_high_share" not in metrics  # K is 12


def test_what_it_takes_is_counted() -> None:
    """Besides K samples, the cost includes gradients and pilot samples, a shared fit, and draws for a shift."""
    passes = {case: found(case).metrics((1, 2, 2)) for case in CASES}
    assert {case["n_passes"] for case in passes.values()} == {12}
    costs = found().after.costs
    assert costs is not None
    assert passes["encoder"]["n_passes_after"] == pytest.approx(12 + float(costs[:, :2].sum()) / 10)
    assert passes["uniform"]["n_passes_after"] == passes["variational"]["n_passes_after"] == 12
    assert passes["fitted"]["n_passes_after"] == 12 + 3 * 2 * 10 / 10
    many = ASKED.model_copy(update={"n_samples": 1_024})
    data = prepared("flow-maf")
    after = replace(found("uniform").after, n_samples=1_024)
    assert contrast.passes_in_advance(after, many, data) == 256


def test_few_samples_are_flagged() -> None:
    """``before`` is flagged if its bias exceeds its error, or if more than 5 % have a small ESS or heavy tails."""
    plain = found()
    n = len(plain.chosen)
    many = {"n_samples": 1_024, "ess": torch.full((n,), 500.0), "pareto_k": torch.full((n,), 0.1)}
    before = replace(plain.before, **many, bias=torch.full((n,), -1e-3))
    error = mean_error(before.log_p)
    one = torch.arange(n) == 0
    for changes, wanted in (
        ({}, False),
        ({"bias": torch.full((n,), -1.01 * error)}, True),
        ({"bias": torch.full((n,), -0.99 * error)}, False),
        ({"ess": torch.where(one, 9.0, 500.0)}, True),
        ({"pareto_k": torch.where(one, 0.9, 0.1)}, True),
    ):
        metrics = replace(plain, before=replace(before, **changes)).metrics((1, 2, 2))
        assert metrics["too_few_samples"] is wanted, changes


@pytest.mark.parametrize("case", ["encoder", "uniform"])
def test_the_number_is_that_of_what_replaced_whichever_is_larger(case: str) -> None:
    """The other metrics do not depend on the contrast; the curves differ by the paired difference."""
    name, made, _ = CASES[case]
    result, data, model = found(case), prepared(name), made().float()
    with_it, without = (
        summary.summarise({7: result.after}, model, data.description, "refined", contrast=each)
        for each in (result, None)
    )
    assert with_it.metrics.contrast is not None
    assert with_it.metrics.model_copy(update={"contrast": None}) == without.metrics
    assert without.bound_columns == summary.BOUND_COLUMNS
    assert with_it.bound_columns == (*summary.BOUND_COLUMNS, *summary.CONTRAST_COLUMNS)
    n_dims = math.prod(data.description.image_shape)
    for place, (row, plain) in enumerate(zip(with_it.bound, without.bound, strict=True)):
        difference = result.after.bounds[place, result.chosen] - result.before.bounds[place]
        assert row["gain_nats"] == pytest.approx(float(difference.mean()))
        assert row["contrast_bpd"] - plain["bpd"] == pytest.approx(float(difference.mean()) / n_dims / math.log(2))
    assert with_it.bound[-1]["gain_nats"] == pytest.approx(with_it.metrics.contrast.gain_nats)


def test_copies_count_once() -> None:
    chosen = torch.randperm(10, generator=stream("contrast_images", 0))[:6].sort().values
    same_as = np.arange(10)
    same_as[chosen[1]] = chosen[0]
    result = found(same_as=same_as)
    difference = result.after.log_p[chosen] - result.before.log_p
    expected = mean_error(difference, torch.tensor([0, 0, 2, 3, 4, 5]))
    assert result.gain()[1] == pytest.approx(expected)
    assert expected != pytest.approx(mean_error(difference))


def test_how_many_images_and_where_there_is_none() -> None:
    numbers = [contrast.n_contrasted(SECTION, n) for n in (1, 50, 359, 3_000, 10_000, 60_000)]
    assert numbers == [1, 50, 50, 300, 1_000, 1_000]
    assert contrast.n_contrasted(ASKED, 4) == 4
    for case, unchanged in (("encoder", {"proposal": "encoder"}), ("uniform", {"noise": "own"})):
        name, made, section = CASES[case]
        for changes in (unchanged, {"n_contrast": 0}):
            asked, model, data = section.model_copy(update=changes), made().float().eval(), prepared(name)
            after = scoring.evaluate_seed(model, data, asked, 7, CPU)
            assert contrast.contrast(model, data, after, asked, CPU) is None


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, rows_of, scored = found(), estimated_rows, []

    def stopping(*args: Any, first_image: int, **options: Any) -> torch.Tensor:
        scored.append(first_image)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return rows_of(*args, first_image=first_image, **options)

    monkeypatch.setattr(contrast, "estimated_rows", stopping)
    place = Checkpoint(tmp_path / "one", "one")
    with pytest.raises(KeyboardInterrupt):
        found(checkpoint=place)
    again = found(checkpoint=place)
    assert scored == [0, 4, 4]
    assert torch.equal(again.before.log_p, whole.before.log_p)
