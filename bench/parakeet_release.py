"""The whole of recipes/parakeet-v3.yaml at the size of the real model: time, and the memory and disk that it takes.

The recipe is built unmodified from a Hub on loopback that holds a stand-in of upstream's repo, 3.2 GB of random
weights. Memory is that of all processes of the build together, looked at four times a second, pages that several of
them map counted for each; disk is what cache, release and temporary files take together, looked at once a second. The
Hub's own files and its process count for neither. It must fit a runner with 16 GB of memory and 14 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import ROOT

sys.path.insert(0, str(ROOT / "tests" / "standins"))
MOST_RSS, MOST_DISK = 16_000_000_000, 14_000_000_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Build, print what it took, and one line of JSON last; fails when it does not fit."""
    from parakeet_hub import MINI, RECIPE, seed, speech
    from parakeet_scale import SCALES

    from hubpub.localhub import LocalHub
    from hubpub.manifest import read_manifest
    from hubpub.store import Store, default_root

    scales = {**SCALES, "mini": MINI}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=scales, default="full")
    parser.add_argument("--folder", type=Path, help="where to work; needs 22 GB at full scale")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name, LocalHub(Path(name, "hub")) as hub:
        here = Path(name)
        shutil.copytree(ROOT / "templates", here / "templates")
        recipe = here / "recipes" / RECIPE.name
        recipe.parent.mkdir()
        for file in (RECIPE, RECIPE.with_suffix(".lock")):
            shutil.copy(file, recipe.parent)
        (here / "scratch").mkdir()
        with Store(default_root()) as store:
            seed(hub, scales[options.scale], speech(store, here / "speech"), here / "scratch")
        work = here / "work"
        (work / "tmp").mkdir(parents=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUBPUB_"))} | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": hub.token(),
            "HF_HOME": str(work / "home"),
            "HUBPUB_CACHE": str(work / "store"),
            "TMPDIR": str(work / "tmp"),
        }
        release = work / "dist" / "parakeet-v3"
        build = [sys.executable, "-c", "from hubpub.cli import main; main()", "build", str(recipe)]
        start = time.perf_counter()
        with subprocess.Popen([*build, "--output", str(release)], env=environment, stdout=sys.stderr) as process:
            watch = Watch(process.pid, work)
            code = process.wait()
        seconds = time.perf_counter() - start
        rss, disk = watch.stop()
        print(f"{seconds:.0f} s, memory {rss / 1e9:.2f} GB, disk {disk / 1e9:.2f} GB, exit {code}")
        if code:
            sys.exit(code)
        files = read_manifest(release).files
        keep = {path: file.size for path, file in files.items() if path.startswith(("encoder", "sharded"))}
    line = {
        "name": f"parakeet-v3 built whole ({options.scale})",
        "ours": round(seconds),
        "peer": "none",
        "ratio": "none",
        "units": "s, one cold build, audio from PyPI and the model from a Hub on loopback included",
        "sizes": {"peak_rss_bytes": rss, "peak_disk_bytes": disk, "files": len(files), "release_bytes": keep},
    }
    print(json.dumps(line))
    if rss > MOST_RSS or disk > MOST_DISK:
        sys.exit(f"more than {MOST_RSS / 1e9:g} GB of memory or {MOST_DISK / 1e9:g} GB of disk")


class Watch:
    """Looks at the memory of a process with all its descendants, and at the size of a folder, until it is stopped."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid, self._folder = pid, folder
        self._rss, self._disk = 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[int, int]:
        """Peak memory and peak disk, in bytes."""
        self._over.set()
        self._thread.join()
        return self._rss, self._disk

    def _look(self) -> None:
        for number in range(10**9):
            self._rss = max(self._rss, sum(_rss(pid) for pid in _family(self._pid)))
            if number % 4 == 0:
                self._disk = max(self._disk, taken(self._folder))
            if self._over.wait(0.25):
                self._disk = max(self._disk, taken(self._folder))
                return


def _family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def taken(folder: Path) -> int:
    """Bytes on disk below ``folder``, a file of several names counted once."""
    blocks: dict[tuple[int, int], int] = {}
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    blocks[found.st_dev, found.st_ino] = found.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
        except OSError:  # it was moved or removed meanwhile
            continue
    return sum(blocks.values())


if __name__ == "__main__":
    main()
