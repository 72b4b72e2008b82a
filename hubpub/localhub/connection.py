"""The server's side of a connection."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """Shows its transport to the application, so that a fault can close it in the middle of an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)
