"""Files to download: HEAD, GET, ranges."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from hubpub.localhub.call import Call
from hubpub.localhub.info import check_gate
from hubpub.localhub.refusal import Refusal, no_entry

if TYPE_CHECKING:
    from hubpub.localhub.repos import File

_PIECE = 1 << 20


def routes() -> list[Route]:
    """The routes of files."""
    found = []
    for prefix in ("", "/{kind}"):
        found.append(Route(prefix + "/{owner}/{name}/resolve/{rev}/{path:path}", resolve, methods=["GET", "HEAD"]))
    return found


async def resolve(request: Request) -> Response:
    """A file at a revision."""
    file, headers = await run_in_threadpool(_find, Call(request.app.state.hub, request))
    return send_file(request, request.app.state.hub.blobs.path(file.sha256), file.size, headers)


def _find(call: Call) -> tuple[File, dict[str, str]]:
    commit = call.commit()
    check_gate(call)
    entry = call.hub.repos.entry(commit.tree, call.part("path"))
    if entry is None or entry.file is None:
        raise no_entry(commit=commit.oid)
    file = entry.file
    etag = f'"{file.sha256 if file.lfs else file.oid}"'
    headers = {"X-Repo-Commit": commit.oid, "ETag": etag, "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(file.size)}
        if call.hub.cas and (xet := call.hub.cas.xet_hash(file.sha256)):
            refresh = f"{call.hub.endpoint}/api/{call.kind}s/{call.repo.name}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": xet, "Link": f'<{refresh}>; rel="xet-auth"'}
    return file, headers


def send_file(request: Request, path: Path, size: int, headers: dict[str, str]) -> Response:
    """The bytes of a file, or the range of them that is asked for: 200, 206 or 416."""
    start, end, status = 0, size, 200
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if wanted and (wanted[1] or wanted[2]) and request.method == "GET":
        if wanted[1]:
            start, end = int(wanted[1]), min(size, int(wanted[2]) + 1 if wanted[2] else size)
        else:
            start = max(0, size - int(wanted[2]))
        if start >= end:
            raise Refusal(416, "Range not satisfiable", headers={**headers, "Content-Range": f"bytes */{size}"})
        status = 206
        headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}
    headers = {**headers, "Content-Length": str(end - start)}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(
        _pieces(path, start, end), status_code=status, headers=headers, media_type="application/octet-stream"
    )


async def _pieces(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    file = await run_in_threadpool(os.open, path, os.O_RDONLY)
    try:
        while start < end:
            piece = await run_in_threadpool(os.pread, file, min(_PIECE, end - start), start)
            if not piece:
                raise OSError(f"{path} ended early")
            start += len(piece)
            yield piece
    finally:
        os.close(file)
