"""Clips from the rows of a dataset, read by the `datasets` library from files that the lock has pinned.

Audio is taken as it was encoded (``Audio(decode=False)``, and rows as Arrow, for its own decoder and encoder need
PyTorch) and decoded like any other recording. Rows are streamed: one of them is in memory at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from hubpub.corpus.spec import ClipSpec, DatasetSpec
from hubpub.errors import AudioError

LIBRARIES = ("datasets", "pyarrow")
MAX_AUDIO_BYTES = 1 << 30


@dataclass(frozen=True)
class Row:
    """A row as a clip, and where its recording was put."""

    clip: ClipSpec
    audio: Path


def read_rows(spec: DatasetSpec, files: Mapping[str, Path], spool: Path) -> Iterator[Row]:
    """The clips of a dataset, in its order; recordings are written to ``spool`` as they come.

    Args:
        spec: what the recipe says.
        files: where each of ``spec.files`` lies.
        spool: an empty folder for as long as the clips are used.

    Raises:
        AudioError: the library is missing, a file cannot be read, a column is missing, a row holds no audio.
    """
    for number, row in enumerate(islice(_stream(spec, files, spool / "cache"), spec.limit)):
        where = f"{spec.files[0]}, row {number}"
        name, content = _audio(row, spec.columns.audio, where)
        if isinstance(content, Path):
            path = content
        else:
            path = spool / f"{number:07}{PurePosixPath(name).suffix.lower()[:8]}"
            path.write_bytes(content)
        stem = re.sub(r"[^\w.+@=-]+", "_", PurePosixPath(name).stem).lstrip(".+@=-")
        given = _text(row, spec.columns.id, where)
        fields = {
            "audio": f"{spec.files[0]}#{number}",
            "id": f"{stem or 'row'}-{number:05}" if given is None else re.sub(r"[^\w.+@=-]+", "_", given),
            "text": _text(row, spec.columns.text, where),
            **{
                field: getattr(spec, field)
                if (column := getattr(spec.columns, field, None)) is None
                else _text(row, column, where)
                for field in ("speaker", "language", "title", "source", "license")
            },
            "year": spec.year,
        }
        yield Row(ClipSpec.model_validate(fields), path)


def _stream(spec: DatasetSpec, files: Mapping[str, Path], cache: Path) -> Iterator[dict[str, Any]]:
    missing = [reference for reference in spec.files if reference not in files]
    if missing:
        raise AudioError("no such file is among the sources", where=missing[0], fix="correct the reference")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
    except ImportError as error:
        fix = "pip install 'hubpub[datasets]'"
        raise AudioError("the library `datasets` is not installed", where=spec.files[0], fix=fix) from error
    try:
        if spec.format == "parquet":
            paths = [str(files[reference].resolve()) for reference in spec.files]
            # Names of blobs in the store have no suffix, by which the library would know them.
            linked = _links({f"{number:05}.parquet": Path(path) for number, path in enumerate(paths)}, cache / "in")
            stream = datasets.load_dataset(
                "parquet", data_files=linked, split="train", streaming=True, cache_dir=str(cache)
            )
        else:
            _links({reference: files[reference].resolve() for reference in spec.files}, cache / "in")
            stream = datasets.load_dataset(
                "audiofolder", data_dir=str(cache / "in"), split="train", streaming=True, cache_dir=str(cache)
            )
        known = stream.features or {}
        if known and spec.columns.audio not in known:
            there = ", ".join(known)
            raise AudioError(f"there is no column {spec.columns.audio!r} among {there}", where=spec.files[0])
        stream = stream.cast_column(spec.columns.audio, datasets.Audio(decode=False)).with_format("arrow")
        for batch in stream:
            yield from batch.to_pylist()
    except AudioError:
        raise
    except Exception as error:  # Arrow's and the library's own errors have no common root
        reason = " ".join(str(error).split())[:200]
        raise AudioError(f"it cannot be read ({type(error).__name__}: {reason})", where=spec.files[0]) from error


def _links(files: Mapping[str, Path], folder: Path) -> list[str]:
    for name, target in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    return [str(folder / name) for name in files]


def _audio(row: Mapping[str, Any], column: str, where: str) -> tuple[str, bytes | Path]:
    value = row.get(column)
    content, name = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (None, None)
    if isinstance(content, bytes) and 0 < len(content) <= MAX_AUDIO_BYTES:
        return str(name or ""), content
    if content is None and isinstance(name, str) and Path(name).is_file():
        return name, Path(name)
    raise AudioError(f"{column!r} holds no audio of at most 1 GiB", where=where)


def _text(row: Mapping[str, Any], column: str | None, where: str) -> str | None:
    if column is None:
        return None
    value = row.get(column)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise AudioError(f"{column!r} is missing or no text", where=where)
    return " ".join(str(value).split())
