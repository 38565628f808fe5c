"""Nothing that lies in a file is run, unpacked outside of its folder, or grows without bound: hostile files.

A payload is an object that makes a folder when it is unpickled.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitsperdim import models
from bitsperdim.comparing.source import of_recipe
from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.core.errors import InputError
from bitsperdim.data import preparation
from bitsperdim.data.prepared import load_prepared
from bitsperdim.results.reading import read_arrays
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.sources import SOURCES, RawImages, binarized_mnist, cifar10, idx
from bitsperdim.sources.base import gunzipped
from bitsperdim.sources.fetch import RemoteFile
from support.metrics import metrics_of

FORBIDDEN_CALLS = {"eval", "exec", "__import__", "system", "popen", "extractall", "extract", "unpack_archive"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "cloudpickle"}


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def containers(payload: Payload, names: list[str]) -> dict[str, bytes]:
    """A payload as each kind of file that some library would unpickle."""
    objects, archive, own = io.BytesIO(), io.BytesIO(), io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = payload
    np.save(objects, array, allow_pickle=True)
    np.savez(archive, **dict.fromkeys(names, array))
    torch.save({"a": payload}, own)
    made = {"npy": objects, "npz": archive, "torch": own}
    return {"pickle": pickle.dumps(payload)} | {kind: buffer.getvalue() for kind, buffer in made.items()}


def readers(folder: Path) -> dict[str, Callable[[], object]]:
    """Every kind of file that is read, by name, and what reads it; all are good at first."""
    SOURCES["digits"].download(folder / "digits", "")
    images = np.arange(60 * 4, dtype=np.uint8).reshape(60, 1, 2, 2)
    labels = np.arange(60) % 10
    dataset = DatasetSection(name="npz", path="x", n_levels=None, validation_fraction=0.1, test_fraction=0.2, seed=0)
    raw = RawImages({"train": images}, {"train": labels})
    preparation.prepare(raw, dataset, DequantizeSection(bits=None, binarization="none"), 256, folder / "images")
    np.savez(folder / "own.npz", train=images[:, 0], train_labels=labels)
    SOURCES["npz"].download(folder / "raw", str(folder / "own.npz"))
    model = models.build("histogram", {"pseudocount": 1.0}, (1, 2, 2), 4)
    models.save(model, "histogram", {"pseudocount": 1.0}, folder / "model")
    (folder / "mine").mkdir()
    Image.fromarray(images[0, 0]).save(folder / "mine" / "a.png")
    (folder / "mnist").mkdir()
    for (_, kind), name in idx.FILES.items():
        shape = (3, 2, 2) if kind == "images" else (3,)
        header = bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
        (folder / "mnist" / name).write_bytes(gzip.compress(header + bytes(int(np.prod(shape)))))
    (folder / "recipes" / "results").mkdir(parents=True)
    log_p = np.array([[-3.0, -2.0]])
    entry = {"metrics": metrics_of(log_p)}
    (folder / "recipes/results/big.json").write_text(json.dumps({"models": {"vae": entry}, "params": {}}))
    np.savez(folder / "recipes" / "results" / "big.npz", vae=log_p.astype(np.float32))
    return {
        "digits/digits.npz": lambda: SOURCES["digits"].read(folder / "digits"),
        "own.npz": lambda: SOURCES["npz"].download(folder / "raw", str(folder / "own.npz")),
        "raw/train.npy": lambda: SOURCES["npz"].read(folder / "raw"),
        "raw/train_labels.npy": lambda: SOURCES["npz"].read(folder / "raw"),
        "images/train/images.npy": lambda: load_prepared(folder / "images"),
        "images/train/labels.npy": lambda: load_prepared(folder / "images"),
        "images/test/noise.npy": lambda: load_prepared(folder / "images"),
        "images/description.json": lambda: load_prepared(folder / "images"),
        "model/weights.safetensors": lambda: models.load(folder / "model"),
        "model/model.json": lambda: models.load(folder / "model"),
        "mine/a.png": lambda: SOURCES["folder"].download(folder / "raw of mine", str(folder / "mine")),
        f"mnist/{idx.FILES['train', 'images']}": lambda: SOURCES["mnist"].read(folder / "mnist"),
        "recipes/results/big.npz": lambda: of_recipe(folder, "big").read("vae").images(),
        "recipes/results/big.json": lambda: of_recipe(folder, "big"),
    }


def test_payloads_work_where_they_are_unpickled(tmp_path: Path) -> None:
    """The next test can fail."""
    for kind, content in containers(Payload(tmp_path / "made"), ["a"]).items():
        if kind == "pickle":
            pickle.loads(content)
        elif kind == "torch":
            torch.load(io.BytesIO(content), weights_only=False)
        else:
            loaded = np.load(io.BytesIO(content), allow_pickle=True)
            assert kind == "npy" or len(loaded["a"])
        (tmp_path / "made").rmdir()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """Each file, replaced by each kind of payload, is one sentence that names it; the payload does nothing."""
    for name, read in readers(tmp_path).items():
        read()
        path = tmp_path / name
        whole = path.read_bytes()
        arrays = ["images", "labels", "train", "vae"]
        for kind, content in containers(Payload(tmp_path / "made"), arrays).items():
            path.write_bytes(content)
            with pytest.raises(InputError) as caught:
                read()
            assert path.name in str(caught.value), (name, kind)
            assert not (tmp_path / "made").exists(), (name, kind)
        path.write_bytes(whole)


def test_no_flipped_byte_gives_a_traceback(tmp_path: Path) -> None:
    """Each of 60 bytes of each file, spread over it, changed in turn: it is read or refused, in one line."""
    n_refused = 0
    for name, read in readers(tmp_path).items():
        path = tmp_path / name
        whole = path.read_bytes()
        for place in np.linspace(0, len(whole) - 1, 60).round().astype(int):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
            try:
                read()
            except InputError:
                n_refused += 1
        path.write_bytes(whole)
    assert n_refused > 300


def test_a_checkpoint_is_not_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Checkpoint(tmp_path / "a", "0123")
    checkpoint.save({"x": torch.ones(3)}, {"step": 1})
    assert checkpoint.load() is not None
    for content in containers(Payload(tmp_path / "made"), ["x"]).values():
        (tmp_path / "a" / "state.safetensors").write_bytes(content)
        assert checkpoint.load() is None
        assert "cannot be used" in capsys.readouterr().err
        assert not (tmp_path / "made").exists()


def test_arrays_of_results_are_not_unpickled(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(1000))
    assert len(read_arrays(tmp_path / "a.npz", {"x": (None,)})["x"]) == 1000
    whole = (tmp_path / "a.npz").read_bytes()
    middle = len(whole) // 2  # of the compressed values
    damaged = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for content in (damaged, *containers(Payload(tmp_path / "made"), ["x"]).values()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz does not have the arrays x, or is damaged\."):
            read_arrays(tmp_path / "a.npz", {"x": (None,)})
        assert not (tmp_path / "made").exists()


def hostile_tar(outside: Path) -> bytes:
    """Members that lead out of the folder by their names, by links, or are no files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in (
            "../escaped",
            str(outside / "escaped"),
            "cifar-10-batches-py/../../escaped2",
            "a/b/c/data_batch_1",
        ):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"here"))
        for name, kind, target in (
            ("cifar-10-batches-py", tarfile.SYMTYPE, str(outside)),
            ("out", tarfile.SYMTYPE, ".."),
            ("device", tarfile.CHRTYPE, ""),
            ("pipe", tarfile.FIFOTYPE, ""),
            ("folder/..", tarfile.DIRTYPE, ""),
            ("hard", tarfile.LNKTYPE, "../escaped"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, target, 0o4777
            archive.addfile(member)
    return buffer.getvalue()


def remote(folder: Path, name: str, content: bytes) -> RemoteFile:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return RemoteFile(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


def test_an_archive_never_leaves_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one with the right checksum: only plain files come out of it, by their last names, with plain modes."""
    monkeypatch.setenv("BITSPERDIM_MIRROR", str(tmp_path / "mirror"))
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = remote(tmp_path / "mirror" / "cifar-10", cifar10.ARCHIVE.name, hostile_tar(outside))
    monkeypatch.setattr(cifar10, "ARCHIVE", archive)
    raw = tmp_path / "deep" / "raw"
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz is damaged"):  # the link leads to no member
        SOURCES["cifar10"].download(raw, "unused")
    unpacked = raw / cifar10.BATCHES
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
    base = f"deep/raw/{cifar10.BATCHES}"
    names = {"escaped", "escaped2", "data_batch_1"}
    archives = {f"mirror/cifar-10/{archive.name}", f"deep/raw/{archive.name}"}
    assert found == archives | {f"{base}/{name}" for name in names}
    assert not any(path.is_symlink() or path.stat().st_mode & 0o7111 for path in unpacked.iterdir())


def test_a_member_that_is_called_as_the_folder_above_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSPERDIM_MIRROR", str(tmp_path / "mirror"))
    for name in ("a/..", ".", "/"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as content:
            member = tarfile.TarInfo(name)
            member.size = 4
            content.addfile(member, io.BytesIO(b"here"))
        archive = remote(tmp_path / "mirror" / "cifar-10", cifar10.ARCHIVE.name, buffer.getvalue())
        monkeypatch.setattr(cifar10, "ARCHIVE", archive)
        with pytest.raises(InputError, match="is damaged"):
            SOURCES["cifar10"].download(tmp_path / "raw", "unused")
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {archive.name}


def npy(shape: str, dtype: str = "|u1", content: bytes = b"1234") -> bytes:
    """A .npy file with a header of one's own."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../train.npy", npy("(1, 2, 2)")),
        ("/etc/train.npy", npy("(1, 2, 2)")),
        ("..\\train.npy", npy("(1, 2, 2)")),
        ("train.npy/../test.npy", npy("(1, 2, 2)")),
        ("\x1b[31m\n" * 900 + ".npy", npy("(1, 2, 2)")),
        ("train.npy", npy("(1000000000000, 2, 2)")),
        ("train.npy", npy(f"({2**70}, 2, 2)")),
        ("train.npy", npy("(1, 1000000, 1000000)")),
        ("train.npy", npy("(-1, -2, 2)")),
        ("train.npy", npy("(1, 2, 2)", "|O")),
        ("train.npy", npy("(1, 2, 2)", "|V9999999")),
        ("train.npy", npy("(" * 900 + ")" * 900)),
        ("train.npy", npy("(1, 2, 2)", content=b"12345")),
        ("train.npy", npy("__import__('os').mkdir('made')")),
    ],
)
def test_a_hostile_array_is_one_sentence_and_little_memory(name: str, content: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr(name, content)
    with pytest.raises(InputError) as caught:
        SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / "own.npz"))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]


