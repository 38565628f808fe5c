"""Fetching of published files: from the user's own folder, from a mirror or from their official address.

Each file is verified, and is written completely or not at all.

A file is first searched in ``data/raw/<dataset.name>`` of the repository. The user may put files there, and the library
never writes there. (DVC empties the output folder of a stage before it runs, so the output is another folder.) A file
there with the name of a published file is either used or refused, but never ignored.

``BITSPERDIM_MIRROR`` names a folder (a relative path starts at the repository) or a URL that holds
``<data set>/<file>``. If it is set, no official address is used. A file that is already in the output folder and passes
the verification is not fetched again.

Results depend only on the content of a gzipped file. A file that was compressed again or unpacked has the same content.
It is accepted and kept in its form, because the checksum of the content is known. Nothing is unpacked here.

Every failure raises :class:`~bitsperdim.core.errors.InputError` and leaves no part of a file.

Invariants (``tests/sources/test_fetch.py``, with a local server that fails in each of these ways): a file that is cut
short, has a flipped byte, is an error page or is missing raises an error with its name; a fetch that may have failed
only for a moment is tried again, but not for a file on a disk.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.files import atomic_path, workspace

VARIABLE = "BITSPERDIM_MIRROR"
OWN = Path("data") / "raw"  # in the repository, with one folder for each data set
CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without a byte
PAUSES = (1.0, 3.0)  # seconds before the second and the third attempt


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: name of the file in its folder, here and on a mirror.
        size: size in bytes.
        checksum: ``sha256:`` or ``md5:`` and the hexadecimal digest of its bytes; md5 if the publisher gives nothing
            better.
        addresses: addresses where it is published, tried in turn.
    """

    name: str
    size: int
    checksum: str
    addresses: tuple[str, ...] = ()


class MissingError(InputError):
    """Raised when a file is not at any of the places where it was searched."""


class _Again(Exception):  # noqa: N818 - not an error until it happens too often
    """Raised for a failure that may be temporary; the message says what failed."""


def own_folder(folder: Path) -> Path:
    """Return the folder where the user may have put the files of the data set with the name of ``folder``."""
    return workspace() / OWN / folder.name


def fetch(dataset: str, file: RemoteFile, folder: Path, unpacked: RemoteFile | None = None) -> Path:
    """Put a verified copy of a published file into ``folder`` and return its path.

    Args:
        dataset: name of the folder of the data set on a mirror.
        file: file to fetch.
        folder: output folder, which has the name of the data set; it is created if needed.
        unpacked: for a gzipped ``file``, its content with the name that it has after unpacking. Any file with this
            content is then accepted, compressed in another way or not at all.

    Raises:
        MissingError: the file does not exist at any place.
        InputError: a found file is not the published file, or no place could be reached.
    """
    forms = [(file, unpacked), *([(unpacked, None)] if unpacked else [])]
    for form, content in forms:
        if (folder / form.name).is_file() and _verifies(folder / form.name, form, content):
            return folder / form.name
    for form, content in forms:
        own = own_folder(folder) / form.name
        if own.exists() or own.is_symlink():
            try:
                return _fetch_from(str(own), form, content, folder)
            except InputError as error:
                raise InputError(f"{error} Remove it from there, or put the published file in its place.") from error
    mirror = os.environ.get(VARIABLE)
    problems: list[InputError] = []
    for form, content in forms:
        for place in (_on_mirror(mirror, dataset, form.name),) if mirror else form.addresses:
            try:
                return _fetch_from(place, form, content, folder)
            except InputError as error:
                problems.append(error)
    if not problems:
        raise MissingError(f"{file.name} has no official address; name a mirror that has it by {VARIABLE}.")
    wrong = [problem for problem in problems if not isinstance(problem, MissingError)]
    sentence = " ".join(str(problem) for problem in wrong or problems)
    kind = InputError if wrong else MissingError
    raise kind(sentence if mirror else f"{sentence} A mirror can be named by {VARIABLE}.")


