"""What the client raises, in one line: what happened, what to do, and whether trying again may help.

``huggingface_hub`` lets errors of seven families through: its own `HfHubHTTPError`, transport errors of ``httpx2``,
builtin `OSError` and `RuntimeError` from Xet and from its upload threads, `ValueError` for metadata and for answers
that are no JSON, `KeyError` and `TypeError` for answers of another shape, and errors of the login.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from hubpub.errors import HubpubError, PublishError

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 527})
_TOKEN_LIKE = re.compile(r"\b(?:hf|api_org|hf_jwt|hf_oauth)_[\w.-]{6,}|\beyJ[\w-]{8,}[\w.-]*|(?i:bearer)\s+\S+")
_URL = re.compile(r"(https?://)(?:[^\s/@]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?")
_MESSAGE = 300
"""Characters of a server's own words in a message."""

LOGIN = "log in with `hf auth login`, or set HF_TOKEN, to a token that may write to this repo"


@dataclass(frozen=True)
class Trouble:
    """One failure; ``status`` is of HTTP, ``wait`` the seconds that the server asks for."""

    what: str
    fix: str
    status: int | None = None
    transient: bool = False
    wait: float | None = None

    @property
    def refused(self) -> bool:
        """A plain no: whatever was asked for was not done."""
        return self.status in (400, 401, 402, 403, 404, 413, 422)

    def error(self, where: str, state: str = "") -> PublishError:
        """The exception to raise; ``state`` says what became of the remote."""
        return PublishError(f"{self.what}; {state}" if state else self.what, where=where, fix=self.fix)


def client_errors() -> tuple[type[Exception], ...]:
    """Everything that a call of the client may raise when the network, the server or the login is at fault."""
    import httpx2
    from huggingface_hub import errors

    return (
        *(httpx2.HTTPError, httpx2.InvalidURL, errors.OIDCError, errors.DeviceCodeError),
        *(OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError),
    )


