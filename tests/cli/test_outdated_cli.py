"""`hubpub outdated` and `hubpub build --reuse` on the command line: what they print, and how they end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import Finished, Project, recipe, tree

from hubpub.errors import SourceError
from hubpub.source import LocalSource

Run = Callable[..., Any]


@pytest.fixture
def fresh(finished: Finished, tmp_path: Path) -> Project:
    """The locked recipe and its sources, without the release."""
    shutil.copytree(finished.project.folder, tmp_path / "fresh", ignore=shutil.ignore_patterns("dist"))
    return Project(tmp_path / "fresh", recipe())


def test_nothing_moved(fresh: Project, run: Run, tmp_path: Path) -> None:
    before = tree(fresh.folder)
    said = run("outdated", fresh.path, "--cache", tmp_path / "cache")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == f"{fresh.path}:"
    assert [line.split() for line in lines[1:]] == [
        ["data", "as", "locked", "../data"],
        ["speech", "as", "locked", "../speech"],
    ]
    assert tree(fresh.folder) == before


def test_other_bytes(fresh: Project, run: Run, tmp_path: Path) -> None:
    (fresh.folder / "data" / "notes.txt").write_text("edited")
    said = run("outdated", fresh.path, "--cache", tmp_path / "cache")
    assert said.code == 5
    data, speech = said.out.splitlines()[1:]
    assert data.split()[:4] == ["data", "moved,", "other", "bytes"]
    assert data.endswith(": notes.txt")
    assert "as locked" in speech
    said = run("outdated", fresh.path, "--cache", tmp_path / "cache", "--json")
    data = json.loads(said.out)
    assert (said.code, data["exit_code"]) == (5, 5)
    assert [(each["source"], each["state"], each["changes"], each["files"]) for each in data["sources"]] == [
        ("data", "changed", True, ["notes.txt"]),
        ("speech", "current", False, []),
    ]


def test_a_source_that_cannot_be_asked_hides_no_other(
    fresh: Project, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = LocalSource.watch

    def watch(self: LocalSource, *arguments: Any) -> Any:
        if self.path == "../data":
            raise SourceError("does not answer", where="data", fix="try again later")
        return ask(self, *arguments)

    monkeypatch.setattr(LocalSource, "watch", watch)
    (fresh.folder / "speech" / "chord0.wav").unlink()
    said = run("outdated", fresh.path, "--cache", tmp_path / "cache")
    assert said.code == 1  # not 5: what it does not know may change more
    assert "cannot be asked" in said.out
    assert "moved, other bytes" in said.out
    said = run("outdated", fresh.path, "--cache", tmp_path / "cache", "--quiet")
    assert (said.code, said.out) == (1, "")
    assert said.err == f"{fresh.path}: data: data: does not answer; try again later\n"


def test_all_recipes_of_the_folder(fresh: Project, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("outdated", "--cache", tmp_path / "cache")
    assert (said.code, said.out) == (1, "")
    assert "there is no recipe in recipes/" in said.err
    monkeypatch.chdir(fresh.folder)
    said = run("outdated", "--cache", tmp_path / "cache")
    assert said.code == 0
    assert said.out.startswith("recipes/toy.yaml:\n")


def test_without_a_lock(fresh: Project, run: Run, tmp_path: Path) -> None:
    fresh.path.with_suffix(".lock").unlink()
    said = run("outdated", fresh.path, "--cache", tmp_path / "cache")
    assert said.code == 2
    assert "run `hubpub lock`" in said.err


def test_a_build_says_what_it_took_from_a_release(fresh: Project, finished: Finished, run: Run, tmp_path: Path) -> None:
    arguments = (
        "build",
        fresh.path,
        "--reuse",
        finished.release,
        "--cache",
        tmp_path / "cache",
        "-o",
        tmp_path / "out",
    )
    said = run(*arguments)
    assert said.code == 0, said.err
    assert "0 steps run, 9 cached, 9 of them as published" in said.out
    assert tree(tmp_path / "out") == tree(finished.release)
    said = run(*arguments, "--json")
    data = json.loads(said.out)
    assert (data["ran"], data["unchanged"], sorted(data["published"])) == ([], True, sorted(data["cached"]))
