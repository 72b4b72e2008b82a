"""Archives for tests: good ones, and what attackers and bad disks make of them."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable

ROOT = "pkg-1.0/"


def make_zip(members: Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name are what we want
        for name, data in members:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            archive.writestr(info, data, method)
    return buffer.getvalue()


def zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def make_tar(members: Iterable[tuple[str | tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_entry(name: str, kind: bytes, target: str = "", **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    info.pax_headers = pax
    return info


def good_wheel(payload: bytes, name: str = "pkg") -> bytes:
    return make_zip(
        [
            (f"{name}/data/model.onnx", payload),
            (f"{name}/__init__.py", b"raise SystemExit('run!')"),
            ("trñ00.wav", b"RIFF"),
        ]
    )


def good_sdist(payload: bytes, marker: str = "") -> bytes:
    """Its setup.py would write ``marker``."""
    setup = f"open({marker!r}, 'w').write('run')" if marker else ""
    members = [("setup.py", setup.encode()), ("tests/data/trñ00.wav", payload), ("x" * 120 + "/long.txt", b"long")]
    return gzip.compress(make_tar([(ROOT + name, data) for name, data in members]), 1)


def _renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    return data.replace(old, new)


def _encrypted() -> bytes:
    data = bytearray(make_zip([("a", b"secret")]))
    data[6] |= 1  # the local header's flags
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _lying_size() -> bytes:
    """The central directory promises fewer bytes than there are."""
    data = bytearray(make_zip([("a", b"x" * 5000)], zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 100)
    return bytes(data)


def _overlapping() -> bytes:
    """Two central entries for the same packed bytes."""
    data = make_zip([("a", b"x" * 100), ("b", b"y" * 100)])
    central = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", central + 1)
    changed = bytearray(data)
    struct.pack_into("<I", changed, second + 42, 0)  # offset of the first local header
    return bytes(changed)


def _raw_tar(name: str, kind: bytes, size: int, data: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + data + b"\0" * 1024


def _negative_size() -> bytes:
    header = bytearray(tarfile.TarInfo("pkg-1.0/a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"\0" * 1024


_SYMLINK, _HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
_TWO = make_tar([(ROOT + "a", b"a" * 600), (ROOT + "b", b"b" * 600)])

ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: make_zip([("/etc/passwd", b"x")]), "is absolute"),
    "dot-dot": (lambda: make_zip([("a/../../b", b"x")]), "leaves its folder"),
    "drive": (lambda: make_zip([("C:evil", b"x")]), "drive letter"),
    "backslash": (lambda: make_zip([("..\\evil", b"x")]), "backslash"),
    "nul": (lambda: _renamed(make_zip([("good#evil", b"x")]), b"good#evil", b"good\0evil"), "control character"),
    "newline": (lambda: make_zip([("a\nb", b"x")]), "control character"),
    "empty segment": (lambda: make_zip([("a//b", b"x")]), "empty segment"),
    "too long": (lambda: make_zip([("a" * 300, b"x")]), "is too long"),
    "symlink": (lambda: make_zip([(zip_entry("a", stat.S_IFLNK | 0o777), b"b")]), "is a symbolic link"),
    "leaving symlink": (lambda: make_zip([(zip_entry("other/a", stat.S_IFLNK), b"../../b")]), "leaves the folder"),
    "device": (lambda: make_zip([(zip_entry("a", stat.S_IFCHR), b"")]), "special file"),
    "encrypted": (_encrypted, "is encrypted"),
    "twice": (lambda: make_zip([("a", b"x"), ("a", b"y")]), "twice"),
    "case": (lambda: make_zip([("Ä", b"x"), ("a\u0308", b"y")]), "the same file"),
    "file and folder": (lambda: make_zip([("a", b"x"), ("a/b", b"y")]), "the same file"),
    "bomb": (lambda: make_zip([("a", b"\0" * (40 << 20))], zipfile.ZIP_DEFLATED), "decompression bomb"),
    "lying size": (_lying_size, "damaged"),
    "overlap": (_overlapping, "overlaps"),
    "truncated": (lambda: make_zip([("a", b"x" * 100)])[:-30], "damaged"),
    "bad crc": (lambda: _renamed(make_zip([("a", b"hello")]), b"hello", b"jello"), "damaged"),
    "no zip": (lambda: b"<html>not found</html>", "damaged"),
    "empty": (lambda: b"", "damaged"),
}

TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: make_tar([("/etc/passwd", b"x")]), "is absolute"),
    "dot-dot": (lambda: make_tar([(ROOT + "../../b", b"x")]), "leaves its folder"),
    "pax dot-dot": (
        lambda: make_tar([(tar_entry("a", tarfile.REGTYPE, path=ROOT + "../b"), b"x")]),
        "leaves its folder",
    ),
    "nul by pax": (
        lambda: make_tar([(tar_entry("a", tarfile.REGTYPE, path=ROOT + "a\0b"), b"x")]),
        "control character",
    ),
    "not Unicode": (lambda: make_tar([(ROOT + "\udcff", b"x")], tarfile.GNU_FORMAT), "not valid Unicode"),
    "symlink": (lambda: make_tar([(tar_entry(ROOT + "a", _SYMLINK, "b"), b"")]), "is a symbolic link"),
    "leaving symlink": (
        lambda: make_tar([(tar_entry(ROOT + "other/a", _SYMLINK, "../../b"), b"")]),
        "leaves the folder",
    ),
    "absolute symlink": (lambda: make_tar([(tar_entry(ROOT + "other/a", _SYMLINK, "/etc"), b"")]), "leaves the folder"),
    "hard link": (lambda: make_tar([(tar_entry(ROOT + "a", _HARD, ROOT + "b"), b"")]), "is a hard link"),
    "leaving hard link": (lambda: make_tar([(tar_entry(ROOT + "other/a", _HARD, "../b"), b"")]), "leaves the folder"),
    "pipe": (lambda: make_tar([(tar_entry(ROOT + "a", tarfile.FIFOTYPE), b"")]), "is a pipe"),
    "device": (lambda: make_tar([(tar_entry(ROOT + "a", tarfile.CHRTYPE), b"")]), "is a device"),
    "sparse": (lambda: _raw_tar(ROOT + "a", tarfile.GNUTYPE_SPARSE, 0), "sparse"),
    "two roots": (lambda: make_tar([(ROOT + "a", b"x"), ("elsewhere/b", b"y")]), "beside its folder"),
    "no root": (lambda: make_tar([("setup.py", b"x")]), "beside a folder"),
    "twice": (lambda: make_tar([(ROOT + "a", b"x"), (ROOT + "a", b"y")]), "twice"),
    "case": (lambda: make_tar([(ROOT + "a", b"x"), (ROOT + "A", b"y")]), "the same file"),
    "bomb": (lambda: make_tar([(ROOT + "a", b"\0" * (40 << 20))]), "decompression bomb"),
    "huge name": (lambda: _raw_tar("././@LongLink", tarfile.GNUTYPE_LONGNAME, 1 << 40), "a header of"),
    "bad pax": (lambda: _raw_tar("x", tarfile.XHDTYPE, 512, b"9999 path=x\n".ljust(512, b"\0")), "damaged"),
    "negative size": (_negative_size, "damaged"),
    "truncated": (lambda: _TWO[:700], "damaged"),
    "no end": (lambda: _TWO[: 4 * 512 + 1024], "damaged"),
    "bad header": (lambda: _TWO[: 3 * 512] + b"?" * 512 + _TWO[4 * 512 :], "damaged"),
    "data after the end": (lambda: _TWO + b"more", "damaged"),
    "empty": (lambda: b"", "damaged"),
}
