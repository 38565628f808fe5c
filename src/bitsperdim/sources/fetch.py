"""Fetching published files: the user's own, from a mirror or their official address, verified, whole or not at all.

A file is looked for in the repository's ``data/raw/<dataset.name>``, where the user may put it and which is never
written: DVC empties the folder of a stage before it runs, so that its own is another. What lies there under the name
of a published file is used or refused, never passed over.

``BITSPERDIM_MIRROR`` names a folder (a relative one starts at the repository) or a URL that holds
``<data set>/<file>``; where it is set, nothing else is asked. A file that is already there and verifies is not fetched
again.

What a number depends on is the content of a gzipped file. A file that was compressed again or unpacked has the same,
and is kept as it is: the checksum of the content is known. Nothing is unpacked here.

Every failure is one sentence (:class:`~bitsperdim.core.errors.InputError`), and leaves no part of a file.

Invariants (``tests/sources/test_fetch.py``, against a local server that misbehaves in each way): a file
that is cut short, has a flipped byte, is an error page, or is not there is refused by name; what
fails for a moment is tried again, and a file on a disk is not.
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
OWN = Path("data") / "raw"  # in the repository, by the names of data sets
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


def own_folder(folder: Path) -> Path:
    """Return where the user may have put the files of the data set whose ``folder`` has its name."""
    return workspace() / OWN / folder.name


def fetch(dataset: str, file: RemoteFile, folder: Path, unpacked: RemoteFile | None = None) -> Path:
    """Put a verified copy of a published file into ``folder`` and return its path.

    Args:
        dataset: the folder of the data set on a mirror.
        file: what to fetch.
        folder: made if need be; it has the name of the data set.
        unpacked: the content of ``file``, a gzipped one, under the name that it has when it is unpacked; any file
            with this content, compressed in another way or not at all, will do.

    Raises:
        MissingError: it is nowhere.
        InputError: what was found is not the file, or no place could be reached.
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
        raise InputError(f"{VARIABLE} = {shown(mirror)} names the home folder of nobody; name a folder.") from error
    return str((workspace() / named / dataset / name).absolute())


def _is_url(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def _fetch_from(place: str, file: RemoteFile, unpacked: RemoteFile | None, folder: Path) -> Path:
    """Try one place, again where the failure may pass."""
    problem, path = "", folder / file.name
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
    except (http.client.InvalidURL, ValueError) as error:  # also of a name that cannot be one of a machine
        raise InputError(f"{shown(place)} is not an address.") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _Again(f"no connection ({getattr(error, 'reason', None) or error})") from error
    return response


def _copy_verified(source: IO[bytes], file: RemoteFile, unpacked: RemoteFile | None, place: str, path: Path) -> None:
    algorithm = file.checksum.split(":")[0]
    digest, n_bytes, start = hashlib.new(algorithm), 0, b""
    n_most = max(file.size, unpacked.size + unpacked.size // 1000 + CHUNK if unpacked else 0)  # gzip adds less
    with path.open("wb") as out, tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, disable=None) as bar:
        while n_bytes <= n_most:  # a byte more than expected is enough to refuse
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
    """Return the checksum of what a gzip file holds, a little beyond the expected size at most; None of any other."""
    algorithm = unpacked.checksum.split(":")[0]
    digest, n_bytes = hashlib.new(algorithm), 0
    try:
        with gzip.open(path) as content:
            while n_bytes <= unpacked.size and (chunk := content.read(CHUNK)):
                digest.update(chunk)
                n_bytes += len(chunk)
    except (OSError, EOFError, zlib.error):
        return None
    return f"{algorithm}:{digest.hexdigest()}"
