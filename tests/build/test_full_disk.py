"""A disk that fills up: one clear line, nothing half visible, and the next build finishes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from toy import Finished, Project, command, environment, make_project, tree

from hubpub.build import verify_release
from hubpub.store import Store


def _in_namespace(*arguments: str | Path) -> list[str]:
    return ["unshare", "--user", "--map-root-user", "--mount", *map(str, arguments)]


def _can_mount(folder: Path) -> bool:
    if sys.platform != "linux":
        return False
    try:
        probe = subprocess.run(_in_namespace("mount", "-t", "tmpfs", "tmpfs", folder), capture_output=True, timeout=20)
    except OSError:
        return False
    return probe.returncode == 0


@pytest.mark.slow
def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    if not _can_mount(mount):
        pytest.skip("no user and mount namespaces here")
    project = make_project(tmp_path / "project")
    expected = project.build(tmp_path / "elsewhere").manifest.digest
    sizes = [0, 160, 300, 500, 620, 660, 700]
    case = Path(__file__).with_name("disk_case.py")
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        _in_namespace(sys.executable, case, project.folder, mount, *map(str, sizes)),
        env=environment(PYTHONPATH=os.pathsep.join(paths)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["free"] for result in results] == sizes
    said = [result["said"] for result in results]
    assert len([line for line in said if line]) >= 4, said
    for result in results:
        assert len(result["said"].splitlines()) <= 1, result
        assert result["visible"] == (not result["said"]), result
        assert (result["left"], result["damage"]) == ([], []), result
        assert result["digest"] == expected
    complaints = [line for line in said if line]
    assert all("o space left on device" in line or "free some space" in line for line in complaints), complaints
    assert any("free some space (`hubpub cache collect`" in line for line in complaints)


@pytest.mark.parametrize("limit", [100, 20_000, 26_000, 60_000])
def test_files_that_may_not_grow(finished: Finished, project: Project, store: Path, limit: int) -> None:
    """The portable way to make a write fail: RLIMIT_FSIZE."""
    project.without_measurements()
    output = project.folder / "out"
    done = subprocess.run(
        command("build", project.path, "--cache", store, "-o", output, "--quiet"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    if limit < 30_000:
        assert done.returncode == 1, done.stderr
        assert not output.exists()
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (done.returncode != 0), done.stderr
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".out") and path.suffix == ".tmp"]
    built = project.build(store, output)
    assert verify_release(output) == built.manifest
    with Store(store) as opened:
        assert list(opened.verify()) == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_an_output_that_may_not_be_written(copied: Finished) -> None:
    from hubpub.errors import StoreError

    before = tree(copied.release)
    copied.release.parent.chmod(0o555)
    copied.project.recipe["card"]["title"] = "Another"
    copied.project.save()
    try:
        with pytest.raises(StoreError, match="choose a folder that you may write to"):
            copied.project.build(copied.store)
    finally:
        copied.release.parent.chmod(0o755)
    assert tree(copied.release) == before
