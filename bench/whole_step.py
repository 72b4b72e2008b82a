"""A whole step, from locked inputs to durable, digested outputs, beside cp, sync and sha256 of the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from harness import Run, bench_model, report

PEERS = ("shard", "fp16", "cp + sync + sha256")


def run(peer: str, model: Path, out: Path) -> None:
    """Time one peer once; its inputs are in the store already, as after a fetch."""
    files = sorted(model.parent.glob(f"{model.name}*"))
    if peer not in ("shard", "fp16"):

        def copy() -> None:
            for file in files:
                subprocess.run(["cp", file, out], check=True)
            os.sync()
            for file in files:
                with (out / file.name).open("rb") as copied:
                    hashlib.file_digest(copied, "sha256")

        report(copy)
        return
    import onnx

    from hubpub.build.run import run_tasks
    from hubpub.build.task import Ref
    from hubpub.build.tasks import TransformTask
    from hubpub.report import Silent
    from hubpub.store import Store
    from hubpub.transform.fp16 import Fp16
    from hubpub.transform.shard import Shard

    assert onnx  # imported before the clock starts
    store = Store(out / "store")
    digests = {}
    for file in files:
        with store.scratch("in") as folder:
            shutil.copyfile(file, folder / file.name)
            digests[file.name] = store.put(folder / file.name)
    transform = Shard(transform="shard") if peer == "shard" else Fp16(transform="fp16")
    inputs = tuple((name, Ref("model", name)) for name in digests)
    task = TransformTask("step", transform, inputs, model.name, "m.onnx", where="bench")
    os.sync()
    report(lambda: run_tasks([task], {"model": digests}, store, Silent()))


def line(runs: dict[str, Run]) -> dict[str, object]:
    """The result."""
    peer = runs[PEERS[2]]
    return {
        "name": "whole step",
        "ours": {step: round(runs[step].seconds, 3) for step in PEERS[:2]},
        "peer": {PEERS[2]: round(peer.seconds, 3)},
        "ratio": {step: round(runs[step].seconds / peer.seconds, 3) for step in PEERS[:2]},
        "units": "s, median, page cache warm, imports not counted, fsync and digests counted",
        "sizes": {"grown_rss_bytes": {step: runs[step].grown_bytes for step in PEERS[:2]}},
    }


if __name__ == "__main__":
    bench_model(__file__, __doc__, PEERS, run, line)
