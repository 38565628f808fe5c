"""Files have stable bytes, and are either complete or absent."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitsperdim import models
from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import atomic_path, read_json, remove_leftovers, sha256, write_csv, write_json, write_npz
from bitsperdim.data import preparation
from bitsperdim.data.prepared import load_prepared
from bitsperdim.sources import SOURCES, RawImages


def test_json_is_sorted_and_rounded(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1 / 3, "a": [2 / 3, {"y": 1, "x": True}], "c": "é"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"') < text.index('"c"')
    assert "0.333333333\n" in text.replace(",", "")
    assert read_json(tmp_path / "a.json") == {
        "a": [0.666666667, {"x": True, "y": 1}],
        "b": 0.333333333,
        "c": "é",
    }


def test_infinity_survives(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"bpd": math.inf})
    assert read_json(tmp_path / "a.json") == {"bpd": math.inf}


def test_nan_is_refused_by_name_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.b is NaN"):
        write_json(tmp_path / "a.json", {"a": {"b": math.nan}})
    assert not list(tmp_path.iterdir())


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda _: None,
    "empty": lambda _: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "another": lambda _: b"{}",
    "a web page": lambda _: b"<html>404</html>",
}


def files_of_a_run(folder: Path) -> dict[str, Callable[[], object]]:
    """Write the kinds of files that stages write; return, for each file, the function that reads it."""
    SOURCES["digits"].download(folder / "raw", "")
    images = np.arange(60 * 4, dtype=np.uint8).reshape(60, 1, 2, 2)
    dataset = DatasetSection(name="npz", path="x", n_levels=None, validation_fraction=0.1, test_fraction=0.2, seed=0)
    dequantize = DequantizeSection(bits=None, binarization="none")
    preparation.prepare(RawImages({"train": images}, {}), dataset, dequantize, 256, folder / "images")
    model = models.build("histogram", {"pseudocount": 1.0}, (1, 2, 2), 4)
    models.save(model, "histogram", {"pseudocount": 1.0}, folder / "model")
    return {
        "raw/digits.npz": lambda: SOURCES["digits"].read(folder / "raw"),
        "images/description.json": lambda: load_prepared(folder / "images"),
        "images/train/images.npy": lambda: load_prepared(folder / "images"),
        "images/test/noise.npy": lambda: load_prepared(folder / "images"),
        "model/model.json": lambda: models.load(folder / "model"),
        "model/weights.safetensors": lambda: models.load(folder / "model"),
    }


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_sentence_that_says_what_to_run(damage: str, tmp_path: Path) -> None:
    for name, read in files_of_a_run(tmp_path).items():
        read()
        path = tmp_path / name
        whole = path.read_bytes()
        broken = DAMAGE[damage](whole)
        path.unlink()
        if broken is not None:
            path.write_bytes(broken)
        with pytest.raises(InputError) as caught:
            read()
        assert path.name in str(caught.value)
        assert "run the stage" in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)


def test_csv_has_the_columns_in_order(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("b", "a"), [{"a": 1, "b": 0.1 + 0.2}, {"a": "x", "b": -math.inf}])
    assert (tmp_path / "a.csv").read_text() == "b,a\n0.3,1\n-inf,x\n"


def test_npz_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_npz(tmp_path / f"{name}.npz", {"x": np.arange(100), "y": np.ones((2, 3), np.float32)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_npz_is_written_as_the_first_zip_files_were(tmp_path: Path) -> None:
    """Python's format of a streamed member depends on the patch release; the format of ``write_npz`` does not."""
    write_npz(tmp_path / "a.npz", {"x": np.arange(1000)})
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        (member,) = archive.infolist()
        assert (member.extract_version, member.flag_bits, member.date_time) == (20, 0, (1980, 1, 1, 0, 0, 0))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert np.array_equal(file["x"], np.arange(1000))


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_the_hash_sees_shape_type_and_values() -> None:
    array = np.arange(6, dtype=np.uint8)
    changed = array.copy()
    changed[3] += 1
    different = {sha256(a) for a in (array, array.reshape(2, 3), array.astype(np.int8), changed)}
    assert len(different) == 4
    assert sha256(array) == sha256(array.copy())
    assert sha256(np.arange(12, dtype=np.uint8)[::2]) == sha256(np.arange(0, 12, 2, dtype=np.uint8))


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [".gitignore", "a.json", ".a.json", "inner/.hidden.abcdefgh.txt", ".name.abcdefgh_.json", "a.abcdefgh.json"]
    (tmp_path / "inner").mkdir()
    for name in (*kept, ".a.json.ab_d3fgh.json", "inner/.done.abcdefgh", "inner/.a.b.csv.abcdefgh.csv"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
    remove_leftovers(tmp_path / "nowhere")


def test_the_names_of_temporary_files_are_known(tmp_path: Path) -> None:
    for name in ("a.json", "state.safetensors", "plain"):
        with atomic_path(tmp_path / name) as temporary:
            assert temporary.exists()
            remove_leftovers(tmp_path)
            assert not temporary.exists()
            temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "state.safetensors", "plain"}
