"""Every kind of disagreement is reported; results that agree give no report."""

import copy
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.comparing.rerun import (
    DELAY,
    NEURONS,
    SAME_DELAY,
    SAME_NEURONS,
    SAME_STUDY,
    SAME_TRUTHS,
    STUDY,
    TRAINED,
    TRUTHS,
    compare,
)
from bitsperdim.config.params import SWITCHED_OFF
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_json
from support.metrics import metrics
from support.results import IMAGES

MODEL = metrics(bpd=2.0)


def nested(*paths: str) -> dict[str, Any]:
    """Return metrics with the number 3 at each of these keys."""
    found: dict[str, Any] = {}
    for path in paths:
        *parents, last = path.split(".")
        section = found
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = 3.0
    return found


KNOWN = nested(*TRUTHS, *SAME_TRUTHS)
STUDIED, DELAYED, BUILT = nested(*STUDY, *SAME_STUDY), nested(*DELAY, *SAME_DELAY), nested(*NEURONS, *SAME_NEURONS)
STUDIES = {"known": KNOWN, "density_and_mass": STUDIED, "project_delay": DELAYED, "universal_resnet": BUILT}
KINDS = {"vae": MODEL, "dequantize": IMAGES, **STUDIES}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the metrics of the study of known truths with one changed number."""
    first, *parents, last = path.split(".")
    content = copy.deepcopy(KNOWN[first])
    section = content
    for parent in parents:
        section = section[parent]
    section[last] = value
    return {first: content}


def folders(tmp_path: Path, name: str, change: dict[str, Any]) -> tuple[Path, Path]:
    for folder in ("reference", "rerun"):
        for model, content in KINDS.items():
            changed = {**content, **change} if (folder, model) == ("rerun", name) else content
            changed = {key: value for key, value in changed.items() if value != "gone"}
            write_json(tmp_path / folder / model / "metrics.json", changed)
    return tmp_path / "reference", tmp_path / "rerun"


def test_a_study_that_is_switched_off_agrees_with_itself_alone(tmp_path: Path) -> None:
    reference, rerun = folders(tmp_path, "vae", {})
    write_json(rerun / "project_delay" / "metrics.json", SWITCHED_OFF)
    assert all(sentence.startswith("project_delay: ") for sentence in compare(reference, rerun))
    assert len(compare(reference, rerun)) == len(DELAY) + len(SAME_DELAY)
    write_json(reference / "project_delay" / "metrics.json", SWITCHED_OFF)
    assert compare(reference, rerun) == []


def test_equal_and_close_numbers_agree(tmp_path: Path) -> None:
    assert compare(*folders(tmp_path, "vae", {})) == []
    assert compare(*folders(tmp_path, "vae", {"bpd": 2.0 + 0.9 * TRAINED["bpd"]})) == []


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        ("vae", {"bpd": 2.0 + 1.1 * TRAINED["bpd"]}, "bpd is 2.05500"),
        ("vae", {"bpd": 2.0 - 1.1 * TRAINED["bpd"]}, "bpd is"),
        ("vae", {"bpd": float("inf")}, "bpd is inf"),
        ("vae", {"kind": "exact"}, "kind is 'exact', but the committed value is 'lower'"),
        ("vae", {"n_images": 3}, "n_images is 3"),
        ("dequantize", {"test_sha256": "other"}, "test_sha256 is 'other'"),
        ("dequantize", {"n_test_in_train": 1}, "n_test_in_train is 1"),
        ("dequantize", {"entropy_bpd": 1.6001}, "entropy_bpd is"),
        ("density_and_mass", {"levels": {**STUDIED["levels"], "entropy_bits": 3.1}}, "levels.entropy_bits is 3.10000"),
        ("density_and_mass", {"levels": {**STUDIED["levels"], "n_images": 4}}, "levels.n_images is 4"),
        ("density_and_mass", {"hypotheses": "gone"}, "hypotheses.posterior_b is nan"),
        ("known", changed("excess.sources.templates.truth_bpd", 3.1), "excess.sources.templates.truth_bpd is 3.10000"),
        (
            "known",
            changed("excess.sources.templates.models.vae.is_refuted", True),
            "excess.sources.templates.models.vae.is_refuted is True",
        ),
        ("project_delay", {"exact": {**DELAYED["exact"], "mean": 3.1}}, "exact.mean is 3.10000"),
        ("project_delay", {"deadline": 70.0}, "deadline is 70.0"),
        ("universal_resnet", {"n_steps": 4.0}, "n_steps is 4.0"),
        ("universal_resnet", {"majority": {"hard": 3.1}}, "majority.hard is 3.10000"),
    ],
)
def test_each_kind_of_disagreement_is_reported(name: str, change: dict, key: str, tmp_path: Path) -> None:
    found = compare(*folders(tmp_path, name, change))
    assert len(found) == 1
    assert found[0].startswith(f"{name}: {key}")


def test_what_is_no_metrics_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rerun/vae/metrics\.json: bpd is not what a stage writes there \(Field"):
        compare(*folders(tmp_path, "vae", {"bpd": "gone"}))


def test_a_missing_result_is_reported(tmp_path: Path) -> None:
    reference, rerun = folders(tmp_path, "vae", {})
    (rerun / "vae" / "metrics.json").unlink()
    assert compare(reference, rerun) == [
        "The rerun has results for density_and_mass, dequantize, known, project_delay, universal_resnet, but the "
        "committed results are for density_and_mass, dequantize, known, project_delay, universal_resnet, vae."
    ]
    assert compare(tmp_path / "empty", tmp_path / "empty")
