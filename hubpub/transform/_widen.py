"""Models in float16 or bfloat16 as the float32 models that they came from, so that they can be calibrated.

Every narrow type of the graph becomes float32: weights (exactly), values, targets of Cast. Inputs and outputs keep
theirs, with a Cast behind or before them. Casts that have nothing left to do are taken out, so that a normalization
lies next to the products that it feeds again. One tensor is in memory at a time; all of them, widened, take twice the
source's bytes of disk beside the target until it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hubpub.errors import StepError
from hubpub.transform._weight_graph import all_graphs

if TYPE_CHECKING:
    import onnx

    from hubpub.onnxfile import OnnxFile
    from hubpub.transform._scratch import Scratch
    from hubpub.transform.base import Facts

FLOAT = 1
NARROW = {10: "float16", 16: "bfloat16"}
_TYPES = frozenset(["to", "dtype", "output_datatype", "stash_type", "softmax_precision"])
"""Attributes of operations that name a type."""


def is_narrow(file: OnnxFile) -> str:
    """The name of a narrow type that weights of the model have, or nothing: a model may cast without them."""
    for located in file.tensors():
        if located.tensor.data_type in NARROW and _size(located.tensor) > 1:
            return NARROW[located.tensor.data_type]
    return ""


def widen(file: OnnxFile, scratch: Scratch, where: str) -> Facts:
    """Make a float32 model of one whose functions are inlined.

    Returns:
        ``from`` (the type), ``tensors`` (how many were widened), ``casts_removed``.

    Raises:
        StepError: it has operations of a domain of their own, which may want their type.
    """
    from hubpub.onnxfile.file import detach

    graph, narrow = file.model.graph, is_narrow(file)
    foreign = {node.domain for inner in all_graphs(graph) for node in inner.node} - {"", "ai.onnx"}
    if foreign:
        raise StepError(
            f"holds {narrow} and operations of {sorted(foreign)[0]!r}, which may be for that type alone",
            where=where,
            fix="start from the float32 model",
        )
    ports = [*graph.input, *graph.output]
    kept = {port.name: port.type.tensor_type.elem_type for port in ports}
    given = {port.name for port in graph.input}
    widened = 0
    for located in file.tensors():
        tensor = located.tensor
        of_main = [step for step, _ in located.steps] == ["graph", "initializer"]
        if tensor.data_type not in NARROW or (of_main and tensor.name in given):  # a default of an input has its type
            continue
        values = file.array(tensor).astype("float32")
        detach(tensor)
        tensor.data_type = FLOAT
        scratch.store(file, tensor, values)
        widened += 1
    for inner in all_graphs(graph):
        for value in (*inner.value_info, *inner.input, *inner.output):
            _widen_type(value.type)
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.name in _TYPES and attribute.i in NARROW:
                    attribute.i = FLOAT
    for port in ports:
        if kept[port.name] in NARROW:
            port.type.tensor_type.elem_type = kept[port.name]
    _bind(graph, kept)
    return {"from": narrow, "tensors": widened, "casts_removed": _drop_casts(file)}


def _bind(graph: onnx.GraphProto, kept: dict[str, int]) -> None:
    """Cast behind narrow inputs and before narrow outputs; the values between have names of their own."""
    from onnx import helper

    taken = set(_names(graph))

    def fresh(name: str) -> str:
        made = f"{name}_float32"
        while made in taken:
            made += "_"
        taken.add(made)
        return made

    given = {port.name for port in graph.input}
    casts = {port.name: fresh(port.name) for port in graph.input if kept[port.name] in NARROW}
    results = {
        port.name: fresh(port.name) for port in graph.output if kept[port.name] in NARROW and port.name not in given
    }
    _rename(graph, {**casts, **results})
    nodes = [*graph.node]
    before = [helper.make_node("Cast", [name], [made], f"{made}/Cast", to=FLOAT) for name, made in casts.items()]
    after = [helper.make_node("Cast", [made], [name], f"{made}/Cast", to=kept[name]) for name, made in results.items()]
    del graph.node[:]
    graph.node.extend([*before, *nodes, *after])


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Everywhere but in the interface of the main graph; ONNX has no name twice, in subgraphs neither."""
    for number, inner in enumerate(all_graphs(graph)):
        for node in inner.node:
            for field in (node.input, node.output):
                field[:] = [names.get(name, name) for name in field]
        values: list[Any] = [*inner.value_info, *([*inner.input, *inner.output] if number else [])]
        inputs = {port.name for port in graph.input}
        values += [tensor for tensor in inner.initializer if number or tensor.name not in inputs]
        for value in values:
            value.name = names.get(value.name, value.name)


def _drop_casts(file: OnnxFile) -> int:
    """Take out the casts of the main graph from float32 to float32; how many there were."""
    import onnx
    from onnx import shape_inference

    graph = file.model.graph
    try:
        inferred = shape_inference.infer_shapes(file.model).graph
    except (onnx.checker.ValidationError, shape_inference.InferenceError):
        return 0
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    outputs = {port.name for port in graph.output}
    idle = [
        index
        for index, node in enumerate(graph.node)
        if node.op_type == "Cast"
        and types.get(node.input[0]) == FLOAT
        and any(attribute.name == "to" and attribute.i == FLOAT for attribute in node.attribute)
        and node.output[0] not in outputs
    ]
    names: dict[str, str] = {}
    for index in idle:  # in the order of the graph, so that a chain of them ends at its source
        source = graph.node[index].input[0]
        names[graph.node[index].output[0]] = names.get(source, source)
    for index in reversed(idle):
        del graph.node[index]
    for inner in all_graphs(graph):
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        for port in inner.output:
            port.name = names.get(port.name, port.name)
    return len(idle)


def _widen_type(type_: onnx.TypeProto) -> None:
    kind = type_.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(type_, kind)
        if tensor.elem_type in NARROW:
            tensor.elem_type = FLOAT
    elif kind in ("sequence_type", "optional_type"):
        _widen_type(getattr(type_, kind).elem_type)
    elif kind == "map_type":
        _widen_type(type_.map_type.value_type)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for inner in all_graphs(graph):
        yield from (value.name for value in (*inner.input, *inner.initializer))
        yield from (name for node in inner.node for name in (*node.output, node.name))


def _size(tensor: onnx.TensorProto) -> int:
    size = 1
    for each in tensor.dims:
        size *= each
    return size