def test_a_gzipped_file_is_unpacked_no_further_than_its_data_set_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 MB of zeros in 100 kB: what is read of them is a byte more than was to be expected."""
    bomb = gzip.compress(bytes(10**8))
    path = tmp_path / "a.gz"
    path.write_bytes(bomb)
    n_read: list[int] = []
    original = gzip.GzipFile.read

    def read(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        content = original(self, size)
        n_read.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", read)
    with pytest.raises(InputError, match=r"a\.gz holds more than 1,000 bytes; remove it and run 'download' again\."):
        gunzipped(path, 1_000)
    with pytest.raises(InputError, match=r"a\.gz holds more than 47,040,016 bytes"):
        idx.read_idx(path)
    path.rename(tmp_path / binarized_mnist.GZIPPED["test"].name)
    for split in ("train", "validation"):
        (tmp_path / binarized_mnist.GZIPPED[split].name).write_bytes(bomb)
    with pytest.raises(InputError, match="holds more than 78,400,000 bytes"):
        SOURCES["binarized_mnist"].read(tmp_path)
    assert n_read == [1_001, 47_040_017, 78_400_001]


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: c[:20] + b"?" * 40 + c[60:], lambda _: b"\x1f\x8b"])
def test_a_damaged_gzip_file_is_one_sentence(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = gzip.compress(np.random.default_rng(0).bytes(1_000))
    (tmp_path / "a.gz").write_bytes(damage(content))
    with pytest.raises(InputError, match=r"a\.gz is not a readable gzip file \(.*\); remove it"):
        gunzipped(tmp_path / "a.gz", 10_000)


def test_an_idx_file_of_200_axes_is_one_sentence(tmp_path: Path) -> None:
    for n_axes in (0, 2, 200):
        content = bytes([0, 0, 8, n_axes]) + (1).to_bytes(4, "big") * n_axes + b"x"
        (tmp_path / "a.gz").write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match="is not an IDX file of bytes"):
            idx.read_idx(tmp_path / "a.gz")


def png(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and is not."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(b""), b"IEND"]
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_pictures_that_are_no_pictures_are_one_sentence(tmp_path: Path) -> None:
    """Hostile names, a picture that would fill the memory, and files of which reading would not end."""
    own = tmp_path / "own"
    own.mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(own / "a.png")
    Image.fromarray(np.full((2, 2), 7, np.uint8)).save(tmp_path / "elsewhere.png")
    (own / "b.png").symlink_to(tmp_path / "elsewhere.png")
    (own / "loop.png").symlink_to("loop.png")
    (own / "broken.png").symlink_to("nowhere")
    os.mkfifo(own / "pipe.png")
    (own / "folder.png").mkdir()
    for name, words in (
        ("broken.png", "leads nowhere"),
        ("loop.png", "leads nowhere"),
        ("pipe.png", "is neither a file nor a folder"),
        ("folder.png", "which would not be read"),
    ):
        with pytest.raises(InputError, match=rf"{name}.*{words}"):
            SOURCES["folder"].download(tmp_path / "raw", str(own))
        (own / name).unlink() if name != "folder.png" else (own / name).rmdir()
    assert not (tmp_path / "raw").exists()
    SOURCES["folder"].download(tmp_path / "raw", str(own))
    assert SOURCES["folder"].read(tmp_path / "raw").images["train"][:][:, 0, 0, 0].tolist() == [0, 7]
    before = {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()}
    secret = tmp_path / "secret.txt"
    secret.write_text("a password")
    bad: dict[str, tuple[bytes | Path, str]] = {
        "c.png": (png(100_000, 100_000), r"c\.png has 100,000 x 100,000 pixels"),
        "<script>alert(1)<\n\x1b[31m.png": (b"x", r"\\n\\x1b\[31m\.png is not a PNG"),
        "\"'$(touch made)`;.png": (png(3, 3), "has the shape"),
        "\udcff.png": ((own / "a.png").read_bytes(), "not UTF-8 text"),
        "d.png": (secret, r"d\.png is not a PNG"),
    }
    for name, (content, words) in bad.items():
        path = own / name
        path.symlink_to(content) if isinstance(content, Path) else path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            SOURCES["folder"].download(tmp_path / "raw", str(own))
        assert str(caught.value).isprintable()
        assert "password" not in str(caught.value)
        path.unlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == before


def test_a_sentence_is_printable() -> None:
    sentence = str(InputError("a\nb \x1b[31m \u202e \ud800 \x00 é ± 'c' 1,000 …"))
    assert sentence == r"a\nb \x1b[31m \u202e \ud800 \x00 é ± 'c' 1,000 …"


INTENDED = {"loading.py": ["exec"]}  # of a model's own file, which its user names (bitsperdim.models.external.loading)


def faults(source: str) -> list[str]:
    """Calls that run or unpickle what they are given, and arrays that are loaded without saying that they do not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        is_method = isinstance(called, ast.Attribute)
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        owner = getattr(called.value, "id", "") if isinstance(called, ast.Attribute) else ""
        keywords = {word.arg: getattr(word.value, "value", word) for word in node.keywords}
        if name in FORBIDDEN_CALLS and not (is_method and name == "eval"):  # model.eval() is another thing
            found.append(name)
        if keywords.get("shell", False) is not False:
            found.append("shell")
        if keywords.get("allow_pickle", False) is not False:
            found.append("allow_pickle")
        if (owner, name) == ("np", "load") and "allow_pickle" not in keywords:
            found.append("np.load")
        if (owner, name) == ("torch", "load") and keywords.get("weights_only") is not True:
            found.append("torch.load")
        if name == "YAML" and keywords.get("typ", "rt") not in ("safe", "rt"):
            found.append("YAML")
    return found


def test_the_code_runs_and_unpickles_nothing_that_it_reads(repository: Path) -> None:
    files = [path for folder in ("src", "stages") for path in (repository / folder).rglob("*.py")]
    assert len(files) > 100
    found = {path.name: faults(path.read_text(encoding="utf-8")) for path in files}
    assert {name: each for name, each in found.items() if each} == INTENDED


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from joblib import load", "eval(x)", "exec(x)", "os.system(x)", "tar.extractall(x)"),
        *("subprocess.run(x, shell=True)", "run(x, shell=y)", "np.load(x)", "np.load(x, allow_pickle=True)"),
        *("torch.load(x)", "torch.load(x, weights_only=False)", "YAML(typ='unsafe')", "__import__(x)", "import yaml"),
    ],
)
def test_a_fault_is_found(line: str) -> None:
    assert faults(line)
    assert not faults("model.eval(); np.load(x, allow_pickle=False); YAML(typ='safe'); subprocess.run(x); YAML()")
    assert not faults("torch.load(x, weights_only=True)")
