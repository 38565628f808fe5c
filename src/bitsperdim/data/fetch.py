"""Fetching published files: from their official address or a mirror, verified, whole or not at all.

``BITSPERDIM_MIRROR`` names a folder or a URL that holds ``<data set>/<file>``; where it is set, nothing
else is asked. A file that is already there and verifies is not fetched again. Nothing is unpacked here.

Every failure is one sentence (:class:`~bitsperdim.errors.InputError`), and leaves no part of a file.

Invariants (``tests/data/test_fetch.py``, against a local server that misbehaves in each way): a file
that is cut short, has a flipped byte, is an error page, or is not there is refused by name; what
fails for a moment is tried again.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from bitsperdim.errors import InputError
from bitsperdim.files import atomic_path

VARIABLE = "BITSPERDIM_MIRROR"
CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without a byte
PAUSES = (1.0, 3.0)  # seconds before the second and the third try


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: in its folder, here and on a mirror.
        size: in bytes.
        checksum: ``sha256:`` or ``md5:`` and the hexadecimal digest of its bytes; md5 where the publisher
            gives nothing better.
        addresses: where it is published, tried in turn.
    """

    name: str
    size: int
    checksum: str
    addresses: tuple[str, ...] = ()


class MissingError(InputError):
    """The file is not at any of the places where it was looked for."""


class _Again(Exception):  # noqa: N818 - not an error until it happens too often
    """A failure that may pass: say what it was."""


def fetch(dataset: str, file: RemoteFile, folder: Path) -> Path:
    """Put a verified copy of a published file into ``folder`` and return its path.

    Args:
        dataset: the folder of the data set on a mirror.
        file: what to fetch.
        folder: made if need be.

    Raises:
        MissingError: it is nowhere.
        InputError: what was found is not the file, or no place could be reached.
    """
    path = folder / file.name
    if path.is_file() and _checksum(path, file) == file.checksum:
        return path
    mirror = os.environ.get(VARIABLE)
    places = (_on_mirror(mirror, dataset, file.name),) if mirror else file.addresses
    problems: list[InputError] = []
    for place in places:
        try:
            _fetch_from(place, file, path)
        except InputError as error:
            problems.append(error)
        else:
            return path
    if not problems:
        raise MissingError(f"{file.name} has no official address; name a mirror that has it by {VARIABLE}.")
    sentence = " ".join(str(problem) for problem in problems)
    kind = MissingError if all(isinstance(problem, MissingError) for problem in problems) else InputError
    raise kind(sentence if mirror else f"{sentence} A mirror can be named by {VARIABLE}.")


def _on_mirror(mirror: str, dataset: str, name: str) -> str:
    if urllib.parse.urlsplit(mirror).scheme in ("http", "https"):
        return f"{mirror.rstrip('/')}/{dataset}/{name}"
    return str(Path(mirror) / dataset / name)


def _fetch_from(place: str, file: RemoteFile, path: Path) -> None:
    """Try one place, again where the failure may pass."""
    problem = ""
    for pause in (0.0, *PAUSES):
        time.sleep(pause)
        try:
            with _open(place) as source, atomic_path(path) as temporary:
                _copy_verified(source, file, place, temporary)
            return
        except _Again as error:
            problem = str(error)
    raise InputError(f"{place} could not be fetched in {1 + len(PAUSES)} tries: {problem}.")


def _open(place: str) -> IO[bytes]:
    if urllib.parse.urlsplit(place).scheme not in ("http", "https"):
        try:
            return Path(place).open("rb")
        except FileNotFoundError as error:
            raise MissingError(f"{place} does not exist.") from error
        except OSError as error:
            raise InputError(f"{place} cannot be read: {error.strerror}.") from error
    request = urllib.request.Request(place, headers={"User-Agent": "bitsperdim"})
    try:
        response: IO[bytes] = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise MissingError(f"{place} does not exist (status {error.code}).") from error
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Again(f"the server answered with status {error.code}") from error
        raise InputError(f"{place} was refused (status {error.code}).") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _Again(f"no connection ({getattr(error, 'reason', None) or error})") from error
    return response


def _copy_verified(source: IO[bytes], file: RemoteFile, place: str, path: Path) -> None:
    algorithm = file.checksum.split(":")[0]
    digest, n_bytes, start = hashlib.new(algorithm), 0, b""
    with path.open("wb") as out, tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, disable=None) as bar:
        while n_bytes <= file.size:  # a byte more than expected is enough to refuse
            try:
                chunk = source.read(CHUNK)
            except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
                raise _Again(f"the connection broke after {n_bytes:,} of {file.size:,} bytes") from error
            if not chunk:
                break
            start = start or chunk[:256]
            digest.update(chunk)
            out.write(chunk)
            n_bytes += len(chunk)
            bar.update(len(chunk))
    if f"{algorithm}:{digest.hexdigest()}" == file.checksum:
        return
    expected = f"{file.name} of {file.size:,} bytes"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{place} is a web page, not {expected}.")
    if n_bytes < file.size:
        raise _Again(f"it ended after {n_bytes:,} of {file.size:,} bytes")
    if n_bytes > file.size:
        raise InputError(f"{place} is longer than {expected}.")
    raise InputError(f"{place} has the size of {expected}, but not its checksum ({file.checksum[:19]}...).")


def _checksum(path: Path, file: RemoteFile) -> str:
    algorithm = file.checksum.split(":")[0]
    with path.open("rb") as content:
        return f"{algorithm}:{hashlib.file_digest(content, algorithm).hexdigest()}"
