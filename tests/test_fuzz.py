"""Whatever stands in params.yaml: it validates and can be used, or is refused in one sentence that changes nothing.

The files are those of ``fuzzing.py``, seeded: a failure names the number of its file and comes again.
"""

import copy
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitsperdim.config.families.base import Images
from bitsperdim.config.loading import MAX_ENTRIES, load_yaml
from bitsperdim.config.params import Params
from bitsperdim.core.errors import SHOWN, InputError, shown
from bitsperdim.models import build
from bitsperdim.preflight.agreement import model_levels, read_validated, validated
from bitsperdim.sources import SOURCES
from support import fuzzing, warm

SEED = 0
LONGEST = 340  # characters of a sentence
BUILT = 300_000  # weights of the largest models that are built
OUTPUTS = {
    "data/code/train/old.json": "{}",
    "results/models.json": '{"models": ["vae"]}\n',
    "results/vae/metrics.json": "{}\n",
    "results/old/metrics.json": "{}\n",
    "data/preflight.txt": "The parameters of this pipeline have been validated.\n",
    "data/own/mine.png": "a picture",
}


@pytest.fixture
def text(committed: Callable[[str], str]) -> str:
    return committed("params.yaml")


@pytest.fixture
def content(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(text)
    return loaded


def fill(folder: Path) -> None:
    """Write what an earlier run left."""
    for name, written in OUTPUTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(written)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder but params.yaml; folders count too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.name != "params.yaml"
    }


def is_one_sentence(sentence: str) -> bool:
    """Whether it is short, printable, on one line, about params.yaml or the images that it names, and ends."""
    about = sentence.startswith(("params.yaml", "data/own/mine.png"))
    return about and sentence.isprintable() and sentence.endswith(".") and len(sentence) <= LONGEST


def use(params: Params, built: set[str]) -> None:
    """Build every listed model, small as they are, for the images that the data set has or may have."""
    source = SOURCES[params.dataset.name]
    shape, n_levels = source.image_shape or (1, 8, 8), model_levels(params)
    for name in params.models:
        section = params.section(name)
        key = repr((section, shape, n_levels))
        if key in built or section.least_weights(shape, n_levels) > BUILT:
            continue
        built.add(key)
        try:
            section.check_images(name, Images(n_levels, shape))
        except InputError:  # known only once the images are
            assert source.image_shape is None
            continue
        build(section.family, section.hyperparameters, shape, n_levels)


@pytest.mark.parametrize(
    ("n_files", "n_valid", "n_refused", "n_built"), [(90, 4, 50, 1), (500, 60, 300, 25)], ids=["few", "many"]
)
def test_any_file_validates_or_is_refused_in_a_sentence(
    n_files: int,
    n_valid: int,
    n_refused: int,
    n_built: int,
    text: str,
    content: dict[str, Any],
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole script of ``preflight``, in a workspace that holds the results of an earlier run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["preflight.py", "results", "data/preflight.txt", "data/code"])
    script = str(repository / "stages" / "preflight.py")
    fill(tmp_path)
    before, built, outcomes = hashes(tmp_path), set[str](), Counter[str]()
    for number, file in enumerate(fuzzing.mutations(text, content, n_files, SEED)):
        (tmp_path / "params.yaml").write_bytes(file)
        try:
            runpy.run_path(script)
        except SystemExit as stopped:
            sentence = str(stopped.code)
            assert sentence.startswith("preflight: "), number
            assert is_one_sentence(sentence.removeprefix("preflight: ")), (number, sentence)
            assert hashes(tmp_path) == before, (number, sentence)
            outcomes["refused"] += 1
            continue
        except BaseException as error:
            raise AssertionError(f"file {number}: {file[:2_000]!r}") from error
        outcomes["validates"] += 1
        assert not (tmp_path / "results" / "old").exists()
        use(read_validated(tmp_path / "params.yaml"), built)
        assert not (tmp_path / "data" / "code" / "train" / "old.json").exists()
        for folder in ("logs", "data/code"):
            shutil.rmtree(tmp_path / folder)
        fill(tmp_path)
    assert outcomes["validates"] > n_valid
    assert outcomes["refused"] > n_refused
    assert len(built) > n_built


@pytest.mark.parametrize(("every", "n_refused"), [(7, 250), (1, 2_000)], ids=["some", "all"])
def test_every_value_in_every_place_is_taken_or_refused_by_its_key(
    every: int, n_refused: int, content: dict[str, Any]
) -> None:
    """Or each seventh value in a place, another one of them in the next."""
    values = [value for value in fuzzing.HOSTILE if "!!" not in str(value)]
    loaded = [YAML(typ="safe").load(value) if isinstance(value, fuzzing.Raw) else value for value in values]
    refused = []
    for number, path in enumerate(fuzzing.leaves(content)):
        for value in loaded[number % every :: every]:
            changed = fuzzing.put(copy.deepcopy(content), path, value)
            try:
                use(validated(changed), set())
            except InputError as error:
                refused.append((".".join(map(str, path)), str(error)))
    assert not [sentence for key, sentence in refused if key not in sentence or not is_one_sentence(sentence)]
    assert len(refused) > n_refused


