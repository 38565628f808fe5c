"""Revisions, experiments, recipes and the workspace as sources; every mistake gives one sentence."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitsperdim.comparing import history
from bitsperdim.comparing.cache import Cache, locked_params, md5_of
from bitsperdim.comparing.leaderboard import leaderboard
from bitsperdim.comparing.numbers import fitting, read_images
from bitsperdim.comparing.source import find
from bitsperdim.core.errors import InputError
from bitsperdim.core.git import repository
from bitsperdim.core.metrics import AnyMetrics
from support.laboratory import PARAMS, Laboratory
from support.metrics import metrics_of

Drawn = Callable[..., np.ndarray]


def recipe_result(laboratory: Laboratory, name: str, log_p: np.ndarray) -> Path:
    path = laboratory.root / "recipes" / "results" / f"{name}.json"
    content = {"models": {"vae": {"metrics": metrics_of(log_p)}}, "params": PARAMS}
    path.write_text(json.dumps(content))
    np.savez(path.with_suffix(".npz"), vae=log_p.astype(np.float32))
    return path


def test_an_experiment_is_found_by_its_name(laboratory: Laboratory, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    laboratory.write("vae", drawn(2, 0.5))
    commit = laboratory.experiment("tall-owl")
    laboratory.git("update-ref", "refs/exps/stash", commit)  # DVC has other references, too
    source = find(laboratory.root, "tall-owl", Cache(laboratory.root))
    assert (source.kind, source.commit, source.models) == ("experiment", commit, ["vae"])
    assert [item.name for item in history.experiments(repository(laboratory.root))] == ["tall-owl"]
    found = laboratory.compare("HEAD", "tall-owl").rows[0]
    assert found.verdict == "better"
    expected = -(drawn(2, 0.5) - drawn(1)).mean() / (4 * np.log(2))
    assert found.bpd == pytest.approx(expected)


def test_of_two_experiments_of_one_name_the_one_on_this_commit_is_meant(laboratory: Laboratory, drawn: Drawn) -> None:
    commits = []
    for seed in (1, 2):
        laboratory.write("vae", drawn(seed))
        laboratory.commit()
        laboratory.write("vae", drawn(seed + 10))
        commits.append(laboratory.experiment("twin"))
    found = history.experiment(repository(laboratory.root), "twin")
    assert found is not None
    assert found.commit == commits[1]
    laboratory.commit("Another")
    with pytest.raises(InputError, match="There are 2 experiments 'twin'; choose one by its commit"):
        history.experiment(repository(laboratory.root), "twin")


def test_names_are_looked_up_in_order(laboratory: Laboratory, drawn: Drawn) -> None:
    """The order is revision, recipe result, experiment; the description names the kind that was found."""
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    laboratory.write("vae", drawn(2))
    laboratory.experiment("name")
    cache = Cache(laboratory.root)
    assert find(laboratory.root, "name", cache).words.startswith("experiment name (")
    recipe_result(laboratory, "name", np.stack([drawn(3)]))
    assert find(laboratory.root, "name", cache).words == "recipe result name (commit unknown)"
    laboratory.git("branch", "name")
    assert find(laboratory.root, "name", cache).words.startswith("revision name (")
    assert find(laboratory.root, "", cache).words == "the workspace"


def test_a_recipe_beside_a_commit(laboratory: Laboratory, drawn: Drawn) -> None:
    path = recipe_result(laboratory, "big", np.stack([drawn(3), drawn(4)]))
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    found = laboratory.compare("HEAD", "big").rows[0]
    expected = -((drawn(3) + drawn(4)) / 2 - drawn(1)).mean() / (4 * np.log(2))
    assert found.bpd == pytest.approx(expected, rel=1e-4)  # stored in float32
    assert found.parameters == []
    path.with_suffix(".npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"^vae: recipes/results/big\.npz is damaged"):
        laboratory.compare("HEAD", "big")
    path.with_suffix(".npz").unlink()
    gone = laboratory.compare("HEAD", "big").rows[0]
    assert (gone.bpd, gone.error_is) == (pytest.approx(expected), "unpaired")
    words = "recipes/results/big.npz, with the log-likelihood of each image, is missing; restore it with git."
    assert f"Unpaired: {words}" in gone.notes
    path.write_text('{"models": []}')
    with pytest.raises(InputError, match=r"recipes/results/big\.json is damaged"):
        laboratory.compare("HEAD", "big")


def test_an_unknown_name_lists_the_choices(laboratory: Laboratory, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    laboratory.experiment("tall-owl")
    recipe_result(laboratory, "big", np.stack([drawn(3)]))
    with pytest.raises(InputError) as caught:
        laboratory.compare("tal-owl")
    assert str(caught.value) == (
        "There is no revision, recipe result or experiment 'tal-owl' (did you mean 'tall-owl'?); "
        "experiments are tall-owl; recipe results are big."
    )
    for name in ("--help", "HEAD~99", "a\nb", "HEAD:params.yaml"):
        with pytest.raises(InputError, match="There is no revision"):
            laboratory.compare(name)


def test_a_folder_that_is_no_repository_has_a_workspace_and_recipes(laboratory: Laboratory, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    recipe_result(laboratory, "big", np.stack([drawn(3)]))
    (laboratory.root / ".git").rename(laboratory.root / "git")
    cache = Cache(laboratory.root)
    assert laboratory.compare("big").rows[0].verdict in {"better", "worse", "cannot tell"}
    with pytest.raises(InputError, match=r"'HEAD', and .* is not a git repository"):
        laboratory.compare("HEAD")
    board = leaderboard(laboratory.root, cache, with_recipes=True)
    assert [entry.change.where for entry in board.entries] == ["workspace", "recipe big"]
    assert board.left_out == [f"{laboratory.root} is not a git repository: it has no revisions or experiments."]


def test_a_revision_whose_cache_is_gone(laboratory: Laboratory, drawn: Drawn) -> None:
    """The difference is unpaired, with one sentence for all models, on either side."""
    for model in ("vae", "iwae"):
        laboratory.write(model, drawn(1))
    first = laboratory.commit()
    laboratory.write("vae", drawn(2))
    laboratory.empty_the_cache()
    words = (
        f"per_image.csv, the log-likelihood of each image, at {first[:7]} is neither in DVC's cache nor on a remote: "
        f"run `dvc pull` or `dvc repro` on that commit."
    )
    found = laboratory.compare("HEAD").rows
    assert [(item.error_is, item.notes.count(f"Unpaired: {words}")) for item in found] == [("unpaired", 1)] * 2
    (laboratory.root / "results" / "vae" / "per_image.csv").unlink()
    notes = laboratory.compare("workspace", models=["vae"]).rows[0].notes
    assert sum("is neither in the workspace nor in DVC's cache" in note for note in notes) == 1
    for model in ("vae", "iwae"):
        laboratory.write(model, drawn(3), bpd_standard_error=math.inf)
    with pytest.raises(InputError) as caught:
        laboratory.compare("HEAD")
    assert str(caught.value) == f"iwae, vae: B's number has no standard error, and {words}"
    path = laboratory.root / "results" / "vae" / "metrics.json"
    path.write_text(path.read_text().replace('"bpd_standard_error"', '"other"'))
    with pytest.raises(
        InputError, match=r"^results/vae/metrics\.json in the workspace: bpd_standard_error is not what"
    ):
        laboratory.compare("HEAD", models=["vae"])


def test_a_workspace_without_files_of_dvc_has_its_cache(laboratory: Laboratory, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    (laboratory.root / "results" / "vae" / "per_image.csv").unlink()
    assert laboratory.compare("HEAD").rows[0].verdict == "same"


def test_a_damaged_file_of_the_cache_is_noticed(laboratory: Laboratory, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    md5 = md5_of((laboratory.root / "dvc.lock").read_text(), "results/vae/per_image.csv")
    assert md5 is not None
    laboratory.cached(md5).write_text("seed,image,log_p\n0,0,-1\n")
    with pytest.raises(InputError, match=f"{md5[:2]}/{md5[2:]} in DVC's cache is damaged"):
        laboratory.compare("HEAD")
    (laboratory.root / "results" / "vae" / "metrics.json").write_text(json.dumps(metrics_of(drawn(2)[None])))
    (laboratory.root / "results" / "vae" / "per_image.csv").write_text("seed,image,log_p\n0,0,-1\n")
    laboratory.cached(md5).unlink()
    with pytest.raises(InputError, match=r"^vae: results/vae/per_image\.csv in the workspace does not have each of"):
        laboratory.compare("HEAD")  # it is an error although the file of the other side is only missing


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "exact"}', "\udcff", "[" * 100_000, '{"kind": "guess"}'])
def test_damaged_metrics_are_one_sentence(content: str, laboratory: Laboratory, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    (laboratory.root / "results" / "vae" / "metrics.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"results/vae/metrics\.json in the workspace") as caught:
        laboratory.compare("HEAD")
    assert "\n" not in str(caught.value)
    nan = json.dumps({**metrics_of(np.stack([drawn(1)])), "bpd": float("nan")}).encode()
    with pytest.raises(InputError, match=r"^metrics.json: bpd is not a number \(NaN\)\.$"):
        AnyMetrics.read(nan, "metrics.json")


def test_log_likelihoods_that_do_not_fit_are_refused(drawn: Drawn) -> None:
    numbers = AnyMetrics(**metrics_of(np.stack([drawn(1)])))
    rows = [f"0,{n},{value}" for n, value in enumerate(drawn(1))]
    read = ["seed,image,log_p", *reversed(rows)]  # the order of rows does not matter
    assert read_images("\n".join(read).encode(), numbers, "x").log_p[0] == pytest.approx(drawn(1))
    for content, words in (
        (b"\xff", "is damaged"),
        (b"seed,image\n0,0\n", "is damaged"),
        ("\n".join(read[:-1]).encode(), "does not have each of the 40 test images once for each seed"),
        ("\n".join([*read[:-1], read[1]]).encode(), "does not have each of the 40 test images once"),
        ("\n".join([*read[:-1], "0,0,nan"]).encode(), "is damaged"),
        ("\n".join([*read[:-1], "0,0,-1000"]).encode(), "does not agree with its metrics"),
    ):
        with pytest.raises(InputError, match=words):
            read_images(content, numbers, "x")
    with pytest.raises(InputError, match="is damaged"):
        fitting(np.zeros((1, 3)), None, numbers, "x")
    assert fitting(drawn(1)[None] * (1 + 1e-8), None, numbers, "x").n_distinct == 40
    with pytest.raises(InputError, match="does not agree with its metrics"):
        fitting(drawn(1)[None] * (1 + 1e-5), None, numbers, "x")
    with_copies = ["seed,image,log_p,same_as", *(f"{row},{n // 2 * 2}" for n, row in enumerate(rows))]
    found = read_images("\n".join(with_copies).encode(), numbers, "x")
    assert (found.n_distinct, found.same_as.tolist()[:4]) == (20, [0, 0, 2, 2])
    for wrong in ("41", "-1", "0.5", "40", "x"):
        with pytest.raises(InputError, match="is damaged"):
            read_images("\n".join([*with_copies[:-1], f"{rows[-1]},{wrong}"]).encode(), numbers, "x")
    with pytest.raises(InputError, match="has no image shape"):
        _ = AnyMetrics(**metrics_of(np.stack([drawn(1)]), protocol="x/y")).image_shape


def test_parameters_are_those_of_the_lock_and_an_edit_since_is_said(laboratory: Laboratory, drawn: Drawn) -> None:
    laboratory.write("vae", drawn(1))
    laboratory.commit()
    path = laboratory.root / "params.yaml"
    path.write_text(path.read_text().replace("latent_size: 16", "latent_size: 99"))
    found = laboratory.compare("HEAD").rows[0]
    assert found.parameters == []
    assert found.notes == [
        "B: params.yaml in the workspace has been edited since these numbers were made (vae.latent_size)."
    ]
    path.write_text(
        path.read_text().replace("latent_size: 99", "n_mixtures: 1")
    )  # both keys have their default, written or not
    assert laboratory.compare("HEAD").rows[0].notes == []
    laboratory.write("vae", drawn(2))
    notes = laboratory.compare("HEAD").rows[0].notes
    assert any("differs from the file in dvc.lock; run `dvc repro`." in note for note in notes)
    assert locked_params("stages: [", "vae") == {}
    assert locked_params("  evaluate@vae:\n    params: 3\n", "vae") == {}
