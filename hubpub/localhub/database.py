"""What the Hub knows besides the bytes of files: one SQLite database, changed in whole transactions."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tokens(
    token TEXT PRIMARY KEY, user TEXT NOT NULL, role TEXT NOT NULL, repo INTEGER, expires REAL);
CREATE TABLE IF NOT EXISTS repos(
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, name TEXT NOT NULL COLLATE NOCASE, owner TEXT NOT NULL,
    private INTEGER NOT NULL, gated TEXT NOT NULL, created TEXT NOT NULL, UNIQUE(kind, name));
CREATE TABLE IF NOT EXISTS trees(
    tree TEXT NOT NULL, path TEXT NOT NULL, parent TEXT NOT NULL, size INTEGER NOT NULL, oid TEXT NOT NULL,
    sha256 TEXT, lfs INTEGER NOT NULL, PRIMARY KEY(tree, path)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trees_by_parent ON trees(tree, parent, path);
CREATE TABLE IF NOT EXISTS commits(
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, oid TEXT NOT NULL, tree TEXT NOT NULL, parent TEXT,
    title TEXT NOT NULL, message TEXT NOT NULL, author TEXT NOT NULL, date TEXT NOT NULL, PRIMARY KEY(repo, oid));
CREATE TABLE IF NOT EXISTS refs(
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, name TEXT NOT NULL, target TEXT NOT NULL,
    PRIMARY KEY(repo, name));
CREATE TABLE IF NOT EXISTS discussions(
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, num INTEGER NOT NULL, title TEXT NOT NULL,
    status TEXT NOT NULL, pull INTEGER NOT NULL, author TEXT NOT NULL, created TEXT NOT NULL, merged TEXT,
    PRIMARY KEY(repo, num));
CREATE TABLE IF NOT EXISTS events(
    id INTEGER PRIMARY KEY, repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, num INTEGER NOT NULL,
    event TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS publishers(
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, repository TEXT NOT NULL,
    PRIMARY KEY(repo, repository));
"""


def now() -> str:
    """The time in the one form of date that the client reads."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Database:
    """The database under ``root``; safe for many threads, and for a second process that seeds.

    Args:
        root: the folder of the Hub; it exists.
    """

    def __init__(self, root: Path) -> None:
        # One connection for all threads: every statement is short, and SQLite has one writer anyway.
        path = root / "hub.sqlite"
        path.touch(mode=0o600)  # it holds tokens
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.RLock()
        self._depth = 0
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """One transaction: all of it or, on any exception, nothing; inside another one, a part of that."""
        with self._lock:
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            except BaseException:
                if self._depth == 1 and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def run(self, sql: str, *values: Any) -> int:
        """Execute one statement; how many rows it changed."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, values: list[tuple[Any, ...]]) -> None:
        """Execute one statement for each tuple of values."""
        with self._lock:
            self._connection.executemany(sql, values)

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Every row of a query."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        with self._lock:
            found = self._connection.execute(sql, values).fetchone()
        return found if isinstance(found, sqlite3.Row) else None

    def secret(self, name: str) -> str:
        """A random secret that is made once and stays."""
        with self.change():
            self.run("INSERT OR IGNORE INTO meta VALUES(?, ?)", name, secrets.token_hex(32))
            found = self.row("SELECT value FROM meta WHERE key = ?", name)
        assert found is not None
        return str(found["value"])
