"""Xorbs and shards: what is well formed is read as it was written, everything else is refused by name."""

from __future__ import annotations

import contextlib
import itertools
import struct
import tracemalloc

import lz4.frame
import pytest
import xet_pack
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.localhub.xet_format import (
    GROUPED_LZ4,
    LZ4,
    MAX_CHUNK,
    MAX_CHUNKS,
    MAX_FILE,
    MAX_SHARD,
    RAW,
    Layout,
    Segment,
    XetFormatError,
    XorbScanner,
    hash_bytes,
    hash_hex,
    parse_shard,
    segments_of,
    ungroup,
    unpack_chunk,
)

CHUNKS = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=12)
X, F, S = xet_pack.name("xorb"), xet_pack.name("file"), xet_pack.name("sha256")


def scan(xorb: bytes, cuts: list[int] | None = None) -> Layout:
    scanner = XorbScanner("xorb")
    places = [0, *sorted(cut for cut in cuts or [] if cut < len(xorb)), len(xorb)]
    for start, end in itertools.pairwise(places):
        scanner.feed(xorb[start:end])
    return scanner.finish()


def record(layout: Layout, xorb: bytes, chunk: int) -> bytes:
    return xorb[layout.packed[chunk] : layout.packed[chunk + 1]]


# Hashes


def test_hash_is_written_as_in_the_specification() -> None:
    text = "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"
    assert hash_hex(bytes(range(32))) == text
    assert hash_bytes(text) == bytes(range(32))


@given(st.binary(min_size=32, max_size=32))
def test_hash_there_and_back(raw: bytes) -> None:
    assert hash_bytes(hash_hex(raw)) == raw


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "A" * 64, "0" * 62 + "g0", "+" + "0" * 63, "0" * 63 + "٣"])
def test_no_hash(text: str) -> None:
    with pytest.raises(ValueError, match="not a hash"):
        hash_bytes(text)


# Xorbs


@given(CHUNKS, st.permutations([RAW, LZ4, GROUPED_LZ4]), st.lists(st.integers(0, 4000)))
def test_chunks_come_out_however_the_xorb_arrives(chunks: list[bytes], schemes: list[int], cuts: list[int]) -> None:
    xorb = xet_pack.xorb_of(chunks, schemes)
    layout = scan(xorb, cuts)
    assert [bytes(unpack_chunk(record(layout, xorb, chunk))) for chunk in range(layout.chunks)] == chunks
    assert list(layout.unpacked) == [sum(map(len, chunks[:count])) for count in range(len(chunks) + 1)]


def test_byte_grouping_as_in_the_specification() -> None:
    assert ungroup(b"AEI" + b"BF" + b"CG" + b"DH") == b"ABCDEFGHI"


def test_a_xorb_that_ends_early_is_refused_wherever_it_ends() -> None:
    chunks = [b"one", b"two" * 30, bytes(50)]
    xorb = xet_pack.xorb_of(chunks)
    whole = set(scan(xorb).packed)
    for end in range(len(xorb)):
        if end in whole and end:
            assert scan(xorb[:end]).packed[-1] == end
        else:
            with pytest.raises(XetFormatError, match=r"ends within chunk|is empty"):
                scan(xorb[:end])


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (xet_pack.chunk_record(b"a", version=1), "chunk 0: version 1"),
        (xet_pack.chunk_record(b"a", 3), "compression scheme 3"),
        (xet_pack.chunk_record(b"a", 99), "compression scheme 99"),
        (xet_pack.chunk_record(b"a", unpacked=2), "1 bytes are to hold 2"),
        (xet_pack.chunk_record(b"a", unpacked=0), "holds 0 bytes"),
        (xet_pack.chunk_record(b""), "holds 0 bytes"),
        (xet_pack.chunk_record(b"a", LZ4, unpacked=MAX_CHUNK + 1), f"holds {MAX_CHUNK + 1} bytes"),
        (b"\0" + (2 * MAX_CHUNK + 1).to_bytes(3, "little") + b"\1\1\0\0", f"is {2 * MAX_CHUNK + 1} bytes long"),
        (b"\0\0\0\0\1\1\0\0", "is 0 bytes long"),
        (b"XETBLOB\0", "version 88"),  # the footer that older clients send
    ],
)
def test_headers_that_cannot_be(header: bytes, says: str) -> None:
    with pytest.raises(XetFormatError, match=says):
        scan(header)


def test_a_xorb_has_so_many_chunks_and_no_more() -> None:
    chunk = xet_pack.chunk_record(b"a")
    assert scan(chunk * MAX_CHUNKS).chunks == MAX_CHUNKS
    with pytest.raises(XetFormatError, match=f"more than {MAX_CHUNKS} chunks"):
        scan(chunk * (MAX_CHUNKS + 1))


def test_a_xorb_holds_so_much_and_no_more() -> None:
    chunk = xet_pack.chunk_record(bytes(MAX_CHUNK), LZ4)
    assert scan(chunk * 512).unpacked[-1] == 64 << 20
    with pytest.raises(XetFormatError, match="hold more than 67108864"):
        scan(chunk * 513)


@pytest.mark.parametrize("scheme", [LZ4, GROUPED_LZ4])
@pytest.mark.parametrize(("says", "match"), [(999, "more than the 999"), (1001, "less than the 1001")])
def test_a_chunk_that_lies_about_its_size(scheme: int, says: int, match: str) -> None:
    with pytest.raises(XetFormatError, match=match):
        unpack_chunk(xet_pack.chunk_record(bytes(1000), scheme, unpacked=says))


