"""What moved upstream, and whether that would change a byte: asked cheaply, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from archives import make_zip
from hub_stub import CdnStub, HubStub, git_sha1
from index_stub import IndexStub
from loopback import Answer, Asked, Fault
from toy import Project, make_project, tree

from hubpub.build import Silent, lock
from hubpub.build.outdated import Outlook, outdated
from hubpub.errors import LockError
from hubpub.recipe import lock_path
from hubpub.source import pipconfig
from hubpub.store import Store

WHEEL, LATER, EARLY, SDIST = (
    "toyweights-1.0-py3-none-any.whl",
    "toyweights-1.1-py3-none-any.whl",
    "toyweights-2.0rc1-py3-none-any.whl",
    "toyweights-3.0.tar.gz",
)
FIRST, SECOND = "1" * 40, "2" * 40


def _wheel(text: bytes) -> bytes:
    info = b"Metadata-Version: 2.1\nName: toyweights\nVersion: 1.0\n"
    return make_zip([("toyweights/notes.txt", text), ("toyweights-1.0.dist-info/METADATA", info)])


class History(HubStub):
    """``main`` is at ``commit``; ``past`` holds the files of earlier ones that can still be asked for."""

    commit = FIRST

    def __init__(self, files: dict[str, bytes], cdn: CdnStub, lfs: set[str]) -> None:
        super().__init__(files, cdn, lfs)
        self.past: dict[str, dict[str, bytes]] = {}

    def move(self, **changes: bytes | None) -> None:
        """A new commit; ``None`` deletes a file, and a dot in its name is written as ``__``."""
        self.past[self.commit] = dict(self.files)
        self.commit = SECOND
        for name, data in changes.items():
            self.files = {each: held for each, held in self.files.items() if each != name.replace("__", ".")}
            if data is not None:
                self.files[name.replace("__", ".")] = data

    def answer(self, asked: Asked) -> Answer:
        revision = unquote(asked.path.rpartition("/")[2])
        if not self.error_code and asked.path.startswith("/api/models/owner/repo/revision/"):
            files = self.files if revision in ("main", self.commit) else self.past.get(revision)
            if files is None:
                return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            commit = self.commit if revision == "main" else revision
            current, self.files = self.files, files
            body = json.dumps({**self._info(), "sha": commit}).encode()
            self.files = current
            return Answer(body=body, headers={"Content-Type": "application/json"})
        prefix, name = "/owner/repo/resolve/", asked.path.rpartition("/")[2]
        if asked.path.startswith(prefix) and name in self.files and name not in self.lfs:
            return Answer(body=self.files[name], headers={"X-Repo-Commit": self.commit, "ETag": git_sha1(b"")})
        return super().answer(replace(asked, path=asked.path.replace(self.commit, "0123456789abcdef" * 2 + "01234567")))


class Index(IndexStub):
    """An index that can say of files that they were yanked; ``reasons`` is empty text where none is given."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files, as_json=True)
        self.reasons: dict[str, str | bool] = {}

    def _page(self, names: list[str]) -> Answer:
        answer = super()._page(names)
        page = json.loads(answer.body)
        for file in page["files"]:
            if file["filename"] in self.reasons:
                file["yanked"] = self.reasons[file["filename"]]
        return replace(answer, body=json.dumps(page).encode())


