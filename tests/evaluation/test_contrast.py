"""The encoder's proposal beside the refined one: paired numbers of the same images, which decide nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitsperdim.core.randomness import stream
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.evaluation import contrast, scoring, summary
from bitsperdim.evaluation.estimate import estimated_rows
from bitsperdim.runtime.checkpoints import Checkpoint
from cases import small_model
from estimates import SECTION, prepared

CPU = torch.device("cpu")
NAME = "vae-bernoulli"
REFINED = SECTION.refined.model_copy(update={"n_steps": 3, "n_samples": 2, "n_pilot": 32, "n_contrast": 6})
ASKED = SECTION.model_copy(update={"proposal": "refined", "refined": REFINED})


def found(checkpoint: Checkpoint | None = None, **data: Any) -> contrast.Contrast:
    images, model = prepared(NAME), small_model(NAME).float()
    for key, value in data.items():
        getattr(images, key)["test"] = value
    refined = scoring.evaluate_seed(model, images, ASKED, 7, CPU)
    result = contrast.contrast(model, images, refined, ASKED, CPU, checkpoint)
    assert result is not None
    return result


def test_the_contrast_is_its_numbers() -> None:
    """Of six images in blocks of four and two, with samples of their own; the difference is paired."""
    result, model = found(), small_model(NAME).float()
    chosen = torch.randperm(10, generator=stream("contrast_images", 0))[:6].sort().values
    assert torch.equal(result.chosen, chosen)
    images = torch.from_numpy(prepared(NAME).images["test"])[chosen]
    rows = [
        estimated_rows(model, images[first : first + 4], 12, chunk_size=5, generator=stream("contrast", 0, first))
        for first in (0, 4)
    ]
    log_p = torch.cat(rows)[:, 0]
    assert torch.equal(result.encoder.log_p, log_p)
    difference = result.refined.log_p[chosen] - log_p
    metrics = result.metrics((1, 2, 2))
    assert metrics["n_images"] == 6
    assert metrics["gain_nats"] == pytest.approx(float(difference.mean()))
    assert metrics["gain_nats_standard_error"] == pytest.approx(float(difference.std()) / math.sqrt(6))
    assert metrics["nll_nats"] == pytest.approx(-float(log_p.mean()))
    assert metrics["bpd"] == pytest.approx(-float(log_p.mean()) / 4 / math.log(2))
    assert metrics["refined_nll_nats"] == pytest.approx(-float(result.refined.log_p[chosen].mean()))
    assert metrics["ess_median"] == pytest.approx(float(result.encoder.ess.median()))
    assert "pareto_k_high_share" not in metrics  # K is 12


def test_the_number_is_that_of_the_refined_proposal_whichever_is_larger() -> None:
    """What is in metrics.json does not move with the contrast; the curves differ by the paired difference."""
    result, data, model = found(), prepared(NAME), small_model(NAME).float()
    with_it, without = (
        summary.summarise({7: result.refined}, model, data.description, "refined", contrast=each)
        for each in (result, None)
    )
    assert with_it.metrics.bpd == without.metrics.bpd
    assert with_it.metrics.refined is not None
    assert with_it.metrics.refined.encoder is not None
    assert without.metrics.refined is not None
    assert without.metrics.refined.encoder is None
    assert without.bound_columns == summary.BOUND_COLUMNS
    assert with_it.bound_columns == (*summary.BOUND_COLUMNS, *summary.CONTRAST_COLUMNS)
    for place, (row, plain) in enumerate(zip(with_it.bound, without.bound, strict=True)):
        difference = result.refined.bounds[place, result.chosen] - result.encoder.bounds[place]
        assert row["gain_nats"] == pytest.approx(float(difference.mean()))
        assert row["encoder_bpd"] - plain["bpd"] == pytest.approx(float(difference.mean()) / 4 / math.log(2))
    assert with_it.bound[-1]["gain_nats"] == pytest.approx(with_it.metrics.refined.encoder.gain_nats)


def test_copies_count_once() -> None:
    chosen = torch.randperm(10, generator=stream("contrast_images", 0))[:6].sort().values
    same_as = np.arange(10)
    same_as[chosen[1]] = chosen[0]
    result = found(same_as=same_as)
    difference = result.refined.log_p[chosen] - result.encoder.log_p
    expected = mean_error(difference, torch.tensor([0, 0, 2, 3, 4, 5]))
    assert result.gain()[1] == pytest.approx(expected)
    assert expected != pytest.approx(mean_error(difference))


def test_how_many_images_and_where_there_is_none() -> None:
    numbers = [contrast.n_contrasted(SECTION, n) for n in (1, 50, 359, 3_000, 10_000, 60_000)]
    assert numbers == [1, 50, 50, 300, 1_000, 1_000]
    assert contrast.n_contrasted(ASKED, 4) == 4
    data, model = prepared(NAME), small_model(NAME).float()
    refined = scoring.evaluate_seed(model, data, SECTION, 7, CPU)
    none = ASKED.model_copy(update={"refined": REFINED.model_copy(update={"n_contrast": 0})})
    for section in (SECTION, none):  # by the encoder there is nothing to hold it against
        assert contrast.contrast(model, data, refined, section, CPU) is None


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
        found(place)
    again = found(place)
    assert scored == [0, 4, 4]
    assert torch.equal(again.encoder.log_p, whole.encoder.log_p)
