"""Faults on request, and a log of every request: what makes a rehearsal worth more than a happy path."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG_MAX = 100_000


@dataclass
class Fault:
    """What to do to some requests.

    Attributes:
        path: regular expression, searched for in the decoded path.
        method: only requests of that method.
        status: answer with that, and do not do the work.
        headers: headers of that answer; without ``status``, headers to put into the real one.
        body: body of that answer.
        delay: wait so many seconds first.
        cut_after: close the connection after so many bytes of the answer's body.
        cut_request_after: close the connection after so many bytes of the request's body.
        after: do the work, then close the connection, or with ``status`` answer with that.
        hang: never answer.
        nth: begin at the nth matching request.
        times: do it to so many of them.
    """

    path: str
    method: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | bytes | None = None
    delay: float = 0.0
    cut_after: int | None = None
    cut_request_after: int | None = None
    after: bool = False
    hang: bool = False
    nth: int = 1
    times: int = 1
    seen: int = 0

    def meets(self, method: str, path: str) -> bool:
        """Whether this request gets it; counts those that match."""
        if (self.method and self.method != method) or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


@dataclass(frozen=True)
class Request:
    """One request that was answered or cut; ``status`` is 0 where no answer began.

    ``bytes_in`` and ``bytes_out`` count bodies only.
    """

    method: str
    path: str
    query: str
    status: int
    bytes_in: int
    bytes_out: int


class Faults:
    """The faults in force and the log; shared between the server's thread and whoever sets them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._log: deque[Request] = deque(maxlen=_LOG_MAX)
        self.stopping = asyncio.Event()

    def add(self, fault: Fault) -> None:
        """From now on."""
        re.compile(fault.path)
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """No faults any more."""
        with self._lock:
            self._faults.clear()

    def choose(self, method: str, path: str) -> Fault | None:
        """The fault of this request: the first that is due; all that match count it."""
        with self._lock:
            return next(iter([fault for fault in self._faults if fault.meets(method, path)]), None)

    def note(self, request: Request) -> None:
        """Log a request."""
        with self._lock:
            self._log.append(request)

    def requests(self, *, clear: bool = False) -> list[Request]:
        """The log, oldest first."""
        with self._lock:
            found = list(self._log)
            if clear:
                self._log.clear()
        return found


class _CutError(Exception):
    """The connection was closed on purpose."""


class FaultMiddleware:
    """The outermost layer: applies faults, counts bytes, writes the log.

    It also hands the still encoded path to the routes, since a revision may hold an encoded slash.
    """

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        raw = scope["raw_path"].decode("ascii", "replace")
        inner = {**scope, "path": raw}
        if raw.startswith("/_hub/"):
            await self._app(inner, receive, send)
            return
        fault = self._faults.choose(scope["method"], unquote(raw))
        exchange = _Exchange(fault, self._faults, scope, receive, send)
        try:
            await exchange.run(self._app, inner)
        except Exception:
            if not exchange.cut:
                raise
            exchange.note()
            scope["state"]["transport"].close()
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            exchange.note()


class _Exchange:
    """One request and its answer, with at most one fault between them."""

    def __init__(self, fault: Fault | None, faults: Faults, scope: Scope, receive: Receive, send: Send) -> None:
        self.status = self.bytes_in = self.bytes_out = 0
        self._fault = fault
        self._faults = faults
        self._scope = scope
        self._receive = receive
        self._send = send
        self._silent = bool(fault and fault.after)
        self.cut = False
        self._noted = False
        self._length = -1

    def note(self) -> None:
        """Log the request, once: before the client can know that it is over."""
        if self._noted:
            return
        self._noted = True
        scope = self._scope
        path, query = (scope[name].decode("ascii", "replace") for name in ("raw_path", "query_string"))
        self._faults.note(Request(scope["method"], unquote(path), query, self.status, self.bytes_in, self.bytes_out))

    async def run(self, app: ASGIApp, scope: Any) -> None:
        fault = self._fault
        if fault is None:
            await app(scope, self._count_in, self._count_out)
            return
        if fault.delay:
            await self._pause(fault.delay)
        if fault.hang:
            await self._pause(None)
        answers = fault.status is not None or (fault.body is not None and fault.cut_after is None)
        if fault.after or not answers:
            await app(scope, self._count_in, self._count_out)
            self._silent = False
        else:
            while (await self._count_in()).get("more_body"):
                pass
        if answers:
            await self._answer(fault)
        elif fault.after:
            self._cut()

    def _cut(self) -> None:
        """End here; whoever catches the exception on its way finds that nothing can be sent any more."""
        self.cut = self._silent = True
        raise _CutError

    async def _pause(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._faults.stopping.wait(), seconds)
        except TimeoutError:
            return
        self._cut()

    async def _answer(self, fault: Fault) -> None:
        body = fault.body if fault.body is not None else '{"error":"a fault that was asked for"}'
        data = body.encode() if isinstance(body, str) else body
        headers = {"content-type": "application/json", "content-length": str(len(data))}
        headers |= {name.lower(): value for name, value in fault.headers.items()}
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._count_out({"type": "http.response.start", "status": fault.status or 200, "headers": pairs})
        await self._count_out({"type": "http.response.body", "body": data})

    async def _count_in(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
            limit = self._fault.cut_request_after if self._fault else None
            if limit is not None and self.bytes_in >= limit:
                self._cut()
        return message

    async def _count_out(self, message: Message) -> None:
        if self._silent:
            return
        fault = self._fault
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._length = int(dict(message["headers"]).get(b"content-length", -1))
            if fault and fault.status is None and fault.headers:
                changed = {name.lower().encode("latin-1"): value for name, value in fault.headers.items()}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in changed]
                new = [(name, value.encode("latin-1")) for name, value in changed.items()]
                message = {**message, "headers": kept + new}
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            if fault and fault.cut_after is not None and self.bytes_out + len(body) >= fault.cut_after:
                body = body[: fault.cut_after - self.bytes_out]
                self.bytes_out += len(body)
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
                self._cut()
            self.bytes_out += len(body)
            if not message.get("more_body") or self.bytes_out == self._length:
                self.note()
        await self._send(message)