@dataclass
class World:
    """A locked recipe with a source of each kind."""

    project: Project
    store: Path
    hub: History
    index: Index
    asked: dict[str, int] = field(default_factory=dict)

    def ask(self) -> dict[str, Outlook]:
        """The outlook of each source; how many requests each server saw is in ``asked``."""
        self.hub.log.clear()
        self.index.log.clear()
        before = tree(self.project.folder)
        with Store(self.store) as store:
            found = {each.source: each for each in outdated([self.project.path], store)}
        assert tree(self.project.folder) == before
        assert not [asked for asked in self.hub.log if "/resolve/" in asked.path]
        assert not [asked for asked in self.index.log if "/files/" in asked.path]
        self.asked = {"hub": len(self.hub.log), "index": len(self.index.log)}
        return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    from huggingface_hub import constants

    monkeypatch.setattr("hubpub.source.hub.METADATA_TRIES", 1)
    project = make_project(tmp_path / "project").without_measurements()
    project.recipe["steps"] = {}
    project.recipe["sources"] = {
        "data": {"path": "../data", "include": ["*.txt"]},
        "repo": {"hub": "owner/repo"},
        "wheel": {"pypi": "toyweights", "version": "1.0", "include": ["toyweights/*"]},
    }
    project.recipe["files"] = {
        "notes.txt": "data/notes.txt",
        "model.bin": "repo/model.bin",
        "config.json": "repo/config.json",
        "more.txt": "wheel/toyweights/notes.txt",
    }
    project.save()
    files = {"model.bin": b"weights", "config.json": b"{}", "README.md": b"# Read me"}
    with (
        CdnStub() as cdn,
        History(files, cdn, {"model.bin"}) as hub,
        Index({WHEEL: _wheel(b"one")}) as index,
    ):
        monkeypatch.setattr(pipconfig, "read", lambda: pipconfig.PipConfig(index_url=index.simple, retries=0))
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with Store(tmp_path / "store") as store:
            lock(project.path, store, Silent())
        yield World(project, tmp_path / "fresh", hub, index)


def _states(found: dict[str, Outlook]) -> dict[str, str]:
    return {name: each.state for name, each in found.items()}


ALL_CURRENT = {"data": "current", "repo": "current", "wheel": "current"}


def test_nothing_moved(world: World) -> None:
    found = world.ask()
    assert _states(found) == ALL_CURRENT
    assert not any(each.changes for each in found.values())
    assert world.asked == {"hub": 1, "index": 1}


def test_a_new_commit_that_leaves_our_bytes_alone(world: World) -> None:
    world.hub.move(new__bin=b"something else")
    found = world.ask()
    assert (found["repo"].state, found["repo"].now, found["repo"].changes) == ("moved", SECOND, False)
    assert world.asked["hub"] == 2  # what git called the small files before


def test_small_files_in_the_cache_need_no_second_request(world: World, tmp_path: Path) -> None:
    world.store = tmp_path / "store"
    world.hub.move(new__bin=b"something else")
    assert world.ask()["repo"].state == "moved"
    assert world.asked["hub"] == 1


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({"model__bin": b"WEIGHTS"}, ("model.bin",)),
        ({"model__bin": None}, ("model.bin",)),
        ({"config__json": b"[]"}, ("config.json",)),  # as long as before
        ({"config__json": b"{ }"}, ("config.json",)),
        ({"config__json": None, "model__bin": b"x"}, ("config.json", "model.bin")),
    ],
)
@pytest.mark.parametrize("cached", [True, False])
def test_other_bytes_are_told_without_fetching_them(
    world: World, tmp_path: Path, changes: dict[str, bytes | None], files: tuple[str, ...], cached: bool
) -> None:
    if cached:
        world.store = tmp_path / "store"
    world.hub.move(**changes)
    found = world.ask()["repo"]
    assert (found.state, found.files, found.changes) == ("changed", files, True)
    assert (found.locked, found.now) == (FIRST, SECOND)


def test_a_file_that_is_locked_and_not_used_changes_nothing(world: World) -> None:
    world.hub.move(README__md=b"# Another text")
    found = world.ask()["repo"]
    assert (found.state, found.files, found.changes) == ("moved", (), False)


def test_rewritten_history_cannot_vouch_for_small_files(world: World) -> None:
    world.hub.move()
    world.hub.past.clear()
    found = world.ask()["repo"]
    assert (found.state, found.files) == ("changed", ("config.json",))


