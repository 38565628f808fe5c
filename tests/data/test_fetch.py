"""Fetching, against a local server that misbehaves in every way that servers do."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bitsperdim.data import fetch as module
from bitsperdim.data.fetch import MissingError, RemoteFile, fetch
from bitsperdim.errors import InputError

CONTENT = bytes(range(256)) * 5000  # more than one chunk
PAGE = b"<!DOCTYPE html><html>Sign in to the wireless network</html>"
NAME = "images.gz"
REQUESTS: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how to behave."""

    def do_GET(self) -> None:  # the name is the library's
        manner = self.path.split("/")[1]
        REQUESTS[manner] += 1
        bodies = {
            "good": CONTENT,
            "flipped": CONTENT[:-1] + b"\x00",
            "short": CONTENT[: len(CONTENT) // 2],
            "long": CONTENT + b"more",
            "page": PAGE,
            "empty": b"",
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
        """Keep quiet."""


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
    REQUESTS.clear()


def remote(*addresses: str, checksum: str = "sha256") -> RemoteFile:
    digest = hashlib.new(checksum, CONTENT).hexdigest()
    return RemoteFile(NAME, len(CONTENT), f"{checksum}:{digest}", addresses)


@pytest.mark.parametrize("checksum", ["sha256", "md5"])
def test_a_good_file_arrives_once(server: str, checksum: str, tmp_path: Path) -> None:
    file = remote(f"{server}/good/{NAME}", checksum=checksum)
    for _ in range(2):
        assert fetch("set", file, tmp_path).read_bytes() == CONTENT
    assert REQUESTS["good"] == 1
    (tmp_path / NAME).write_bytes(CONTENT[:-1])  # what does not verify is fetched again
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
    """A port on which nobody listens, and a name that nobody has."""
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
