"""`hubpub verify OWNER/REPO@REV`: anybody can see whether a repo holds what its manifest says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_up import FILES, REPO, Stage, make_release

from hubpub.manifest import read_manifest
from hubpub.publish.verify import remote_address


def verify(stage: Stage, *arguments: str, code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with a cache that is kept between the calls of a test."""
    done = stage.run("verify", *arguments, code=code, HUBPUB_CACHE=str(stage.folder / "hubpub"), **changes)
    if code == 0:
        assert not list((stage.folder / "hubpub" / "downloads").iterdir()), "nothing is left"
    return done


def said(stage: Stage, *arguments: str, code: int = 1) -> str:
    """The one line that the user reads."""
    lines = verify(stage, *arguments, "--quiet", code=code).stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("owner/repo", ("owner/repo", "main")),
        ("owner/repo@v1.0", ("owner/repo", "v1.0")),
        ("hf://owner/repo", ("owner/repo", "main")),
        ("hf://owner/repo@refs/pr/3", ("owner/repo", "refs/pr/3")),
        ("dist", None),
        ("./dist/toy", None),
        ("a/b/c", None),
        ("https://huggingface.co/owner/repo", None),
        ("owner/repo@", None),
        ("", None),
    ],
)
def test_addresses(where: str, expected: tuple[str, str] | None) -> None:
    assert remote_address(where) == expected


@pytest.mark.slow
def test_a_sound_release(stage: Stage, release: Path) -> None:
    stage.hub.seed(REPO, release, tag="v1")
    digest = read_manifest(release).digest
    total = sum(file.size for file in read_manifest(release).listed_files().values())
    for where in (REPO, f"hf://{REPO}@v1", f"{REPO}@{stage.hub.head(REPO)}"):
        answer = json.loads(verify(stage, where, "--json", HF_TOKEN="").stdout)
        assert answer == {"ok": True, "name": "toy", "digest": digest, "files": len(FILES) + 5, "bytes": total}
    done = verify(stage, REPO)
    assert done.stdout.startswith(f"{REPO}: ok, {len(FILES) + 5} files, ")


def spoilt(stage: Stage, release: Path) -> Path:
    return shutil.copytree(release, stage.folder / "spoilt", dirs_exist_ok=True)


def test_all_that_is_wrong_in_one_line(lfs_stage: Stage, release: Path) -> None:
    folder = spoilt(lfs_stage, release)
    (folder / "config.json").unlink()
    (folder / "model.bin").write_bytes(FILES["model.bin"][:-1] + b"x")
    (folder / "other" / "weights.bin").write_bytes(b"\0short")
    (folder / "more.txt").write_text("who knows")
    commit = lfs_stage.hub.seed(REPO, folder)
    size = len(FILES["other/weights.bin"])
    assert said(lfs_stage, REPO) == (
        f"hubpub: {REPO}@{commit[:12]}: config.json is missing; more.txt is not in the manifest; model.bin has other "
        f"bytes than recorded; other/weights.bin has 6 bytes, {size} are recorded; do not use it, and tell its owner"
    )


def test_files_that_the_recipe_keeps(lfs_stage: Stage) -> None:
    folder = make_release(lfs_stage.folder / "toy", publish={"repo": REPO, "keep": ["figures/*.png", "LICENSE"]})
    (folder / "figures").mkdir()
    (folder / "figures" / "one.png").write_bytes(b"\x89PNG")
    (folder / "LICENSE").write_text("a licence")
    lfs_stage.hub.seed(REPO, folder)
    done = verify(lfs_stage, REPO)
    assert "not of the release, kept by its recipe: LICENSE, figures/one.png" in done.stderr
    (folder / "other.png").write_bytes(b"\x89PNG")
    lfs_stage.hub.seed(REPO, folder)
    assert ": other.png is not in the manifest; " in said(lfs_stage, REPO)


@pytest.mark.slow
def test_what_hubpub_did_not_publish(lfs_stage: Stage, release: Path) -> None:
    folder = spoilt(lfs_stage, release)
    manifest = json.loads((folder / "hubpub.json").read_text())
    (folder / "hubpub.json").write_text(json.dumps({**manifest, "name": "another"}))
    lfs_stage.hub.seed(REPO, folder)
    assert "hubpub.json: was edited: its digest does not match" in said(lfs_stage, REPO)
    (folder / "hubpub.json").write_text("{}")
    lfs_stage.hub.seed(REPO, folder)
    assert "hubpub.json: is not a manifest that this version reads" in said(lfs_stage, REPO)
    (folder / "hubpub.json").unlink()
    lfs_stage.hub.seed(REPO, folder)
    assert "holds no hubpub.json, so hubpub did not publish it" in said(lfs_stage, REPO)


