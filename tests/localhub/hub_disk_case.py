"""A program: commits to a Hub whose file system is full, then makes room. Run by ``test_hub_kill``.

``python hub_disk_case.py MOUNT KILOBYTES...`` in a user and mount namespace of its own; prints a line of JSON for each
number of kilobytes that were free.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2

from hubpub.localhub import LocalHub


def main() -> None:
    mount = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)], check=True)
    for kilobytes in map(int, sys.argv[2:]):
        print(json.dumps({"free": kilobytes, **_case(mount, kilobytes)}), flush=True)


def _case(mount: Path, kilobytes: int) -> dict[str, object]:
    root, filler = mount / "hub", mount / "filler"
    shutil.rmtree(root, ignore_errors=True)
    seeded = mount / "seeded"
    seeded.mkdir(exist_ok=True)
    (seeded / "config.json").write_text("{}")
    with LocalHub(root) as hub:
        before = hub.seed("tester/m", seeded)
        hub.same_token()  # makes it
        usage = os.statvfs(mount)
        with filler.open("wb") as file:
            file.write(b"\0" * max(0, usage.f_bavail * usage.f_frsize - kilobytes * 1024))
        status = _commit(hub, "one")
        filler.unlink()
        head = hub.head("tester/m")
        files = hub.files("tester/m")
        expected = {".gitattributes", "config.json"} | ({f"one/{n}" for n in range(20)} if status == 200 else set())
        whole = set(files) == expected and all(
            len(httpx2.get(f"{hub.endpoint}/tester/m/resolve/main/{path}").content) == size
            for path, (size, _) in files.items()
        )
        whole = whole and list((root / "incoming").iterdir()) == []
        return {"status": status, "moved": head != before, "whole": whole, "after": _commit(hub, "two")}


def _commit(hub: LocalHub, folder: str) -> int:
    lines = [{"key": "header", "value": {"summary": "x", "description": ""}}]
    for number in range(20):
        content = base64.b64encode(os.urandom(3000)).decode()
        lines.append({"key": "file", "value": {"path": f"{folder}/{number}", "content": content, "encoding": "base64"}})
    return httpx2.post(
        f"{hub.endpoint}/api/models/tester/m/commit/main",
        content="\n".join(map(json.dumps, lines)),
        headers={"authorization": f"Bearer {hub.same_token()}"},
        timeout=30,
    ).status_code


if __name__ == "__main__":
    main()
