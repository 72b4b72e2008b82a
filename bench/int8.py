"""Calibrated int8 beside onnxruntime's quantize_static and onnx-neural-compressor, on the same windows.

The Parakeet stand-in, windows of 30 s (3000 frames) of noise: what is compared is time and memory, not quality, since
its weights are random. onnx-neural-compressor is given with ``--inc``, the Python of an environment that has it
(onnx-neural-compressor 1.0, prettytable, scipy, numpy 1.26, onnxruntime); without it that peer is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness import compare, model_bytes, report, standin

PEERS = ("smoothquant", "smoothquant-search", "smoothquant-percentile", "static", "quantize_static", "inc")
OURS = {
    "smoothquant": {"alpha": 0.5},
    "smoothquant-search": {"alpha": "search"},
    "smoothquant-percentile": {"alpha": 0.5, "ranges": "percentile"},
}


class Windows:
    """Noise in the shape of features, the same in every process; every tenth frame is loud."""

    def __init__(self, count: int, frames: int) -> None:
        self._count, self._frames = count, frames

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import numpy as np

        for number in range(self._count):
            features = np.random.default_rng(number).standard_normal((1, 128, self._frames), dtype=np.float32)
            features[:, :, ::10] *= 3
            yield {"audio_signal": features, "length": np.array([self._frames], np.int64)}


def weight_products(model: Path) -> tuple[list[str], list[str]]:
    """Names of the MatMuls with a constant matrix, and of the others."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    constant = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    names = [node.name for node in products if node.input[1] in constant]
    return names, [node.name for node in products if node.input[1] not in constant]


def run(peer: str, model: Path, target: Path, count: int, frames: int) -> None:
    """Time one peer once; what it imports is imported before."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    windows = Windows(count, frames)
    if peer in OURS:
        from hubpub.transform import _smoothing  # noqa: F401
        from hubpub.transform.smoothquant_int8 import SmoothQuantInt8

        step = SmoothQuantInt8.model_validate({**OURS[peer], "report_runtime": False})
        report(partial(step.apply_calibrated, model, target, windows, None, lambda _: None))
    elif peer == "static":
        from hubpub.transform import _static  # noqa: F401
        from hubpub.transform.static_int8 import StaticInt8

        static = StaticInt8(op_types=("MatMul",), report_runtime=False)
        report(partial(static.apply_calibrated, model, target, windows, None, lambda _: None))
    elif peer == "quantize_static":
        report(partial(quantize_static, model, target, windows))
    else:
        report(partial(neural_compressor, model, target, windows))


def reader(windows: Windows, base: type) -> Any:
    """What the peers read calibration data from."""
    given = iter(windows)

    class Reader(base):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(given, None)

        def rewind(self) -> None:
            nonlocal given
            given = iter(windows)

    return Reader()


def quantize_static(model: Path, target: Path, windows: Windows) -> None:
    """At its best: unsigned inputs only, weights per channel, products of two activations left alone."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    _, others = weight_products(model)
    quantize_static(
        str(model),
        str(target),
        reader(windows, CalibrationDataReader),
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=others,
        use_external_data_format=True,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )


def neural_compressor(model: Path, target: Path, windows: Windows) -> None:
    """SmoothQuant at alpha 0.5 on MatMul, then static quantization, as its own examples do."""
    from onnx_neural_compressor import data_reader
    from onnx_neural_compressor.quantization import config, quantize

    calibration = reader(windows, data_reader.CalibrationDataReader)
    settings = config.SmoothQuantConfig(alpha=0.5, op_types=["MatMul"], calibration_data_reader=calibration)
    quantize(str(model), str(target), settings)


def main() -> None:
    """Compare, print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: the Parakeet stand-in, 2.5 GB")
    parser.add_argument("--small", action="store_true", help="the small stand-in, 4 windows: a minute")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[peer for peer in PEERS if peer != "inc"])
    parser.add_argument("--inc", type=Path, help="Python of an environment with onnx-neural-compressor")
    parser.add_argument("--folder", type=Path, help="where to work; needs twice the size")
    parser.add_argument("--run", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, *options.paths, options.windows, options.frames)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        scale = "small" if options.small else "full"
        model = options.model or standin(Path(name) / "in", scale)
        out, count = Path(name) / "out", 4 if options.small else options.windows
        sizes: dict[str, int] = {}

        def clear() -> None:
            if out.exists() and any(out.iterdir()):
                sizes[str(len(sizes))] = model_bytes(out / "m.onnx")
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()

        clear()
        arguments = ["--windows", str(count), "--frames", str(options.frames), str(model), str(out / "m.onnx")]
        interpreters = {"inc": str(options.inc)} if options.inc else {}
        peers = [*options.peers, *(["inc"] if options.inc else [])]
        size = model_bytes(model)
        runs = compare(__file__, peers, arguments, options.rounds, clear, warm=False, interpreters=interpreters)
    for number, (peer, result) in enumerate(runs.items()):
        written = sizes.get(str(number), 0) / size
        print(
            f"{peer:24} {result.seconds:7.1f} s   peak {result.peak_bytes / 1e9:6.2f} GB   {written:.3f} of the bytes"
        )
    theirs = next((peer for peer in ("inc", "quantize_static") if peer in runs), None)
    line = {
        "name": "int8",
        "ours": {peer: run.seconds for peer, run in runs.items() if peer in OURS or peer == "static"},
        "peer": {peer: run.seconds for peer, run in runs.items() if peer in ("inc", "quantize_static")},
        "ratio": {peer: round(run.seconds / runs[theirs].seconds, 3) for peer, run in runs.items()} if theirs else {},
        "ratio_to": theirs,
        "units": "s, median, imports not counted, no fsync",
        "sizes": {
            "model_bytes": size,
            "windows": count,
            "frames": options.frames,
            "rounds": options.rounds,
            "peak_rss_bytes": {peer: run.peak_bytes for peer, run in runs.items()},
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
