"""The lock file: written, read, damaged, stale."""

# ruff: noqa: E501 (tables with a case in each line)
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_tools import BASE, changed, write_recipe

from hubpub.errors import LockError
from hubpub.recipe import Lock, load_recipe, lock_path, locked_file, read_lock, write_lock
from hubpub.source import LockedSource
from hubpub.source.base import Pinned
from hubpub.store import Store

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "recipes" / "whisper-tiny.en.yaml"
SHA = "ab" * 32


def locked(**changes: Any) -> LockedSource:
    fields: dict[str, Any] = {
        "kind": "path",
        "name": "data",
        "revision": f"sha256:{SHA}",
        "files": {"model.bin": Pinned(sha256=SHA, size=3), "ü/日.wav": Pinned(sha256=SHA, size=0)},
        "asked": {"path": "data", "include": ["model.bin", "*.wav"]},
    }
    return LockedSource(**{**fields, **changes})


def test_what_is_written_is_read_and_the_same_lock_is_the_same_text(tmp_path: Path) -> None:
    recipe = tmp_path / "demo.v1.yaml"
    lock = Lock(
        version=1, sources={"weights": locked(), "a": locked(archive=Pinned(sha256=SHA, size=9), filename="x.whl")}
    )
    path = write_lock(recipe, lock)
    assert path == lock_path(recipe) == tmp_path / "demo.v1.lock"
    assert read_lock(recipe) == lock
    first = path.read_bytes()
    write_lock(recipe, Lock(version=1, sources=dict(reversed(lock.sources.items()))))
    assert path.read_bytes() == first
    assert first.endswith(b"}\n")
    assert "日" in first.decode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["demo.v1.lock"]


def test_no_lock_is_none(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "demo.yaml") is None


@settings(max_examples=50, deadline=None)
@given(
    asked=st.dictionaries(
        st.text(max_size=5),
        st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_size=4,
    )
)  # fmt: skip
def test_whatever_was_asked_comes_back(tmp_path_factory: pytest.TempPathFactory, asked: dict[str, Any]) -> None:
    recipe = tmp_path_factory.mktemp("lock") / "demo.yaml"
    lock = Lock(version=1, sources={"weights": locked(asked=asked)})
    write_lock(recipe, lock)
    assert read_lock(recipe) == lock


def test_the_shipped_lock_is_as_we_would_write_it_answers_the_recipe_and_holds_no_address() -> None:
    lock, recipe = read_lock(SHIPPED), load_recipe(SHIPPED).recipe
    assert lock is not None
    text = lock_path(SHIPPED).read_text(encoding="utf-8")
    assert lock.text() == text
    assert "://" not in text
    assert "www." not in text
    assert lock.sources.keys() == recipe.sources.keys()
    for name, source in recipe.sources.items():
        assert lock.sources[name].asked == source.asked()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"", "is not a lock file: "),
        (lambda data: b"{", "is not a lock file: "),
        (lambda data: b"\xff", "is not a lock file: "),
        (lambda data: b"\0" * 9, "is not a lock file: "),
        (lambda data: b"[" * 100_000, "is not a lock file: "),
        (lambda data: [], "is not a lock file: "),
        (lambda data: {**data, "version": 2}, "is of version 2, and this hubpub knows 1"),
        (lambda data: {**data, "version": "x\ny"}, "is of version 'x\\ny', and this hubpub knows 1"),
        (lambda data: {"sources": data["sources"]}, "is not a lock file: version: Field required"),
        (lambda data: {**data, "url": "x"}, "is not a lock file: url: Extra inputs are not permitted"),
        (lambda data: {**data, "sources": {"a": 3}}, "is not a lock file: sources: a: "),
        (lambda data: with_file(data, "a", {"sha256": "AB" * 32, "size": 1}), "is not a lock file: sources: weights: files: a: sha256: "),
        (lambda data: with_file(data, "a", {"sha256": SHA, "size": -1}), "is not a lock file: sources: weights: files: a: size: "),
        (lambda data: with_file(data, "a", {"sha256": SHA}), "is not a lock file: sources: weights: files: a: size: Field required"),
        (lambda data: with_file(data, "a\nb", {"sha256": SHA}), "is not a lock file: sources: weights: files: a\\nb: size: "),
        (lambda data: with_file(data, "../x", {"sha256": SHA, "size": 1}), "is damaged: source weights: '../x' leaves its folder"),
        (lambda data: with_file(data, "/etc/x", {"sha256": SHA, "size": 1}), "is damaged: source weights: '/etc/x' is absolute"),
        (lambda data: with_file(data, "a\0", {"sha256": SHA, "size": 1}), "is damaged: source weights: 'a\\x00' holds a backslash or a NUL"),
    ],
)  # fmt: skip
def test_a_damaged_lock_is_one_clear_line(tmp_path: Path, change: Any, said: str) -> None:
    recipe = tmp_path / "demo.yaml"
    data = json.loads(Lock(version=1, sources={"weights": locked()}).text())
    became = change(data)
    lock_path(recipe).write_bytes(became if isinstance(became, bytes) else json.dumps(became).encode())
    with pytest.raises(LockError) as caught:
        read_lock(recipe)
    line = str(caught.value)
    assert line.startswith(f"{lock_path(recipe)}: {said}")
    assert line.endswith("; run `hubpub lock` to write it anew")
    assert line.isprintable()


def with_file(data: dict[str, Any], name: str, pin: dict[str, Any]) -> dict[str, Any]:
    data["sources"]["weights"]["files"][name] = pin
    return data


def test_a_lock_that_is_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "demo.lock").mkdir()
    with pytest.raises(LockError, match="cannot be read: Is a directory"):
        read_lock(tmp_path / "demo.yaml")


def test_a_lock_for_another_spec_is_stale(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        for text in (BASE, changed('"*.wav"', '"*.flac"')):
            source = load_recipe(write_recipe(tmp_path, text)).recipe.sources["weights"]
            if text is BASE:
                assert set(source.missing(locked(), ["model.bin"], store)) == {"model.bin"}
            else:
                with pytest.raises(LockError, match="made for another version of this source; run `hubpub lock`"):
                    source.missing(locked(), ["model.bin"], store)


def test_a_licence_in_the_recipe_does_not_make_the_lock_stale(tmp_path: Path) -> None:
    text = changed("{path: data,", "{path: data, license: mit,")
    source = load_recipe(write_recipe(tmp_path, text)).recipe.sources["weights"]
    assert source.asked() == locked().asked


def test_a_file_that_the_lock_lacks_names_the_nearest() -> None:
    locked_file("weights", locked(), "model.bin", where="x")
    with pytest.raises(LockError) as caught:
        locked_file("weights", locked(), "modle.bin", where="demo.yaml:3:1: files.x")
    assert str(caught.value) == (
        "demo.yaml:3:1: files.x: source 'weights' has no file 'modle.bin'; did you mean 'model.bin'?; "
        "mend the path, or the source's `include`, and run `hubpub lock`"
    )
