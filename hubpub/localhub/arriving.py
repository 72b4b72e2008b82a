"""Bodies of requests on their way to disk, in bounded memory, hashed as they come."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from hubpub.localhub.refusal import Refusal

if TYPE_CHECKING:
    from hashlib import _Hash

_PIECE = 2 << 20
"""Bytes gathered before a thread is asked to write them."""


async def receive(
    request: Request, path: Path, *, offset: int = 0, digest: _Hash | None = None, limit: int | None = None
) -> int:
    """Write the body to the file at ``path``.

    Args:
        request: the request; its body has not been read.
        path: an existing file.
        offset: where in the file the body begins.
        digest: a hash to feed with the body.
        limit: more bytes than that are refused.

    Returns:
        The number of bytes; ``Refusal`` 400 when the connection ended early.
    """
    file = await run_in_threadpool(os.open, path, os.O_WRONLY)
    total = 0

    def write(piece: bytearray, at: int) -> None:
        view = memoryview(piece)
        if digest:
            digest.update(view)
        while view:
            done = os.pwrite(file, view, at)
            view, at = view[done:], at + done

    running: asyncio.Future[None] | None = None
    try:
        async for piece in _pieces(request):
            if limit is not None and total + len(piece) > limit:
                raise Refusal(413, f"The body has more than {limit} bytes")
            if running:
                await running
            running = asyncio.ensure_future(run_in_threadpool(write, piece, offset + total))
            total += len(piece)
        if running:
            await running
            running = None
    except ClientDisconnect:
        raise Refusal(400, "The connection ended before the body did") from None
    finally:
        if running:
            await asyncio.wait([running])
            running.exception()  # a second error would hide the first
        os.close(file)
    return total


async def _pieces(request: Request) -> AsyncIterator[bytearray]:
    """The body in pieces large enough to be worth a thread."""
    piece = bytearray()
    async for chunk in request.stream():
        piece += chunk
        if len(piece) >= _PIECE:
            yield piece
            piece = bytearray()
    if piece:
        yield piece


def hash_file(path: Path, also: Callable[[bytes], object] | None = None) -> tuple[str, int]:
    """Sha256 and size of a file; ``also`` is called with every piece."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
            if also:
                also(piece)
    return digest.hexdigest(), size
