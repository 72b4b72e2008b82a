"""Publishing a file of 600 MB beside a bare create_commit of it, over LFS and Xet, each to a fresh Hub on loopback.

The Hub runs in a process of its own and knows none of the bytes. Ours also checks the release, compares it with the
remote, and verifies it there afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, compare, report

PEERS = ("hubpub lfs", "create_commit lfs", "hubpub xet", "create_commit xet")
REPO = "tester/bench"
BIG = "model.bin"


def run(peer: str, release: Path, scratch: Path) -> None:
    """Time one peer once, against a Hub started for it."""
    tool, mode = peer.split()
    serve = [sys.executable, "-c", "from hubpub.cli import main; main()", "hub", "serve", "--json"]
    with subprocess.Popen([*serve, "--root", str(scratch / "hub")], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            said += server.stdout.readline()
        hub = json.loads(said)
        os.environ |= {"HF_ENDPOINT": hub["endpoint"], "HF_TOKEN": hub["token"], "HF_HOME": str(scratch / "home")}
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        if mode == "lfs":
            os.environ["HF_HUB_DISABLE_XET"] = "1"
        try:
            (with_hubpub if tool == "hubpub" else with_create_commit)(release)
        finally:
            server.terminate()


def with_hubpub(release: Path) -> None:
    import hf_xet
    import huggingface_hub.hf_api

    import hubpub.publish.checks
    from hubpub.publish.publish import Options, publish
    from hubpub.report import Silent

    assert hf_xet
    assert hubpub.publish.checks
    huggingface_hub.hf_api.HfApi().create_repo(REPO)
    report(lambda: publish(release, Options(repo=REPO), Silent()))


def with_create_commit(release: Path) -> None:
    import hf_xet
    from huggingface_hub import CommitOperationAdd, HfApi

    assert hf_xet
    api = HfApi()
    api.create_repo(REPO)

    def commit() -> None:
        big = CommitOperationAdd(BIG, str(release / BIG))
        api.create_commit(REPO, [big], commit_message="bench")

    report(commit)


def main() -> None:
    """Compare, print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; needs four times the size")
    parser.add_argument("--run", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, *options.paths)
        return
    sys.path.insert(0, str(ROOT / "tests" / "publish"))
    from made_up import make_release

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        release, scratch = Path(name, "release"), Path(name, "scratch")
        make_release(release, {BIG: os.urandom(options.megabytes * 1_000_000)})

        def clear() -> None:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()

        clear()
        runs = compare(__file__, PEERS, [str(release), str(scratch)], options.rounds, clear)
    for peer, result in runs.items():
        print(f"{peer:20} {result.seconds:7.3f} s   peak {result.peak_bytes / 1e6:7.0f} MB")
    modes = ("lfs", "xet")
    line = {
        "name": "publish",
        "ours": {mode: round(runs[f"hubpub {mode}"].seconds, 3) for mode in modes},
        "peer": {f"create_commit {mode}": round(runs[f"create_commit {mode}"].seconds, 3) for mode in modes},
        "ratio": {
            mode: round(runs[f"hubpub {mode}"].seconds / runs[f"create_commit {mode}"].seconds, 3) for mode in modes
        },
        "units": "s, median, page cache warm, imports not counted",
        "sizes": {
            "file_bytes": options.megabytes * 1_000_000,
            "rounds": options.rounds,
            "peak_rss_bytes": {peer: result.peak_bytes for peer, result in runs.items()},
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
