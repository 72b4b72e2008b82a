"""Calibrated int8 beside onnxruntime's quantize_static and onnx-neural-compressor, on the same windows.

The Parakeet stand-in, windows of 30 s (3000 frames) of noise: what is compared is time and memory, not quality, since
its weights are random. Also: the disk taken besides the output, how the memory of ours grows from 4 to 64 windows (on
the small stand-in), and how fast what the first peer wrote is beside float32. onnx-neural-compressor is given with
``--inc``, the Python of an environment that has it (onnx-neural-compressor 1.0, prettytable, scipy, numpy 1.26,
onnxruntime); without it that peer is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness import Run, compare, model_bytes, report, standin

INFER = ("fp32", "int8")
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


class Disk(threading.Thread):
    """The most that a folder held, its output not counted; looked at a hundred times a second.

    Hard links to files elsewhere take no disk and are not counted.
    """

    def __init__(self, folder: Path, output: str) -> None:
        super().__init__(daemon=True)
        self._folder, self._output, self._most = folder, output, 0
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        while not threading.Event().wait(0.01):
            self._most = max(self._most, self._now())

    def take(self) -> int:
        """The most since the last time."""
        most, self._most = self._most, 0
        return most

    def _now(self) -> int:
        held = 0
        found = (Path(folder, name) for folder, _, names in os.walk(self._folder) for name in names)
        for path in found:  # os.walk passes over folders that are gone again
            try:
                about = path.lstat()
            except OSError:  # gone again
                continue
            partial = path.name.startswith(f".{self._output}") and path.suffix == ".partial"
            output = path.name.startswith(self._output) or partial
            if stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and not output:
                held += about.st_blocks * 512
        return held


def infer(model: Path, count: int, frames: int) -> None:
    """Time runs of a loaded model, after one that is not timed."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    windows = list(Windows(count, frames))
    session.run(["outputs"], windows[0])
    report(lambda: [session.run(["outputs"], window) for window in windows])


def grown(folder: Path, frames: int) -> int:
    """Peak memory of ours on 64 windows above that on 4, on the small stand-in."""
    model = standin(folder / "small", "small")
    peaks = []
    for count in (4, 64):
        out = folder / "grown"
        out.mkdir()
        arguments = ["--windows", str(count), "--frames", str(frames), str(model), str(out / "m.onnx")]
        done = compare(__file__, ["smoothquant-search"], arguments, 1, partial(shutil.rmtree, out), warm=False)
        peaks.append(done["smoothquant-search"].peak_bytes)
    return peaks[1] - peaks[0]


def speed(model: Path, made: Path, frames: int, rounds: int) -> dict[str, Run]:
    """Both models on the same windows, in turn."""
    both = made.parent / "both"
    both.mkdir()
    for name, path in (("fp32", model), ("int8", made)):
        for file in path.parent.glob(f"{path.name}*"):
            # External data is known by its name.
            (both / name).mkdir(exist_ok=True)
            (both / name / file.name).symlink_to(file)
    arguments = ["--windows", "2", "--frames", str(frames), str(both), f"{model.name}:{made.name}"]
    return compare(__file__, list(INFER), arguments, rounds, lambda: None, warm=False)


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

    if peer in INFER:
        names = dict(zip(INFER, target.name.split(":"), strict=True))
        infer((model / peer / names[peer]).resolve(), count, frames)
        return
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
    given = os.environ.get("INC_PYTHON")
    parser.add_argument(
        "--inc", type=Path, default=given, help="Python of an environment with onnx-neural-compressor; or INC_PYTHON"
    )
    parser.add_argument("--folder", type=Path, help="where to work; needs twice the size")
    parser.add_argument("--run", choices=(*PEERS, *INFER), help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, *options.paths, options.windows, options.frames)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        scale = "small" if options.small else "full"
        model = options.model or standin(Path(name) / "in", scale)
        out, count = Path(name) / "out", 4 if options.small else options.windows
        sizes: list[int] = []
        temporary: list[int] = []
        kept = Path(name) / "kept" / "int8.onnx"
        kept.parent.mkdir()
        out.mkdir()
        os.environ["TMPDIR"] = str(out)  # of the peers, so that what they put there is seen
        disk = Disk(out, "m.onnx")

        def clear() -> None:
            sizes.append(model_bytes(out / "m.onnx"))
            temporary.append(disk.take())
            if not kept.exists() and (out / "m.onnx").exists():
                (out / "m.onnx").rename(kept)  # of the first peer, which is ours
            shutil.rmtree(out)
            out.mkdir()

        arguments = ["--windows", str(count), "--frames", str(options.frames), str(model), str(out / "m.onnx")]
        interpreters = {"inc": str(options.inc)} if options.inc else {}
        peers = [*options.peers, *(["inc"] if options.inc else [])]
        size = model_bytes(model)
        files = sorted(model.parent.glob(f"{model.name}*"))
        runs = compare(
            __file__, peers, arguments, options.rounds, clear, warm=False, read=files, interpreters=interpreters
        )
        more: dict[str, Any] = {}
        if peers[0] in OURS:
            os.environ.pop("TMPDIR")
            infers = speed(model, kept, options.frames, max(options.rounds, 3))
            more = {
                "fp32_over_int8": round(infers["fp32"].seconds / infers["int8"].seconds, 3),
                "peak_rss_of_inference_bytes": {each: run.peak_bytes for each, run in infers.items()},
                "grown_from_4_to_64_windows_bytes": grown(Path(name), options.frames),
            }
    written, held = dict(zip(peers, sizes, strict=False)), dict(zip(peers, temporary, strict=False))
    for peer, result in runs.items():
        print(
            f"{peer:24} {result.seconds:7.1f} s   peak {result.peak_bytes / 1e9:6.2f} GB   "
            f"{written[peer] / size:.3f} of the bytes   {held[peer] / written[peer]:.2f} of its output on disk besides"
        )
    for key, value in more.items():
        print(f"{key}: {value}")
    theirs = next((peer for peer in ("inc", "quantize_static") if peer in runs), None)
    line = {
        "name": "int8",
        "ours": {peer: run.seconds for peer, run in runs.items() if peer in OURS or peer == "static"},
        "peer": {peer: run.seconds for peer, run in runs.items() if peer in ("inc", "quantize_static")},
        "ratio": {peer: round(run.seconds / runs[theirs].seconds, 3) for peer, run in runs.items()} if theirs else {},
        "ratio_to": theirs,
        "units": "s, median, page cache warm, imports not counted, no fsync",
        "sizes": {
            "model_bytes": size,
            "windows": count,
            "frames": options.frames,
            "rounds": options.rounds,
            "peak_rss_bytes": {peer: run.peak_bytes for peer, run in runs.items()},
            "disk_besides_output": {peer: round(held[peer] / written[peer], 3) for peer in runs},
            **more,
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
