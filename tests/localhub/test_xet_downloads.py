"""How a file is made of chunks: any range can be put together from what a reconstruction says."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import xet_pack
import xet_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xet_pack import CHUNKS, FILE, LENGTHS, OTHER, XORB
from xet_server import post_xorb, refused

from hubpub.localhub.xet_format import unpack_chunk

Stored = tuple[httpx2.Client, bytes]


@pytest.fixture(scope="module")
def anyone() -> Iterator[httpx2.Client]:
    """A client without a token."""
    with httpx2.Client(trust_env=False, verify=False) as client:
        yield client


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """A file of 40 segments that overlap, repeat and touch, from two xorbs."""
    generator = random.Random(11)
    parts, segments = [], []
    for _ in range(40):
        start = generator.randrange(len(CHUNKS))
        end = generator.randrange(start + 1, len(CHUNKS) + 1)
        part = b"".join(CHUNKS[start:end])
        parts.append(part)
        segments.append(xet_pack.segment(generator.choice([XORB, OTHER]), len(part), start, end))
    content = b"".join(parts)
    with xet_server.serving(tmp_path_factory.mktemp("hub")) as served, served.http() as http:
        post_xorb(http)
        post_xorb(http, xorb=OTHER)
        record = xet_pack.file_record(FILE, hashlib.sha256(content).hexdigest(), segments)
        assert http.post("/v1/shards", content=xet_pack.shard_of([record])).status_code == 200
        yield http, content


def rebuild(anyone: httpx2.Client, answer: dict[str, Any]) -> bytes:
    """What a client makes of a reconstruction."""
    held: dict[tuple[str, int], bytes] = {}
    for xorb, fetches in answer["fetch_info"].items():
        for fetch in fetches:
            first, last = fetch["url_range"]["start"], fetch["url_range"]["end"]
            got = anyone.get(fetch["url"], headers={"Range": f"bytes={first}-{last}"})
            assert got.status_code == 206
            assert got.headers["content-range"].startswith(f"bytes {first}-{last}/")
            place, chunk = 0, fetch["range"]["start"]
            while place < len(got.content):
                end = place + 8 + int.from_bytes(got.content[place + 1 : place + 4], "little")
                assert (xorb, chunk) not in held  # nothing is fetched twice
                held[xorb, chunk] = bytes(unpack_chunk(got.content[place:end]))
                place, chunk = end, chunk + 1
            assert chunk == fetch["range"]["end"]
    whole = b""
    for term in answer["terms"]:
        part = b"".join(held[term["hash"], chunk] for chunk in range(term["range"]["start"], term["range"]["end"]))
        assert len(part) == term["unpacked_length"]
        whole += part
    return whole[answer["offset_into_first_range"] :]


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_range_can_be_put_together(stored: Stored, anyone: httpx2.Client, data: st.DataObject) -> None:
    http, content = stored
    first = data.draw(st.integers(0, len(content) - 1))
    last = data.draw(st.one_of(st.integers(first, len(content) + 5), st.integers(first, first + 300)))
    answer = http.get(f"/v1/reconstructions/{FILE}", headers={"Range": f"bytes={first}-{last}"})
    got = rebuild(anyone, answer.json())
    wanted = content[first : last + 1]
    assert got[: len(wanted)] == wanted
    assert len(got) - len(wanted) < max(LENGTHS)  # no chunk more than needed


def test_the_whole_file_when_no_range_is_asked_for(stored: Stored, anyone: httpx2.Client) -> None:
    http, content = stored
    assert rebuild(anyone, http.get(f"/v1/reconstructions/{FILE}").json()) == content
    answer = http.get(f"/v1/reconstructions/{FILE}", headers={"Range": "bytes=5-"})
    assert rebuild(anyone, answer.json()) == content[5:]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("bytes={size}-", 416),
        ("bytes={size}-{size}", 416),
        ("bytes=5-4", 416),
        ("bytes=-5", 400),
        ("bytes=0-1,4-5", 400),
        ("chunks=0-1", 400),
        ("bytes=" + "9" * 5000 + "-", 400),
    ],
)
def test_ranges_that_cannot_be(stored: Stored, header: str, status: int) -> None:
    http, content = stored
    header = header.format(size=len(content))
    refused(http.get(f"/v1/reconstructions/{FILE}", headers={"Range": header}), status)


def test_a_url_is_good_as_it_is_and_for_a_while(
    stored: Stored, anyone: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    http, _ = stored
    [fetch, *_] = http.get(f"/v1/reconstructions/{FILE}").json()["fetch_info"][XORB]
    url: str = fetch["url"]

    assert anyone.get(url).content == xet_pack.xorb_of(CHUNKS)
    refused(anyone.get(url.replace(XORB, OTHER)), 403, "signature is wrong")
    refused(anyone.get(url.replace("expires=", "expires=1")), 403, "signature is wrong")
    refused(anyone.get(url.partition("?")[0]), 403, "signature is wrong")
    monkeypatch.setattr("time.time", lambda: 4e9)
    refused(anyone.get(url), 403, "expired")
