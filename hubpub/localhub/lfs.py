"""LFS: batch, single and multipart uploads to signed addresses, verify."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hubpub.localhub.arriving import hash_file, receive
from hubpub.localhub.call import Call, Hub, answer, plain
from hubpub.localhub.refusal import Refusal, bad_request, forbidden

if TYPE_CHECKING:
    from hashlib import _Hash

_EXPIRY = 3600
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OBJECTS_MAX = 256


def routes() -> list[Route]:
    """The routes of LFS; uploads need no token, as their addresses are signed."""
    found = []
    for prefix in ("", "/{kind}"):
        base = prefix + "/{owner}/{name}.git/info/lfs/objects/"
        found += [plain(base + "batch", batch, "POST"), plain(base + "verify", verify, "POST")]
    return [
        *found,
        Route("/_lfs/object", put_object, methods=["PUT"]),
        Route("/_lfs/part", put_part, methods=["PUT"]),
        plain("/_lfs/complete", complete, "POST"),
    ]


class Parts:
    """Multipart uploads under way: one file each, which outlives a restart of the server.

    Args:
        root: the folder of the Hub.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "multipart"
        self._folder.mkdir(exist_ok=True)
        self._digests: dict[str, tuple[int, _Hash]] = {}
        for path in self._folder.iterdir():
            if path.stat().st_mtime < time.time() - 24 * _EXPIRY:
                path.unlink()

    def begin(self) -> str:
        """A new upload."""
        upload = secrets.token_hex(16)
        self._digests[upload] = (0, hashlib.sha256())
        return upload

    def path(self, upload: str) -> Path:
        """Its file, made when it is not there."""
        path = self._folder / upload
        path.touch()
        return path

    def digest_at(self, upload: str, offset: int) -> _Hash | None:
        """A hash of everything before ``offset``, where the parts before came in order."""
        known = self._digests.get(upload)
        return known[1].copy() if known and known[0] == offset else None

    def arrived(self, upload: str, end: int, digest: _Hash | None) -> None:
        """A part is here, up to ``end``; ``digest`` is the hash of everything before that, where it is known."""
        if digest:
            self._digests[upload] = (end, digest)
        else:
            self._digests.pop(upload, None)  # out of order: the file is hashed in the end

    def finish(self, upload: str, size: int) -> str:
        """Sha256 of the upload, which ends at ``size``."""
        known = self._digests.pop(upload, None)
        path = self.path(upload)
        if path.stat().st_size != size:
            return ""
        return known[1].hexdigest() if known and known[0] == size else hash_file(path)[0]


def _sign(hub: Hub, values: dict[str, str]) -> str:
    text = json.dumps(values, sort_keys=True).encode()
    return hmac.new(hub.secret, text, hashlib.sha256).hexdigest()


def _address(hub: Hub, action: str, **values: object) -> str:
    query = {name: str(value) for name, value in values.items()} | {"expires": str(int(time.time()) + _EXPIRY)}
    return f"{hub.endpoint}/_lfs/{action}?{urlencode({**query, 'sign': _sign(hub, {**query, 'action': action})})}"


def _signed(request: Request, action: str) -> dict[str, str]:
    """What a signed address says, or a refusal, as a store of objects gives it."""
    values = dict(request.query_params)
    sign = values.pop("sign", "")
    if not hmac.compare_digest(sign.encode(), _sign(request.app.state.hub, {**values, "action": action}).encode()):
        raise forbidden("SignatureDoesNotMatch")
    if int(values["expires"]) < time.time():
        raise forbidden("Request has expired")
    return values


def _object(value: object) -> tuple[str, int]:
    oid, size = (value.get("oid"), value.get("size")) if isinstance(value, dict) else (None, None)
    if not isinstance(oid, str) or not _SHA256.fullmatch(oid) or not isinstance(size, int) or size < 0:
        raise bad_request("an object has a sha256 as oid, and a size in bytes")
    return oid, size