@pytest.mark.slow
def test_what_is_not_there(lfs_stage: Stage, release: Path) -> None:
    lfs_stage.hub.seed(REPO, release)
    assert "no such repo or revision" in said(lfs_stage, f"{REPO}@v9")
    assert "no such repo or revision, or it is private, and there is no folder of that name" in said(
        lfs_stage, "dist/toy"
    )
    assert "folder" not in said(lfs_stage, "hf://tester/nothing")
    assert "is not a release: it holds no hubpub.json" in said(lfs_stage, "./dist/toy")


def test_a_folder_goes_before_a_repo(lfs_stage: Stage, release: Path) -> None:
    make_release(lfs_stage.folder / "tester" / "toy")
    lfs_stage.hub.clear_requests()
    lfs_stage.run("verify", REPO)
    assert lfs_stage.hub.requests == []


def test_the_revision_is_pinned_first(lfs_stage: Stage, release: Path) -> None:
    commit = lfs_stage.hub.seed(REPO, release)
    lfs_stage.hub.clear_requests()
    verify(lfs_stage, REPO)
    asked = [each.path for each in lfs_stage.hub.requests if "/resolve/" in each.path]
    assert asked
    assert all(f"/resolve/{commit}/" in path for path in asked)


@pytest.mark.slow
def test_an_interrupted_verification_goes_on(lfs_stage: Stage) -> None:
    """The download of a large file breaks off for good; the next run brings the rest of it, and nothing twice."""
    from made_up import noise

    big = 11 << 20  # more than the Hub keeps in git
    content = {**FILES, "big.bin": noise(7, big)}
    release = make_release(lfs_stage.folder / "toy", content)
    lfs_stage.hub.seed(REPO, release)
    lfs_stage.hub.fault("big.bin", cut_after=3 << 20, times=1)
    lfs_stage.hub.fault("big.bin", status=403, nth=2, times=9)
    assert "big.bin: " in said(lfs_stage, REPO)
    lfs_stage.hub.clear_faults()
    lfs_stage.hub.clear_requests()
    verify(lfs_stage, REPO)
    sent = {
        name: sum(each.bytes_out for each in lfs_stage.hub.requests if name in each.path and each.method == "GET")
        for name in ("big.bin", "README.md")
    }
    assert 0 < sent["big.bin"] < big - (2 << 20)
    assert sent["README.md"] == 0


@pytest.mark.parametrize("status", [401, 403, pytest.param(500, marks=pytest.mark.slow)])
def test_a_hub_that_refuses(lfs_stage: Stage, release: Path, status: int) -> None:
    lfs_stage.hub.seed(REPO, release)
    lfs_stage.hub.fault("model.bin", status=status, times=99)
    line = said(lfs_stage, REPO)
    assert "model.bin: " in line
    assert "; " in line


def test_a_missed_budget_is_told(lfs_stage: Stage, release: Path) -> None:
    from hubpub.gate import GateSpec, Verdict
    from hubpub.manifest import MANIFEST

    manifest = read_manifest(release)
    verdict = Verdict(gate=GateSpec(measure="run/wer", max=0.01), passed=False, reason="0.05: it is above 0.01")
    (release / MANIFEST).write_text(manifest.model_copy(update={"verdicts": (verdict,)}).sealed().text())
    lfs_stage.hub.seed(REPO, release)
    line = said(lfs_stage, REPO, code=3)
    assert line.endswith("budget missed: run/wer: at most 0.01: 0.05: it is above 0.01")


def test_names_in_a_strangers_manifest_lead_nowhere(lfs_stage: Stage, release: Path) -> None:
    from hubpub.manifest import MANIFEST

    manifest = read_manifest(release)
    files: dict[str, Any] = {**manifest.files, "../../escaped": manifest.files["model.bin"]}
    (release / MANIFEST).write_text(manifest.model_copy(update={"files": files, "recipe": "../x"}).sealed().text())
    lfs_stage.hub.seed(REPO, release)
    assert "../../escaped is missing" in said(lfs_stage, REPO)
    assert not list(lfs_stage.folder.rglob("escaped"))
