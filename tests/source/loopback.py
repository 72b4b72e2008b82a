"""A loopback HTTP server that serves bytes with ranges, misbehaves on request, and remembers what it was asked."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass
class Fault:
    """What to do to the next ``times`` requests whose path ends with ``path``."""

    path: str
    times: int = 1
    status: int | None = None
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    hang_after: int | None = None
    """Stop sending after so many bytes of the body, until the server is closed."""
    headers: Mapping[str, str] = field(default_factory=dict)
    unsized: bool = False
    """Do not announce the length: the end of the connection is the end of the body."""


@dataclass(frozen=True)
class Asked:
    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        """First byte of the range asked for; 0 without one."""
        found = re.match(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Loopback:
    """Subclasses say what lies at a path; use as a context manager."""

    ranges = True

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.log: list[Asked] = []
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._serve(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def use_tls(self, cert: Path, key: Path) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert, key)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def answer(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def asked_for(self, ending: str) -> list[Asked]:
        return [asked for asked in self.log if asked.path.endswith(ending)]

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        asked = Asked(handler.path.split("?")[0], {key.lower(): value for key, value in handler.headers.items()})
        self.log.append(asked)
        fault = next((fault for fault in self.faults if fault.times and asked.path.endswith(fault.path)), None)
        if fault:
            fault.times -= 1
        answer = Answer(fault.status, headers=fault.headers) if fault and fault.status else self.answer(asked)
        status, body, headers = answer.status, answer.body, dict(answer.headers)
        if status == 200:
            headers.setdefault("ETag", f'"{hashlib.md5(body).hexdigest()}"')
            belongs = asked.headers.get("if-range") in (None, headers["ETag"])
            if asked.start and self.ranges and belongs:
                if asked.start >= len(body):
                    status, body = 416, b""
                else:
                    headers["Content-Range"] = f"bytes {asked.start}-{len(body) - 1}/{len(body)}"
                    status, body = 206, body[asked.start :]
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if fault and fault.unsized:
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        end = None
        if fault:
            end = fault.cut_after if fault.cut_after is not None else fault.hang_after
        handler.wfile.write(body[:end])
        handler.wfile.flush()
        if fault and fault.hang_after is not None:
            self._closing.wait(60)
        if end is not None:
            handler.close_connection = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
