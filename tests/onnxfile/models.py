"""Small models that between them hold a tensor in every place and of every type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from hubpub.onnxfile.tensors import walk

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

N = 600
FEED_X = np.linspace(-1, 1, N, dtype=np.float32)
_X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [N])
_Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [N])


def values(seed: int, size: int = N) -> Array:
    """Float32 values of a fixed seed."""
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def tensor(name: str, array: npt.ArrayLike) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def _model(
    nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], opset: int = 17, **more: Any
) -> onnx.ModelProto:
    inputs = [_X, *more.pop("inputs", [])]
    sparse = more.pop("sparse", [])
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    graph = helper.make_graph(nodes, "graph", inputs, [_Y], initializers, sparse_initializer=sparse)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=more.pop("ir_version", 8), **more)
    helper.set_model_props(model, {"language": "en", "é": "ü"})
    model.producer_name = "tests"
    model.graph.doc_string = "a graph"
    return model


def plain(opset: int = 17) -> onnx.ModelProto:
    """Initializers of several sizes, an empty one, scalars, one that is a graph input too."""
    add = [
        helper.make_node("Add", ["x" if i == 0 else f"s{i - 1}", f"w{i}"], [f"s{i}"], name=f"n{i}") for i in range(5)
    ]
    mul = helper.make_node("Mul", ["s4", "scale"], ["y"])
    inits = [tensor(f"w{i}", values(i)) for i in range(5)]
    inits += [tensor("scale", np.float32(2)), tensor("unused", np.zeros((0, 4), np.float32))]
    overridable = helper.make_tensor_value_info("w1", TensorProto.FLOAT, [N])
    return _model([*add, mul], inits, opset, inputs=[overridable], ir_version=6 if opset < 13 else 8)


def typed() -> onnx.ModelProto:
    """Payloads in float_data, double_data, int32_data, int64_data and uint64_data."""
    rng = np.random.default_rng(7)
    signed = rng.integers(-(2**31), 2**31, N)
    columns = [
        helper.make_tensor("f", TensorProto.FLOAT, [N], values(1).tolist()),
        helper.make_tensor("d", TensorProto.DOUBLE, [N], values(2).tolist()),
        helper.make_tensor("i64", TensorProto.INT64, [N], (signed * 2**31).tolist()),
        helper.make_tensor("i32", TensorProto.INT32, [N], signed.tolist()),
        helper.make_tensor("i8", TensorProto.INT8, [N], (signed % 256 - 128).tolist()),
        helper.make_tensor("u64", TensorProto.UINT64, [N], [int(v) + 2**63 for v in signed]),
        helper.make_tensor("bool", TensorProto.BOOL, [N], (signed % 2).tolist()),
        helper.make_tensor("f16", TensorProto.FLOAT16, [N], values(3).astype(np.float16).tolist()),
    ]
    nodes = [helper.make_node("Cast", [c.name], [f"{c.name}_c"], to=TensorProto.FLOAT) for c in columns]
    nodes.append(helper.make_node("Sum", ["x", *(f"{c.name}_c" for c in columns)], ["y"]))
    return _model(nodes, columns)


def _constant(name: str, array: Array) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=tensor(f"{name}_value", array))


def subgraphs() -> onnx.ModelProto:
    """An If whose branches have an initializer and a Constant each, a Loop with both in its body, and one outside."""

    def branch(name: str, seed: int) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [N])
        nodes = [
            _constant(f"{name}_c", values(seed)),
            helper.make_node("Sum", ["x", f"{name}_w", f"{name}_c"], [f"{name}_out"]),
        ]
        return helper.make_graph(nodes, name, [], [out], [tensor(f"{name}_w", values(seed + 1))])

    def scalar(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [])

    carried = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [N]) for n in ("in", "out")]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            _constant("body_c", values(30)),
            helper.make_node("Sum", ["in", "body_w", "body_c"], ["out"]),
        ],
        "body",
        [scalar("i", TensorProto.INT64), scalar("go", TensorProto.BOOL), carried[0]],
        [scalar("on", TensorProto.BOOL), carried[1]],
        [tensor("body_w", values(31))],
    )
    nodes = [
        helper.make_node("If", ["which"], ["chosen"], then_branch=branch("then", 10), else_branch=branch("else", 20)),
        helper.make_node("Loop", ["times", "", "chosen"], ["looped"], body=body),
        helper.make_node("Sum", ["looped", "main_w"], ["y"]),
    ]
    which = scalar("which", TensorProto.BOOL)
    return _model(nodes, [tensor("times", np.int64(3)), tensor("main_w", values(32))], inputs=[which])


def function() -> onnx.ModelProto:
    """A local function with a Constant."""
    opset = helper.make_opsetid("", 17)
    nodes = [_constant("c", values(40)), helper.make_node("Add", ["a", "c"], ["b"])]
    local = helper.make_function("tests", "Shift", ["a"], ["b"], nodes, [opset])
    call = helper.make_node("Shift", ["x"], ["y"], domain="tests")
    return _model([call], [], functions=[local], opsets=[helper.make_opsetid("tests", 1)])


def sparse() -> onnx.ModelProto:
    """A sparse initializer and a sparse Constant, which stay inline."""
    indices = np.arange(0, N, dtype=np.int64)
    first = helper.make_sparse_tensor(tensor("w", values(50)), tensor("w_indices", indices), [N])
    second = helper.make_sparse_tensor(tensor("c", values(51)), tensor("c_indices", indices), [N])
    nodes = [
        helper.make_node("Constant", [], ["c"], sparse_value=second),
        helper.make_node("Sum", ["x", "w", "c", "dense"], ["y"]),
    ]
    return _model(nodes, [tensor("dense", values(52))], sparse=[first])


def low_bit() -> onnx.ModelProto:
    """bfloat16, float8, int4 and uint4 weights."""
    kinds = (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4)
    inits, nodes = [tensor("one", np.float32(1))], []
    for number, kind in enumerate(kinds):
        # An odd count, so that the last byte of a 4-bit tensor is half full.
        size = 2 * N + 1
        inits.append(tensor(f"q{number}", (np.arange(size) % 8).astype(kind)))
        operands = [f"q{number}"] if kind is ml_dtypes.bfloat16 else [f"q{number}", "one"]
        cast = helper.make_node("Cast", operands, [f"f{number}"], to=TensorProto.FLOAT)
        dequantize = helper.make_node("DequantizeLinear", operands, [f"f{number}"])
        nodes.append(cast if kind is ml_dtypes.bfloat16 else dequantize)
        nodes.append(helper.make_node("Slice", [f"f{number}", "start", "stop"], [f"h{number}"]))
    inits += [tensor("start", np.array([1], np.int64)), tensor("stop", np.array([N + 1], np.int64))]
    nodes.append(helper.make_node("Sum", ["x", *(f"h{i}" for i in range(len(kinds)))], ["y"]))
    return _model(nodes, inits, opset=21, ir_version=10)


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "plain": plain,
    "typed": typed,
    "subgraphs": subgraphs,
    "function": function,
    "sparse": sparse,
    "low_bit": low_bit,
}
"""Name and builder; each takes float32 ``x`` of shape (N,) and gives ``y`` of the same."""


def feeds(model: onnx.ModelProto) -> list[Feeds]:
    """Inputs that reach every branch of a model."""
    if any(value.name == "which" for value in model.graph.input):
        return [{"x": FEED_X, "which": np.array(which)} for which in (False, True)]
    return [{"x": FEED_X}]


def save(model: onnx.ModelProto, path: Path, layout: str) -> None:
    """Write a model with onnx's own code: ``inline``, ``external`` (one file) or ``scattered`` (one per tensor)."""
    if layout == "inline":
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=layout == "external",
        location=f"{path.name}.data" if layout == "external" else None,
        size_threshold=0,
        convert_attribute=True,
    )


def contents(model: onnx.ModelProto) -> dict[object, bytes]:
    """Bytes of every tensor of a fully loaded model, by its place."""
    return {item.steps: numpy_helper.to_array(item.tensor).tobytes() for item in walk(model)}


def skeleton(model: onnx.ModelProto) -> bytes:
    """A loaded model without any tensor's bytes, to compare all the rest."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for item in walk(bare):
        for field in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
            item.tensor.ClearField(field)
        item.tensor.ClearField("data_location")
        item.tensor.ClearField("external_data")
    return bytes(bare.SerializeToString(deterministic=True))
