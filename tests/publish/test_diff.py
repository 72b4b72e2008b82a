"""The difference between a release and a repo, from hashes alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import FILES, listing, make_release

from hubpub.errors import ReleaseError
from hubpub.manifest import read_manifest
from hubpub.publish.diff import Diff, compare, figures
from hubpub.publish.release import Release, open_release
from hubpub.publish.remote import Remote, RemoteFile


def sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def listed(content: bytes, *, apart: bool) -> RemoteFile:
    """As the Hub lists a file; where it is kept apart the blob id is that of a pointer."""
    if apart:
        return RemoteFile(len(content), sha1(b"pointer"), hashlib.sha256(content).hexdigest())
    return RemoteFile(len(content), sha1(content))


def remote_of(folder: Path, apart: Callable[[str], bool] = lambda path: path.endswith(".bin")) -> Remote:
    """A repo that holds the release in ``folder``."""
    files = {path: listed((folder / path).read_bytes(), apart=apart(path)) for path in listing(folder)}
    return Remote("0" * 40, files, read_manifest(folder))


def never(path: str) -> str:
    raise AssertionError(f"{path} was downloaded")


def paths(diff: Diff) -> dict[str, list[str]]:
    return {kind: [each.path for each in getattr(diff, kind)] for kind in ("added", "changed", "removed", "kept")}


@pytest.fixture
def opened(release: Path) -> Release:
    return open_release(release)


@settings(max_examples=40, deadline=None)
@given(apart=st.sets(st.sampled_from(sorted(FILES))), data=st.data())
def test_the_server_decides_how_files_are_kept(
    apart: set[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Equal content is the same and other content is not, whether the Hub keeps a file apart or in git."""
    folder = make_release(tmp_path_factory.mktemp("made") / "release")
    opened, there = open_release(folder), remote_of(folder, lambda path: path in apart)
    assert compare(opened, there, (), never).stands
    changed = data.draw(st.sets(st.sampled_from(sorted(FILES)), min_size=1))
    files = dict(there.files)
    for path in changed:
        files[path] = listed(FILES[path] + b"!", apart=path in apart)
    diff = compare(opened, replace(there, files=files), (), never)
    assert paths(diff) == {"added": [], "changed": sorted(changed), "removed": [], "kept": []}
    assert diff.bytes_to_send == sum(len(FILES[path]) for path in changed)
    assert len(diff.same) == len(opened.files) - len(changed)


def test_added_removed_and_kept(opened: Release) -> None:
    there = remote_of(opened.folder)
    files = {path: file for path, file in there.files.items() if path != "config.json"}
    for path in (".gitattributes", "old.bin", "assets/a.svg", "assets/deep/a.svg"):
        files[path] = listed(path.encode(), apart=False)
    diff = compare(opened, replace(there, files=files), ("assets/*", "none/**"), never)
    assert paths(diff) == {
        "added": ["config.json"],
        "changed": [],
        "removed": ["assets/deep/a.svg", "old.bin"],
        "kept": [".gitattributes", "assets/a.svg"],
    }
    assert not diff.stands
    everything = compare(opened, replace(there, files=files), ("**",), never)
    assert paths(everything)["removed"] == []


def test_content_that_lies_elsewhere_in_the_repo_is_not_sent(opened: Release) -> None:
    there = remote_of(opened.folder)
    files = dict(there.files)
    files["old/model.bin"] = files.pop("model.bin")
    diff = compare(opened, replace(there, files=files), (), never)
    assert [(each.path, each.source, each.sends) for each in diff.added] == [("model.bin", "old/model.bin", 0)]
    assert [each.path for each in diff.removed] == ["old/model.bin"]


def test_new_timings_stand_only_where_the_published_ones_are_whole(opened: Release, tmp_path: Path) -> None:
    other = make_release(tmp_path / "other", seconds=2.0)
    there = remote_of(other)

    def sha256_of(path: str) -> str:
        return hashlib.sha256((other / path).read_bytes()).hexdigest()

    assert compare(opened, there, (), sha256_of).stands
    assert not compare(opened, there, ()).stands  # whoever cannot look says so
    assert not compare(opened, there, (), lambda path: "0" * 64).stands
    assert not compare(opened, replace(there, manifest=None), (), sha256_of).stands
    for path in ("README.md", "measurements/run.timings.jsonl", "hubpub.json", "model.bin"):
        files = {name: file for name, file in there.files.items() if name != path}
        assert not compare(opened, replace(there, files=files), (), sha256_of).stands
    extra = {**there.files, "extra.txt": listed(b"extra", apart=False)}
    diff = compare(opened, replace(there, files=extra), (), sha256_of)
    assert not diff.stands
    assert len(diff.changed) == 3  # then the card, the timings and the manifest go too


def test_a_card_equal_to_ours_is_damage_where_the_published_manifest_lists_another(
    opened: Release, tmp_path: Path
) -> None:
    other = make_release(tmp_path / "other", seconds=2.0)
    there = remote_of(other)
    files = {**there.files, "README.md": listed((opened.folder / "README.md").read_bytes(), apart=False)}

    def sha256_of(path: str) -> str:
        return hashlib.sha256((other / path).read_bytes()).hexdigest()

    assert not compare(opened, replace(there, files=files), (), sha256_of).stands


def test_figures_that_change_are_paired(tmp_path: Path) -> None:
    old, same, new = (
        read_manifest(make_release(tmp_path / name, wer=wer, seconds=seconds))
        for name, wer, seconds in (("old", 0.05, 1.0), ("same", 0.05, 1.0), ("new", 0.04, 1.0))
    )
    assert figures(old, same) == ()
    assert figures(None, new) == ()
    (change,) = figures(old, new)
    assert change.key == "run/wer"
    assert not change.observed
    assert change.old is not None
    assert change.new is not None
    assert (change.old.value, change.new.value) == (0.05, 0.04)
    renamed = new.model_copy(
        update={"measurements": tuple(each.model_copy(update={"metric": "cer"}) for each in new.measurements)}
    )
    assert [(each.key, each.old is None, each.new is None) for each in figures(old, renamed)] == [
        ("run/cer", True, False),
        ("run/wer", False, True),
    ]


def test_a_release_is_opened_only_when_it_is_whole(release: Path) -> None:
    assert open_release(release).files.keys() == listing(release).keys()
    (release / "config.json").write_bytes(b'{"stride": 161}\n')
    with pytest.raises(ReleaseError, match="other bytes than recorded"):
        open_release(release).git_sha1("config.json")
    (release / "config.json").unlink()
    with pytest.raises(ReleaseError, match=r"config\.json is missing"):
        open_release(release)
    (release / "config.json").symlink_to("/etc/hosts")
    with pytest.raises(ReleaseError, match=r"config\.json is missing"):
        open_release(release)
