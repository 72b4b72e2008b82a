"""Transcripts in tables: a row for each recording, as CSV, TSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hubpub.corpus.labelfile import read_label_text, recording_id
from hubpub.errors import AudioError

TABLES = (".csv", ".tsv", ".jsonl")
FILE_COLUMNS = ("audio_filepath", "file_name", "filename", "file", "path", "audio", "wav", "clip", "id")
TEXT_COLUMNS = ("transcript", "transcription", "text", "sentence", "raw_transcription", "normalized_text")
"""Columns that are looked for, the first one found is taken: those of NeMo, Common Voice, FLEURS, audiofolder …"""


@dataclass(frozen=True)
class Row:
    """One recording: the name it goes by in the table, what is said, and the line."""

    file: str
    text: str
    line: int


class Table:
    """Transcripts by recording."""

    def __init__(self, where: str, rows: list[Row]) -> None:
        self._where = where
        self._rows: dict[str, list[Row]] = {}
        for row in rows:
            self._rows.setdefault(recording_id(row.file), []).append(row)

    def text(self, audio: str, name: str | None = None) -> str:
        """What is said in the recording that the recipe names ``audio``.

        A name in the table fits when its folders, if it has any, are the last ones of ``audio``; where no name does,
        the recording may be called as its clip is, ``name``.

        Raises:
            AudioError: no row fits, or several that say different things.
        """
        parts = PurePosixPath(unicodedata.normalize("NFC", audio)).parts[:-1]
        fitting = [row for row in self._rows.get(recording_id(audio), []) if _ends_with(parts, row.file)]
        if not fitting:
            # Absolute paths of another machine: the name alone has to do.
            fitting = self._rows.get(recording_id(audio), [])
        if not fitting and name is not None:
            fitting = self._rows.get(recording_id(name), [])
        if not fitting:
            raise AudioError(f"has no row for {PurePosixPath(audio).name}", where=self._where)
        if len({row.text for row in fitting}) > 1:
            lines = " and ".join(str(row.line) for row in fitting[:3])
            what = f"lines {lines} give different texts for {PurePosixPath(audio).name}"
            raise AudioError(what, where=self._where, fix="name the files in it with their folders")
        return fitting[0].text


def _ends_with(folders: tuple[str, ...], name: str) -> bool:
    own = PurePosixPath(unicodedata.normalize("NFC", name)).parts[:-1]
    return not own or folders[-len(own) :] == own


def read_table(path: Path, where: str) -> Table:
    """Read a table of transcripts.

    Args:
        path: the file.
        where: as the recipe names it; its suffix says what it is.

    Raises:
        AudioError: ``where:line``: not a table, no column with files or texts, a cell that is missing.
    """
    text = read_label_text(path, where)
    rows = _json_rows(text, where) if where.lower().endswith(".jsonl") else _csv_rows(text, where)
    found: list[Row] = []
    columns: tuple[str, str] | None = None
    for line, row in rows:
        columns = columns or (_column(row, FILE_COLUMNS, "files", where), _column(row, TEXT_COLUMNS, "texts", where))
        cells = [row.get(column) for column in columns]
        for column, cell in zip(columns, cells, strict=True):
            if not isinstance(cell, str) or not (cell.strip() or column == columns[1]):
                raise AudioError(f"{column!r} is missing or no text", where=f"{where}:{line}")
            if any("\ud800" <= char <= "\udfff" for char in cell):  # JSON can escape what no file can hold
                raise AudioError(f"{column!r} holds half a character", where=f"{where}:{line}")
        file = str(cells[0]).strip().replace("\\", "/")  # of a manifest that was written on Windows
        found.append(Row(file, " ".join(str(cells[1]).split()), line))
    return Table(where, found)


def _column(row: Mapping[str, object], known: tuple[str, ...], what: str, where: str) -> str:
    column = next((column for column in known if column in row), None)
    if column is None:
        there = ", ".join(sorted(map(str, row)))[:200]
        raise AudioError(
            f"no column with {what} among {there}", where=f"{where}:1", fix=f"call it one of {', '.join(known)}"
        )
    return column


def _csv_rows(text: str, where: str) -> Iterator[tuple[int, dict[str, object]]]:
    header: list[str] | None = None
    for line, cells in _cells(text, where):
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if twice := next((cell for cell in (*FILE_COLUMNS, *TEXT_COLUMNS) if header.count(cell) > 1), None):
                raise AudioError(f"has two columns {twice!r}", where=f"{where}:{line}", fix="rename one of them")
        elif len(cells) != len(header):
            raise AudioError(f"has {len(cells)} cells, the header has {len(header)}", where=f"{where}:{line}")
        else:
            yield line, dict(zip(header, cells, strict=True))


def _cells(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line. In a TSV, a quote may be just that, as in Common Voice's."""
    tabs = where.lower().endswith(".tsv")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        lines = [(reader.line_num, cells) for cells in reader]
        swallowed = tabs and any("\n" in cell and "\t" in cell for _, cells in lines for cell in cells)
    except csv.Error as error:
        if not tabs:
            raise AudioError(f"is no table: {error}", where=f"{where}:{reader.line_num}") from error
        swallowed = True
    if not swallowed:
        return iter(lines)
    rows = enumerate(io.StringIO(text, newline=None), 1)
    return ((number, [_unquoted(cell) for cell in row.rstrip("\n").split("\t")]) for number, row in rows)


def _unquoted(cell: str) -> str:
    """A cell that is quoted as a whole without the quotes; any other as it is."""
    inner = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else cell


def _json_rows(text: str, where: str) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = str(error).split(":")[0] if isinstance(error, ValueError) else "nested too deeply"
            raise AudioError(f"is no JSON ({reason})", where=f"{where}:{number}") from error
        if not isinstance(row, dict):
            raise AudioError("is no JSON object", where=f"{where}:{number}")
        yield number, row
