"""One file over HTTP: streamed, resumed where the server can, retried with backoff, verified at the end."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit, urlunsplit

from hubpub.errors import DigestMismatch, SourceError
from hubpub.source.base import Progress
from hubpub.store.files import sha256_of, storage_errors

if TYPE_CHECKING:
    import httpx2

CHUNK = 1 << 20
RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504, 520, 527})
LONGEST_WAIT = 60.0  # seconds between two tries, also where the server asks for more
_STEADY = 1 << 20  # bytes; a try that brought this much does not count as failed


def without_secrets(url: str) -> str:
    """``url`` without user, password, query and fragment, fit for a message."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def wait(attempt: int, asked: str | None = None) -> None:
    """Sleep before try ``attempt`` (from 1): 0.25 s doubling to 8 s, or as many seconds as the server ``asked`` for."""
    seconds = min(0.25 * 2 ** (attempt - 1), 8.0)
    if asked and asked.strip().isdigit():
        seconds = max(seconds, min(float(asked), LONGEST_WAIT))
    time.sleep(seconds)


@dataclass(frozen=True)
class Download:
    """What to get: ``where`` names it in messages, ``size`` (bytes) and ``sha256`` are checked when known.

    ``refuse`` turns an answer that is not a success into an exception; without it a plain `SourceError` is raised.
    """

    client: httpx2.Client
    url: str
    where: str
    size: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] | None = None
    timeout: float = 15.0
    retries: int = 5
    refuse: Callable[[httpx2.Response], NoReturn] | None = None

    def to(self, part: Path, progress: Progress) -> None:
        """Bring all bytes into ``part``, going on from what is there if the digest will tell whether it belongs.

        Raises:
            DigestMismatch: the bytes are not the expected ones; ``part`` is removed.
            SourceError: the server refuses, cannot be reached, or keeps breaking off.
            StoreError: the disk is full or not writable.
        """
        report = _HighWater(progress)
        if self.sha256 is None:
            part.unlink(missing_ok=True)
        resumed = part.exists() and part.stat().st_size > 0
        if resumed and self.size is None and sha256_of(part).sha256 == self.sha256:
            return  # complete, and only not stored yet
        self._complete(part, report)
        if self.sha256 is None or (got := sha256_of(part).sha256) == self.sha256:
            return
        part.unlink()
        if resumed:  # the beginning was left by another run and may be what is wrong
            self._complete(part, report)
            if (got := sha256_of(part).sha256) == self.sha256:
                return
            part.unlink()
        raise DigestMismatch(self.where, expected=self.sha256, got=got)

    def _complete(self, part: Path, report: _HighWater) -> None:
        import httpx2

        failed = 0
        tag: str | None = None  # of the bytes in `part`, when they came in this call
        report.start(part.stat().st_size if part.exists() else 0)
        while True:
            have = part.stat().st_size if part.exists() else 0
            if have and self.size is not None and have >= self.size:
                if have == self.size:
                    return
                part.unlink()
                have = 0
            if have and self.sha256 is None and tag is None:
                part.unlink()  # nothing could tell whether the rest belongs to it
                have = 0
            asked = None
            try:
                with self.client.stream("GET", self.url, headers=self._headers(have, tag), timeout=self.timeout) as got:
                    if got.status_code == 416 and have:
                        part.unlink()
                        reason = "the server has no such range"
                    elif got.status_code in RETRY_STATUS:
                        asked = got.headers.get("Retry-After")
                        reason = f"the server answers {got.status_code} {got.reason_phrase}".rstrip()
                    elif got.status_code not in (200, 206):
                        self._refuse(got)
                    else:
                        tag = _strong_tag(got)
                        self._receive(got, part, have, report)
                        return
            except httpx2.TimeoutException:
                reason = f"no answer within {self.timeout:g} s"
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                reason = str(error) or type(error).__name__
                if "CERTIFICATE_VERIFY_FAILED" in reason:
                    raise SourceError(_lost(reason), where=self.where, fix=_TRUST) from error
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise SourceError(f"cannot download ({type(error).__name__})", where=self.where) from error
            now = part.stat().st_size if part.exists() else 0
            failed = 1 if now - have >= _STEADY else failed + 1
            if failed > self.retries:
                raise SourceError(
                    f"{_lost(reason)}, tried {failed} times", where=self.where, fix="run again to go on from here"
                )
            wait(failed, asked)

    def _headers(self, have: int, tag: str | None) -> dict[str, str]:
        headers = {**(self.headers or {}), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if tag:
                headers["If-Range"] = tag
        return headers

    def _receive(self, got: httpx2.Response, part: Path, have: int, report: _HighWater) -> None:
        """Append the body to ``part``, or begin anew when the server sends the whole."""
        import httpx2

        start = have if got.status_code == 206 and _starts_at(got) == have else 0
        if got.status_code == 206 and start != have:
            raise SourceError("the server sent another range than asked for", where=self.where)
        with storage_errors(f"write {part.name}"):
            file = part.open("ab" if start else "wb", buffering=0)
        with file:
            size = start
            for chunk in got.iter_raw(CHUNK):
                size += len(chunk)
                if self.size is not None and size > self.size:
                    raise SourceError(f"the server sends more than the {self.size} bytes expected", where=self.where)
                with storage_errors(f"write {part.name}"):
                    file.write(chunk)
                report.at(size)
        if self.size is not None and size != self.size:
            if "Content-Length" not in got.headers:  # then a broken connection looks like the end
                raise httpx2.RemoteProtocolError(f"the connection ended after {size} bytes")
            if self.sha256 is None:  # else the digest says it better
                raise SourceError(f"the server sent {size} bytes, {self.size} are expected", where=self.where)

    def _refuse(self, got: httpx2.Response) -> NoReturn:
        if self.refuse:
            self.refuse(got)
        reason = f"{got.status_code} {got.reason_phrase}".rstrip()
        raise SourceError(f"{without_secrets(self.url)} answers {reason}", where=self.where)


_TRUST = "name your certificate authority in pip's `cert` option or SSL_CERT_FILE"


def _lost(reason: str) -> str:
    return f"cannot download: {reason}"


def _strong_tag(got: httpx2.Response) -> str | None:
    tag: str | None = got.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else None


def _starts_at(got: httpx2.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", got.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


class _HighWater:
    """Reports bytes once each, also when a download has to begin anew."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._highest: int | None = None

    def start(self, have: int) -> None:
        if self._highest is None:
            self._highest = have

    def at(self, size: int) -> None:
        if self._highest is not None and size > self._highest:
            self._progress(size - self._highest)
            self._highest = size


def git_blob_sha1(path: Path) -> str:
    """Git's name for the bytes of ``path``: sha1 of "blob", its size, a NUL, and the bytes."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