def _on_mirror(mirror: str, dataset: str, name: str) -> str:
    if _is_url(mirror):
        return f"{mirror.rstrip('/')}/{dataset}/{name}"
    scheme, separator, rest = mirror.partition("://")
    if separator and scheme.lower() != "file":
        raise InputError(f"{VARIABLE} = {shown(mirror)} is not allowed; name a folder, or an http or https address.")
    try:
        named = Path(urllib.request.url2pathname(f"/{rest.partition('/')[2]}") if separator else mirror).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{VARIABLE} = {shown(mirror)} names the home folder of a user who does not exist; name a folder."
        ) from error
    return str((workspace() / named / dataset / name).absolute())


def _is_url(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def _fetch_from(place: str, file: RemoteFile, unpacked: RemoteFile | None, folder: Path) -> Path:
    """Fetch a file from one place; repeat the attempt if the failure may be temporary."""
    problem = ""
    path = folder / file.name
    for pause in (0.0, *PAUSES):
        time.sleep(pause)
        try:
            with _open(place) as source, atomic_path(path) as temporary:
                _copy_verified(source, file, unpacked, place, temporary)
            return path
        except _Again as error:
            problem = str(error)
    raise InputError(f"{place} could not be fetched in {1 + len(PAUSES)} tries: {problem}.")


def _open(place: str) -> IO[bytes]:
    if not _is_url(place):
        try:
            return Path(place).open("rb")
        except FileNotFoundError as error:
            raise MissingError(f"{place} does not exist.") from error
        except OSError as error:
            raise InputError(f"{place} cannot be read: {error.strerror}.") from error
    try:
        request = urllib.request.Request(place, headers={"User-Agent": "bitsperdim"})
        response: IO[bytes] = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise MissingError(f"{place} does not exist (status {error.code}).") from error
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Again(f"the server answered with status {error.code}") from error
        raise InputError(f"{place} was refused (status {error.code}).") from error
    except (http.client.InvalidURL, ValueError) as error:  # also raised for an impossible host name
        raise InputError(f"{shown(place)} is not an address.") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _Again(f"no connection ({getattr(error, 'reason', None) or error})") from error
    return response


def _copy_verified(source: IO[bytes], file: RemoteFile, unpacked: RemoteFile | None, place: str, path: Path) -> None:
    algorithm = file.checksum.split(":")[0]
    digest = hashlib.new(algorithm)
    n_bytes = 0
    start = b""
    n_most = max(file.size, unpacked.size + unpacked.size // 1000 + CHUNK if unpacked else 0)  # gzip adds less
    with path.open("wb") as out, tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, disable=None) as bar:
        while n_bytes <= n_most:  # one byte more than expected is enough to refuse the file
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
    found = _gunzipped_checksum(path, unpacked) if unpacked else None
    if unpacked and found == unpacked.checksum:
        return
    expected = f"{file.name} of {file.size:,} bytes"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{place} is a web page, not {expected}.")
    if found:
        raise InputError(f"{place} is a whole gzip file, but its content is not that of the published {file.name}.")
    if n_bytes < file.size and _is_url(place):
        raise _Again(f"it ended after {n_bytes:,} of {file.size:,} bytes")
    if n_bytes < file.size:
        raise InputError(f"{place} is not {expected}: it has {n_bytes:,} bytes.")
    if n_bytes > file.size:
        raise InputError(f"{place} is longer than {expected}.")
    raise InputError(f"{place} has the size of {expected}, but not its checksum ({file.checksum[:19]}...).")


def _verifies(path: Path, file: RemoteFile, unpacked: RemoteFile | None) -> bool:
    algorithm = file.checksum.split(":")[0]
    with path.open("rb") as content:
        if f"{algorithm}:{hashlib.file_digest(content, algorithm).hexdigest()}" == file.checksum:
            return True
    return unpacked is not None and _gunzipped_checksum(path, unpacked) == unpacked.checksum


def _gunzipped_checksum(path: Path, unpacked: RemoteFile) -> str | None:
    """Return the checksum of the content of a gzip file; None if it is not a readable gzip file.

    Little more than the expected size is read.
    """
    algorithm = unpacked.checksum.split(":")[0]
    digest = hashlib.new(algorithm)
    n_bytes = 0
    try:
        with gzip.open(path) as content:
            while n_bytes <= unpacked.size and (chunk := content.read(CHUNK)):
                digest.update(chunk)
                n_bytes += len(chunk)
    except (OSError, EOFError, zlib.error):
        return None
    return f"{algorithm}:{digest.hexdigest()}"
