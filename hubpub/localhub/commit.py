"""Preupload and commit: how files become part of a repo, all of a commit or nothing."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hubpub.localhub import pulls
from hubpub.localhub.arriving import receive
from hubpub.localhub.call import Call, answer, api
from hubpub.localhub.metadata import validate
from hubpub.localhub.modes import Attributes, ignored
from hubpub.localhub.refusal import Refusal, bad_request, forbidden, no_entry, no_revision
from hubpub.localhub.repos import REGULAR_MAX, Commit, File, check_path, lfs_file, pull_number

if TYPE_CHECKING:
    from pathlib import Path

    from hubpub.localhub.blobs import Batch

_FILES_MAX = 256
_LINE_MAX = 2 * REGULAR_MAX


def routes() -> list[Route]:
    """The routes that commit."""
    return [
        api("/preupload/{rev}", preupload, "POST"),
        Route("/api/{kind}/{owner}/{name}/commit/{rev}", commit, methods=["POST"]),
    ]


def preupload(call: Call) -> Response:
    """For each file: LFS or regular, ignored or not, and the id of what is there, by which the client finds no-ops."""
    call.pusher()
    files = call.json.get("files")
    if not isinstance(files, list) or len(files) > _FILES_MAX:
        raise bad_request(f"files must be a list of at most {_FILES_MAX}")
    present = call.hub.repos.files(call.commit().tree)

    def text(name: str) -> bytes:
        file = present.get(name)
        return call.hub.blobs.path(file.sha256).read_bytes() if file else b""

    attributes = Attributes(text(".gitattributes"))
    paths = [check_path(each.get("path") if isinstance(each, dict) else None) for each in files]
    gitignore = call.json.get("gitIgnore")
    left_out = ignored(paths, gitignore if isinstance(gitignore, str) else text(".gitignore").decode(errors="replace"))
    answers = []
    for path, each in zip(paths, files, strict=True):
        try:
            sample, size = base64.b64decode(each.get("sample") or "", validate=True), int(each["size"])
        except (ValueError, KeyError, TypeError):
            raise bad_request(f"{path}: sample is base64, size a number of bytes") from None
        value: dict[str, Any] = {
            "path": path,
            "uploadMode": attributes.mode(path, size, sample),
            "shouldIgnore": path in left_out,
        }
        if there := present.get(path):
            value["oid"] = there.sha256 if there.lfs else there.oid
        answers.append(value)
    return answer({"files": answers})


@dataclass
class _Change:
    """What a commit says, line by line."""

    header: dict[str, Any] = field(default_factory=dict)
    operations: list[tuple[str, str, File | None]] = field(default_factory=list)

    def apply(self, files: Mapping[str, File]) -> dict[str, File]:
        """The files afterwards; a refusal where one to delete is not there."""
        result = dict(files)
        for key, path, file in self.operations:
            if file is not None:
                result[path] = file
            elif key == "deletedFolder":
                below = [each for each in result if each.startswith(f"{path}/")]
                if not below:
                    raise no_entry(f"A folder with this name doesn't exist: {path}")
                for each in below:
                    del result[each]
            elif result.pop(path, None) is None:
                raise no_entry(f"A file with this name doesn't exist: {path}")
        return result


async def commit(request: Request) -> Response:
    """Add a commit to a branch or pull request, or open a pull request with it."""
    call = Call(request.app.state.hub, request)
    with call.hub.blobs.incoming() as path:
        await receive(request, path)
        return await run_in_threadpool(_commit, call, path)


def _commit(call: Call, body: Path) -> Response:
    create_pr = call.query.get("create_pr", "") in {"1", "true"}
    revision = call.part("rev")
    num = pull_number(revision)
    token = call.pusher()
    with call.hub.blobs.batch() as batch:
        change = _read(call, body, batch)
    summary, description = (change.header.get(name) or "" for name in ("summary", "description"))
    parent = change.header.get("parentCommit")
    if not isinstance(summary, str) or not summary.strip() or not isinstance(description, str):
        raise bad_request("the commit has no summary")
    repos, repo = call.hub.repos, call.repo
    result: Commit

    with call.hub.database.change():
        start: str | None = None
        expected = parent
        if create_pr:
            start = repos.resolve(repo, parent or revision).oid
            expected = None
            num = pulls.open_pull(call, summary, description, token.user, status="open", base=start)
            ref = f"refs/pr/{num}"
        elif num is not None:
            pulls.check_push(call, num)
            ref = f"refs/pr/{num}"
        else:
            ref = revision if revision.startswith("refs/heads/") else f"refs/heads/{revision}"
            if repos.ref(repo, ref) is None:
                repos.resolve(repo, revision)
                raise forbidden(f"{revision} is not a branch; commits go to branches and pull requests")
        if not create_pr and repos.ref(repo, ref) is None:
            raise no_revision(revision)
        result = repos.commit(
            repo,
            ref,
            change.apply,
            title=summary,
            message=description,
            author=token.user,
            start=start,
            expected=expected,
        )
        if num is not None:
            pulls.add_event(call, num, "commit", token.user, {"subject": summary, "oid": result.oid})
    value = {
        "success": True,
        "commitOid": result.oid,
        "commitUrl": call.url(repo, "commit", result.oid),
        "hookOutput": "",
    }
    if create_pr:
        value["pullRequestUrl"] = call.url(repo, "discussions", str(num))
    return answer(value)


def _read(call: Call, body: Path, batch: Batch) -> _Change:
    """Read the lines of a commit; the contents of regular files are kept on the way."""
    change = _Change()
    with body.open("rb") as file:
        for line in _lines(file):
            try:
                item = json.loads(line)
                key, value = item["key"], item["value"]
                if not isinstance(value, dict):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                raise bad_request("a line of the commit is not a JSON object with key and value") from None
            if key == "header":
                change.header = value
                continue
            path = check_path(value["path"].rstrip("/") if isinstance(value.get("path"), str) else None)
            if key == "file":
                change.operations.append((key, path, _regular(call, path, value, batch)))
            elif key == "lfsFile":
                change.operations.append((key, path, _lfs(call, path, value)))
            elif key in {"deletedFile", "deletedFolder"}:
                change.operations.append((key, path, None))
            else:
                raise bad_request(f"the commit has an unknown operation: {key!a}")
    return change


def _lines(file: Any) -> Iterable[bytes]:
    while line := file.readline(_LINE_MAX):
        if len(line) == _LINE_MAX:
            raise _too_large("a file of the commit")
        if line.strip():
            yield line


def _too_large(what: str) -> Refusal:
    return bad_request(
        f"Your push was rejected because it contains files larger than 10 MiB. Please use LFS. Offending file: {what}"
    )


def _regular(call: Call, path: str, value: Mapping[str, Any], batch: Batch) -> File:
    content = value.get("content")
    if not isinstance(content, str):
        raise bad_request(f"{path}: no content")
    try:
        data = base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content.encode()
    except (binascii.Error, UnicodeEncodeError):
        raise bad_request(f"{path}: the content is not base64") from None
    if len(data) > REGULAR_MAX:
        raise _too_large(path)
    if path == "README.md":
        errors, _ = validate(data.decode(errors="replace"), call.kind)
        if errors:
            messages = [{"message": message} for message in errors]
            raise Refusal(
                400,
                "Invalid metadata in README.md",
                body={"error": f"Invalid metadata in README.md: {'; '.join(errors)}", "errors": messages},
            )
    return call.hub.repos.store(data, batch)


def _lfs(call: Call, path: str, value: Mapping[str, Any]) -> File:
    oid, size = value.get("oid"), value.get("size")
    if value.get("algo") != "sha256" or not isinstance(oid, str) or not call.hub.blobs.has(oid):
        raise bad_request(
            "Your push was rejected because an LFS pointer pointed to a file that does not exist. "
            f"Offending file: {path}"
        )
    real = call.hub.blobs.size(oid)
    if size is not None and size != real:
        raise bad_request(f"{path}: the LFS object has {real} bytes, not {size}")
    return lfs_file(oid, real)