def diagnose(error: BaseException) -> Trouble:
    """What ``error``, raised by the client, means."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, HubpubError):
        return Trouble(error.what, error.fix or "")
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # threads that upload LFS files
        inner = diagnose(error.__cause__)
        return Trouble(f"{clean(str(error)).rstrip('.')}: {inner.what}", inner.fix, inner.status, inner.transient)
    later = "try again later"
    match error:
        case errors.OfflineModeIsEnabled():
            return Trouble("the Hub is needed but HF_HUB_OFFLINE is set", "unset it")
        case errors.LocalTokenNotFoundError():
            return Trouble("there is no token", LOGIN)
        case errors.OIDCError() | errors.DeviceCodeError():
            return Trouble(f"no token could be had: {clean(str(error))}", "check the login or the trusted publisher")
        case errors.HfHubHTTPError():
            return _http(error)
        case httpx2.TimeoutException():
            return Trouble("the Hub does not answer in time", later, transient=True)
        case httpx2.ConnectError():
            fix = "check the connection, the proxy and HF_ENDPOINT"
            return Trouble(f"the Hub cannot be reached ({clean(str(error))})", fix, transient=True)
        case httpx2.TransportError() | httpx2.DecodingError():
            said = clean(str(error)) or type(error).__name__
            return Trouble(f"the connection to the Hub broke ({said})", later, transient=True)
        case httpx2.HTTPError() | httpx2.InvalidURL():
            return Trouble(f"the request failed ({clean(str(error))})", "check HF_ENDPOINT")
        case json.JSONDecodeError():
            return Trouble("the Hub's answer is not JSON", f"check HF_ENDPOINT, or {later}", transient=True)
        case UnicodeEncodeError():
            return Trouble("the token holds characters that no token has", LOGIN)
        case errors.HFValidationError():
            return Trouble(clean(str(error)), "check the name")
        case ValueError() if "metadata" in str(error):
            fix = "correct `card` in the recipe and build again"
            return Trouble(f"the Hub refuses the card: {clean(str(error))}", fix, status=400)
        case ValueError() | KeyError() | TypeError() | AttributeError():
            said = clean(str(error)) or type(error).__name__
            return Trouble(f"the Hub's answer cannot be understood ({said})", "check HF_ENDPOINT")
    return _xet(error)


def _http(error: BaseException) -> Trouble:
    from huggingface_hub import errors

    assert isinstance(error, errors.HfHubHTTPError)
    status = error.response.status_code
    wait = asked_wait(error.response.headers)
    said = clean(error.server_message or "")
    if isinstance(error, errors.RevisionNotFoundError):
        return Trouble("no such branch, tag or commit", "check the name", status)
    if isinstance(error, errors.EntryNotFoundError):
        return Trouble("no such file at this commit", "run `hubpub diff` to see what is there", status)
    if isinstance(error, errors.GatedRepoError):
        return Trouble("the repo is gated", f"accept its conditions on its page on the Hub, and {LOGIN}", status)
    if isinstance(error, errors.DisabledRepoError):
        return Trouble("the repo was disabled", "ask the Hub why, on its page", status)
    if isinstance(error, errors.RepositoryNotFoundError):
        return Trouble("no such repo, or the token may not see it", f"check the name, and {LOGIN}", status)
    return by_status(status, said, wait)


def by_status(status: int, said: str, wait: float | None = None) -> Trouble:
    """What an answer with this status means; ``said`` are the server's own words."""
    quoted = f" ({said})" if said else ""
    answer = f"the Hub answers {status} {_phrase(status)}".rstrip() + quoted
    match status:
        case 400 | 422:
            fix = "correct what it names in the recipe and build again"
            return Trouble(f"the Hub refuses the request{quoted or f': {answer}'}", fix, status)
        case 401:
            return Trouble(f"the Hub does not accept the token{quoted}", LOGIN, status)
        case 402:
            return Trouble(f"the Hub wants to be paid for this{quoted}", "see the billing page of the owner", status)
        case 403:
            return Trouble(f"the token may not do this{quoted}", LOGIN, status)
        case 404:
            return Trouble(answer, f"check the repo's name and HF_ENDPOINT, and {LOGIN}", status)
        case 409:
            return Trouble(f"something else is changing the repo{quoted}", "run the command again", status)
        case 412:
            return Trouble(f"the branch moved meanwhile{quoted}", "look with `hubpub diff`, then publish again", status)
        case 413:
            fix = "make its files smaller or fewer, for instance with the transformation `shard`"
            return Trouble(f"a request is too large for the Hub{quoted}", fix, status)
        case 429:
            soon = f"wait {wait:.0f} s and run the command again" if wait else "wait some minutes and run it again"
            return Trouble(f"too many requests{quoted}", soon, status, transient=True, wait=wait)
        case 507:
            return Trouble(f"the Hub's storage is full{quoted}", "see the storage page of the owner", status)
    if status >= 500 or status in TRANSIENT:
        return Trouble(answer, "try again later", status, transient=status in TRANSIENT, wait=wait)
    return Trouble(answer, "check the repo's name and HF_ENDPOINT", status)


def _xet(error: BaseException) -> Trouble:
    """Builtin errors: of Xet, which names the status of an answer in its text only, or of the local disk."""
    said = clean(str(error))
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return Trouble(f"{error.filename} cannot be read ({error.strerror})", "build the release again")
    found = re.search(r"\b([45]\d\d)\b", said)
    if isinstance(error, PermissionError):
        return Trouble(f"Xet storage refuses the token ({said})", LOGIN, 401)
    if found and int(found[1]) in (401, 402, 403, 404, 413, 429, 507):
        status = int(found[1])
        known = by_status(status, said)
        return Trouble(f"the upload failed: {known.what}", known.fix, status)
    fix = "run the command again: what was sent is kept; HF_HUB_DISABLE_XET=1 takes the other way"
    return Trouble(f"the upload failed ({said or type(error).__name__})", fix)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: RateLimit where nothing remains, else Retry-After in either form."""
    lower = {key.lower(): value for key, value in headers.items()}
    if found := re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", lower.get("ratelimit", "")):
        return float(found[1])
    after = lower.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", after):
        return float(after)
    if after:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
        except ValueError:
            return None
    return None


def clean(text: str) -> str:
    """One line without anything secret: tokens, signed URLs' queries, user names in URLs."""
    line = _TOKEN_LIKE.sub("…", _URL.sub(r"\1\2", " ".join(text.split())))
    return line if len(line) <= _MESSAGE else f"{line[:_MESSAGE]}…"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
