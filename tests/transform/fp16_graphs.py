"""Graphs in ONNX's text form, converted, held to what every converted model must be, and run in two ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper, parser, shape_inference
from onnx.reference import ReferenceEvaluator

from hubpub.onnxfile import OnnxFile
from hubpub.transform.fp16 import Fp16, unsound

Array = npt.NDArray[Any]
Facts = dict[str, Any]


def graph(text: str, opset: int = 17, ir_version: int = 8, **weights: Array) -> onnx.ModelProto:
    """Parse ``name (inputs) => (outputs) {nodes}``; ``weights`` become initializers."""
    opsets = f'"" : {opset}, "custom" : 1, "local" : 1'
    model = parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{opsets}]>\n{text}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def convert(model: onnx.ModelProto | Path, folder: Path, **params: Any) -> tuple[onnx.ModelProto, Facts]:
    """Convert, check what holds for every result, and load it in onnxruntime."""
    source, target = folder / "m.onnx", folder / "out" / "m.onnx"
    target.parent.mkdir(exist_ok=True)
    if isinstance(model, Path):
        source = model
    else:
        source.write_bytes(model.SerializeToString(deterministic=True))
    seen: list[int] = []
    facts = dict(Fp16(**params).apply(source, target, seen.append))
    data = target.with_name(f"{target.name}.data")
    if not data.exists():
        assert sum(seen) == target.stat().st_size
    converted = onnx.load(target)
    assert facts["casts"] == {f"to_fp{bits}": inserted for bits, inserted in _inserted(converted).items()}
    no_round_trips(converted.graph, {})
    if not unsound(OnnxFile.open(source)):
        onnx.checker.check_model(str(target))
        shape_inference.infer_shapes(converted, check_type=True, strict_mode=True)
    if not any(node.domain for node in converted.graph.node):
        session(target)
    return converted, facts


def _inserted(model: onnx.ModelProto) -> dict[int, int]:
    counts = {16: 0, 32: 0}
    for inner in graphs(model.graph):
        for node in inner.node:
            if node.op_type == "Cast" and node.name.endswith("/cast"):
                counts[16 if node.attribute[0].i == TensorProto.FLOAT16 else 32] += 1
    return counts


def graphs(outer: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [outer]
    for node in outer.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += graphs(attribute.g)
    return found


def no_round_trips(inner: onnx.GraphProto, cast_to: dict[str, int]) -> None:
    """No Cast from float16 to float32 feeds one back, or the other way round, and none takes a small constant."""
    constants = {t.name for t in inner.initializer if np.prod(t.dims) < 1000}
    constants |= {node.output[0] for node in inner.node if node.op_type == "Constant"}
    constants -= {value.name for value in inner.input}
    cast_to = dict(cast_to)
    for node in inner.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                no_round_trips(attribute.g, cast_to)
        if node.op_type == "Cast":
            assert node.input[0] not in constants or not node.name.endswith("/cast")
            to = node.attribute[0].i
            if to in (TensorProto.FLOAT, TensorProto.FLOAT16):
                assert cast_to.get(node.input[0], to) == to
                cast_to[node.output[0]] = to


def session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def runs(model: Path, feeds: dict[str, Array]) -> list[Array]:
    """The outputs by onnxruntime, which on a CPU computes most of float16 in float32."""
    return [np.asarray(output) for output in session(model).run(None, feeds)]


def exact(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """The outputs by ONNX's reference implementation, where float16 is float16."""
    with np.errstate(all="ignore"):
        return [np.asarray(output) for output in ReferenceEvaluator(model).run(None, feeds)]


def ops(model: onnx.ModelProto) -> dict[str, int]:
    """Element type by the name of each float initializer."""
    return {t.name: t.data_type for inner in graphs(model.graph) for t in inner.initializer}


def snr(expected: Array, got: Array) -> float:
    """Signal to noise, dB."""
    noise = float(np.square(expected - got, dtype=np.float64).sum())
    return 10 * float(np.log10(np.square(expected, dtype=np.float64).sum() / max(noise, 1e-300)))
