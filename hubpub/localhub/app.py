"""The Hub as one ASGI application."""

from __future__ import annotations

import errno
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from hubpub.localhub import admin, commit, info, lfs, manage, oidc, pulls, resolve
from hubpub.localhub.call import plain
from hubpub.localhub.faults import FaultMiddleware, Faults
from hubpub.localhub.metadata import validate_yaml
from hubpub.localhub.refusal import Refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from hubpub.localhub.call import Hub

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def make_app(hub: Hub, root: Path, faults: Faults, admin_secret: str) -> ASGIApp:
    """The application over the Hub that lies at ``root``."""
    routes: list[BaseRoute] = [
        *(Mount("/xet", routes=hub.cas.routes()) for _ in [0] if hub.cas),
        plain("/api/validate-yaml", validate_yaml, "POST"),
        *admin.routes(),
        *oidc.routes(),
        *manage.routes(),
        *commit.routes(),
        *pulls.routes(),
        *info.routes(),
        *lfs.routes(),
        *resolve.routes(),
        Route("/{path:path}", _nothing, methods=["GET", "POST", "PUT", "DELETE", "HEAD"]),
    ]
    handlers = {Refusal: _refused, OSError: _broken, sqlite3.Error: _broken}
    app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
    app.state.hub = hub
    app.state.parts = lfs.Parts(root)
    app.state.faults = faults
    app.state.admin = admin_secret
    return FaultMiddleware(app, faults)


async def _nothing(request: Request) -> Response:
    raise Refusal(404, f"Cannot {request.method} {request.url.path}")


async def _refused(_request: Request, refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, status_code=refusal.status, headers=refusal.headers)


async def _broken(_request: Request, error: Exception) -> Response:
    full = isinstance(error, OSError) and error.errno in _FULL
    full = full or (isinstance(error, sqlite3.OperationalError) and "full" in str(error))
    if not full:
        logging.getLogger(__name__).error("the Hub failed", exc_info=error)
    status, message = (507, "The Hub's disk is full") if full else (500, f"Internal error: {type(error).__name__}")
    return JSONResponse({"error": message}, status_code=status, headers={"X-Error-Message": message})
