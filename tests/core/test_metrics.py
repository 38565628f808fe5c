"""metrics.json has one definition: the committed files follow it to the byte, and nothing else can be written."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bitsperdim.comparing.rerun import DATA, SAME, SAME_DATA, TRAINED
from bitsperdim.core.errors import InputError
from bitsperdim.core.metrics import AnyMetrics, Metrics, SimulatedMetrics
from bitsperdim.core.yardsticks import YARDSTICKS, ImagesMetrics
from support.metrics import metrics
from support.results import ANNEALED, IMAGES

LATER = ("n_distinct_images", "n_training_images", "too_few_samples", "ess_below_10_share")
SIMULATED = ANNEALED["simulated"]


def test_the_committed_files_are_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    models = json.loads((repository / "results" / "models.json").read_text(encoding="utf-8"))["models"]
    for name, schema in ({"dequantize": ImagesMetrics} | dict.fromkeys(models, Metrics)).items():
        committed = (repository / "results" / name / "metrics.json").read_bytes()
        schema(**json.loads(committed))  # strict, as for writing: no unknown key
        schema.read(committed, name).write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == committed


def test_old_results_are_read_and_what_they_do_not_know_is_none(repository: Path) -> None:
    found = []
    for path in sorted((repository / "recipes" / "results").glob("*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8"))["models"].values():
            old = AnyMetrics.of(entry["metrics"], path.name)
            assert old.as_record() == entry["metrics"]
            found.append(old)
    assert any(old.n_distinct_images is None and not old.is_of_seen_images for old in found)


@pytest.mark.parametrize("key", LATER)
def test_a_key_of_later_versions_may_be_missing_in_an_old_file_alone(key: str) -> None:
    content = metrics()
    del content[key]
    assert getattr(AnyMetrics(**content), key) is None
    with pytest.raises(InputError, match=rf"^there: {key} is not what a stage writes there \(Field required\)\.$"):
        Metrics.of(content, "there")


def test_the_first_versions_are_flagged_by_the_flag_that_they_have() -> None:
    for exceeds in (False, True):
        old = {**metrics(bias_exceeds_standard_error=exceeds), "too_few_samples": None}
        assert (AnyMetrics(**old).is_flagged, AnyMetrics(**old).marks) == (exceeds, "†" * exceeds)


@pytest.mark.parametrize(
    "changes",
    [
        {"bdp": 1.0},
        {"n_images": 5.0},
        {"n_images": True},
        {"bpd": "1.5"},
        {"bpd": None},
        {"kind": "guess"},
        {"too_few_samples": 1},
        {"too_few_samples": None},
        {"bpd_by_seed": {"0": "1.5"}},
        {"annealed": {**ANNEALED, "acceptance": None}},
        {"annealed": {**ANNEALED, "more": 1}},
        {"annealed": {"simulated": {**SIMULATED, "more": 1}}},
    ],
)
def test_what_is_not_the_definition_is_not_written(changes: dict[str, Any]) -> None:
    """Each change alone is refused; without changes, with all keys and the right types, the object can be built."""
    Metrics(**metrics(annealed=ANNEALED))
    Metrics(**metrics(annealed={"simulated": SIMULATED}))
    with pytest.raises(ValidationError):
        Metrics(**metrics(**changes))


@pytest.mark.parametrize(("schema", "whole"), [(Metrics, metrics()), (ImagesMetrics, IMAGES)])
def test_no_key_may_be_missing(schema: type[Metrics], whole: dict[str, Any]) -> None:
    for key in whole:
        with pytest.raises(ValidationError, match=key):
            schema(**{name: value for name, value in whole.items() if name != key})


def test_a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bpd is NaN"):
        Metrics(**metrics(bpd=math.nan)).write(tmp_path / "metrics.json")
    assert not any(tmp_path.iterdir())


def test_a_file_is_read_or_refused_in_one_sentence() -> None:
    simulated = {**SIMULATED, "of_tomorrow": 1}
    newer = metrics(of_tomorrow=1, annealed={**ANNEALED, "of_tomorrow": 1, "simulated": simulated})
    assert Metrics.of(newer, "there") == Metrics(**metrics(annealed=ANNEALED))
    written: Callable[..., bytes] = lambda **changes: json.dumps(metrics(**changes)).encode()  # noqa: E731
    wrong = {"annealed": {"simulated": {**SIMULATED, "gap_nats": "x"}}}
    for content, words in (
        (b"{", "there is damaged: it is not JSON."),
        (b"\xff", "there is damaged: it is not JSON."),
        (b"[" * 100_000, "there is damaged: it is not JSON."),
        (b"[]", "there: the file is not what a stage writes there ("),
        (written(kind="guess"), "there: kind is not what a stage writes there ("),
        (written(**wrong), "there: annealed.simulated.gap_nats is not what a stage writes there ("),
        (written(nll_nats=math.nan), "there: nll_nats is not a number (NaN)."),
    ):
        with pytest.raises(InputError) as caught:
            Metrics.read(content, "there")
        assert str(caught.value).startswith(words)
        assert "\n" not in str(caught.value)


def test_a_protocol_names_shape_and_levels() -> None:
    images = ImagesMetrics(**{**IMAGES, "protocol": "own/none/4x5x3/L17/test5/given-none"})
    assert (images.image_shape, images.n_dims, images.n_levels) == ((3, 4, 5), 60, 17)
    for protocol in ("own/none", "own/none/4x5", "own"):
        with pytest.raises(InputError, match="has no image shape"):
            _ = ImagesMetrics(**{**IMAGES, "protocol": protocol}).image_shape
    with pytest.raises(InputError, match="has no number of levels"):
        _ = ImagesMetrics(**{**IMAGES, "protocol": "own/none/4x5x3"}).n_levels


def test_who_asks_for_a_key_by_its_name_asks_for_one_that_there_is() -> None:
    assert {*SAME, *TRAINED} <= Metrics.model_fields.keys()
    assert {*SAME_DATA, *DATA} <= ImagesMetrics.model_fields.keys()
    assert {yardstick.key for yardstick in YARDSTICKS} == {
        key for key in ImagesMetrics.model_fields if key.endswith("_bpd") and key != "entropy_bias_bpd"
    }
    assert SimulatedMetrics(**SIMULATED).as_record() == SIMULATED