def test_a_few_lines_that_stand_for_billions_are_refused_at_once(content: dict[str, Any], tmp_path: Path) -> None:
    """Aliases in a value that is shown, merge keys that merge merges, and lists in which each entry looks at all."""
    merges = "a: &a {x: 1, y: 2}\n" + "".join(
        f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    files = {
        "merge keys make a mapping of more than 1000 pairs": merges.encode(),
        "train.epochs = [": fuzzing.document({**content, "train": {**content["train"], "epochs": fuzzing.BOMB}}),
        "seeds = [0, 1, ": fuzzing.document({**content, "seeds": list(range(20_000))}),
    }
    for sentence, file in files.items():
        (tmp_path / "params.yaml").write_bytes(file)
        started = time.monotonic()
        with pytest.raises(InputError) as caught:
            read_validated(tmp_path / "params.yaml")
        assert sentence in str(caught.value)
        assert time.monotonic() - started < 20, sentence  # seconds in truth; hours without a bound


def test_merge_keys_work_as_long_as_they_are_few(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert load_yaml(tmp_path / "params.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_no_more_models_or_seeds_than_are_compared_in_a_moment(content: dict[str, Any]) -> None:
    content["seeds"] = list(range(MAX_ENTRIES))
    assert len(validated(content).seeds) == MAX_ENTRIES
    content["seeds"].append(MAX_ENTRIES)
    with pytest.raises(InputError, match=r"seeds = .* is not allowed; it must be a list of at most 1000 entries"):
        validated(content)


def test_a_value_is_shown_in_a_few_printable_characters() -> None:
    values = [value for kind in fuzzing.VALUES for value in kind if not isinstance(value, fuzzing.Raw)]
    recursive: list[Any] = []
    recursive.append(recursive)
    for value in (*values, recursive, b"\x00", {1: {2: {3: {4: 5}}}}, 2**100_000, -(2**100_000), {"\n"}, ("\u202e",)):
        assert len(shown(value)) <= SHOWN
        assert shown(value).isprintable()
    assert [shown(value) for value in (3, "a\nb", [9, 9], None, float("nan"))] == [
        "3",
        r"'a\nb'",
        "[9, 9]",
        "None",
        "nan",
    ]


# One process with DVC in it: puts each file in place, runs the command line, says its status and what is there then.
RUNNER = """
import hashlib, json, pathlib, sys
from dvc.cli import main
for file, arguments in json.load(sys.stdin):
    pathlib.Path("params.yaml").write_bytes(bytes.fromhex(file))
    status = main(arguments)
    own = (".git", ".dvc", "src", "stages", "external", "params.yaml")
    found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
             for path in sorted(pathlib.Path(".").rglob("*"))
             if path.parts[0] not in own and "tmp" not in path.parts}
    sys.stderr.flush()
    print("<<" + json.dumps({"status": status, "found": found}) + ">>", flush=True)
"""


def workspace(folder: Path, repository: Path, text: str) -> None:
    """Make a repository of git and DVC that holds this pipeline, and the results of an earlier run."""
    for name in ("src", "stages", "external"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "dvc.yaml", folder)
    shutil.copy(repository / ".dvcignore", folder)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / ".gitignore").write_text("/.dvc/tmp\n/.dvc/cache\n/data\n/results\n/logs\n")
    fill(folder)
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    author = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "init", "--quiet"], env=environment, check=True)
    locked = [warm.python(), "-m", "dvc", "commit", "--quiet", "--force", "preflight"]  # it has run
    subprocess.run(locked, cwd=folder, env=environment, check=True)
    for arguments in (("add", "--all"), (*author, "commit", "--quiet", "--message", "A start")):
        subprocess.run([*git, *arguments], env=environment, check=True)


def test_dvc_gives_the_sentence_and_leaves_the_results(
    text: str, content: dict[str, Any], tmp_path: Path, repository: Path
) -> None:
    """Ten mistakes through DVC: none gives a traceback, runs what it names, or loses an output to DVC's tidying."""
    workspace(tmp_path, repository, text)
    whole = text.encode()

    def with_value(key: str, value: Any) -> bytes:
        path = tuple(key.split("."))
        return fuzzing.document(fuzzing.put(copy.deepcopy(content), path, value))

    commands = [
        (whole, ["exp", "run", "-S", "vae.latent_size=-1", "preflight"], "vae.latent_size = -1 is not allowed"),
        (whole, ["exp", "run", "-S", "train.learning_rate=fast", "preflight"], "train.learning_rate = 'fast' is not"),
        (whole, ["exp", "run", "-S", "models=[vae,vea]", "preflight"], "models names 'vea', which has no section"),
        (whole, ["exp", "run", "-S", "+vae.latnt=3", "preflight"], "vae.latnt is not a known key"),
        (with_value("train.epochs", float("nan")), ["repro"], "train.epochs = nan is not allowed"),
        (with_value("seeds", [2**32]), ["repro", "preflight"], "seeds.0 = 4294967296 is not allowed"),
        (with_value("models", ["../x"]), ["repro", "preflight"], "overlap"),  # so says DVC, before the stage
        (with_value("dataset.name", "digits; touch made"), ["repro"], "dataset.name = 'digits; touch made' is not a"),
        (with_value("dataset", None), ["repro", "preflight"], ""),
        (whole + b"\n\t- [", ["repro", "preflight"], ""),
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([(file.hex(), arguments) for file, arguments, _ in commands]),
        cwd=tmp_path,
        env={**os.environ, "PATH": warm.path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    parts = re.findall(r"(.*?)<<({.*?})>>", done.stdout, re.DOTALL)
    assert len(parts) == len(commands), done.stdout
    for (output, end), (_, arguments, sentence) in zip(parts, commands, strict=True):
        outcome = json.loads(end)
        assert outcome["status"] != 0, arguments
        assert "Traceback" not in output, output
        assert sentence in output, (sentence, output)
        found = {name: digest for name, digest in outcome["found"].items() if digest and name in OUTPUTS}
        assert found == {name: hashlib.sha256(written.encode()).hexdigest() for name, written in OUTPUTS.items()}
        assert "made" not in outcome["found"]