def test_a_bomb_is_not_unpacked() -> None:
    frame = lz4.frame.compress(bytes(60_000_000))
    assert len(frame) < 2 * MAX_CHUNK  # so that it passes for a chunk
    bomb = b"\0" + len(frame).to_bytes(3, "little") + b"\1" + MAX_CHUNK.to_bytes(3, "little") + frame
    tracemalloc.start()
    try:
        with pytest.raises(XetFormatError, match=f"more than the {MAX_CHUNK} bytes"):
            unpack_chunk(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_frame_that_goes_on_or_stops_short() -> None:
    good = lz4.frame.compress(b"abc" * 100)
    for frame in (good + b"more", good + good, good[:-4]):
        bad = b"\0" + len(frame).to_bytes(3, "little") + b"\1" + (300).to_bytes(3, "little") + frame
        with pytest.raises(XetFormatError, match="does not end where the chunk does"):
            unpack_chunk(bad)


@given(CHUNKS, st.data())
@settings(max_examples=300)
def test_damage_is_named_or_harmless(chunks: list[bytes], data: st.DataObject) -> None:
    xorb = bytearray(xet_pack.xorb_of(chunks))
    for place in data.draw(st.lists(st.integers(0, len(xorb) - 1), min_size=1, max_size=4)):
        xorb[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(XetFormatError):
        layout = scan(bytes(xorb))
        assert layout.packed[-1] == len(xorb)
        for chunk in range(layout.chunks):
            held = unpack_chunk(record(layout, bytes(xorb), chunk))
            assert len(held) == layout.unpacked[chunk + 1] - layout.unpacked[chunk]


@given(st.binary(max_size=400))
def test_any_bytes_as_a_xorb_or_a_chunk(data: bytes) -> None:
    for read in (scan, unpack_chunk):
        with contextlib.suppress(XetFormatError):
            read(data)


# Shards


def test_a_shard_as_written() -> None:
    segments = [xet_pack.segment(X, 700, 0, 3), xet_pack.segment(X, 5, 2, 3)]
    shard = xet_pack.shard_of(
        [xet_pack.file_record(F, S, segments), xet_pack.file_record(S, None, segments[:1], verified=False)],
        [xet_pack.xorb_record(X, [300, 395, 5])],
    )
    files, xorbs = parse_shard(shard)
    assert [(file.xet_hash, file.sha256) for file in files] == [(F, S), (S, None)]
    assert list(segments_of(files[0].segments)) == [Segment(X, 700, 0, 3), Segment(X, 5, 2, 3)]
    assert [(xorb.xorb, xorb.chunks, xorb.unpacked) for xorb in xorbs] == [(X, 3, 700)]


def test_an_empty_file_as_hf_xet_sends_it() -> None:
    [file], _ = parse_shard(xet_pack.shard_of([xet_pack.file_record("0" * 64, "0" * 64, [])]))
    assert (file.sha256, file.segments) == (None, b"")


def test_a_shard_with_a_footer() -> None:
    assert parse_shard(xet_pack.shard_of([], footer=bytes(200))) == ([], [])


GOOD = xet_pack.shard_of(
    [xet_pack.file_record(F, S, [xet_pack.segment(X, 9, 0, 3)])] * 2, [xet_pack.xorb_record(X, [2, 3, 4])]
)


def test_a_shard_that_ends_early_is_refused_wherever_it_ends() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(XetFormatError, match="ends within a record"):
            parse_shard(GOOD[:end])


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        (GOOD + b"x", "1 bytes follow"),
        (b"x" + GOOD[1:], "not a shard"),
        (xet_pack.shard_of([], version=3), "version 3 .* reads version 2"),
        (xet_pack.shard_of([], footer=bytes(48)), "footer is to be 48"),
        (xet_pack.shard_of([xet_pack.file_record(F, S, [xet_pack.segment(X, 1, 1, 1)])]), r"has no chunks \(1:1\)"),
        (xet_pack.shard_of([xet_pack.file_record(F, S, [xet_pack.segment(X, 1, 5, 1)])]), r"has no chunks \(5:1\)"),
        (xet_pack.shard_of([hash_bytes(F) + struct.pack("<IIQ", 0, 2**32 - 1, 0)]), "206158430160 bytes are to follow"),
        (
            xet_pack.shard_of([xet_pack.file_record(F, S, [xet_pack.segment(X, 2**32 - 1, 0, 1)] * 120)]),
            f"has at most {MAX_FILE}",
        ),
        (xet_pack.shard_of([], footer=bytes(200))[:-200] + bytes(MAX_SHARD), f"at most {MAX_SHARD} bytes"),
    ],
)
def test_shards_that_cannot_be(shard: bytes, says: str) -> None:
    with pytest.raises(XetFormatError, match=says):
        parse_shard(shard)


@given(st.data())
@settings(max_examples=300)
def test_a_damaged_shard_is_refused_or_read(data: st.DataObject) -> None:
    shard = bytearray(GOOD)
    for place in data.draw(st.lists(st.integers(0, len(shard) - 1), max_size=4)):
        shard[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(shard)))
    shard[cut:cut] = data.draw(st.binary(max_size=100))
    with contextlib.suppress(XetFormatError):
        files, _ = parse_shard(bytes(shard))
        for file in files:
            assert all(segment.start < segment.end for segment in segments_of(file.segments))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_as_a_shard(data: bytes, tagged: bool) -> None:
    with contextlib.suppress(XetFormatError):
        parse_shard(GOOD[:48] + data if tagged else data)
