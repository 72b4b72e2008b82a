"""Object ids are git's, and files become LFS files by git's patterns."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.localhub.gitids import commit_id, object_id, pointer, read_pointer, tree_ids
from hubpub.localhub.modes import Attributes, ignored
from hubpub.localhub.repos import GITATTRIBUTES

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    who = {f"GIT_{role}_{part}": "someone" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    who |= {f"GIT_{role}_DATE": "1700000000 +0000" for role in ("AUTHOR", "COMMITTER")}
    who |= {f"GIT_{role}_EMAIL": "someone@users.noreply.localhost" for role in ("AUTHOR", "COMMITTER")}
    who |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, input=stdin, env=os.environ | who, check=True, capture_output=True).stdout.decode()


@needs_git
def test_ids_are_those_of_git(tmp_path: Path) -> None:
    contents = {"a": b"1", "a.b": b"2", "a-dir/x": b"3", "sub/sub/y": b"4", "sub.z": b"5", "sub/ü": b"", "sub0": b"6"}
    git(tmp_path, "init", "--quiet")
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    git(tmp_path, "add", ".")
    tree = git(tmp_path, "write-tree").strip()
    ids = tree_ids({name: object_id("blob", content) for name, content in contents.items()})
    assert ids[""] == tree
    assert ids["sub"] == git(tmp_path, "rev-parse", f"{tree}:sub").strip()
    first = git(tmp_path, "commit-tree", tree, stdin="title ü\n\nmore\n".encode()).strip()
    assert commit_id(tree, [], "someone", 1700000000, "title ü\n\nmore") == first
    second = git(tmp_path, "commit-tree", tree, "-p", first, stdin=b"two\n").strip()
    assert commit_id(tree, [first], "someone", 1700000000, "two") == second


def test_the_empty_tree() -> None:
    assert tree_ids({}) == {"": "4b825dc642cb6eb9a060e54bf8d69288fbee4904"}


def test_pointers() -> None:
    text = pointer("ab" * 32, 123)
    assert read_pointer(text) == ("ab" * 32, 123)
    assert read_pointer(text + b"\n") is None


@pytest.mark.parametrize(
    ("path", "size", "sample", "mode"),
    [
        ("model.onnx", 10, b"x", "lfs"),
        ("deep/er/model.onnx", 10, b"x", "lfs"),
        ("model.onnx", 0, b"", "regular"),
        ("onnx", 10, b"x", "regular"),
        ("config.json", 10, b"{", "regular"),
        ("config.json", 10 * 2**20, b"{", "regular"),
        ("config.json", 10 * 2**20 + 1, b"{", "lfs"),
        ("data", 10, b"a\0b", "lfs"),
        ("saved_model/a/b", 10, b"x", "lfs"),
        ("a.tar.gz", 10, b"x", "lfs"),
        ("events.tfevents.1", 10, b"x", "lfs"),
    ],
)
def test_modes(path: str, size: int, sample: bytes, mode: str) -> None:
    assert Attributes(GITATTRIBUTES).mode(path, size, sample) == mode


def test_a_later_line_wins() -> None:
    rules = Attributes(b"*.json filter=lfs -text\nsmall/*.json -filter\n# *.txt filter=lfs\n[ filter=lfs\n")
    assert rules.mode("a.json", 5, b"{") == "lfs"
    assert rules.mode("small/a.json", 5, b"{") == "regular"
    assert rules.mode("a.txt", 5, b"{") == "regular"


def test_ignored() -> None:
    paths = ["a.log", "x/a.log", "keep.log", "build/x/y", "x/build", "docs/a", "x/docs/a", "src/a1", "src/b/a1"]
    text = "*.log\n!keep.log\n\n# comment\nbuild/\n/docs\nsrc/**/a[0-9]\n"
    assert ignored(paths, text) == {"a.log", "x/a.log", "build/x/y", "x/build", "docs/a", "src/a1", "src/b/a1"}


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="*?[]!/\\.ab-\n#", max_size=40), st.text(alphabet="ab/.[", min_size=1, max_size=20))
def test_any_pattern_is_taken(text: str, path: str) -> None:
    assert ignored([path], text) <= {path}
    assert Attributes(text.encode()).mode(path, 5, b"") in {"lfs", "regular"}
