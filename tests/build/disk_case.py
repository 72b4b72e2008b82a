"""A program: builds in a file system that is full, then makes room and builds again. Run by ``test_full_disk``.

``python disk_case.py PROJECT MOUNT KILOBYTES...`` in a user and mount namespace of its own; prints a line of JSON for
each number of kilobytes that were free.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from toy import Project

from hubpub.build import verify_release
from hubpub.errors import HubpubError
from hubpub.store import Store

SIZE = 8 << 20


def main() -> None:
    project, mount = Project(Path(sys.argv[1]), {}), Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(mount)], check=True)
    for kilobytes in map(int, sys.argv[3:]):
        shutil.rmtree(mount / "case", ignore_errors=True)
        (mount / "case").mkdir()
        filler = mount / "filler"
        usage = os.statvfs(mount)
        with filler.open("wb") as file:
            file.write(b"\0" * max(0, usage.f_bavail * usage.f_frsize - kilobytes * 1024))
        print(json.dumps({"free": kilobytes, **_case(project, mount, filler)}), flush=True)


def _case(project: Project, mount: Path, filler: Path) -> dict[str, object]:
    output, store = mount / "case" / "release", mount / "case" / "store"
    said = ""
    try:
        project.build(store, output)
    except HubpubError as error:
        said = str(error)
    visible = output.exists()
    if visible:
        verify_release(output)
    filler.unlink()
    left = [path.name for path in output.parent.iterdir() if path.name.endswith(".tmp")]
    if store.exists():
        with Store(store) as opened:
            damage = [each.what for each in opened.verify()]
    else:
        damage = []
    built = project.build(store, output)
    return {"said": said, "visible": visible, "left": left, "damage": damage, "digest": built.manifest.digest}


if __name__ == "__main__":
    main()
