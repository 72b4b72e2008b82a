"""The CAS over HTTP: who may, what bad clients get, and that nothing is kept of what was refused."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import xet_pack
import xet_server
from xet_pack import CHUNKS, FILE, LENGTHS, OTHER, SHA256, WHOLE, XORB
from xet_server import post_xorb, refused

from hubpub.localhub import xet
from hubpub.localhub.xet import Cas
from hubpub.localhub.xet_format import LZ4, MAX_XORB_BODY, RAW


@pytest.fixture(scope="module")
def listening() -> Iterator[xet_server.Listening]:
    with xet_server.listening() as listening:
        yield listening


@pytest.fixture
def served(tmp_path: Path, listening: xet_server.Listening) -> xet_server.Served:
    return listening.serve(tmp_path / "hub")


@pytest.fixture(scope="module")
def anyone() -> Iterator[httpx2.Client]:
    """A client without a token."""
    with httpx2.Client(trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
def http(served: xet_server.Served) -> Iterator[httpx2.Client]:
    with served.http() as client:
        yield client


def whole_file(xet_hash: str = FILE, sha256: str | None = SHA256) -> bytes:
    return xet_pack.file_record(xet_hash, sha256, [xet_pack.segment(XORB, len(WHOLE), 0, len(CHUNKS))])


def shard(*files: bytes) -> bytes:
    return xet_pack.shard_of(files or [whole_file()], [xet_pack.xorb_record(XORB, LENGTHS)])


# Who may

ROUTES = [
    ("GET", f"/v1/chunks/default/{XORB}", "read"),
    ("POST", f"/v1/xorb-grants/default/{XORB}", "write"),
    ("POST", f"/v1/xorbs/default/{XORB}", "write"),
    ("POST", "/v2/shards", "write"),
    ("POST", "/v1/shards", "write"),
    ("GET", f"/v2/reconstructions/{FILE}", "read"),
    ("GET", f"/v1/reconstructions/{FILE}", "read"),
]


def test_every_route_is_among_those_tested(served: xet_server.Served) -> None:
    paths = {route.path.format(prefix="default", hash=XORB) for route in served.cas.routes()}
    assert paths == {path.replace(FILE, XORB) for _, path, _ in ROUTES} | {f"/data/{XORB}"}


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_a_token_of_the_right_kind_is_needed(
    served: xet_server.Served,
    anyone: httpx2.Client,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    scope: str,
) -> None:
    def status(token: str | None) -> int:
        headers = {} if token is None else {"Authorization": token}
        return anyone.request(method, f"{served.url}/xet{path}", headers=headers).status_code

    good, expires = served.cas.token("write", "a/b")
    reader, _ = served.cas.token("read", "a/b")
    assert xet.LIFETIME > 60  # the client asks for another one a minute before
    bad = [
        None,
        "Bearer",
        "Bearer hf_abc",
        "Bearer xet..",
        f"Basic {good}",
        f"Bearer x{good}",
        f"Bearer {good[:-4]}0000",
    ]
    bad += [f"Bearer {reader.rpartition('.')[0]}.{good.rpartition('.')[2]}"]  # the claims of one, signed as the other
    assert {status(token) for token in bad} == {401}
    assert status(f"Bearer {good}") not in (401, 403)
    assert (status(f"Bearer {reader}") == 403) == (scope == "write")
    monkeypatch.setattr("time.time", lambda: float(expires))
    assert status(f"Bearer {good}") == 401


def test_a_token_of_another_hub_is_none(served: xet_server.Served, tmp_path: Path, anyone: httpx2.Client) -> None:
    token, _ = Cas(tmp_path / "other", served.blobs, b"another secret").token("write", "a/b")
    headers = {"Authorization": f"Bearer {token}"}
    answer = anyone.get(f"{served.url}/xet/v1/reconstructions/{FILE}", headers=headers)
    refused(answer, 401, "fresh one")
    assert token not in answer.text


# Xorbs


def test_a_xorb_is_taken_once(served: xet_server.Served, http: httpx2.Client) -> None:
    assert post_xorb(http).json() == {"was_inserted": True}
    assert post_xorb(http).json() == {"was_inserted": False}
    assert served.kept() == {f"xet/xorbs/{XORB[:2]}/{XORB}"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is empty"),
        (xet_pack.xorb_of(CHUNKS)[:-1], "ends within chunk 10"),
        (xet_pack.xorb_of(CHUNKS) + b"\0", "ends within chunk 11"),
        (xet_pack.chunk_record(b"abc", 7), "compression scheme 7"),
        (xet_pack.chunk_record(b"abc", unpacked=4), "3 bytes are to hold 4"),
        (b"PK\3\4" * 9000, "version 80"),
        (xet_pack.chunk_record(bytes(131072), LZ4) * 513, "hold more than"),
        (bytes(MAX_XORB_BODY + 1), "holds 0 bytes"),
    ],
    ids=["empty", "cut", "more", "scheme", "length", "other", "unpacked", "zeros"],
)
def test_a_bad_xorb_is_not_kept(served: xet_server.Served, http: httpx2.Client, body: bytes, says: str) -> None:
    refused(post_xorb(http, body), 400, XORB, says)
    assert served.kept() == set()


def test_a_body_without_end_is_cut(served: xet_server.Served, http: httpx2.Client) -> None:
    head = xet_pack.chunk_record(b"a", LZ4, unpacked=1)
    padded = b"\0" + (262144).to_bytes(3, "little") + head[4:8] + bytes(262144)

    def endless() -> Iterator[bytes]:
        while True:
            yield padded

    with contextlib.suppress(httpx2.TransportError):  # the Hub hangs up on who goes on sending
        refused(http.post(f"/v1/xorbs/default/{XORB}", content=endless()), 413, "larger than")
    assert served.kept() == set()


def test_a_connection_that_breaks_leaves_nothing(served: xet_server.Served) -> None:
    token, _ = served.cas.token("write", "a/b")
    address = served.url.removeprefix("http://").split(":")
    for path in (f"/xet/v1/xorbs/default/{XORB}", "/xet/v1/shards"):
        with socket.create_connection((address[0], int(address[1]))) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 90000\r\n\r\n"
            connection.sendall(head.encode() + xet_pack.xorb_of(CHUNKS))
    with served.http() as http:
        assert post_xorb(http).json() == {"was_inserted": True}  # and is not waiting for the rest
    for _ in range(200):
        if served.kept() == {f"xet/xorbs/{XORB[:2]}/{XORB}"}:
            break
        time.sleep(0.01)
    assert served.kept() == {f"xet/xorbs/{XORB[:2]}/{XORB}"}


@pytest.mark.parametrize("name", ["abc", "A" * 64, "g" * 64, "0" * 65, "..%2f" * 8])
def test_a_hash_that_is_none(served: xet_server.Served, http: httpx2.Client, name: str) -> None:
    for answer in (post_xorb(http, xorb=name), http.get(f"/v1/reconstructions/{name}")):
        assert answer.status_code in (400, 404)
    assert served.kept() == set()


# Shards


def test_a_shard_makes_blobs(served: xet_server.Served, http: httpx2.Client) -> None:
    post_xorb(http)
    assert http.post("/v1/shards", content=shard()).json() == {"result": 1}
    assert http.post("/v1/shards", content=shard()).json() == {"result": 0}
    assert served.blobs.path(SHA256).read_bytes() == WHOLE
    assert served.cas.xet_hash(SHA256) == FILE


def test_a_file_without_a_sha256_gets_one(served: xet_server.Served, http: httpx2.Client) -> None:
    post_xorb(http)
    assert http.post("/v1/shards", content=shard(whole_file(sha256=None))).status_code == 200
    assert served.cas.xet_hash(SHA256) == FILE


def test_a_file_that_came_another_way_before(served: xet_server.Served, http: httpx2.Client) -> None:
    with served.blobs.incoming() as path:
        path.write_bytes(WHOLE)
        served.blobs.keep(path, SHA256)
    assert served.cas.xet_hash(SHA256) is None
    post_xorb(http)
    assert http.post("/v1/shards", content=shard()).status_code == 200
    assert served.cas.xet_hash(SHA256) == FILE


def segment(**changes: Any) -> bytes:
    values: dict[str, Any] = {"xorb": XORB, "unpacked": len(WHOLE), "start": 0, "end": len(CHUNKS)} | changes
    return xet_pack.segment(**values)


BAD_SHARDS = {
    "unknown xorb": (
        xet_pack.shard_of([xet_pack.file_record(FILE, SHA256, [segment(xorb=OTHER)])]),
        [OTHER, "HF_HOME"],
    ),
    "unknown xorb listed": (xet_pack.shard_of([], [xet_pack.xorb_record(OTHER, LENGTHS)]), [OTHER, "not here"]),
    "xorb listed with other chunks": (
        xet_pack.shard_of([], [xet_pack.xorb_record(XORB, [1])]),
        ["1 chunks of 1 bytes"],
    ),
    "chunk beyond the end": (
        xet_pack.shard_of([xet_pack.file_record(FILE, SHA256, [segment(end=12)])]),
        ["chunks 0:12", "which has 11"],
    ),
    "chunk far beyond the end": (
        xet_pack.shard_of([xet_pack.file_record(FILE, SHA256, [segment(start=2**31, end=2**32 - 1)])]),
        ["which has 11"],
    ),
    "other length": (
        xet_pack.shard_of([xet_pack.file_record(FILE, SHA256, [segment(unpacked=1)])]),
        [f"hold {len(WHOLE)} bytes", "says 1"],
    ),
    "wrong sha256": (shard(whole_file(sha256="1" * 64)), [SHA256, "1" * 64]),
    "wrong order": (
        xet_pack.shard_of(
            [
                xet_pack.file_record(
                    FILE,
                    SHA256,
                    [
                        segment(start=5, unpacked=sum(LENGTHS[5:])),
                        segment(end=5, unpacked=sum(LENGTHS[:5])),
                    ],
                )
            ]
        ),
        [SHA256, "sha256 is"],
    ),
    "one good file and one bad": (shard(whole_file(), whole_file(OTHER, "1" * 64)), [OTHER, "1" * 64]),
    "cut": (shard()[:-10], ["ends within a record"]),
    "nothing": (b"", ["ends within a record"]),
    "garbage": (random.Random(1).randbytes(9999), ["not a shard"]),
}


@pytest.mark.parametrize("kind", BAD_SHARDS)
def test_a_bad_shard_makes_no_file_known(served: xet_server.Served, http: httpx2.Client, kind: str) -> None:
    body, says = BAD_SHARDS[kind]
    post_xorb(http)
    refused(http.post("/v1/shards", content=body), 400, *says)
    assert served.cas.xet_hash(SHA256) is None
    assert http.get(f"/v1/reconstructions/{FILE}").status_code == 404
    # A file that passed its own check may stay as a blob, which is then what its name says.
    whole = {f"blobs/{SHA256[:2]}/{SHA256}"} if kind == "one good file and one bad" else set()
    assert served.kept() == {f"xet/xorbs/{XORB[:2]}/{XORB}"} | whole
    assert http.post("/v1/shards", content=shard()).status_code == 200


def test_a_hash_cannot_be_given_to_another_file(served: xet_server.Served, http: httpx2.Client) -> None:
    post_xorb(http)
    assert http.post("/v1/shards", content=shard()).status_code == 200
    part = xet_pack.file_record(FILE, hashlib.sha256(CHUNKS[3]).hexdigest(), [segment(start=3, end=4, unpacked=112)])
    refused(http.post("/v1/shards", content=xet_pack.shard_of([part])), 400, f"known with sha256 {SHA256}")
    assert served.cas.xet_hash(SHA256) == FILE


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (xet_pack.chunk_record(bytes(9000), LZ4, unpacked=131072), "less than the 131072"),
        (xet_pack.chunk_record(bytes(9000), LZ4, unpacked=10), "more than the 10"),
        (xet_pack.chunk_record(b"a" * 50, RAW)[:4] + b"\1" + bytes([50, 0, 0]) + b"a" * 50, "LZ4 frame is damaged"),
    ],
    ids=["less", "more", "damaged"],
)
def test_a_chunk_that_cannot_be_unpacked(
    served: xet_server.Served, http: httpx2.Client, record: bytes, says: str
) -> None:
    assert post_xorb(http, record).json() == {"was_inserted": True}
    size = int.from_bytes(record[5:8], "little")
    body = xet_pack.shard_of([xet_pack.file_record(FILE, SHA256, [segment(unpacked=size, end=1)])])
    refused(http.post("/v1/shards", content=body), 400, f"xorb {XORB}, chunk 0", says)
    assert served.kept() == {f"xet/xorbs/{XORB[:2]}/{XORB}"}


# A full disk


def full(_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write", "sync"])
@pytest.mark.parametrize("what", ["xorb", "shard"])
def test_a_full_disk_keeps_nothing(
    served: xet_server.Served, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch, what: str, step: str
) -> None:
    if what == "shard":
        post_xorb(http)
    before = served.kept()

    def send() -> httpx2.Response:
        return post_xorb(http) if what == "xorb" else http.post("/v1/shards", content=shard())

    with monkeypatch.context() as patch:
        if step == "sync":
            patch.setattr("os.fsync", full)
        else:
            patch.setattr(served.blobs, "incoming", lambda: contextlib.nullcontext(Path("/dev/full")))
            if not Path("/dev/full").exists():
                pytest.skip("no /dev/full here")
        refused(send(), 507, "No space left")
    assert served.kept() == before
    assert served.cas.xet_hash(SHA256) is None
    assert send().status_code == 200
