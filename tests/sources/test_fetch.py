"""Fetching from a local server that fails in every way in which servers fail."""

import gzip
import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.sources import fetch as module
from bitsperdim.sources.fetch import MissingError, RemoteFile, fetch

CONTENT = bytes(range(256)) * 5000  # more than one chunk
PAGE = b"<!DOCTYPE html><html>Sign in to the wireless network</html>"
NAME = "images.gz"
PIXELS = bytes(range(0, 256, 5)) * 4000
ZIPPED = gzip.compress(PIXELS, 9, mtime=0)
REQUESTS: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    """A handler whose behaviour is the first part of the path."""

    def do_GET(self) -> None:  # the name is given by http.server
        manner = self.path.split("/")[1]
        REQUESTS[manner] += 1
        bodies = {
            "good": CONTENT,
            "flipped": CONTENT[:-1] + b"\x00",
            "short": CONTENT[: len(CONTENT) // 2],
            "long": CONTENT + b"more",
            "page": PAGE,
            "empty": b"",
            "again": gzip.compress(PIXELS, 1),
            "other": gzip.compress(PIXELS[::-1]),
            "cut": ZIPPED[:-9],
        }
        statuses = {"missing": 404, "forbidden": 403, "broken": 500, "busy": 503}
        if manner == "second-time":
            manner = "good" if REQUESTS[manner] > 1 else "busy"
        if manner in statuses:
            self.send_error(statuses[manner])
            return
        body = bodies["short"] if manner == "dropped" else bodies[manner]
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) if manner == "dropped" else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.delenv("BITSPERDIM_MIRROR", raising=False)
    monkeypatch.delenv("BITSPERDIM_REPOSITORY", raising=False)
    REQUESTS.clear()


@pytest.fixture(autouse=True)
def workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which the stages run; it is empty at first."""
    folder = tmp_path_factory.mktemp("workspace")
    monkeypatch.chdir(folder)
    return folder


def remote(*addresses: str, checksum: str = "sha256") -> RemoteFile:
    digest = hashlib.new(checksum, CONTENT).hexdigest()
    return RemoteFile(NAME, len(CONTENT), f"{checksum}:{digest}", addresses)


def gzipped(*addresses: str) -> tuple[RemoteFile, RemoteFile]:
    """Return a published file and its content."""
    digests = [hashlib.sha256(content).hexdigest() for content in (ZIPPED, PIXELS)]
    file = RemoteFile(NAME, len(ZIPPED), f"sha256:{digests[0]}", addresses)
    return file, RemoteFile("images", len(PIXELS), f"sha256:{digests[1]}")


@pytest.mark.parametrize("checksum", ["sha256", "md5"])
def test_a_good_file_arrives_once(server: str, checksum: str, tmp_path: Path) -> None:
    file = remote(f"{server}/good/{NAME}", checksum=checksum)
    for _ in range(2):
        assert fetch("set", file, tmp_path).read_bytes() == CONTENT
    assert REQUESTS["good"] == 1
    (tmp_path / NAME).write_bytes(CONTENT[:-1])  # a file that fails the verification is fetched again
    assert fetch("set", file, tmp_path).read_bytes() == CONTENT
    assert REQUESTS["good"] == 2


@pytest.mark.parametrize(
    ("manner", "sentence", "n_requests"),
    [
        ("flipped", "has the size of images.gz of 1,280,000 bytes, but not its checksum (sha256:", 1),
        ("page", "is a web page, not images.gz of 1,280,000 bytes.", 1),
        ("long", "is longer than images.gz of 1,280,000 bytes.", 1),
        ("short", "could not be fetched in 3 tries: it ended after 640,000 of 1,280,000 bytes.", 3),
        ("dropped", "could not be fetched in 3 tries: ", 3),
        ("empty", "it ended after 0 of 1,280,000 bytes.", 3),
        ("missing", "does not exist (status 404).", 1),
        ("forbidden", "was refused (status 403).", 1),
        ("broken", "could not be fetched in 3 tries: the server answered with status 500.", 3),
        ("busy", "the server answered with status 503.", 3),
    ],
)
def test_a_bad_answer_is_one_sentence_and_leaves_nothing(
    server: str, manner: str, sentence: str, n_requests: int, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        fetch("set", remote(f"{server}/{manner}/{NAME}"), tmp_path)
    text = str(caught.value)
    assert sentence in text
    assert f"{server}/{manner}/{NAME}" in text
    assert text.endswith("A mirror can be named by BITSPERDIM_MIRROR.")
    assert "\n" not in text
    assert REQUESTS[manner] == n_requests
    assert not list(tmp_path.iterdir())
    assert isinstance(caught.value, MissingError) == (manner == "missing")


def test_what_fails_for_a_moment_is_tried_again(server: str, tmp_path: Path) -> None:
    assert fetch("set", remote(f"{server}/second-time/{NAME}"), tmp_path).read_bytes() == CONTENT
    assert REQUESTS["second-time"] == 2


def test_the_next_address_is_tried(server: str, tmp_path: Path) -> None:
    addresses = [f"{server}/{manner}/{NAME}" for manner in ("missing", "flipped", "good")]
    assert fetch("set", remote(*addresses), tmp_path).read_bytes() == CONTENT


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    """The cases are a port without a server, and an unknown host name."""
    for address in ("http://127.0.0.1:9/x", "http://nowhere.invalid/x"):
        with pytest.raises(InputError, match="could not be fetched in 3 tries: no connection"):
            fetch("set", remote(address), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mirror_is_asked_and_nothing_else(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = remote(f"{server}/good/{NAME}")
    monkeypatch.setenv("BITSPERDIM_MIRROR", f"{server}/missing/")
    with pytest.raises(MissingError, match=r"/missing/set/images\.gz does not exist \(status 404\)\.$"):
        fetch("set", official, tmp_path / "a")
    assert REQUESTS["good"] == 0
    monkeypatch.setenv("BITSPERDIM_MIRROR", f"{server}/good")
    assert fetch("set", remote(), tmp_path / "a").read_bytes() == CONTENT


def test_a_mirror_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror" / "set").mkdir(parents=True)
    monkeypatch.setenv("BITSPERDIM_MIRROR", str(tmp_path / "mirror"))
    source = tmp_path / "mirror" / "set" / NAME
    with pytest.raises(MissingError, match=r"set/images\.gz does not exist\."):
        fetch("set", remote(), tmp_path / "a")
    source.write_bytes(CONTENT[:-1] + b"\x00")
    with pytest.raises(InputError, match="not its checksum"):
        fetch("set", remote(), tmp_path / "a")
    source.write_bytes(CONTENT)
    assert fetch("set", remote(), tmp_path / "a").read_bytes() == CONTENT


def test_a_file_without_an_address_needs_a_mirror(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="has no official address; name a mirror"):
        fetch("set", remote(), tmp_path)


def own(folder: Path, name: str, content: bytes) -> Path:
    """Put a file into the user's folder of the repository ``folder``."""
    path = folder / "data" / "raw" / "set" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("name", "content"), [(NAME, ZIPPED), (NAME, gzip.compress(PIXELS, 1)), ("images", PIXELS)])
