"""A CAS alone, served to whoever asks, with a log; and hf_xet in a process of its own with a cache of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
import xet_pack
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubpub.localhub.blobs import Blobs
from hubpub.localhub.xet import Cas

DRIVER = Path(__file__).with_name("xet_driver.py")


@dataclass
class Call:
    method: str
    path: str
    sent: int = 0
    status: int = 0


@dataclass
class Served:
    url: str
    cas: Cas
    blobs: Blobs
    root: Path
    calls: list[Call] = field(default_factory=list)

    def http(self, scope: str | None = "write") -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.cas.token(scope, 'a/b')[0]}"} if scope else {}  # type: ignore[arg-type]
        return httpx2.Client(base_url=f"{self.url}/xet", headers=headers, timeout=30, trust_env=False, verify=False)

    def posted(self, part: str) -> list[Call]:
        return [call for call in self.calls if call.method == "POST" and part in call.path]

    def kept(self) -> set[str]:
        """Every file on disk but the database."""
        paths = [path for path in self.root.rglob("*") if path.is_file() and "sqlite" not in path.name]
        return {str(path.relative_to(self.root)) for path in paths}


def application(cas: Cas, calls: list[Call]) -> ASGIApp:
    async def token(request: Request) -> JSONResponse:
        held, expires = cas.token(request.path_params["scope"], "a/b")
        return JSONResponse({"accessToken": held, "exp": expires, "casUrl": f"{request.base_url}xet"})

    app = Starlette(routes=[Route("/token/{scope}", token), Mount("/xet", routes=cas.routes())])

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        call = Call(scope["method"], scope["path"])
        calls.append(call)

        async def counted() -> Message:
            message = await receive()
            call.sent += len(message.get("body", b""))
            return message

        async def told(message: Message) -> None:
            call.status = message.get("status", call.status)
            await send(message)

        await app(scope, counted, told)

    return logged


class Listening:
    """A server on loopback for one CAS after another."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app
        await self.app(scope, receive, send)

    def serve(self, root: Path, secret: bytes = b"secret of the tests") -> Served:
        blobs = Blobs(root)
        cas = Cas(root / "xet", blobs, secret)
        calls: list[Call] = []
        self.app = application(cas, calls)
        return Served(self.url, cas, blobs, root, calls)


@contextlib.contextmanager
def listening(port: int = 0) -> Iterator[Listening]:
    app = Listening("")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        app.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield app
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def serving(root: Path, *, port: int = 0) -> Iterator[Served]:
    with listening(port) as app:
        yield app.serve(root)


def refused(response: httpx2.Response, status: int, *says: str) -> None:
    assert response.status_code == status, response.text
    assert all(text in response.json()["error"] for text in says), response.text
    assert "\n" not in response.json()["error"]


def post_xorb(http: httpx2.Client, body: bytes | None = None, xorb: str = xet_pack.XORB) -> httpx2.Response:
    return http.post(f"/v1/xorbs/default/{xorb}", content=xet_pack.xorb_of(xet_pack.CHUNKS) if body is None else body)


@dataclass
class Uploaded:
    """What the client says of a file."""

    xet_hash: str
    size: int
    sha256: str
    new_bytes: int


class ClientError(Exception):
    """What the client raised, as text."""


def _drive(home: Path, job: dict[str, Any]) -> Any:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, DRIVER], input=json.dumps(job), env=environment, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise ClientError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode))
    return json.loads(done.stdout)


def upload(url: str, home: Path, paths: list[Path], *, retries: int = 1) -> list[Uploaded]:
    answer = _drive(home, {"verb": "up", "url": url, "paths": [str(path) for path in paths], "retries": retries})
    return [Uploaded(*row) for row in answer]


def download(url: str, home: Path, files: list[tuple[str, int, Path]], *, retries: int = 1) -> None:
    rows = [(xet_hash, size, str(path)) for xet_hash, size, path in files]
    _drive(home, {"verb": "down", "url": url, "files": rows, "retries": retries})


def local_hashes(home: Path, paths: list[Path]) -> list[str]:
    hashes: list[str] = _drive(home, {"verb": "hash", "paths": [str(path) for path in paths]})
    return hashes
