"""What the client raises becomes one line that says what to do and quotes no secret."""

from __future__ import annotations

import json
import socket
import time
from email.utils import formatdate

import httpx2
import pytest
from huggingface_hub import errors, get_session, set_client_factory
from huggingface_hub.utils._http import default_client_factory, hf_raise_for_status
from hypothesis import given
from hypothesis import strategies as st

from hubpub.errors import PublishError
from hubpub.publish.client import _bound_all_requests, addition
from hubpub.publish.trouble import asked_wait, clean, client_errors, diagnose

TOKEN = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"


def answered(status: int, body: object = None, **headers: str) -> errors.HfHubHTTPError:
    """The error that the client makes of an answer."""
    request = httpx2.Request("POST", f"https://huggingface.co/api/models/a/b/commit/main?token={TOKEN}")
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(errors.HfHubHTTPError) as caught:
        hf_raise_for_status(httpx2.Response(status, request=request, content=content, headers=named))
    return caught.value


@pytest.mark.parametrize(
    ("error", "what", "fix", "transient"),
    [
        (answered(400, {"error": "bad path"}), "the Hub refuses the request (bad path)", "correct", False),
        (
            answered(401, X_Error_Message="Invalid credentials in Authorization header"),
            "does not accept",
            "HF_TOKEN",
            False,
        ),
        (answered(402), "wants to be paid", "billing", False),
        (answered(403, {"error": "no write"}), "the token may not do this (no write)", "HF_TOKEN", False),
        (answered(404), "404 Not Found", "HF_ENDPOINT", False),
        (answered(404, X_Error_Code="RepoNotFound"), "no such repo", "check the name", False),
        (answered(404, X_Error_Code="RevisionNotFound"), "no such branch", "check the name", False),
        (answered(404, X_Error_Code="EntryNotFound"), "no such file", "hubpub diff", False),
        (answered(403, X_Error_Code="GatedRepo"), "gated", "accept its conditions", False),
        (answered(409), "something else is changing the repo", "again", False),
        (answered(412), "the branch moved", "hubpub diff", False),
        (answered(413), "too large", "shard", False),
        (answered(429, Retry_After="7"), "too many requests", "wait 7 s", True),
        (answered(500), "500 Internal Server Error", "later", True),
        (answered(502, b"<html>oops</html>", Content_Type="text/html"), "502 Bad Gateway", "later", True),
        (answered(503), "503", "later", True),
        (answered(504), "504", "later", True),
        (answered(507), "storage is full", "storage page", False),
        (answered(418), "418", "HF_ENDPOINT", False),
        (httpx2.ReadTimeout("read"), "does not answer in time", "later", True),
        (httpx2.ConnectError("refused"), "cannot be reached (refused)", "proxy", True),
        (httpx2.RemoteProtocolError("peer closed"), "broke (peer closed)", "later", True),
        (httpx2.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}'"), "broke", "later", True),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE", "unset", False),
        (errors.LocalTokenNotFoundError("none"), "no token", "hf auth login", False),
        (errors.OIDCError("no id token"), "no token could be had: no id token", "trusted publisher", False),
        (errors.HFValidationError("bad id"), "bad id", "check the name", False),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "not JSON", "HF_ENDPOINT", True),
        (ValueError("Invalid metadata in README.md.\n- license"), "refuses the card", "card", False),
        (KeyError("commitUrl"), "cannot be understood", "HF_ENDPOINT", False),
        (
            ConnectionError(f"Network error: 403 Forbidden for https://cas/x?X-Sig={TOKEN}"),
            "may not do this",
            "HF_TOKEN",
            False,
        ),
        (ConnectionError("Network error: something else"), "the upload failed", "what was sent is kept", False),
        (PermissionError("Authentication error"), "Xet storage refuses", "HF_TOKEN", False),
        (
            FileNotFoundError(2, "No such file", "dist/toy/model.bin"),
            "dist/toy/model.bin cannot be read",
            "build",
            False,
        ),
        (PublishError("asks to wait", fix="come back"), "asks to wait", "come back", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_kind_of_error_is_one_line(error: Exception, what: str, fix: str, transient: bool) -> None:
    trouble = diagnose(error)
    assert what in trouble.what
    assert fix in trouble.fix
    assert trouble.transient is transient
    line = str(trouble.error("owner/name", "main is as it was"))
    assert len(line.splitlines()) == 1
    assert TOKEN not in line
    assert isinstance(error, (*client_errors(), PublishError))


def test_the_cause_of_a_failed_thread_counts() -> None:
    error = RuntimeError("Error while uploading 'model.bin' to the Hub.")
    error.__cause__ = answered(403)
    trouble = diagnose(error)
    assert trouble.what == "Error while uploading 'model.bin' to the Hub: the token may not do this"
    assert "HF_TOKEN" in trouble.fix


def test_how_long_the_hub_asks_to_wait() -> None:
    assert asked_wait({"Retry-After": "12"}) == 12
    assert asked_wait({"RateLimit": '"api";r=0;t=55', "retry-after": "1"}) == 55
    assert asked_wait({"ratelimit": '"api";r=7;t=55'}) is None
    assert asked_wait({"Retry-After": "soon"}) is None
    in_a_minute = asked_wait({"Retry-After": formatdate(time.time() + 60, usegmt=True)})
    assert in_a_minute is not None
    assert 50 < in_a_minute <= 60
    assert asked_wait({"Retry-After": formatdate(time.time() - 60, usegmt=True)}) == 0


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_header_is_survived(after: str, limit: str) -> None:
    wait = asked_wait({"Retry-After": after, "RateLimit": limit})
    assert wait is None or wait >= 0


@given(
    st.text(max_size=40),
    st.sampled_from([TOKEN, "hf_jwt_eyJhbGciOi.J9.x-y", "eyJhbGciOiJIUzI1NiJ9.abc.def"]),
    st.text(max_size=40),
)
def test_no_message_quotes_a_token(before: str, token: str, after: str) -> None:
    said = clean(f"{before} {token} {after}")
    assert token not in said
    assert len(said.splitlines()) <= 1


def test_urls_lose_what_is_signed_or_secret() -> None:
    said = clean("PUT https://user:pass@s3.example/bucket/key?X-Amz-Signature=abc#x failed")
    assert said == "PUT https://s3.example/bucket/key failed"


def test_even_a_request_that_asks_for_no_limit_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client passes ``timeout=None`` where it pages through a tree."""
    monkeypatch.setenv("HUBPUB_TIMEOUT", "0.2")
    monkeypatch.setenv("HF_XET_CLIENT_READ_TIMEOUT", "1s")
    monkeypatch.setenv("HF_XET_CLIENT_CONNECT_TIMEOUT", "1s")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        try:
            _bound_all_requests()
            with pytest.raises(httpx2.ReadTimeout):
                get_session().get(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=None)
        finally:
            set_client_factory(default_client_factory)


def test_a_known_digest_is_not_computed_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("known") / "model.bin"
    file.write_bytes(b"model")
    made = addition("model.bin", file, "ab" * 32)
    assert made.upload_info.is_hashed
    assert made.upload_info.sha256.hex() == "ab" * 32  # which its bytes have not: so they were not read
    assert made.upload_info.size == 5
