"""An ML program as an ONNX model: operation by operation, with the shapes and types that it declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import hubpub.coremlfile.mil.ops  # noqa: F401  (registers the translations)
from hubpub.coremlfile.mil.block import run_block, untranslated
from hubpub.coremlfile.mil.graph import (
    INLINE_ELEMENTS,
    OPSET,
    Graph,
    Precision,
    Read,
    Value,
    compute_type,
    interface_type,
)
from hubpub.coremlfile.mil.types import TensorType, tensor_type
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

IR_VERSION = 10


@dataclass(frozen=True)
class Translated:
    """``model`` takes ``inputs`` and gives ``outputs``, by their names in the program with a prefix each.

    ``weights`` are initializers that it declares as external data and does not hold.
    """

    model: onnx.ModelProto
    weights: Mapping[str, npt.NDArray[Any]]
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]


def input_name(name: str) -> str:
    """The ONNX name of an input; a program may give one out unchanged, which an ONNX graph must not."""
    return f"in:{name}"


def output_name(name: str) -> str:
    """The ONNX name of an output."""
    return f"out:{name}"


def mean_name(name: str) -> str:
    """Under which the mean of a value goes in and out, beside the values of the program."""
    return f"mean of {name}"


def translate(
    program: Any,
    read: Read,
    *,
    precision: Precision,
    function: str = "main",
    also: Iterable[str] = (),
    means: Mapping[str, int] = MappingProxyType({}),
    centre: bool = False,
) -> Translated:
    """Translate one function of a protobuf ``Program``.

    Args:
        program: the message.
        read: reads its constants.
        precision: see `Precision`.
        function: which one, of a program that has several.
        also: further values of the function's outermost block that are given out.
        means: values of that block, each with an axis: the mean over all others is given out under its `mean_name`,
            float32, the other axes of size 1.
        centre: each of those values is moved so that its mean is what is given in under the same name; given out is
            what the mean was before that.

    Raises:
        CoremlFileError: an operation has no translation, or the program is not valid; the operation is named.
    """
    import onnx

    block = _block(program, function)
    if lacking := list(dict.fromkeys(untranslated(block))):
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        what = f"nothing here runs {', '.join(lacking[:3])}{more}"
        raise CoremlFileError(what, where="ML program", fix="measure this model on macOS")
    graph = Graph(precision, read)
    taken = {each.name: tensor_type(each.type, f"input {each.name}") for each in program.functions[function].inputs}
    inputs = []
    for name, kind in taken.items():
        inputs.append(_info(input_name(name), interface_type(kind), kind))
        graph.values[name] = Value(kind, name=graph.to(input_name(name), compute_type(kind)))
    wanted = [*block.outputs, *(name for name in also if name not in block.outputs)]
    asked = type(block)()
    asked.CopyFrom(block)
    asked.outputs[:] = wanted
    observed = _Means(means, centre)
    found = run_block(asked, (), graph, observed.take)
    given = {name: value.type for name, value in zip(wanted, found, strict=True)}
    outputs = []
    for name, value in zip(wanted, found, strict=True):
        cast = graph.to(value, interface_type(value.type))
        graph.nodes.append(onnx.helper.make_node("Identity", [cast], [output_name(name)]))
        outputs.append(_info(output_name(name), interface_type(value.type), value.type))
    for name, kind in observed.kinds.items():
        outputs.append(_info(output_name(name), "FLOAT", kind))
        given[name] = kind
        if centre:
            inputs.append(_info(input_name(name), "FLOAT", kind))
            taken[name] = kind
    made = onnx.helper.make_graph(graph.nodes, function, inputs, outputs)
    large = {name: array for name, array in graph.weights.items() if array.size > INLINE_ELEMENTS}
    for name, array in graph.weights.items():
        made.initializer.append(_external(name, array) if name in large else onnx.numpy_helper.from_array(array, name))
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION)
    return Translated(model, large, taken, given)


class _Means:
    """Takes the means of values as soon as they are made, and moves them."""

    def __init__(self, axes: Mapping[str, int], centre: bool) -> None:
        self._axes, self._centre = axes, centre
        self.kinds: dict[str, TensorType] = {}

    def take(self, name: str, graph: Graph) -> None:
        if name not in self._axes:
            return
        import onnx

        value, mean = graph.values[name], mean_name(name)
        axis = self._axes[name] % value.rank
        others = [each for each in range(value.rank) if each != axis]
        self.kinds[mean] = TensorType("fp32", tuple(1 if at in others else s for at, s in enumerate(value.type.shape)))
        seen = graph.node("ReduceMean", value, graph.ints(others), keepdims=1)
        graph.nodes.append(onnx.helper.make_node("Identity", [seen], [output_name(mean)]))
        if self._centre:
            moved = graph.node("Add", value, graph.node("Sub", input_name(mean), seen))
            graph.values[name] = Value(value.type, name=moved)


def _block(program: Any, function: str) -> Any:
    if function not in program.functions:
        known = ", ".join(sorted(program.functions)) or "none"
        raise CoremlFileError(f"there is no function {function} in it; it has {known}", where="ML program")
    found = program.functions[function]
    if found.opset not in found.block_specializations:
        raise CoremlFileError(f"its opset {found.opset} has no block", where="ML program", fix="the model is damaged")
    return found.block_specializations[found.opset]


def _info(name: str, element: str, kind: TensorType) -> onnx.ValueInfoProto:
    import onnx

    return onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, element), list(kind.shape))


def _external(name: str, array: npt.NDArray[Any]) -> onnx.TensorProto:
    import onnx

    tensor = onnx.TensorProto(name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.dims.extend(array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="given beside the graph")
    return tensor
