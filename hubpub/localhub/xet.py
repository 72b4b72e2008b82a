"""The store behind Xet (its CAS): what hf_xet talks to once the Hub has given it a token.

What the client does, measured with hf_xet 1.8.0: it asks for chunks that it could reuse and for a grant to upload (we
offer neither: 404), posts xorbs, then a shard (version 2, and after its 404 version 1). To download it asks how a
range of a file is made of chunks (again version 2, then 1) and fetches those from the URLs in the answer.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from hubpub.localhub.blobs import Blobs
from hubpub.localhub.xet_format import MAX_SHARD, MAX_XORB_BODY, XetFormatError, XorbScanner, hash_bytes
from hubpub.localhub.xet_store import Term, XetStore

Scope = Literal["read", "write"]

LIFETIME = 3600
"""Seconds that tokens and download URLs are good for."""
_PIECE = 1 << 20


class _Refused(Exception):  # noqa: N818 - it is an answer
    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class _XorbResponse(FileResponse):
    chunk_size = _PIECE  # the default of 64 KiB costs a change of threads each


class Cas:
    """A Xet CAS, to be mounted anywhere: ``Mount("/xet", routes=cas.routes())``.

    A token tells what its bearer may do (read; or write, which is to read as well), not with which repo: as on the
    real Hub content is shared by all repos, but here whoever may read one repo and knows the hash of a file of
    another may read that too.

    Args:
        root: folder for xorbs and the database, on the file system of ``blobs``.
        blobs: where files go that arrived whole, by sha256.
        secret: key of the signatures of tokens and download URLs; as long as it is the same they outlive a restart.
    """

    def __init__(self, root: Path, blobs: Blobs, secret: bytes) -> None:
        self._store = XetStore(root, blobs)
        self._secret = secret

    def xet_hash(self, sha256: str) -> str | None:
        """The Xet hash of the file with this sha256; None when it never came as Xet, so that it cannot go as Xet."""
        return self._store.xet_hash(sha256)

    def token(self, scope: Scope, repo: str) -> tuple[str, int]:
        """A token for hf_xet, and when it expires (seconds since 1970)."""
        expires = int(time.time()) + LIFETIME
        claims = base64.urlsafe_b64encode(json.dumps([scope, expires, repo]).encode()).decode()
        return f"xet.{claims}.{self._signature('token', claims)}", expires

    def routes(self) -> list[Route]:
        """All routes of the CAS."""
        absent = self._route(self._absent, "read")
        return [
            Route("/v1/chunks/{prefix}/{hash}", absent),
            Route("/v1/xorb-grants/{prefix}/{hash}", self._route(self._absent, "write"), methods=["POST"]),
            Route("/v1/xorbs/{prefix}/{hash}", self._route(self._post_xorb, "write"), methods=["POST"]),
            Route("/v2/shards", self._route(self._absent, "write"), methods=["POST"]),
            Route("/v1/shards", self._route(self._post_shard, "write"), methods=["POST"]),
            Route("/v2/reconstructions/{hash}", absent),
            Route("/v1/reconstructions/{hash}", self._route(self._reconstruction, "read")),
            Route("/data/{hash}", self._route(self._data, None)),
        ]

    def _route(
        self, handle: Callable[[Request], Awaitable[Response]], scope: Scope | None
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                if scope:
                    self._check_token(request, scope)
                return await handle(request)
            except _Refused as error:
                return _error(error.status, str(error))
            except XetFormatError as error:
                return _error(400, str(error))
            except ClientDisconnect:
                return _error(400, "the body ended early")
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                return _error(507 if full else 500, f"the Hub cannot store it: {error.strerror or error}")
            except sqlite3.Error as error:
                full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
                return _error(507 if full else 500, f"the Hub cannot store it: {error}")

        return answer

    # Who may

    def _check_token(self, request: Request, scope: Scope) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise _Refused(401, "a Xet token is needed: ask the Hub for one (xet-read-token, xet-write-token)")
        brand, _, signed = token.partition(".")
        claims, _, signature = signed.partition(".")
        if brand != "xet" or not self._signed("token", claims, signature):
            raise _Refused(401, "this is no Xet token of this Hub: ask it for a fresh one")
        held, expires, _repo = json.loads(base64.urlsafe_b64decode(claims))
        if time.time() >= expires:
            raise _Refused(401, "the Xet token has expired: ask the Hub for a fresh one")
        if scope == "write" and held != "write":
            raise _Refused(403, "this Xet token is for reading: ask the Hub for a write token")

    def _signature(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"xet-{purpose}:{text}".encode(), hashlib.sha256).hexdigest()

    def _signed(self, purpose: str, text: str, signature: str) -> bool:
        return hmac.compare_digest(self._signature(purpose, text).encode(), signature.encode())

    # Uploads

    async def _absent(self, request: Request) -> Response:
        return _error(404, f"{request.url.path}: not known, or not offered by this Hub")

    async def _post_xorb(self, request: Request) -> Response:
        xorb = _hash(request)
        if await run_in_threadpool(self._store.has_xorb, xorb):
            async for _ in request.stream():
                pass
            return JSONResponse({"was_inserted": False})
        scanner = XorbScanner(f"xorb {xorb}")
        with self._store.blobs.incoming() as path:
            with path.open("wb") as file:
                async for piece in _pieces(request, MAX_XORB_BODY):
                    scanner.feed(piece)
                    await run_in_threadpool(file.write, piece)
            scanner.finish()
            inserted = await run_in_threadpool(self._store.keep_xorb, path, xorb)
        return JSONResponse({"was_inserted": inserted})

    async def _post_shard(self, request: Request) -> Response:
        shard = bytearray()
        async for piece in _pieces(request, MAX_SHARD):
            shard += piece
        new = await run_in_threadpool(self._store.register, bytes(shard))
        return JSONResponse({"result": int(new > 0)})

    # Downloads

    async def _reconstruction(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._reconstruct, request))

    def _reconstruct(self, request: Request) -> dict[str, object]:
        xet_hash = _hash(request)
        file = self._store.file(xet_hash)
        if file is None:
            raise _Refused(404, f"file {xet_hash} is not here")
        first, last = _byte_range(request.headers.get("range"), file.size)
        skipped, terms = self._store.terms(file, first, last)
        base = f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}/data"
        return {
            "offset_into_first_range": skipped,
            "terms": [
                {"hash": term.xorb, "unpacked_length": term.unpacked, "range": {"start": term.start, "end": term.end}}
                for term in terms
            ],
            "fetch_info": {
                xorb: [
                    {
                        "range": {"start": run.start, "end": run.end},
                        "url": f"{base}/{xorb}?{self._url_query(xorb)}",
                        "url_range": {"start": run.first, "end": run.last},
                    }
                    for run in _runs([term for term in terms if term.xorb == xorb])
                ]
                for xorb in dict.fromkeys(term.xorb for term in terms)
            },
        }

    def _url_query(self, xorb: str) -> str:
        expires = int(time.time()) + LIFETIME
        return urlencode({"expires": expires, "signature": self._signature("data", f"{xorb}:{expires}")})

    async def _data(self, request: Request) -> Response:
        xorb = _hash(request)
        expires = request.query_params.get("expires", "")
        if not self._signed("data", f"{xorb}:{expires}", request.query_params.get("signature", "")):
            raise _Refused(403, "the URL's signature is wrong: take URLs from a reconstruction as they are")
        if time.time() >= int(expires):
            raise _Refused(403, "the URL has expired: ask for the reconstruction again")
        if not await run_in_threadpool(self._store.has_xorb, xorb):
            raise _Refused(404, f"xorb {xorb} is not here")
        return _XorbResponse(self._store.xorb_path(xorb), media_type="application/octet-stream")


def _runs(terms: list[Term]) -> list[Term]:
    """Terms of one xorb, those that overlap or touch made one, so that no byte is fetched twice."""
    runs: list[Term] = []
    for term in sorted(terms, key=lambda term: (term.start, term.end)):
        if runs and term.start <= runs[-1].end:
            last = runs.pop()
            end = max(last, term, key=lambda term: term.end)
            term = Term(term.xorb, 0, last.start, end.end, last.first, end.last)
        runs.append(term)
    return runs


def _byte_range(header: str | None, size: int) -> tuple[int, int]:
    """First and last byte asked for, of a file of ``size`` bytes."""
    if header is None:
        return 0, size - 1
    match = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", header)
    if not match:
        raise _Refused(400, f"Range is to be bytes=FIRST-LAST, not {header[:80]!r}")
    first, last = int(match[1]), int(match[2] or size - 1)
    if first >= size or last < first:
        raise _Refused(416, f"the file has {size} bytes, {header} is not within them")
    return first, min(last, size - 1)


async def _pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body in pieces of about 1 MiB, refused above ``limit`` bytes."""
    size = 0
    waiting: list[bytes] = []
    held = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise _Refused(413, f"the body is larger than the {limit} bytes that it may have")
        waiting.append(piece)
        held += len(piece)
        if held >= _PIECE:
            yield b"".join(waiting)
            waiting, held = [], 0
    if held:
        yield b"".join(waiting)


def _hash(request: Request) -> str:
    text: str = request.path_params["hash"]
    try:
        hash_bytes(text)
    except ValueError as error:
        raise _Refused(400, str(error)) from None
    return text


def _error(status: int, message: str) -> JSONResponse:
    # uvicorn reads on to the end of a refused body, unless told to hang up.
    return JSONResponse({"error": message}, status, {"Connection": "close"} if status == 413 else None)
