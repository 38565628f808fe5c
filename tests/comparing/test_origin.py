"""Differences in the recorded origin of a number are named: code, images, versions and machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsperdim.comparing.origin import Origin, what_differs
from support.laboratory import Laboratory

USED = {"python": "3.11.7", "torch": "2.14.1", "processor": "one", "device": "CPU, 1 thread", "n_processes": 1}
ALL = Origin({"models of train": "m", "evaluation of evaluate": "e"}, {"data/dequantized": "d"}, {})


def commit(laboratory: Laboratory, log_p: np.ndarray, models: str = "m", **used: Any) -> str:
    """Commit results of one model, with records of the code, versions and machine that made them."""
    laboratory.write("vae", log_p)
    root = laboratory.root
    for stage, name in (("train", "trained_with.json"), ("evaluate", "evaluated_with.json")):
        path = root / "data" / "code" / stage / "vae.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"code": models, "rooms": {"core": "c", "models": models}}))
        (root / "results" / "vae" / name).write_text(json.dumps({**USED, **used}))
    return laboratory.commit()


def test_what_moved_a_number_is_named(laboratory: Laboratory, drawn: Callable[[int], np.ndarray]) -> None:
    """Records in commits count only if dvc.lock has their MD5."""

    def notes(one: str, two: str) -> str:
        return " ".join(laboratory.compare(one, two).rows[0].notes)

    first, same = commit(laboratory, drawn(0)), commit(laboratory, drawn(0) - 1)
    assert "No parameter differs; not recorded for both: the images for training and validation." in notes(first, same)
    other = commit(laboratory, drawn(0) - 1, "n", torch="2.11.0", processor="two")
    assert (
        "No parameter differs. These differ: the code in models, PyTorch (2.14.1 and 2.11.0), processor (one and two); "
        "not recorded for both: the images for training and validation." in notes(first, other)
    )
    laboratory.params["vae"]["latent_size"] = 8
    changed = commit(laboratory, drawn(0) - 1, "n")
    assert "Besides the parameters, these differ: the code in models; not recorded" in notes(first, changed)
    assert "differ:" not in notes(same, commit(laboratory, drawn(0) - 2))
    laboratory.params["vae"]["latent_size"] = 16
    commit(laboratory, drawn(0) - 3)
    for path in ("data/code/train/vae.json", "results/vae/trained_with.json"):
        Path(laboratory.root, path).write_text("{}")  # edited since the run
    assert "not recorded for both: the code, the images for training and validation, versions and machine" in notes(
        "workspace", first
    )


@pytest.mark.parametrize("has_parameters", [False, True])
def test_each_part_is_named(has_parameters: bool) -> None:
    used = {stage: {"torch": "1"} for stage in ("train", "evaluate")}
    whole = Origin(ALL.code, ALL.images, used)

    def said(other: Origin) -> list[str]:
        return what_differs(whole, other, has_parameters=has_parameters)

    start = "Besides the parameters, these differ: " if has_parameters else "No parameter differs. These differ: "
    assert said(Origin({**ALL.code, "models of train": "n"}, ALL.images, used)) == [f"{start}the code in models."]
    images = "the images for training or validation, or the data stored with them"
    assert said(Origin(ALL.code, {"data/dequantized": "e"}, used)) == [f"{start}{images}."]
    assert said(Origin(ALL.code, ALL.images, {**used, "train": {"torch": "2"}})) == [f"{start}PyTorch (1 and 2)."]
    nothing = "All that is recorded is equal: parameters, code, images, versions and machine."
    assert said(whole) == ([] if has_parameters else [nothing])
    missing = "No parameter differs; not recorded for both: the code, the images for training and validation, "
    assert said(Origin()) == ([] if has_parameters else [f"{missing}versions and machine."])
