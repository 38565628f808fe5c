"""The workflow of GitHub: it parses, calls what exists, asks for no rights that it does not need, and compares."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from support.laboratory import Laboratory

Run = subprocess.CompletedProcess[str]
IMAGES = np.random.default_rng(0).normal(-8, 3, 40)


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workflow(text: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(text)  # YAML 1.2, in which `on` is no truth value
    return content


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_it_runs_what_has_to_pass(workflow: dict[str, Any], repository: Path) -> None:
    assert workflow["on"] == {"pull_request": None, "push": {"branches": ["main"]}}
    called = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    assert called[0] == "make setup"
    must_pass = re.findall(r"^make .*$", (repository / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert must_pass == called[1:]
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for step in steps(workflow) for word in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert named == {"setup", "test", "test-long", "lint", "smoke"}
    assert named <= targets


def test_actions_are_pinned_and_have_the_whole_history(workflow: dict[str, Any]) -> None:
    actions = [step for step in steps(workflow) if "uses" in step]
    assert {step["uses"].split("@")[0] for step in actions} == {"actions/checkout", "actions/setup-python"}
    for step in actions:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", step["uses"]), step
        expected = {"fetch-depth": 0} if "checkout" in step["uses"] else {"python-version": "3.12"}
        assert expected.items() <= step["with"].items()


def test_it_asks_for_no_more_rights_than_it_needs(workflow: dict[str, Any], text: str) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in workflow["jobs"]["check"]
    assert workflow["jobs"]["compare"]["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert "secrets." not in text
    assert "://" not in text  # no host is named
    for step in steps(workflow):
        assert "${{" not in step.get("run", ""), "what others write must not become a command"


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    """A merge of a branch with a better model, as GitHub makes one of a pull request, and the command installed."""
    laboratory = Laboratory(tmp_path / "laboratory")
    laboratory.write("vae", IMAGES)
    laboratory.commit("Base")
    laboratory.git("checkout", "--quiet", "-b", "better")
    laboratory.params["vae"]["latent_size"] = 32
    laboratory.write("vae", IMAGES + 0.5 + np.random.default_rng(1).normal(0, 0.2, 40))
    laboratory.commit("Better")
    laboratory.git("checkout", "--quiet", "main")
    laboratory.git("merge", "--quiet", "--no-ff", "--message", "Merge", "better")
    install(laboratory, f'exec "{sys.executable}" -c "from bitsperdim.cli import main; main()" "$@"')
    return laboratory


def install(laboratory: Laboratory, script: str) -> None:
    path = laboratory.root / ".venv" / "bin" / "bitsperdim"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def compared(laboratory: Laboratory, workflow: dict[str, Any], repository: Path) -> tuple[Run, str]:
    """Run the very lines of the workflow, as GitHub does; return what came of it, and the summary."""
    [script] = [step["run"] for step in steps(workflow) if "compare" in step.get("run", "").split()]
    summary = laboratory.root.parent / "summary.md"
    summary.unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=laboratory.root,
        env={**os.environ, "PYTHONPATH": str(repository / "src"), "GITHUB_STEP_SUMMARY": str(summary)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, summary.read_text(encoding="utf-8") if summary.exists() else ""


def test_the_comparison_is_markdown(laboratory: Laboratory, workflow: dict[str, Any], repository: Path) -> None:
    done, summary = compared(laboratory, workflow, repository)
    assert done.returncode == 0, done.stderr
    assert summary.startswith("**A**: revision HEAD^1 (")
    assert re.search(r"^\| vae \| ≤ .* \| ≤ .* \| .* \| a better bound \|$", summary, re.MULTILINE), summary
    assert "- vae.latent_size: 16 -&gt; 32" in summary
    assert (laboratory.root / "comparison.md").read_text(encoding="utf-8") == summary


def test_where_the_images_are_gone_the_numbers_are_compared(
    laboratory: Laboratory, workflow: dict[str, Any], repository: Path
) -> None:
    laboratory.empty_the_cache()
    done, summary = compared(laboratory, workflow, repository)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| vae \| .* ± .*, unpaired \| .* \| cannot tell \|$", summary, re.MULTILINE), summary
    assert "per_image.csv, the log-likelihood of each image," in summary


def test_where_there_is_nothing_to_compare_a_sentence_says_so(
    laboratory: Laboratory, workflow: dict[str, Any], repository: Path
) -> None:
    laboratory.write("vae", IMAGES, test_sha256="f" * 64)
    laboratory.commit("Other images")
    done, summary = compared(laboratory, workflow, repository)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"vae: the protocol is the same, but the test images differ .*\.\n", summary)
    assert (laboratory.root / "comparison.md").read_text(encoding="utf-8") == summary


def test_a_traceback_is_no_sentence(laboratory: Laboratory, workflow: dict[str, Any], repository: Path) -> None:
    install(laboratory, "printf 'Traceback:\\nKeyError\\n' >&2; exit 1")
    done, summary = compared(laboratory, workflow, repository)
    assert (done.returncode, summary) == (1, "")
    assert "KeyError" in done.stdout
