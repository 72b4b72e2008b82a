"""LFS as the client never misuses it: wrong digests, forged and expired addresses, parts out of order."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hub_client import Ask

from hubpub.localhub import LocalHub

MIB = 1 << 20


def batch(ask: Ask, token: str, content: bytes, *, transfers: tuple[str, ...] = ("basic", "multipart")) -> Any:
    oid = hashlib.sha256(content).hexdigest()
    body = {"operation": "upload", "transfers": list(transfers), "objects": [{"oid": oid, "size": len(content)}]}
    answer = ask("POST", "/tester/model.git/info/lfs/objects/batch", token=token, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["objects"][0]


def local(href: str) -> str:
    parts = urlsplit(href)
    return f"{parts.path}?{parts.query}"


def commit(ask: Ask, token: str, content: bytes, *, size: int | None = None) -> int:
    oid = hashlib.sha256(content).hexdigest()
    lines = [
        {"key": "header", "value": {"summary": "x", "description": ""}},
        {"key": "lfsFile", "value": {"path": "x.bin", "algo": "sha256", "oid": oid, "size": size or len(content)}},
    ]
    import json

    answer = ask(
        "POST",
        "/api/models/tester/model/commit/main",
        token=token,
        content="\n".join(map(json.dumps, lines)),
        headers={"content-type": "application/x-ndjson"},
    )
    return answer.status_code


def test_a_small_object(hub: LocalHub, ask: Ask, model: Path) -> None:
    token, content = hub.token(), b"small object"
    action = batch(ask, token, content)["actions"]
    assert commit(ask, token, content) == 400  # not here yet
    verify = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    assert ask("POST", local(action["verify"]["href"]), token=token, json=verify).status_code == 404
    href = local(action["upload"]["href"])
    assert ask("PUT", href, content=b"other object").status_code == 400
    assert ask("PUT", href, content=b"longer than announced").status_code == 413
    assert "actions" in batch(ask, token, content)
    assert ask("PUT", href, content=content).status_code == 200
    assert ask("POST", local(action["verify"]["href"]), token=token, json=verify).status_code == 200
    assert "actions" not in batch(ask, token, content)
    assert commit(ask, token, content, size=5) == 400
    assert commit(ask, token, content) == 200
    assert hub.files("tester/model")["x.bin"] == (len(content), verify["oid"])


def test_addresses_are_signed(hub: LocalHub, ask: Ask, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"signed"
    href = local(batch(ask, hub.token(), content)["actions"]["upload"]["href"])
    for forged in (href.replace("size=6", "size=7"), href[:-1] + ("0" if href[-1] != "0" else "1"), "/_lfs/object"):
        assert ask("PUT", forged, content=content).status_code == 403
    assert ask("PUT", href.replace("/object?", "/part?"), content=content).status_code == 403
    real = time.time
    monkeypatch.setattr("hubpub.localhub.lfs.time.time", lambda: real() + 3601)
    answer = ask("PUT", href, content=content)
    assert (answer.status_code, answer.headers["x-error-message"]) == (403, "Request has expired")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [0, 0, 1, 2], [0, 2, 1, 1]])
def test_parts(hub: LocalHub, ask: Ask, model: Path, order: list[int]) -> None:
    token, content = hub.token(), bytes(range(250)) * 10000
    upload = batch(ask, token, content)["actions"]["upload"]
    size = int(upload["header"]["chunk_size"])
    urls = [local(upload["header"][f"{number:05}"]) for number in (1, 2, 3)]
    assert (size, len(upload["header"])) == (MIB, 4)
    etags = {}
    for part in order:
        answer = ask("PUT", urls[part], content=content[part * size : (part + 1) * size])
        assert answer.status_code == 200
        etags[part] = answer.headers["etag"]
    parts = [{"partNumber": part + 1, "etag": etags[part]} for part in range(3)]
    oid = hashlib.sha256(content).hexdigest()
    assert ask("POST", local(upload["href"]), json={"oid": oid, "parts": parts[:2]}).status_code == 400
    for _ in range(2):  # the second as if the first answer had been lost
        assert ask("POST", local(upload["href"]), json={"oid": oid, "parts": parts}).status_code == 200
    assert commit(ask, token, content) == 200
    assert ask("GET", "/tester/model/resolve/main/x.bin").content == content


def test_a_part_that_is_missing_or_short_or_wrong(hub: LocalHub, ask: Ask, model: Path) -> None:
    token, content = hub.token(), b"p" * (2 * MIB + 5)
    oid = hashlib.sha256(content).hexdigest()
    parts = [{"partNumber": number, "etag": "x"} for number in (1, 2, 3)]
    for sizes in ([MIB, 0, 5], [MIB, MIB, 4], [MIB, MIB, 0]):
        upload = batch(ask, token, content)["actions"]["upload"]
        for number, size in enumerate(sizes, start=1):
            status = ask("PUT", local(upload["header"][f"{number:05}"]), content=b"p" * size).status_code
            assert status == (200 if size in (MIB, 5) else 400)
        assert ask("POST", local(upload["href"]), json={"oid": oid, "parts": parts}).status_code == 400
    upload = batch(ask, token, content)["actions"]["upload"]
    for number, size in enumerate([MIB, MIB, 5], start=1):
        ask("PUT", local(upload["header"][f"{number:05}"]), content=b"q" * size)
    assert ask("POST", local(upload["href"]), json={"oid": oid, "parts": parts}).status_code == 400
    assert "actions" in batch(ask, token, content)


def test_a_client_that_knows_no_parts(hub: LocalHub, ask: Ask, model: Path) -> None:
    content = b"b" * (3 * MIB)
    upload = batch(ask, hub.token(), content, transfers=("basic",))["actions"]["upload"]
    assert "header" not in upload
    assert ask("PUT", local(upload["href"]), content=content).status_code == 200


def test_batches_that_make_no_sense(hub: LocalHub, ask: Ask, model: Path) -> None:
    token = hub.token()
    path = "/tester/model.git/info/lfs/objects/batch"
    good = {"oid": "0" * 64, "size": 1}
    for objects in ([{"oid": "../x", "size": 1}], [{"oid": "0" * 64, "size": -1}], [{}], [3], "x", [good] * 257):
        body = {"operation": "upload", "objects": objects}
        assert ask("POST", path, token=token, json=body).status_code == 400, objects
    assert ask("POST", path, token=token, json={"operation": "download", "objects": []}).status_code == 400
    assert ask("POST", path, token=token, content=b"{").status_code == 400
    assert ask("POST", path, token=hub.token("read"), json={"operation": "upload", "objects": []}).status_code == 403
    assert ask("POST", path, json={"operation": "upload", "objects": []}).status_code == 401