@pytest.mark.parametrize("code", ["RepoNotFound", "RevisionNotFound"])
def test_a_repo_that_is_gone(world: World, code: str) -> None:
    world.hub.error_code = code
    found = world.ask()
    assert _states(found) == {**ALL_CURRENT, "repo": "gone"}
    assert found["repo"].changes
    assert str(found["repo"].why).startswith("no such ")


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_hub_that_fails_hides_no_other_source(world: World, status: int) -> None:
    world.hub.faults.append(Fault("/revision/main", times=9, status=status))
    found = world.ask()
    assert _states(found) == {**ALL_CURRENT, "repo": "unknown"}
    assert not found["repo"].changes
    assert f"the Hub answers {status}" in str(found["repo"].why)


def test_a_gated_repo_is_not_gone(world: World) -> None:
    world.hub.error_code = "GatedRepo"
    assert world.ask()["repo"].state == "unknown"


def test_a_newer_version_is_named_and_changes_nothing(world: World) -> None:
    world.index.files |= {LATER: _wheel(b"two"), EARLY: _wheel(b"three"), SDIST: b"another form"}
    found = world.ask()["wheel"]
    assert (found.state, found.now, found.changes) == ("newer", "1.1", False)
    world.index.reasons[LATER] = "broken"
    assert world.ask()["wheel"].state == "current"


@pytest.mark.parametrize(
    ("reason", "said"),
    [("bad\nweights \x1b[31m", "bad weights [31m"), (True, "no reason is given"), ("x" * 999, "x" * 200)],
)
def test_a_yanked_version_has_the_same_bytes(world: World, reason: str | bool, said: str) -> None:
    world.index.reasons[WHEEL] = reason
    found = world.ask()["wheel"]
    assert (found.state, found.why, found.changes) == ("yanked", said, False)


def test_other_bytes_under_the_same_name(world: World) -> None:
    world.index.files[WHEEL] = _wheel(b"replaced")
    found = world.ask()["wheel"]
    assert (found.state, found.files, found.changes) == ("changed", ("toyweights/notes.txt",), True)


def test_an_index_without_digests_is_believed(world: World) -> None:
    world.index.hashes = False
    assert world.ask()["wheel"].state == "current"


def test_a_version_that_was_removed(world: World) -> None:
    world.index.files = {LATER: _wheel(b"two")}
    found = world.ask()["wheel"]
    assert (found.state, found.changes) == ("gone", True)
    assert WHEEL in str(found.why)


def test_a_project_that_was_removed(world: World) -> None:
    world.index.files = {}
    assert world.ask()["wheel"].state == "gone"


def test_an_index_that_fails_hides_no_other_source(world: World) -> None:
    world.index.faults.append(Fault("/toyweights/", times=9, status=500))
    found = world.ask()
    assert _states(found) == {**ALL_CURRENT, "wheel": "unknown"}


def test_a_local_folder(world: World) -> None:
    notes = world.project.folder / "data" / "notes.txt"
    (notes.parent / "more.txt").write_text("new")
    found = world.ask()["data"]
    assert (found.state, found.changes) == ("moved", False)
    assert found.now.startswith("sha256:")
    notes.write_text("edited")
    assert world.ask()["data"].files == ("notes.txt",)
    notes.unlink()
    assert (world.ask()["data"].state, world.ask()["data"].files) == ("changed", ("notes.txt",))
    (notes.parent / "more.txt").unlink()
    assert world.ask()["data"].state == "gone"


def _stale(recipe: dict[str, Any]) -> None:
    recipe["sources"]["repo"]["revision"] = "v1"


@pytest.mark.parametrize("change", [None, _stale])
def test_without_a_lock_that_answers_nothing_is_asked(
    world: World, change: Callable[[dict[str, Any]], None] | None
) -> None:
    if change is None:
        lock_path(world.project.path).unlink()
    else:
        change(world.project.recipe)
        world.project.save()
    with pytest.raises(LockError, match="run `hubpub lock`"):
        world.ask()
    assert (world.hub.log, world.index.log) == ([], [])
