"""fp16 beside onnxruntime.transformers.float16, which is given the path and saves with external data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness import Run, bench_model, report

PEERS = ("hubpub", "onnxruntime")


def run(peer: str, model: Path, out: Path) -> None:
    """Time one peer once; what it imports is imported before."""
    import onnx

    target = out / "m.onnx"
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


def line(runs: dict[str, Run]) -> dict[str, object]:
    """The result."""
    ours, theirs = runs["hubpub"], runs["onnxruntime"]
    return {
        "name": "fp16",
        "ours": ours.seconds,
        "peer": {"onnxruntime": theirs.seconds},
        "ratio": {"onnxruntime": round(ours.seconds / theirs.seconds, 3)},
        "units": "s, median, page cache warm, imports not counted, no fsync",
        "sizes": {
            "peak_rss_bytes": {peer: result.peak_bytes for peer, result in runs.items()},
            "grown_rss_bytes": {peer: result.grown_bytes for peer, result in runs.items()},
        },
    }


if __name__ == "__main__":
    bench_model(__file__, __doc__, PEERS, run, line)