def batch(call: Call) -> Response:
    """Where to upload which objects; those that are here already get no action."""
    call.writer(member=False)
    objects = call.json.get("objects")
    if call.json.get("operation") != "upload" or call.json.get("hash_algo", "sha256") != "sha256":
        raise bad_request("only uploads by sha256")
    if not isinstance(objects, list) or len(objects) > _OBJECTS_MAX:
        raise bad_request(f"objects must be a list of at most {_OBJECTS_MAX}")
    multipart = "multipart" in call.json.get("transfers", ["basic"])
    verify_url = f"{call.hub.endpoint}/{call.repo.path}.git/info/lfs/objects/verify"
    answers = []
    for oid, size in map(_object, objects):
        value: dict[str, Any] = {"oid": oid, "size": size}
        if not call.hub.blobs.has(oid):
            upload = _multipart(call, oid, size) if multipart and size > call.hub.multipart_bytes else None
            upload = upload or {"href": _address(call.hub, "object", oid=oid, size=size)}
            value["actions"] = {"upload": upload, "verify": {"href": verify_url}}
        elif call.hub.blobs.size(oid) != size:
            value["error"] = {"code": 422, "message": "the object has another size"}
        answers.append(value)
    return answer({"transfer": "multipart" if multipart else "basic", "objects": answers})


def _multipart(call: Call, oid: str, size: int) -> dict[str, Any]:
    chunk = call.hub.multipart_bytes
    parts: Parts = call.request.app.state.parts
    upload = parts.begin()
    count = -(-size // chunk)
    header = {
        f"{number:05}": _address(
            call.hub, "part", upload=upload, offset=(number - 1) * chunk, size=min(chunk, size - (number - 1) * chunk)
        )
        for number in range(1, count + 1)
    }
    href = _address(call.hub, "complete", upload=upload, oid=oid, size=size)
    return {"href": href, "header": {"chunk_size": str(chunk), **header}}


async def put_object(request: Request) -> Response:
    """One object in one request."""
    values = _signed(request, "object")
    hub: Hub = request.app.state.hub
    size = int(values["size"])
    digest = hashlib.sha256()
    with hub.blobs.incoming() as path:
        got = await receive(request, path, digest=digest, limit=size)
        if got != size or digest.hexdigest() != values["oid"]:
            raise bad_request("BadDigest: the content is not what its sha256 says")
        await run_in_threadpool(hub.blobs.keep, path, values["oid"])
    return Response(headers={"ETag": f'"{values["oid"]}"'})


async def put_part(request: Request) -> Response:
    """One part of an object."""
    values = _signed(request, "part")
    parts: Parts = request.app.state.parts
    upload, offset, size = values["upload"], int(values["offset"]), int(values["size"])
    digest = parts.digest_at(upload, offset)
    got = await receive(request, parts.path(upload), offset=offset, digest=digest, limit=size)
    if got != size:
        raise bad_request("IncompleteBody")
    parts.arrived(upload, offset + size, digest)
    return Response(headers={"ETag": _part_etag(upload, offset)})


def _part_etag(upload: str, offset: int) -> str:
    return f'"{upload}-{offset}"'


def complete(call: Call) -> Response:
    """Put the parts of an object together."""
    values = _signed(call.request, "complete")
    parts: Parts = call.request.app.state.parts
    upload, oid, size = values["upload"], values["oid"], int(values["size"])
    if call.hub.blobs.has(oid):
        return answer({})  # the answer to the first call was lost
    step = call.hub.multipart_bytes
    named = [part for part in call.json.get("parts", []) if isinstance(part, dict)]
    if [part.get("partNumber") for part in named] != list(range(1, -(-size // step) + 1)):
        raise bad_request("InvalidPartOrder")
    if [part.get("etag") for part in named] != [_part_etag(upload, offset) for offset in range(0, size, step)]:
        raise bad_request("InvalidPart: an ETag is not that of the part that arrived")
    if parts.finish(upload, size) != oid:
        parts.path(upload).unlink()
        raise bad_request("BadDigest: the content is not what its sha256 says")
    call.hub.blobs.keep(parts.path(upload), oid)
    return answer({})


def verify(call: Call) -> Response:
    """Whether an object has arrived."""
    call.writer(member=False)
    oid, size = _object(call.json)
    if not call.hub.blobs.has(oid) or call.hub.blobs.size(oid) != size:
        raise Refusal(404, "The object has not arrived")
    return answer({})
