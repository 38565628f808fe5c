"""A full disk: a run continues if only checkpoints are affected, or stops with one sentence and can be resumed."""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitsperdim import models
from bitsperdim.core.files import atomic_path, write_bytes
from bitsperdim.runtime import checkpoints
from bitsperdim.runtime.checkpoints import NEWER, OLDER, Checkpoint
from bitsperdim.runtime.finished import MARK
from bitsperdim.runtime.shards import in_blocks
from support import workspace
from support.cases import SMALL, small_model
from support.sharded import CPU, N_IMAGES, counted
from support.workspace import EVALUATE, TRAIN

SMALL_DISK = 'mount -t tmpfs -o size="$SIZE" none "$DISK"'


def full(path: Path, content: bytes) -> int:
    """Write half of the content, then raise the error of a full disk."""
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "all" / "one", "one", interval=0.0)


def test_the_last_good_checkpoint_stays(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        checkpoint.save({"a": torch.full((50,), float(step))}, {"step": step})
    before = workspace.written(checkpoint.folder, ".")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        checkpoint.save({"a": torch.zeros(50)}, {"step": 3})
    expected = (
        f"{checkpoint.folder / NEWER} cannot be written (No space left on device); the run continues without it.\n"
    )
    assert capsys.readouterr().err == expected
    assert workspace.written(checkpoint.folder, ".") == before
    assert before.keys() == {NEWER, OLDER}
    found = checkpoint.load()
    assert found is not None
    assert found[1] == {"step": 2}
    checkpoint.save({"a": torch.zeros(50)}, {"step": 4})  # there is space again
    found = checkpoint.load()
    assert found is not None
    assert found[1] == {"step": 4}


def test_blocks_go_on_without_a_checkpoint(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = in_blocks("work", N_IMAGES, 2, 2, counted([]), device=CPU)
    monkeypatch.setattr(Path, "write_bytes", full)
    found = in_blocks("work", N_IMAGES, 2, 2, counted([]), device=CPU, checkpoint=checkpoint)
    assert torch.equal(found, expected)
    assert "No space left on device" in capsys.readouterr().err
    assert not workspace.written(checkpoint.folder, ".")


@pytest.mark.parametrize("write", [write_bytes, lambda path, content: full(path, content)])
def test_the_error_names_the_file_that_was_asked_for(
    write: Callable[[Path, bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught, atomic_path(tmp_path / "a.json") as temporary:
        write(temporary, b"content")
    assert caught.value.filename == str(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileExistsError) as other, atomic_path(tmp_path / "b.json"):
        raise FileExistsError(errno.EEXIST, "exists", "another")
    assert other.value.filename == "another"


def test_a_model_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, params, _, _ = SMALL["vae-bernoulli"]
    models.save(small_model("vae-bernoulli"), family, params, tmp_path)
    before = workspace.written(tmp_path, ".")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        models.save(small_model("vae-bernoulli", seed=1), family, params, tmp_path)
    assert caught.value.filename == str(tmp_path / "weights.safetensors")
    assert workspace.written(tmp_path, ".") == before


def may_mount(folder: Path) -> bool:
    """Return whether this test may mount a small disk."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    environment = {**os.environ, "SIZE": "64k", "DISK": str(folder)}
    command = ["unshare", "-rm", "sh", "-c", SMALL_DISK]
    return not subprocess.run(command, env=environment, capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("disk") / "ready"
    workspace.prepare(folder, repository, {"train": {"epochs": 8}, "seeds": [0]})
    if not may_mount(folder / "images"):
        pytest.skip("a small disk cannot be mounted here")
    return folder


def on_a_small_disk(
    folder: Path, repository: Path, stage: tuple[str, ...], disk: str, size: str
) -> subprocess.CompletedProcess[str]:
    """Run a stage while one of its folders is a small disk; its final content is copied to ``folder``/left."""
    (folder / disk).mkdir(parents=True, exist_ok=True)
    script, *arguments = stage
    command = f'{SMALL_DISK}; "$@"; status=$?; cp -a "$DISK" left; exit $status'
    python = [sys.executable, str(repository / "stages" / script), *arguments]
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", *python],
        cwd=folder,
        env={
            **os.environ,
            **workspace.ENVIRONMENT,
            "PYTHONPATH": str(repository / "src"),
            "SIZE": size,
            "DISK": str(folder / disk),
            checkpoints.SECONDS: "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("stage", "outputs"), [(TRAIN, ("models", "results")), (EVALUATE, ("results",))], ids=["train", "evaluate"]
)
def test_a_disk_that_is_really_full(
    stage: tuple[str, ...], outputs: tuple[str, ...], ready: Path, repository: Path, tmp_path: Path
) -> None:
    """If the disk of the checkpoints is full, the run continues; if that of the outputs is full, it stops.

    The resumed run then gives the same outputs. The tests of killed runs show that these are the bytes of an
    undisturbed run.
    """
    for name in ("without", "stopped"):
        shutil.copytree(ready, tmp_path / name)
        if stage == EVALUATE:
            workspace.make_models(tmp_path / name)
    folder = tmp_path / "without"
    done = on_a_small_disk(folder, repository, stage, "checkpoints", "8k")
    assert done.returncode == 0, done.stderr
    assert set(re.sub(r"checkpoints/\S+", "FILE", done.stderr).splitlines()) == {
        "FILE cannot be written (No space left on device); the run continues without it."
    }
    expected = workspace.written(folder, *outputs)

    folder, disk = tmp_path / "stopped", "models" if stage == TRAIN else "results"
    done = on_a_small_disk(folder, repository, stage, disk, "16k" if stage == TRAIN else "8k")
    assert done.returncode == 1
    name = stage[0].removesuffix(".py")
    assert re.fullmatch(rf"{name}: {disk}/vae/\S+ cannot be read or written: No space left on device\.\n", done.stderr)
    for path, content in workspace.written(folder / "left", ".").items():  # files that exist are complete
        assert expected[f"{disk}/{path}"] == content
    shutil.rmtree(folder / "left")
    done = workspace.run(folder, repository, *stage)
    assert done.returncode == 0, done.stderr
    assert "from a checkpoint" in done.stdout
    assert workspace.written(folder, *outputs) == expected
    assert list((folder / "checkpoints").glob("*")) == [path.parent for path in folder.glob(f"checkpoints/*/{MARK}")]
