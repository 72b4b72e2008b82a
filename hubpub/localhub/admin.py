"""What tests ask of a server in another process, with its admin secret: faults, log, tokens, publishers."""

from __future__ import annotations

import base64
import dataclasses
import hmac
import re
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from hubpub.localhub import oidc
from hubpub.localhub.call import Call, Handler, answer, plain
from hubpub.localhub.faults import Fault
from hubpub.localhub.refusal import bad_request, forbidden

if TYPE_CHECKING:
    from hubpub.localhub.faults import Faults


def routes() -> list[Route]:
    """The routes of the admin; none of them is logged, and no fault touches them."""
    handlers: list[tuple[str, str, Handler]] = [
        ("fault", "POST", add_fault),
        ("fault", "DELETE", clear_faults),
        ("requests", "GET", log),
        ("requests", "DELETE", clear_log),
        ("token", "POST", make_token),
        ("revoke", "POST", revoke_token),
        ("trust", "POST", trust),
    ]
    return [plain(f"/_hub/{name}", _guarded(handler), method) for name, method, handler in handlers]


def _guarded(handler: Handler) -> Handler:
    def guarded(call: Call) -> Response:
        given = call.request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), call.request.app.state.admin.encode()):
            raise forbidden("this needs the admin secret of the Hub")
        return handler(call)

    return guarded


def _faults(call: Call) -> Faults:
    faults: Faults = call.request.app.state.faults
    return faults


def add_fault(call: Call) -> Response:
    """``{"path": …, "status": …, …}``: the fields of ``Fault``; ``body_base64`` for a body that is not text."""
    fields = dict(call.json)
    if "body_base64" in fields:
        fields["body"] = base64.b64decode(fields.pop("body_base64"))
    fields = {name: value for name, value in fields.items() if value is not None}
    try:
        _faults(call).add(Fault(**fields))
    except (TypeError, re.error) as error:
        raise bad_request(f"not a fault: {error}") from None
    return answer({})


def clear_faults(call: Call) -> Response:
    """No faults any more."""
    _faults(call).clear()
    return answer({})


def log(call: Call) -> Response:
    """Every request so far, oldest first."""
    return answer([dataclasses.asdict(each) for each in _faults(call).requests()])


def clear_log(call: Call) -> Response:
    """Forget them."""
    _faults(call).requests(clear=True)
    return answer({})


def make_token(call: Call) -> Response:
    """``{"role": "read"|"write", "user": …}``: a new token."""
    role, user = call.json.get("role", "write"), call.json.get("user", "tester")
    if role not in {"read", "write"} or not isinstance(user, str):
        raise bad_request("role is read or write")
    return answer({"token": call.hub.tokens.make(role, user)})


def revoke_token(call: Call) -> Response:
    """``{"token": …}``: from now on it is unknown."""
    call.hub.tokens.revoke(str(call.json.get("token")))
    return answer({})


def trust(call: Call) -> Response:
    """``{"repo": …, "type": …, "repository": …}``: let the CI jobs of a repository publish; their request token."""
    repository = str(call.json.get("repository"))
    oidc.trust(call.hub, str(call.json.get("type", "model")), str(call.json.get("repo")), repository)
    return answer({"request_token": oidc.request_token(call.hub, repository)})
