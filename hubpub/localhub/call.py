"""One request as the handlers see it: the Hub, who asks, which repo."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hubpub.localhub.refusal import Refusal, anonymous, bad_request, forbidden, no_repo, unknown_token
from hubpub.localhub.repos import pull_number

if TYPE_CHECKING:
    from hubpub.localhub.blobs import Blobs
    from hubpub.localhub.database import Database
    from hubpub.localhub.repos import Commit, Kind, Repo, Repos
    from hubpub.localhub.tokens import Token, Tokens

_BODY_MAX = 64 << 20


class Cas(Protocol):
    """What the Hub needs of the Xet store."""

    def xet_hash(self, sha256: str) -> str | None:
        """Xet hash of a file, where it is known."""

    def token(self, scope: Literal["read", "write"], repo: str) -> tuple[str, int]:
        """Access token and its expiry in Unix seconds."""

    def routes(self) -> list[Route]:
        """What it serves."""


@dataclass(frozen=True)
class Hub:
    """Everything that the handlers share."""

    database: Database
    repos: Repos
    blobs: Blobs
    tokens: Tokens
    cas: Cas | None
    endpoint: str
    page_size: int
    multipart_bytes: int
    secret: bytes


class Call:
    """One request; ``body`` is empty for those that stream it.

    Args:
        hub: the Hub that is asked.
        request: the request; its path is still percent-encoded.
        body: the whole body.
    """

    def __init__(self, hub: Hub, request: Request, body: bytes = b"") -> None:
        self.hub = hub
        self.request = request
        self.body = body
        self.query = request.query_params

    def part(self, name: str) -> str:
        """A part of the path, decoded."""
        return unquote(self.request.path_params[name])

    @cached_property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            raise bad_request("The body is not JSON") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise bad_request("The body is not a JSON object")
        return value

    @cached_property
    def token(self) -> Token | None:
        """Who asks; None for a request without a token, and a refusal for a token that is not known."""
        scheme, _, value = self.request.headers.get("authorization", "").partition(" ")
        if not value:
            return None
        found = self.hub.tokens.find(value.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise unknown_token()
        return found

    @cached_property
    def kind(self) -> Kind:
        """The kind of repo that the path speaks of."""
        name = self.request.path_params.get("kind", "models")
        if name not in {"models", "datasets"}:
            raise no_repo()
        return "model" if name == "models" else "dataset"

    @cached_property
    def repo(self) -> Repo:
        """The repo of the path, where the one who asks may read it."""
        repo = self.hub.repos.find(self.kind, f"{self.part('owner')}/{self.part('name')}")
        if repo is not None and (not repo.private or self.is_member(repo)):
            self.token  # noqa: B018 - a bad token is refused on public repos too
            return repo
        raise no_repo() if self.token else anonymous(repo=True)

    def is_member(self, repo: Repo) -> bool:
        """Whether the one who asks owns the repo or its namespace, or has a token made for it."""
        token = self.token
        if token is None:
            return False
        if token.repo is not None:
            return token.repo == repo.id
        return token.user in {repo.owner, repo.name.partition("/")[0]}

    def writer(self, *, member: bool = True) -> Token:
        """The one who asks, with the right to change things; with ``member`` False, to propose them."""
        repo, token = self.repo, self.token
        if token is None:
            raise anonymous(repo=True)
        if token.role != "write":
            raise forbidden("Forbidden: you must use a write token to upload to a repository, yours reads only")
        if not self.is_member(repo) and (member or token.repo is not None):
            raise forbidden(f"Forbidden: you don't have the rights to change {repo.name}")
        return token

    def pusher(self) -> Token:
        """The one who asks, with the right to push to the revision in the path, or to open a pull request with it."""
        proposal = "create_pr" in self.query or pull_number(self.part("rev")) is not None
        return self.writer(member=not proposal)

    def commit(self, name: str = "rev") -> Commit:
        """The commit of the revision in the path; without one, that of main."""
        revision = self.part(name) if name in self.request.path_params else "main"
        return self.hub.repos.resolve(self.repo, revision)

    def url(self, repo: Repo, *parts: str) -> str:
        """The address of a page of the repo."""
        return "/".join([self.hub.endpoint, repo.path, *parts])


Handler = Callable[[Call], Response]


def plain(path: str, handler: Handler, *methods: str) -> Route:
    """A route whose handler runs in a thread, once the whole body is here."""

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_MAX:
                raise Refusal(413, "The request is too large")
        return await run_in_threadpool(handler, Call(request.app.state.hub, request, bytes(body)))

    return Route(path, endpoint, methods=list(methods or ("GET",)))


def api(path: str, handler: Handler, *methods: str) -> Route:
    """As ``plain``, for a path below ``/api/{models|datasets}/{owner}/{name}``."""
    return plain("/api/{kind}/{owner}/{name}" + path, handler, *methods)


def answer(value: object, *, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return JSONResponse(value, headers=headers)
