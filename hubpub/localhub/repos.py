"""Repos, commits, refs and trees; every change is one transaction, which makes a commit a compare-and-swap."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from sqlite3 import Row
from typing import Any, Literal

from hubpub.localhub.blobs import Batch, Blobs
from hubpub.localhub.database import Database, now
from hubpub.localhub.gitids import commit_id, object_id, pointer, read_pointer, tree_ids
from hubpub.localhub.refusal import Refusal, bad_request, no_repo, no_revision

Kind = Literal["model", "dataset"]
REPO_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<![.-])(?<!\.git)", re.ASCII)
REGULAR_MAX = 10 * 1024 * 1024
"""Bytes above which a file must be an LFS file."""


@dataclass(frozen=True)
class Repo:
    """A repo; ``owner`` is the user who made it."""

    id: int
    kind: Kind
    name: str
    owner: str
    private: bool
    gated: str
    created: str

    @property
    def path(self) -> str:
        """Its place in addresses: ``owner/name`` or ``datasets/owner/name``."""
        return self.name if self.kind == "model" else f"{self.kind}s/{self.name}"


@dataclass(frozen=True)
class File:
    """A file at a revision; ``oid`` is git's blob id, for an LFS file that of its pointer."""

    size: int
    oid: str
    sha256: str
    lfs: bool


@dataclass(frozen=True)
class Entry:
    """A file or, with ``file`` None, a folder in a listing."""

    path: str
    oid: str
    file: File | None


@dataclass(frozen=True)
class Commit:
    """A commit; ``message`` is without the title."""

    oid: str
    tree: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str


def lfs_file(sha256: str, size: int) -> File:
    """The file that git holds as a pointer."""
    return File(size, object_id("blob", pointer(sha256, size)), sha256, lfs=True)


def regular_file(content_oid: str, sha256: str, size: int) -> File:
    """The file that git holds as it is."""
    return File(size, content_oid, sha256, lfs=False)


def check_path(path: object) -> str:
    """The path of a file in a repo, or a refusal."""
    parts = path.split("/") if isinstance(path, str) else [""]
    bad = any(part in {"", ".", "..", ".git"} for part in parts)
    if bad or not isinstance(path, str) or len(path) > 1000 or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", path):
        raise bad_request(f"Invalid path in repo: {path!a}")
    return path


def pull_number(revision: str) -> int | None:
    """The number of the pull request that a revision such as ``refs/pr/3`` means."""
    found = re.fullmatch(r"refs/pr/([1-9]\d{0,8})", revision, re.ASCII)
    return int(found[1]) if found else None