@pytest.mark.parametrize("where", ["raw", "mirror"])
def test_any_file_of_the_same_content_will_do(
    where: str, name: str, content: bytes, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As published, compressed in another way, or unpacked; the file keeps its form and is not fetched again."""
    file, unpacked = gzipped()
    if where == "mirror":
        monkeypatch.setenv("BITSPERDIM_MIRROR", str(tmp_path / "mirror"))
        given = tmp_path / "mirror" / "of-set" / name
        given.parent.mkdir(parents=True)
        given.write_bytes(content)
    else:
        given = own(workspace, name, content)
    fetched = fetch("of-set", file, tmp_path / "set", unpacked)
    assert (fetched.name, fetched.read_bytes(), given.read_bytes()) == (name, content, content)
    given.unlink()
    assert fetch("of-set", file, tmp_path / "set", unpacked) == fetched


def test_what_the_user_has_is_used_before_any_server_is_asked(server: str, workspace: Path, tmp_path: Path) -> None:
    own(workspace, NAME, CONTENT)
    assert fetch("of-set", remote(f"{server}/good/{NAME}"), tmp_path / "set").read_bytes() == CONTENT
    assert REQUESTS["good"] == 0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (NAME, gzip.compress(PIXELS[::-1]), "is a whole gzip file, but its content is not that of the published"),
        (NAME, gzip.compress(PIXELS + b"!"), "is a whole gzip file, but its content is not that of the published"),
        (NAME, gzip.compress(bytes(10**7)), "is a whole gzip file, but its content is not that of the published"),
        (NAME, ZIPPED[:-9], f"is not images.gz of {len(ZIPPED):,} bytes: it has {len(ZIPPED) - 9:,} bytes."),
        (NAME, ZIPPED[:-1] + b"!", "has the size of images.gz of "),
        (NAME, PAGE, f"is a web page, not images.gz of {len(ZIPPED):,} bytes."),
        (NAME, bytes(10**7), f"is longer than images.gz of {len(ZIPPED):,} bytes."),
        ("images", PIXELS[:-1], "is not images of 208,000 bytes: it has 207,999 bytes."),
        ("images", PIXELS[:-1] + b"!", "has the size of images of 208,000 bytes, but not its checksum (sha256:"),
    ],
)
def test_a_file_of_the_user_that_is_another_is_refused_and_left_alone(
    server: str,
    name: str,
    content: bytes,
    sentence: str,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is fetched instead, and reading from a disk is not tried again."""
    path = own(workspace, name, content)
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    file, unpacked = gzipped(f"{server}/good/{NAME}")
    with pytest.raises(InputError) as caught:
        fetch("of-set", file, tmp_path / "set", unpacked)
    text = str(caught.value)
    assert text.startswith(f"{path.relative_to(workspace)} {sentence}")
    assert text.endswith(" Remove it from there, or put the published file in its place.")
    assert path.read_bytes() == content
    assert not list((tmp_path / "set").iterdir())
    assert len(pauses) == 1
    assert not REQUESTS


def test_a_link_of_the_user_that_leads_nowhere_is_refused(workspace: Path, tmp_path: Path) -> None:
    own(workspace, NAME, b"").unlink()
    (workspace / "data" / "raw" / "set" / NAME).symlink_to("gone")
    with pytest.raises(InputError, match=r"data/raw/set/images\.gz does not exist\. Remove it from there"):
        fetch("of-set", remote(), tmp_path / "set")


@pytest.mark.parametrize(
    ("manner", "sentence", "n_requests"),
    [
        ("again", None, 1),
        ("other", "is a whole gzip file, but its content is not that of the published images.gz.", 1),
        ("cut", "could not be fetched in 3 tries: it ended after ", 3),
    ],
)
def test_a_server_may_have_compressed_a_file_again(
    server: str, manner: str, sentence: str | None, n_requests: int, tmp_path: Path
) -> None:
    file, unpacked = gzipped(f"{server}/{manner}/{NAME}")
    if sentence is None:
        assert gzip.decompress(fetch("set", file, tmp_path, unpacked).read_bytes()) == PIXELS
    else:
        with pytest.raises(InputError) as caught:
            fetch("set", file, tmp_path, unpacked)
        assert sentence in str(caught.value)
        assert not list(tmp_path.iterdir())
    assert REQUESTS[manner] == n_requests


@pytest.mark.parametrize("copy", [".", ".dvc/tmp/exps/standalone/tmp1", "runs/mnist-cpu"])
@pytest.mark.parametrize("written", ["../mirror", "~/mirror", "file://{}/mirror", "FILE://localhost{}/mirror"])
def test_a_mirror_is_where_the_user_said_also_in_a_copy_of_the_repository(
    copy: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --temp` and recipes run in another folder; the user's own files are found from there too."""
    root = tmp_path / "repository"
    (root / copy).mkdir(parents=True)
    monkeypatch.chdir(root / copy)
    if copy.startswith("runs"):
        monkeypatch.setenv("BITSPERDIM_REPOSITORY", str(root))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BITSPERDIM_MIRROR", written.format(tmp_path))
    mirror = tmp_path / "mirror" / "of-set" / NAME
    with pytest.raises(MissingError, match=r"/mirror/of-set/images\.gz does not exist\."):
        fetch("of-set", remote(), Path("set"))
    mirror.parent.mkdir(parents=True)
    mirror.write_bytes(CONTENT)
    assert fetch("of-set", remote(), Path("set")).read_bytes() == CONTENT
    (Path("set") / NAME).unlink()
    own(root, NAME, CONTENT[:-1])
    with pytest.raises(InputError, match="Remove it from there"):
        fetch("of-set", remote(), Path("set"))


@pytest.mark.parametrize(
    ("mirror", "sentence"),
    [
        (
            "s3://bucket/sets",
            "BITSPERDIM_MIRROR = 's3://bucket/sets' is not allowed; name a folder, or an http or https",
        ),
        ("~nobody-of-this-name/x", "BITSPERDIM_MIRROR = '~nobody-of-this-name/x' names the home folder of a user who"),
        ("http://[", "'http://[/set/images.gz' is not an address."),
        ("http://a..b", "'http://a..b/set/images.gz' is not an address."),
        ("http://127.0.0.1/a b", "'http://127.0.0.1/a b/set/images.gz' is not an address."),
    ],
)
def test_a_mirror_that_is_none_is_one_sentence(
    mirror: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSPERDIM_MIRROR", mirror)
    with pytest.raises(InputError) as caught:
        fetch("set", remote(), tmp_path)
    assert str(caught.value).startswith(sentence)
