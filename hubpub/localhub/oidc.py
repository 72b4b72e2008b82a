"""Trusted publishing: id tokens as a CI provider mints them, and their exchange for a token of one repo."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hubpub.localhub.call import Call, Hub, answer, plain
from hubpub.localhub.refusal import Refusal, forbidden

_EXPIRY = 3600
_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
_ISSUER = "https://token.actions.githubusercontent.com"


def routes() -> list[Route]:
    """The exchange, and a stand-in for GitHub's address of id tokens."""
    return [plain("/oauth/token", exchange, "POST"), plain("/_hub/oidc/id-token", mint, "GET")]


def request_token(hub: Hub, repository: str) -> str:
    """What a job of ``repository`` has as ACTIONS_ID_TOKEN_REQUEST_TOKEN."""
    return _jwt(hub, {"repository": repository, "use": "request", "exp": int(time.time()) + 6 * _EXPIRY})


def id_token(hub: Hub, repository: str, audience: str, *, seconds: int = 300) -> str:
    """An id token (JWT) that says: this job runs for ``repository``; for ``audience``, for so many seconds."""
    now = int(time.time())
    claims = {"iss": _ISSUER, "aud": audience, "sub": f"repo:{repository}:ref:refs/heads/main"}
    return _jwt(hub, {**claims, "repository": repository, "ref": "refs/heads/main", "iat": now, "exp": now + seconds})


def mint(call: Call) -> Response:
    """``GET ?audience=…`` with the request token of a job, as GitHub's runner answers it."""
    claims = _claims(call.hub, call.request.headers.get("authorization", "").partition(" ")[2])
    if claims.get("use") != "request":
        raise forbidden("not a request token")
    token = id_token(call.hub, claims["repository"], call.query.get("audience") or "https://github.com")
    return answer({"count": len(token), "value": token})


def exchange(call: Call) -> Response:
    """RFC 8693: an id token for a token that may write to one repo for an hour."""
    body = call.json
    subject, resource = body.get("subject_token"), body.get("resource")
    if body.get("grant_type") != _GRANT or body.get("subject_token_type") != _ID_TOKEN:
        return _error("invalid_request", "only the exchange of id tokens")
    if not isinstance(subject, str) or not isinstance(resource, str):
        return _error("invalid_request", "subject_token and resource are needed")
    dataset = resource.startswith("datasets/")
    repo = call.hub.repos.find("dataset" if dataset else "model", resource.removeprefix("datasets/"))
    try:
        claims = _claims(call.hub, subject)
    except Refusal:
        claims = {}
    known = repo and call.hub.database.row(
        "SELECT 1 FROM publishers WHERE repo = ? AND repository = ?", repo.id, claims.get("repository")
    )
    if not repo or not known or claims.get("aud") != call.hub.endpoint or claims.get("iss") != _ISSUER:
        return _error("invalid_grant", "no trusted publisher matches")
    return answer(
        {
            "access_token": call.hub.tokens.make_for_repo(repo.id, "oidc", _EXPIRY),
            "token_type": "bearer",
            "expires_in": _EXPIRY,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }
    )


def trust(hub: Hub, kind: str, name: str, repository: str) -> None:
    """Let the jobs of ``repository`` (``owner/name`` on GitHub) publish to a repo."""
    repo = hub.repos.get(kind, name)
    hub.database.run("INSERT OR IGNORE INTO publishers VALUES(?, ?)", repo.id, repository)


def _error(code: str, description: str) -> Response:
    return JSONResponse({"error": code, "error_description": description}, status_code=400)


def _jwt(hub: Hub, claims: dict[str, Any]) -> str:
    parts = [_base64(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT"}, claims)]
    return ".".join([*parts, _signature(hub, ".".join(parts))])


def _signature(hub: Hub, text: str) -> str:
    return _base64(hmac.new(hub.secret, b"id token " + text.encode(), hashlib.sha256).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _claims(hub: Hub, token: str) -> dict[str, Any]:
    text, _, signature = token.rpartition(".")
    if not text or not hmac.compare_digest(_signature(hub, text).encode(), signature.encode()):
        raise forbidden("not an id token of this Hub")
    claims = json.loads(base64.urlsafe_b64decode(text.partition(".")[2] + "=="))
    if not isinstance(claims, dict) or claims["exp"] < time.time():
        raise forbidden("the id token has expired")
    return claims
