"""fp16 beside onnxruntime.transformers.float16, which is given the path and saves with external data."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

from harness import compare, report

PEERS = ("hubpub", "onnxruntime")


def generate(path: Path, gigabytes: float) -> None:
    """Write an encoder's MatMuls, biases, norms and residual sums, its float32 data in one file."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    rng = np.random.default_rng(0)
    block = rng.standard_normal(1 << 22, np.float32)
    initializers: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    value, end = "x", 0

    with path.with_name(f"{path.name}.data").open("wb") as data:

        def weights(name: str, shape: list[int]) -> str:
            nonlocal end
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            scale = np.float32(0.02 * (1 + len(initializers) % 7))
            stored = np.roll(block, len(initializers))[: int(np.prod(shape))] * scale
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in (("location", f"{path.name}.data"), ("offset", end), ("length", stored.nbytes)):
                tensor.external_data.add(key=key, value=str(entry))
            data.write(stored.data)
            end += stored.nbytes
            initializers.append(tensor)
            return name

        def add(op: str, inputs: list[str], output: str) -> str:
            nodes.append(helper.make_node(op, inputs, [output], name=f"/{output}"))
            return output

        layer = 0
        while end < gigabytes * 1e9:
            norm = [weights(f"{layer}.norm.{part}", [1024]) for part in ("weight", "bias")]
            up, down = weights(f"{layer}.up", [1024, 4096]), weights(f"{layer}.down", [4096, 1024])
            hidden = add("LayerNormalization", [value, *norm], f"{layer}/norm")
            hidden = add("MatMul", [hidden, up], f"{layer}/up")
            hidden = add("Add", [hidden, weights(f"{layer}.bias", [4096])], f"{layer}/bias")
            hidden = add("Sigmoid", [hidden], f"{layer}/act")
            value = add("Add", [value, add("MatMul", [hidden, down], f"{layer}/down")], f"{layer}/out")
            layer += 1
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", 1024]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "bench", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))


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
    """Generate or take a model, compare, print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the generated model, up to about 2.4")
    parser.add_argument("--model", type=Path, help="a float32 model to convert in place of a generated one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; needs twice the size")
    parser.add_argument("--run", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, *options.paths)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        model, out = options.model, Path(name) / "out"
        if model is None:
            model = Path(name) / "m.onnx"
            generate(model, options.gigabytes)

        def clear() -> None:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()

        clear()
        runs = compare(__file__, PEERS, [str(model), str(out / "m.onnx")], options.rounds, clear)
        size = sum(path.stat().st_size for path in {model, *model.parent.glob(f"{model.name}*data*")})
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
