"""Text, Markdown and JSON of a comparison."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from bitsperdim.comparing.cache import md5_of
from bitsperdim.comparing.output import SCHEMA, as_json, as_markdown, as_text
from support.laboratory import Laboratory
from support.metrics import HASH

Drawn = Callable[..., np.ndarray]


@pytest.fixture
def filled(laboratory: Laboratory, drawn: Drawn) -> Laboratory:
    """Two models, the second scored on other images in the workspace, and a third model in the workspace only."""
    laboratory.write("vae", drawn(1))
    laboratory.write("iwae", drawn(2), kind="exact", n_samples=1)
    laboratory.commit()
    laboratory.params["vae"]["latent_size"] = 8
    laboratory.write("vae", drawn(3, 0.5), too_few_samples=True)
    laboratory.write("iwae", drawn(2), kind="exact", n_samples=1, test_sha256="f" * 64)
    laboratory.write("new", drawn(2))
    laboratory.experiment("changed")
    return laboratory


def test_the_text_says_it_all(filled: Laboratory) -> None:
    commit = filled.git("rev-parse", "--short=7", "HEAD")
    text = as_text(filled.compare("HEAD", "changed"))
    lines = text.splitlines()
    assert lines[0] == f"A: revision HEAD ({commit})"
    assert lines[1].startswith("B: experiment changed (")
    vae = next(line for line in lines if line.startswith("vae "))
    assert vae.endswith("  a better bound")
    assert vae.count("≤") == 2
    assert "†" in vae
    assert next(line for line in lines if line.startswith("iwae ")).endswith("not compared")
    assert "  iwae: the protocol is the same, but the test images differ (SHA-256 0123456789ab and ffffff" in text
    assert "  vae: vae.latent_size: 16 -> 8" in lines
    assert "  Only B has new." in lines
    assert "not the spread over training seeds" in text.replace("\n", " ")


def test_the_markdown_is_a_table(filled: Laboratory) -> None:
    text = as_markdown(filled.compare("HEAD", "changed"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| model | A, bits/dim | B, bits/dim | B - A, bits/dim | z | clear from | B is |"
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {8}
    assert "- vae: vae.latent_size: 16 -&gt; 8" in text.splitlines()


@pytest.mark.parametrize("exceeds", [True, False])
def test_a_result_of_the_first_commits_is_flagged_by_the_flag_it_has(
    exceeds: bool, laboratory: Laboratory, drawn: Drawn
) -> None:
    """The old flag was only about the bias."""
    laboratory.write("vae", drawn(1), bias_exceeds_standard_error=exceeds, too_few_samples=None)
    laboratory.commit()
    laboratory.write("vae", drawn(2))
    found = laboratory.compare("HEAD")
    (vae,) = json.loads(as_json(found))["models"]
    assert (vae["a"]["too_few_samples"], vae["b"]["too_few_samples"]) == (exceeds, False)
    line = next(line for line in as_text(found).splitlines() if line.startswith("vae "))
    assert line.count("†") == exceeds


def test_the_json_always_has_the_same_keys(filled: Laboratory) -> None:
    found = json.loads(as_json(filled.compare("HEAD", "changed")))
    assert set(found) == {"schema", "a", "b", "level", "models", "only_in_a", "only_in_b"}
    assert found["schema"] == SCHEMA == 2
    assert found["a"] == {
        "name": "HEAD",
        "kind": "revision",
        "commit": filled.git("rev-parse", "HEAD"),
        "has_local_changes": False,
    }
    assert found["only_in_b"] == ["new"]
    for model in found["models"]:
        assert set(model) == {
            *("a", "b", "verdict", "established", "difference_bpd", "standard_error_bpd", "z", "reason", "notes"),
            *("parameters", "error_is", "n_compared"),
            *("monte_carlo_error_bpd", "standard_error_of_images_bpd", "standard_error_of_seeds_bpd", "limit"),
        }
        assert set(model["a"]) == {
            *("model", "kind", "protocol", "test_sha256", "n_images", "n_seeds", "n_samples", "bpd"),
            *("bpd_standard_error", "too_few_samples", "out_of_range", "n_impossible_images"),
            *("n_distinct_images", "n_training_images", "n_near_training_images", "seen_images"),
        }
    iwae, vae = sorted(found["models"], key=lambda model: model["a"]["model"])
    assert (iwae["verdict"], iwae["difference_bpd"], iwae["z"]) == ("refused", None, None)
    assert (iwae["limit"], iwae["standard_error_of_seeds_bpd"]) == (None, None)
    assert vae["limit"] == pytest.approx(2.02269, rel=1e-5)  # quantile of t with 39 degrees of freedom
    assert vae["standard_error_of_seeds_bpd"] == {"a": None, "b": None}
    assert vae["standard_error_of_images_bpd"] == vae["standard_error_bpd"]
    assert vae["monte_carlo_error_bpd"] == pytest.approx(0.0003 * 2**0.5)
    assert vae["z"] == pytest.approx(vae["difference_bpd"] / vae["standard_error_bpd"])
    assert vae["parameters"] == [{"key": "vae.latent_size", "a": 16, "b": 8}]
    assert (vae["verdict"], vae["established"], iwae["established"]) == ("better", False, False)
    assert (vae["error_is"], iwae["error_is"]) == ("paired", None)
    assert (vae["reason"], vae["a"]["test_sha256"]) == (None, HASH)


@pytest.fixture
def of_seeds(laboratory: Laboratory, drawn: Drawn) -> Laboratory:
    """A model with three seeds, but one in the workspace; another model with three seeds in both."""
    three = np.stack([drawn(n, shift) for n, shift in enumerate((0.0, 0.3, 0.6))])
    laboratory.write("vae", three)
    laboratory.write("iwae", three)
    laboratory.commit()
    laboratory.write("vae", three[0] + 1)
    laboratory.write("iwae", three[::-1] + 0.4 + 0.1 * three[:, ::-1])
    return laboratory


def test_the_noises_are_told_apart(of_seeds: Laboratory) -> None:
    """Text, Markdown and JSON show the noise of images, of samples and of seeds, and which noise is unknown."""
    found = of_seeds.compare("HEAD")
    iwae, vae = sorted(found.rows, key=lambda row: row.name)
    assert vae.noise is not None
    assert iwae.noise is not None
    for text in (as_text(found), as_markdown(found)):
        flat = " ".join(text.split())
        assert "Noise of B - A, in bits/dim:" in flat
        words = f"vae: test images {vae.noise.images:.4f} (Monte Carlo 0.00042 of it), training seeds "
        assert words + f"{vae.noise.of_seeds:.3f} (A {vae.noise.of_seeds:.3f}, 3 seeds; B unknown, one seed), " in flat
        assert f"together {vae.noise.combined:.3f}" in flat
        assert f" {vae.limit:.2f} " in flat
        assert f"; B {iwae.noise.seeds[1]:.3f}, 3 seeds)" in flat
        assert "B has one seed: its seed noise is unknown, and the verdict ignores it." in flat
        assert "over the training seeds of a side with several" in flat
        assert "not the spread over training seeds" not in flat
    models = {model["a"]["model"]: model for model in json.loads(as_json(found))["models"]}
    one = models["vae"]
    assert one["standard_error_of_seeds_bpd"] == {"a": pytest.approx(vae.noise.seeds[0], rel=1e-6), "b": None}
    assert one["standard_error_of_images_bpd"] == pytest.approx(vae.noise.images, rel=1e-6)
    assert one["standard_error_bpd"] == pytest.approx(vae.noise.combined, rel=1e-6)
    assert one["limit"] == pytest.approx(vae.limit, rel=1e-6)
    assert one["limit"] > 4  # two degrees of freedom


def test_one_seed_is_written_as_ever(filled: Laboratory) -> None:
    text = as_text(filled.compare("HEAD", "changed"))
    assert "Noise of" not in text
    assert "seed noise" not in text


def test_an_unpaired_difference_is_called_so(laboratory: Laboratory, drawn: Drawn) -> None:
    """Text, Markdown and JSON mark it, and not the paired difference beside it."""
    laboratory.write("vae", drawn(1))
    laboratory.write("iwae", drawn(2))
    laboratory.commit()
    md5 = md5_of((laboratory.root / "dvc.lock").read_text(), "results/vae/per_image.csv")
    assert md5 is not None
    laboratory.cached(md5).unlink()
    for n, model in enumerate(("vae", "iwae")):
        laboratory.write(model, drawn(n + 3))
    found = laboratory.compare("HEAD")
    for text in (as_text(found), as_markdown(found)):
        rows = [line.removeprefix("| ") for line in text.splitlines()]
        iwae, vae = (next(line for line in rows if line.startswith(f"{model} ")) for model in ("iwae", "vae"))
        assert (", unpaired " in vae, ", unpaired " in iwae) == (True, False)
        flat = " ".join(text.split())
        assert "vae: Unpaired: per_image.csv, the log-likelihood of each image, at " in flat
        assert "likelihoods of single images are missing for a side" in flat
    models = {model["a"]["model"]: model for model in json.loads(as_json(found))["models"]}
    assert {name: model["error_is"] for name, model in models.items()} == {"iwae": "paired", "vae": "unpaired"}
    errors = [models["vae"][side]["bpd_standard_error"] for side in "ab"]
    assert models["vae"]["standard_error_bpd"] == pytest.approx(np.hypot(*errors))
    assert models["vae"]["standard_error_bpd"] > 10 * models["iwae"]["standard_error_bpd"]
    paired = laboratory.compare("HEAD", models=["iwae"])
    assert "npaired" not in as_text(paired) + as_markdown(paired)


def test_hostile_names(laboratory: Laboratory, drawn: Drawn) -> None:
    """Folders and experiments may have any name that git allows."""
    name = "a|b<script>`x`[l](http:x)"
    laboratory.write(name, drawn(1), protocol="tiny/<b>|/2x2x1/L256/test40/given-none")
    laboratory.params[name] = {"key": "|<i>\x1b[31m"}
    laboratory.commit()
    laboratory.write(name, drawn(2), protocol="tiny/<b>|/2x2x1/L256/test40/given-none")
    laboratory.params[name] = {"key": "other"}
    laboratory.experiment("x|y<u>`z`")
    found = laboratory.compare("HEAD", "x|y<u>`z`")
    text = as_markdown(found)
    assert not any(tag in text for tag in ("<script>", "<i>", "<u>", "<b>", "](http"))
    assert {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {8}
    assert "\x1b" not in as_text(found)
    assert json.loads(as_json(found))["b"]["name"] == "x|y<u>`z`"


def test_infinite_numbers_are_written(laboratory: Laboratory, drawn: Drawn) -> None:
    impossible = drawn(1)
    impossible[0] = -np.inf
    laboratory.write("vae", drawn(1), kind="exact")
    laboratory.commit()
    laboratory.write("vae", impossible, kind="exact")
    found = laboratory.compare("HEAD")
    row = next(line for line in as_text(found).splitlines() if line.startswith("vae "))
    assert row.split()[-2:] == ["∞", "worse"]
    assert json.loads(as_json(found))["models"][0]["difference_bpd"] == float("inf")
