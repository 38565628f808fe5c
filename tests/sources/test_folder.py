"""A folder of the user's own pictures: read exactly, or refused in one sentence that names the file.

Single picture files are tested in ``test_picture_file.py``.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitsperdim.core.errors import InputError
from bitsperdim.sources import SOURCES

FOLDER = SOURCES["folder"]


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_lossless_pictures_come_back_in_the_order_of_their_names(shape: tuple[int, ...], tmp_path: Path) -> None:
    own = tmp_path / "own"
    for name, seed in (("b.png", 1), ("a.PNG", 0), ("test/z.webp", 3), ("test/y.png", 2), ("validation/x.png", 4)):
        options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
        save(own / name, pixels(seed, *shape), **options)
    (own / "notes.txt").write_text("not a picture")
    if len(shape) == 2:
        (own / "test" / "z.webp").unlink()  # WebP stores only colours
        save(own / "test" / "z.png", pixels(3, *shape))
    FOLDER.download(tmp_path / "raw", str(own))
    raw = FOLDER.read(tmp_path / "raw")
    seeds = {"train": [0, 1], "test": [2, 3], "validation": [4]}
    assert raw.images.keys() == seeds.keys()
    for split, expected in seeds.items():
        for image, seed in zip(raw.images[split], expected, strict=True):
            assert np.array_equal(image.transpose(1, 2, 0), pixels(seed, *shape).reshape(5, 4, -1))


def test_a_palette_is_read_as_colours_and_a_bilevel_picture_as_grey(tmp_path: Path) -> None:
    save(tmp_path / "p" / "a.png", pixels(0, 4, 4, 3))
    Image.fromarray(pixels(1, 4, 4, 3)).quantize(5).save(tmp_path / "p" / "b.png")
    FOLDER.download(tmp_path / "raw", str(tmp_path / "p"))
    assert FOLDER.read(tmp_path / "raw").images["train"].shape == (2, 3, 4, 4)
    (tmp_path / "g").mkdir()
    Image.fromarray(pixels(2, 4, 4)).convert("1").save(tmp_path / "g" / "a.png")
    FOLDER.download(tmp_path / "raw2", str(tmp_path / "g"))
    assert set(np.unique(FOLDER.read(tmp_path / "raw2").images["train"])) == {0, 255}


@pytest.mark.parametrize(
    ("name", "array", "sentence"),
    [
        ("test/x.png", pixels(0, 5, 5), r"x\.png has the shape \(1, 5, 5\) \(C, H, W\), but .*a\.png has \(1, 4, 5\)"),
        ("x.png", pixels(0, 4, 5, 3), r"x\.png has the shape \(3, 4, 5\)"),
        ("x.png", pixels(0, 4, 5, 4), r"x\.png has transparency \(an alpha channel\); save it without"),
        ("x.png", pixels(0, 4, 5).astype(np.uint16) * 256, r"x\.png has 16 bits a channel; save it with 8\."),
    ],
)
def test_pictures_that_are_not_alike_are_refused(name: str, array: np.ndarray, sentence: str, tmp_path: Path) -> None:
    save(tmp_path / "own" / "a.png", pixels(9, 4, 5))
    save(tmp_path / "own" / name, array)
    for read in (FOLDER.check, lambda path: FOLDER.download(tmp_path / "raw", path)):
        with pytest.raises(InputError, match=sentence):
            read(str(tmp_path / "own"))
    assert not (tmp_path / "raw").exists()


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    save(tmp_path / "own" / "a.png", pixels(9, 40, 50))
    path = tmp_path / "own" / "b.png"
    save(path, pixels(8, 40, 50))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"b\.png is not a readable picture"):
        FOLDER.download(tmp_path / "raw", str(tmp_path / "own"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("val/x.png", "holds a folder 'val', which would not be read"),
        ("Test/x.png", "holds a folder 'Test', which would not be read"),
        ("train/x.png", "holds a folder 'train', which would not be read"),
        ("test/test/x.png", "holds a folder 'test/test', which would not be read"),
        (".thumbnails/x.png", r"holds a folder '\.thumbnails', which would not be read"),
        ("a.png.old/x.png", r"holds a folder 'a\.png\.old', which would not be read"),
        ("test/notes.txt", "holds a folder 'test' without pictures"),
        ("x.tif", r"x\.tif would not be read; pictures are \.png"),
        ("validation/X.BMP", r"validation/X\.BMP would not be read; pictures are"),
    ],
)
def test_pictures_that_would_not_be_read_are_refused(name: str, sentence: str, tmp_path: Path) -> None:
    save(tmp_path / "own" / "a.png", pixels(9, 4, 5))
    for split in ("test", "validation"):
        save(tmp_path / "own" / split / "b.png", pixels(9, 4, 5))
    FOLDER.check(str(tmp_path / "own"))
    path = tmp_path / "own" / name
    if path.suffix == ".txt":
        (tmp_path / "own" / "test" / "b.png").unlink()
        path.write_text("none")
    else:
        save(path, pixels(9, 4, 5))
    with pytest.raises(InputError, match=sentence):
        FOLDER.check(str(tmp_path / "own"))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"is not a folder; set dataset\.name to npz"):
        FOLDER.check(str(tmp_path / "own.npz"))


def test_a_folder_without_pictures_is_found_before_any_work(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "holds no pictures; dataset"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(InputError, match=words):
            FOLDER.check(str(path))


def test_a_folder_that_is_a_link_is_refused_and_a_file_is_read(tmp_path: Path) -> None:
    """DVC does not hash the content behind a link to a folder, so changed pictures would not be noticed."""
    save(tmp_path / "elsewhere" / "a.png", pixels(0, 4, 5))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "b.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    FOLDER.download(tmp_path / "raw", str(tmp_path / "own"))
    assert np.array_equal(FOLDER.read(tmp_path / "raw").images["train"][:][0, 0], pixels(0, 4, 5))
    (tmp_path / "own" / "test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"holds a link 'test' to a folder.*; replace the link by a folder"):
        FOLDER.check(str(tmp_path / "own"))


def entries(folder: Path) -> dict[str, Path]:
    """Make one of each kind of entry that a folder can hold, with pictures as content or not."""
    save(folder / "good.png", pixels(0, 4, 5))
    content = (folder / "good.png").read_bytes()
    made = {name: folder / name for name in ("a.PNG", "b.jfif", "c.gif", ".d.png", "e", "f.txt", "._g.png", "h.webp")}
    for path in made.values():
        path.write_bytes(content)
    (folder / "f.txt").write_bytes(b"text")
    (folder / "h.webp").write_bytes(b"text")
    (folder / "folder").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "broken.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    return made | {name: folder / name for name in ("folder", "loop.png", "broken.txt", "pipe.txt")}


def test_every_entry_is_read_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each entry is tested beside a good picture; no entry is ignored without a message."""
    read = []
    for name in entries(tmp_path / "all"):
        own = tmp_path / f"own {name}"
        made = entries(own)
        for other, path in made.items():
            if other != name:
                path.rmdir() if path.is_dir() else path.unlink()
        try:
            FOLDER.download(tmp_path / "raw", str(own))
            said = capsys.readouterr().out
        except InputError as error:
            said = str(error)
            assert ";" in said  # followed by what to do
        else:
            if len(FOLDER.read(tmp_path / "raw").images["train"]) == 2:
                read.append(name)
                continue
        assert name in said.replace(str(own), "").replace(repr(str(own)), ""), name
    assert read == ["a.PNG", "b.jfif"]
