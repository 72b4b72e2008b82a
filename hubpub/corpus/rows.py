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

from hubpub.corpus.spec import ClipSpec, Columns, DatasetSpec
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
    for number, (where, row) in enumerate(islice(_stream(spec, files, spool / "cache"), spec.limit)):
        name, content = _audio(row, spec.columns.audio, where)
        path = files[where] if content is None else spool / f"{number:07}{_suffix(name)}"
        if content is not None:
            path.write_bytes(content)
        given = _text(row, spec.columns.id, where)
        fields = {
            "audio": where,
            "id": f"{_plain(PurePosixPath(name).stem)}-{number:05}" if given is None else _plain(given),
            "text": _text(row, spec.columns.text, where),
            "year": spec.year,
        }
        for field in ("speaker", "language", "title", "source", "license"):
            column = getattr(spec.columns, field, None)
            fields[field] = getattr(spec, field) if column is None else _text(row, column, where)
        yield Row(ClipSpec.model_validate(fields), path)


def _stream(spec: DatasetSpec, files: Mapping[str, Path], cache: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row, and where it stands: ``source/path#row``, or the audio file of a folder."""
    missing = [reference for reference in spec.files if reference not in files]
    if missing:
        raise AudioError("no such file is among the sources", where=missing[0], fix="correct the reference")
    # Blobs of the store have no suffix, by which the library would know them.
    folder = cache / "in"
    for reference in spec.files:
        link = folder / reference
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            raise AudioError("the dataset names it twice, and its rows would count twice", where=reference)
        link.symlink_to(files[reference].resolve())
    if spec.format == "audiofolder":
        # All of them by name: of a folder with train/ and test/ the library would give the one or the other.
        given = [str(folder / reference) for reference in spec.files]
        for row in _rows_of(spec.columns, cache, spec.files[0], "audiofolder", given):
            value = row.get(spec.columns.audio)
            path = os.path.relpath(str(value.get("path")), folder) if isinstance(value, dict) else ""
            if path not in spec.files:  # a metadata file may name anything
                raise AudioError(f"{path[:100]!r} is not among the files of the dataset", where=spec.files[0])
            yield path, row
        return
    for reference in spec.files:
        for number, row in enumerate(_rows_of(spec.columns, cache, reference, "parquet", [str(folder / reference)])):
            yield f"{reference}#{number}", row


def _rows_of(columns: Columns, cache: Path, where: str, kind: str, files: list[str]) -> Iterator[dict[str, Any]]:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
        import pyarrow.parquet
    except ImportError as error:
        fix = "pip install 'hubpub[datasets]'"
        raise AudioError("the library `datasets` is not installed", where=where, fix=fix) from error
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it has to say is in the exception too
    try:
        if kind == "parquet" and not pyarrow.parquet.read_metadata(files[0]).num_rows:
            return  # the library would ask for batches of no rows
        stream = datasets.load_dataset(
            kind, split="train", streaming=True, cache_dir=str(cache), data_files={"train": files}
        )
        known = stream.features or {}
        if known and columns.audio not in known:
            raise AudioError(f"there is no column {columns.audio!r} among {', '.join(known)}", where=where)
        classes = {name: feature for name, feature in known.items() if isinstance(feature, datasets.ClassLabel)}
        stream = stream.cast_column(columns.audio, datasets.Audio(decode=False))
        for batch in stream.with_format("arrow"):
            for row in batch.to_pylist():
                yield {**row, **{name: _class(feature, row.get(name)) for name, feature in classes.items()}}
    except AudioError:
        raise
    except Exception as error:  # Arrow's and the library's own errors have no common root
        reason = " ".join(str(error).replace(f"{cache}/in/", "").split())[:200]
        raise AudioError(f"it cannot be read ({type(error).__name__}: {reason})", where=where) from error


def _class(feature: Any, value: object) -> object:
    """The name of a class that a column holds the number of."""
    return feature.int2str(value) if isinstance(value, int) and 0 <= value < feature.num_classes else None


def _audio(row: Mapping[str, Any], column: str, where: str) -> tuple[str, bytes | None]:
    """File name and content; no content where the row stands for a file that is at hand."""
    value = row.get(column)
    content, name = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (b"", None)
    if content is None and "#" not in where:
        return where, None
    if isinstance(content, bytes) and 0 < len(content) <= MAX_AUDIO_BYTES:
        return str(name or ""), content
    # Least of all is a path followed that a stranger wrote into a row.
    raise AudioError(f"{column!r} holds no audio of at most 1 GiB", where=where)


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""


def _plain(name: str) -> str:
    """What may be the id of a clip."""
    kept = (char if char.isalpha() or char in "0123456789_.+@=-" else "_" for char in name)
    return "".join(kept).lstrip(".+@=-")[:120] or "row"


def _text(row: Mapping[str, Any], column: str | None, where: str) -> str | None:
    if column is None:
        return None
    value = row.get(column)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise AudioError(f"{column!r} is missing or no text", where=where)
    return " ".join(str(value).split())
