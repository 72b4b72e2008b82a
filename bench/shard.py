"""shard beside cp (the limit), onnx_ir.save with shards (the best peer) and onnx.save_model (what most use)."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from harness import compare, model_bytes, report, standin

PEERS = ("hubpub", "cp", "onnx_ir", "onnx")
SHARD_BYTES = 1_400_000_000


def run(peer: str, model: Path, target: Path) -> None:
    """Time one peer once; what it imports is imported before."""
    if peer == "hubpub":
        import onnx

        from hubpub.transform.shard import Shard

        shard = Shard.model_validate({"max_bytes": SHARD_BYTES})
        report(partial(shard.apply, model, target, lambda _: None))
    elif peer == "cp":
        files = [model, model.with_name(f"{model.name}.data")]
        # --reflink=never is GNU's: a copy that copies
        flags = ["--reflink=never"] if b"GNU" in subprocess.run(["cp", "--version"], capture_output=True).stdout else []
        report(partial(subprocess.run, ["cp", *flags, *files, target.parent], check=True))
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


def main() -> None:
    """Compare, print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: the Parakeet stand-in at full size, 2.5 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; needs three times the size")
    parser.add_argument("--run", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, *options.paths)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        model, out = options.model or standin(Path(name) / "in"), Path(name) / "out"
        size = model_bytes(model)

        def clear() -> None:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()

        clear()
        paths = [str(model), str(out / "m.onnx")]
        runs = compare(__file__, PEERS, paths, options.rounds, clear)
    for peer, result in runs.items():
        peak, grown = result.peak_bytes / 1e6, result.grown_bytes / 1e6
        print(f"{peer:8} {result.seconds:7.3f} s   peak {peak:7.0f} MB   over imports {grown:7.0f} MB")
    ours = runs["hubpub"]
    line = {
        "name": "shard",
        "ours": ours.seconds,
        "peer": {peer: result.seconds for peer, result in runs.items() if peer != "hubpub"},
        "ratio": {peer: round(ours.seconds / result.seconds, 3) for peer, result in runs.items() if peer != "hubpub"},
        "units": "s, median, page cache warm, imports not counted, no fsync",
        "sizes": {
            "model_bytes": size,
            "max_shard_bytes": SHARD_BYTES,
            "rounds": options.rounds,
            "peak_rss_bytes": {peer: result.peak_bytes for peer, result in runs.items()},
            "grown_rss_bytes": {peer: result.grown_bytes for peer, result in runs.items() if peer != "cp"},
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
