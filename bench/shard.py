"""shard beside cp (the limit), onnx_ir.save with shards (the best peer) and onnx.save_model (what most use)."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from harness import Run, bench_model, report

PEERS = ("hubpub", "cp", "onnx_ir", "onnx")
SHARD_BYTES = 1_400_000_000


def run(peer: str, model: Path, out: Path) -> None:
    """Time one peer once; what it imports is imported before."""
    target = out / "m.onnx"
    if peer == "hubpub":
        import onnx

        from hubpub.transform.shard import Shard

        shard = Shard.model_validate({"max_bytes": SHARD_BYTES})
        report(partial(shard.apply, model, target, lambda _: None))
    elif peer == "cp":
        files = [model, model.with_name(f"{model.name}.data")]
        # --reflink=never is GNU's: a copy that copies
        flags = ["--reflink=never"] if b"GNU" in subprocess.run(["cp", "--version"], capture_output=True).stdout else []
        report(partial(subprocess.run, ["cp", *flags, *files, out], check=True))
    elif peer == "onnx_ir":
        import onnx_ir

        def with_onnx_ir() -> None:
            sharded = onnx_ir.load(model)
            onnx_ir.save(sharded, target, external_data=f"{target.name}.data", max_shard_size_bytes=SHARD_BYTES)

        report(with_onnx_ir)
    else:
        import onnx

        def with_onnx() -> None:
            onnx.save_model(onnx.load(model), target, save_as_external_data=True, location=f"{target.name}.data")

        report(with_onnx)


def line(runs: dict[str, Run]) -> dict[str, object]:
    """The result."""
    ours = runs["hubpub"]
    peers = {peer: result for peer, result in runs.items() if peer != "hubpub"}
    return {
        "name": "shard",
        "ours": ours.seconds,
        "peer": {peer: result.seconds for peer, result in peers.items()},
        "ratio": {peer: round(ours.seconds / result.seconds, 3) for peer, result in peers.items()},
        "units": "s, median, page cache warm, imports not counted, no fsync",
        "sizes": {
            "max_shard_bytes": SHARD_BYTES,
            "peak_rss_bytes": {peer: result.peak_bytes for peer, result in runs.items()},
            "grown_rss_bytes": {peer: result.grown_bytes for peer, result in runs.items() if peer != "cp"},
        },
    }


if __name__ == "__main__":
    bench_model(__file__, __doc__, PEERS, run, line)
