"""Checkpoints are exact, have two generations, and are never used if they are damaged or from another run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bitsperdim.core.errors import InputError
from bitsperdim.runtime import checkpoints, finished
from bitsperdim.runtime.checkpoints import NEWER, OLDER, Checkpoint

VALUES = {"step": 3, "best_log_p": float("-inf"), "curve": [{"epoch": 1, "train_bpd": 0.1 + 0.2}]}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "model.weight": torch.full((2, 3), value).T,
        "generator": torch.Generator().manual_seed(7).get_state(),
        "scalar": torch.tensor(value, dtype=torch.float64),
        "empty": torch.zeros(0, dtype=torch.int64),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "one", "one")


def test_what_is_saved_comes_back(checkpoint: Checkpoint) -> None:
    assert checkpoint.load() is None
    checkpoint.save(tensors(0.1), VALUES)
    found = checkpoint.load()
    assert found is not None
    assert found[1] == VALUES
    assert found[0].keys() == tensors(0.1).keys()
    for name, tensor in tensors(0.1).items():
        assert found[0][name].dtype == tensor.dtype
        assert torch.equal(found[0][name], tensor)


def test_the_newer_generation_is_taken_and_the_older_kept(checkpoint: Checkpoint) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tensors(step), {"step": step})
    assert {path.name for path in checkpoint.folder.iterdir()} == {NEWER, OLDER}
    found = checkpoint.load()
    assert found is not None
    assert found[1] == {"step": 3}
    (checkpoint.folder / NEWER).unlink()
    found = checkpoint.load()
    assert found is not None
    assert found[1] == {"step": 2}


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign"])
def test_a_bad_file_is_named_and_the_older_one_used(
    damage: str, checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tensors(1), {"step": 1})
    checkpoint.save(tensors(2), {"step": 2})
    path = checkpoint.folder / NEWER
    content = path.read_bytes()
    other = Checkpoint(tmp_path / "other", "other")
    other.save(tensors(3), {"step": 3})
    bad = {
        "truncated": content[:-20],
        "empty": b"",
        "text": b"<html>" + content,
        "foreign": (other.folder / NEWER).read_bytes(),
    }
    path.write_bytes(bad[damage])
    found = checkpoint.load()
    assert found is not None
    assert found[1] == {"step": 1}
    message = capsys.readouterr().err
    assert message.startswith(f"{path} cannot be used (")
    assert message.count("\n") == 1
    assert ("it belongs to another run" in message) == (damage == "foreign")


def test_one_process_of_a_machine_names_a_damaged_file(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tensors(1), VALUES)
    (checkpoint.folder / NEWER).write_bytes(b"")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    for rank, n_lines in ((0, 1), (1, 0)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert checkpoint.load() is None
        assert capsys.readouterr().err.count("\n") == n_lines


def test_no_changed_byte_is_used(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes are changed one at a time; the checksum notices the changes that safetensors does not notice."""
    checkpoint.save(tensors(1), VALUES)
    path = checkpoint.folder / NEWER
    whole = path.read_bytes()
    step = max(1, len(whole) // 1500)
    for place in range(0, len(whole), step):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = checkpoint.load()
        assert found is None or (found[1] == VALUES and torch.equal(found[0]["scalar"], tensors(1)["scalar"])), place
    assert capsys.readouterr().err.count("cannot be used") > 0.9 * len(whole) / step


@pytest.mark.parametrize("entry", [{"dtype": "I32", "shape": [2, 3]}, {"dtype": "F32", "shape": [3, 2]}])
def test_bytes_that_stand_for_other_numbers_are_refused(
    entry: dict[str, Any], checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bytes with another type or shape in the header are refused."""
    checkpoint.save({"weights": torch.rand(2, 3)}, VALUES)
    path = checkpoint.folder / NEWER
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["weights"] |= entry
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    assert checkpoint.load() is None
    assert "it is damaged" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    Checkpoint(tmp_path / "file" / "one", "one").save(tensors(1), VALUES)
    assert "cannot be written" in capsys.readouterr().err


def test_the_fingerprint_tells_trainings_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(finished.VARIABLE, str(tmp_path))
    code = tmp_path / "code.py"
    code.write_text("x = 1\n", encoding="utf-8")
    one = Checkpoint.of({"section": {"a": 1}, "seed": 0}, [code])
    assert one.folder.parent == tmp_path
    assert one == Checkpoint.of({"seed": 0, "section": {"a": 1}}, [code])
    assert one != Checkpoint.of({"section": {"a": 1}, "seed": 1}, [code])
    assert one != Checkpoint.of({"section": {"a": 2}, "seed": 0}, [code])
    assert one != Checkpoint.of({"section": {"a": 1}, "seed": 0}, [Path(__file__)])


def test_parts_are_apart(checkpoint: Checkpoint) -> None:
    """Each part has its own files, and refuses those of another part."""
    one, other = checkpoint.part("one"), checkpoint.part("other")
    one.save(tensors(1), {"step": 1})
    other.save(tensors(2), {"step": 2})
    found = one.load()
    assert found is not None
    assert found[1] == {"step": 1}
    assert checkpoint.load() is None
    (other.folder / NEWER).replace(one.folder / NEWER)
    assert one.load() is None


def test_what_a_killed_process_left_is_removed(checkpoint: Checkpoint) -> None:
    checkpoint.save(tensors(1), VALUES)
    left = checkpoint.folder / f".{NEWER}.abcd_123.safetensors"
    left.write_bytes(b"half")
    assert checkpoint.load() is not None
    assert {path.name for path in checkpoint.folder.iterdir()} == {NEWER}


@pytest.mark.parametrize("seconds", ["0", "2.5", "1e3"])
def test_the_interval_comes_from_the_environment(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Checkpoint.of({}, []).interval == 60
    monkeypatch.setenv(checkpoints.SECONDS, seconds)
    assert Checkpoint.of({}, []).interval == float(seconds)
    assert Checkpoint.of({}, []).fingerprint == Checkpoint.of({}, []).part("a").fingerprint.removesuffix("-a")


@pytest.mark.parametrize("seconds", ["", "soon", "-1", "nan", "inf"])
def test_an_interval_that_is_no_number_is_refused(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checkpoints.SECONDS, seconds)
    with pytest.raises(InputError, match=f"BITSPERDIM_CHECKPOINT_SECONDS = '{seconds}' is not allowed; it must be"):
        Checkpoint.of({}, [])