class Repos:
    """The repos of a Hub."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    # repos

    def find(self, kind: str, name: str) -> Repo | None:
        """The repo of that kind and name."""
        found = self._database.row("SELECT * FROM repos WHERE kind = ? AND name = ?", kind, name)
        return Repo(**dict(found)) if found else None

    def get(self, kind: str, name: str) -> Repo:
        """The repo of that kind and name, or a refusal."""
        repo = self.find(kind, name)
        if repo is None:
            raise no_repo()
        return repo

    def create(self, kind: Kind, name: str, owner: str, *, private: bool = False) -> Repo:
        """A new repo with the first commit that the Hub makes; ``Refusal`` 409 when it exists, 400 for a bad name."""
        if not REPO_ID.fullmatch(name) or len(name) > 96:
            raise bad_request(f"Invalid repo name: {name!a}")
        with self._database.change():
            if self.find(kind, name):
                raise Refusal(409, "You already created this model repo" if kind == "model" else "Repo already exists")
            self._database.run(
                "INSERT INTO repos(kind, name, owner, private, gated, created) VALUES(?, ?, ?, ?, 'false', ?)",
                *(kind, name, owner, private, now()),
            )
            repo = self.get(kind, name)
            with self._blobs.batch() as batch:
                first = {".gitattributes": self.store(GITATTRIBUTES, batch)}
            self.commit(repo, "refs/heads/main", lambda _: first, title="initial commit", author=owner, start=None)
        return repo

    def update(self, repo: Repo, *, private: bool | None = None, gated: str | None = None) -> None:
        """Change what strangers see."""
        with self._database.change():
            if private is not None:
                self._database.run("UPDATE repos SET private = ? WHERE id = ?", private, repo.id)
            if gated is not None:
                self._database.run("UPDATE repos SET gated = ? WHERE id = ?", gated, repo.id)

    def delete(self, repo: Repo) -> None:
        """Forget the repo; its blobs stay, as they may serve others."""
        self._database.run("DELETE FROM repos WHERE id = ?", repo.id)

    def namespace_owners(self, namespace: str) -> set[str]:
        """Who made the repos in a namespace."""
        rows = self._database.rows(
            "SELECT DISTINCT owner FROM repos WHERE substr(name, 1, ?) = ?", len(namespace) + 1, f"{namespace}/"
        )
        return {row["owner"] for row in rows}

    # refs

    def refs(self, repo: Repo) -> dict[str, str]:
        """Commit id by full name of the ref (``refs/heads/…``, ``refs/tags/…``, ``refs/pr/…``)."""
        rows = self._database.rows("SELECT name, target FROM refs WHERE repo = ? ORDER BY name", repo.id)
        return {row["name"]: row["target"] for row in rows}

    def ref(self, repo: Repo, name: str) -> str | None:
        """Commit id of one ref, by its full name."""
        found = self._database.row("SELECT target FROM refs WHERE repo = ? AND name = ?", repo.id, name)
        return str(found["target"]) if found else None

    def add_ref(self, repo: Repo, name: str, target: str) -> None:
        """A new ref, or a 409; a bad name is a 400."""
        if not re.fullmatch(
            r"refs/(heads|tags)/(?!.*(\.\.|//|@\{|/\.|\.lock(/|$)))[^\s~^:?*\[\\/.-][^\s~^:?*\[\\]*(?<![/.])", name
        ):
            raise bad_request(f"Invalid reference name: {name!a}")
        with self._database.change():
            if self.ref(repo, name):
                raise Refusal(409, f"Reference {name.split('/', 2)[2]} already exists")
            self.set_ref(repo, name, target)

    def set_ref(self, repo: Repo, name: str, target: str) -> None:
        """Make the ref point to a commit, whatever it was before."""
        self._database.run("INSERT OR REPLACE INTO refs VALUES(?, ?, ?)", repo.id, name, target)

    def drop_ref(self, repo: Repo, name: str) -> None:
        """Remove a ref, or say that it is not there."""
        if not self._database.run("DELETE FROM refs WHERE repo = ? AND name = ?", repo.id, name):
            raise no_revision(name.split("/", 2)[2])

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """The commit that a branch, tag, pull request, commit id or the first seven or more letters of one mean."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            target = self.ref(repo, name)
            if target:
                return self.commit_at(repo, target)
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            rows = self._database.rows(
                "SELECT * FROM commits WHERE repo = ? AND oid >= ? AND oid < ? || 'g' LIMIT 2",
                repo.id,
                revision,
                revision,
            )
            if len(rows) == 1:
                return _commit(rows[0])
        raise no_revision(revision)

    def commit_at(self, repo: Repo, oid: str) -> Commit:
        """One commit by its full id."""
        found = self._database.row("SELECT * FROM commits WHERE repo = ? AND oid = ?", repo.id, oid)
        if found is None:
            raise no_revision(oid)
        return _commit(found)

    def history(self, repo: Repo, commit: Commit | None) -> Iterator[Commit]:
        """A commit and all before it."""
        while commit is not None:
            yield commit
            commit = self.commit_at(repo, commit.parent) if commit.parent else None

    # trees

    def files(self, tree: str) -> dict[str, File]:
        """Every file of a tree by path."""
        rows = self._database.rows("SELECT * FROM trees WHERE tree = ? AND sha256 IS NOT NULL ORDER BY path", tree)
        return {row["path"]: _file(row) for row in rows}

    def entry(self, tree: str, path: str) -> Entry | None:
        """The file or folder at a path."""
        found = self._database.row("SELECT * FROM trees WHERE tree = ? AND path = ?", tree, path)
        return _entry(found) if found else None

    def listing(self, tree: str, folder: str, *, recursive: bool, after: str, limit: int) -> list[Entry]:
        """A page of a folder (``""`` is the root), by path, beginning behind ``after``."""
        if recursive:
            where, values = "(? = '' OR (path > ? || '/' AND path < ? || '0'))", [folder] * 3  # '0' follows '/'
        else:
            where, values = "parent = ?", [folder]
        rows = self._database.rows(
            f"SELECT * FROM trees WHERE tree = ? AND path != '' AND {where} AND path > ? ORDER BY path LIMIT ?",
            *(tree, *values, after, limit),
        )
        return [_entry(row) for row in rows]

    def last_commits(self, repo: Repo, commit: Commit, entries: Collection[Entry]) -> dict[str, Commit]:
        """The commit that last changed each entry."""
        found: dict[str, Commit] = {}
        left = {entry.path: entry.oid for entry in entries}
        for each in self.history(repo, commit):
            parent = self.commit_at(repo, each.parent).tree if each.parent else ""
            for path, oid in list(left.items()):
                before = self.entry(parent, path)
                if before is None or before.oid != oid:
                    found[path] = each
                    del left[path]
            if not left:
                break
        return found

    # commits

    def store(self, content: bytes, batch: Batch) -> File:
        """Keep the content of a regular file with the batch; an LFS pointer means the file that it points to."""
        meant = read_pointer(content)
        if meant:
            return lfs_file(*meant)
        sha256 = hashlib.sha256(content).hexdigest()
        if not self._blobs.has(sha256):
            path = batch.incoming()
            path.write_bytes(content)
            batch.keep(path, sha256)
        return regular_file(object_id("blob", content), sha256, len(content))

    def commit(
        self,
        repo: Repo,
        ref: str,
        change: Callable[[dict[str, File]], Mapping[str, File]],
        *,
        title: str,
        message: str = "",
        author: str,
        start: str | None,
        expected: str | None = None,
    ) -> Commit:
        """Add a commit to a ref, all of it or nothing.

        Args:
            repo: the repo.
            ref: full name of the ref; it is made when it is not there.
            change: the files of the parent, by path, to those of the commit.
            title: first line of the message.
            message: the rest of it.
            author: user name.
            start: the parent where the ref is not there yet.
            expected: what the ref must point to, else ``Refusal`` 412.
        """
        with self._database.change():
            head = self.ref(repo, ref) or start
            if expected is not None and head != expected:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(change(self.files(self.commit_at(repo, head).tree) if head else {}))
            for path, file in files.items():
                if not self._blobs.has(file.sha256):
                    raise bad_request(
                        "Your push was rejected because an LFS pointer pointed to a file that does not exist. "
                        f"Offending file: {path}"
                    )
            tree = self._store_tree(files)
            seconds = int(time.time())
            text = f"{title}\n\n{message}" if message else title
            oid = commit_id(tree, [head] if head else [], author, seconds, text)
            self._database.run(
                "INSERT OR IGNORE INTO commits VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
                *(repo.id, oid, tree, head, title, message, author, now()),
            )
            self.set_ref(repo, ref, oid)
            return self.commit_at(repo, oid)

    def _store_tree(self, files: Mapping[str, File]) -> str:
        ids = tree_ids({path: file.oid for path, file in files.items()})
        for path in files:
            if path in ids:
                raise bad_request(f"{path} is both a file and a folder")
        root = ids[""]
        if self._database.row("SELECT 1 FROM trees WHERE tree = ? LIMIT 1", root) is None:
            rows: list[tuple[Any, ...]] = [
                (root, path, path.rpartition("/")[0], file.size, file.oid, file.sha256, file.lfs)
                for path, file in files.items()
            ]
            rows += [(root, path, path.rpartition("/")[0], 0, oid, None, 0) for path, oid in ids.items() if path]
            self._database.run_many("INSERT INTO trees VALUES(?, ?, ?, ?, ?, ?, ?)", rows)
        return root


def _file(row: Row) -> File:
    return File(row["size"], row["oid"], row["sha256"], bool(row["lfs"]))


def _entry(row: Row) -> Entry:
    return Entry(row["path"], row["oid"], _file(row) if row["sha256"] is not None else None)


def _commit(row: Row) -> Commit:
    return Commit(**{name: row[name] for name in Commit.__dataclass_fields__})


_LFS_PATTERNS = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx *.ot
*.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz
*.zip *.zst *tfevents*
""".split()  # noqa: SIM905 - a list of words reads best as one
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LFS_PATTERNS).encode()
"""What the Hub's first commit holds."""
