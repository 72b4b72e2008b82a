"""Xorbs and shards as a client makes them, and as a bad one does."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Sequence

import lz4.frame

from hubpub.localhub.xet_format import GROUPED_LZ4, LZ4, RAW, hash_bytes

TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
END = b"\xff" * 32 + bytes(16)


def name(text: str) -> str:
    """A hash to call something by; the Hub cannot check it."""
    return hashlib.sha256(text.encode()).hexdigest()


def group(data: bytes) -> bytes:
    return b"".join(data[lane::4] for lane in range(4))


def chunk_record(data: bytes, scheme: int = RAW, *, unpacked: int | None = None, version: int = 0) -> bytes:
    packed = data if scheme == RAW else lz4.frame.compress(data if scheme == LZ4 else group(data))
    size = len(data) if unpacked is None else unpacked
    return bytes([version]) + len(packed).to_bytes(3, "little") + bytes([scheme]) + size.to_bytes(3, "little") + packed


def xorb_of(chunks: Sequence[bytes], schemes: Sequence[int] = (RAW, LZ4, GROUPED_LZ4)) -> bytes:
    return b"".join(chunk_record(chunk, schemes[index % len(schemes)]) for index, chunk in enumerate(chunks))


def segment(xorb: str, unpacked: int, start: int, end: int) -> bytes:
    return hash_bytes(xorb) + struct.pack("<4I", 0, unpacked, start, end)


def file_record(xet_hash: str, sha256: str | None, segments: Sequence[bytes], *, verified: bool = True) -> bytes:
    flags = (1 << 31 if verified else 0) | (1 << 30 if sha256 else 0)
    record = hash_bytes(xet_hash) + struct.pack("<IIQ", flags, len(segments), 0) + b"".join(segments)
    record += (bytes(48) * len(segments)) if verified else b""
    return record + (hash_bytes(sha256) + bytes(16) if sha256 else b"")


def xorb_record(xorb: str, lengths: Sequence[int], packed: int = 0) -> bytes:
    record = hash_bytes(xorb) + struct.pack("<4I", 0, len(lengths), sum(lengths), packed)
    place = 0
    for length in lengths:
        record += bytes(32) + struct.pack("<4I", place, length, 0, 0)
        place += length
    return record


def shard_of(files: Sequence[bytes], xorbs: Sequence[bytes] = (), *, version: int = 2, footer: bytes = b"") -> bytes:
    header = TAG + struct.pack("<QQ", version, len(footer))
    return header + b"".join(files) + END + b"".join(xorbs) + END + footer


CHUNKS = [random.Random(count).randbytes(1 + count * 37) for count in range(9)] + [bytes(5000), b"abcd" * 700]
LENGTHS = [len(chunk) for chunk in CHUNKS]
WHOLE = b"".join(CHUNKS)
SHA256 = hashlib.sha256(WHOLE).hexdigest()
XORB, OTHER, FILE = name("xorb"), name("another"), name("file")
