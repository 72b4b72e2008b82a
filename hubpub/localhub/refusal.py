"""What the Hub says when it does not do what was asked: status, header and body as its client expects them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

BAD_TOKEN = "Invalid credentials in Authorization header"


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """An answer that is not a success.

    Args:
        status: HTTP status.
        message: goes into the body as ``error`` and into ``X-Error-Message``.
        code: ``X-Error-Code``, by which the client chooses its exception.
        body: the whole JSON body where ``error`` alone is not what the client reads.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.body = body if body is not None else {"error": message}
        plain = message.encode("ascii", "replace").decode().replace("\n", " ")
        self.headers = {"X-Error-Message": plain, "X-Request-Id": f"localhub-{secrets.token_hex(8)}", **(headers or {})}
        if code:
            self.headers["X-Error-Code"] = code
        super().__init__(message)


def unknown_token() -> Refusal:
    """The token is not one of ours, has expired, or was revoked."""
    return Refusal(401, BAD_TOKEN)


def anonymous(*, repo: bool = False) -> Refusal:
    """No token where one is needed; also what a stranger sees of a ``repo`` that is private or absent.

    Of a 401 at a repo's address the client makes a RepositoryNotFoundError, but over https only: hence the code.
    """
    return Refusal(401, "Invalid username or password.", code="RepoNotFound" if repo else None)


def forbidden(message: str) -> Refusal:
    """A token, but not the rights."""
    return Refusal(403, message)


def no_repo() -> Refusal:
    """The repo is not there, or not for this user."""
    return Refusal(404, "Repository not found", code="RepoNotFound")


def no_revision(revision: str) -> Refusal:
    """The repo has no such branch, tag, pull request or commit."""
    return Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def no_entry(message: str = "Entry not found", *, commit: str | None = None) -> Refusal:
    """The revision has no such file."""
    return Refusal(404, message, code="EntryNotFound", headers={"X-Repo-Commit": commit} if commit else None)


def bad_request(message: str) -> Refusal:
    """What was sent makes no sense."""
    return Refusal(400, message)
