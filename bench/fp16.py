"""fp16 beside onnxruntime.transformers.float16, which is given the path and saves with external data."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

from harness import compare, model_bytes, report, standin

PEERS = ("hubpub", "onnxruntime")


def run(peer: str, model: Path, target: Path) -> None:
    """Time one peer once; what it imports is imported before."""
    import onnx

    if peer == "hubpub":
        from hubpub.transform import _fp16_rewrite  # noqa: F401
        from hubpub.transform.fp16 import Fp16

        fp16 = Fp16(layout="external", overflow="clip")
        report(partial(fp16.apply, model, target, lambda _: None))
    else:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        def with_onnxruntime() -> None:
            converted = convert_float_to_float16(str(model), keep_io_types=True)
            onnx.save_model(converted, target, save_as_external_data=True, location=f"{target.name}.data")

        report(with_onnxruntime)


def main() -> None:
    """Compare, print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: the Parakeet stand-in at full size, 2.5 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; needs twice the size")
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
        runs = compare(__file__, PEERS, [str(model), str(out / "m.onnx")], options.rounds, clear)
    for peer, result in runs.items():
        peak, grown = result.peak_bytes / 1e6, result.grown_bytes / 1e6
        print(f"{peer:12} {result.seconds:7.3f} s   peak {peak:7.0f} MB   over imports {grown:7.0f} MB")
    ours, theirs = runs["hubpub"], runs["onnxruntime"]
    line = {
        "name": "fp16",
        "ours": ours.seconds,
        "peer": {"onnxruntime": theirs.seconds},
        "ratio": {"onnxruntime": round(ours.seconds / theirs.seconds, 3)},
        "units": "s, median, page cache warm, imports not counted, no fsync",
        "sizes": {
            "model_bytes": size,
            "rounds": options.rounds,
            "peak_rss_bytes": {peer: result.peak_bytes for peer, result in runs.items()},
            "grown_rss_bytes": {peer: result.grown_bytes for peer, result in runs.items()},
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
