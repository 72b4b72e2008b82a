"""The ONNX graph under construction, and the values of the program that it makes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hubpub.coremlfile.mil.types import TensorType
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

    Array = npt.NDArray[Any]

Precision = Literal["fp32", "fp16"]
"""``fp32``: every floating-point value in single precision. ``fp16``: what the program declares as fp16 is rounded to
fp16 after the operation that makes it, as on the Neural Engine; inside an operation it is single precision."""

OPSET = 20
INLINE_ELEMENTS = 1024
"""Constants of more elements are given to the runtime beside the graph, so that no graph reaches protobuf's 2 GB."""


class Value:
    """A value of the program: its type, and what it is where it does not depend on the input."""

    def __init__(self, type_: TensorType, *, name: str | None = None, load: Callable[[], Array] | None = None) -> None:
        self.type = type_
        self.name = name
        self._load = load

    @property
    def constant(self) -> bool:
        """Whether `array` can be had."""
        return self._load is not None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.type.shape)

    def array(self) -> Array:
        """The constant, in the type that it has in the file; read anew each time, for it may be large."""
        assert self._load is not None
        return self._load()


Read = Callable[[Any, str], "Array"]
"""The array of a protobuf ``Value``, wherever it lies, and what errors call it: `Package.array`."""

Operand = Value | str
"""What a node of the graph takes: a value of the program or the name of an ONNX value; ``""`` leaves it out."""


@dataclass
class _Shared:
    """What a graph and the graphs nested in it have in common."""

    precision: Precision
    read: Read
    count: int = 0
    weights: dict[str, Array] = field(default_factory=dict)
    known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)


class Graph:
    """Nodes in order; ``values`` are the program's by their names there.

    Floating-point values are float32 in it, integers of any width int32, booleans bool: the types that all kernels
    have. What the program declares is restored at its outputs.
    """

    def __init__(self, precision: Precision, read: Read) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[str, Value] = {}
        self._shared = _Shared(precision, read)

    def nested(self) -> Graph:
        """A graph for a block: it sees the values of this one, and its constants lie in the outermost."""
        found = self.scope()
        found.nodes = []
        return found

    def scope(self) -> Graph:
        """The same graph with names of its own, for a block that becomes part of it."""
        found = copy.copy(self)
        found.values = dict(self.values)
        return found

    @property
    def precision(self) -> Precision:
        """How floating-point values are rounded."""
        return self._shared.precision

    @property
    def read(self) -> Read:
        """Reads a constant."""
        return self._shared.read

    @property
    def weights(self) -> dict[str, Array]:
        """Constants by their ONNX name."""
        return self._shared.weights

    def fresh(self) -> str:
        """A name that nothing has yet."""
        self._shared.count += 1
        return f"%{self._shared.count}"

    def node(self, op_type: str, *inputs: Operand, **attributes: Any) -> str:
        """Append a node of one output, and name that."""
        return self.node_of(op_type, 1, *inputs, **attributes)[0]

    def node_of(self, op_type: str, outputs: int, *inputs: Operand, **attributes: Any) -> list[str]:
        """Append a node of several outputs."""
        import onnx

        names = [self.fresh() for _ in range(outputs)]
        taken = [self.name(each) for each in inputs]
        self.nodes.append(onnx.helper.make_node(op_type, taken, names, **attributes))
        return names

    def name(self, operand: Operand) -> str:
        """The ONNX name of a value; a constant gets one when it is first asked for."""
        if isinstance(operand, str):
            return operand
        if operand.name is None:
            operand.name = self.constant(operand.array())
        return operand.name

    def constant(self, array: Array) -> str:
        """An initializer, in the type that the graph computes in; int64, which only ONNX's own parameters have, stays.

        Raises:
            CoremlFileError: an integer that int32 does not hold.
        """
        import numpy as np

        if array.dtype in (np.uint32, np.uint64) and array.size and int(array.max()) > np.iinfo(np.int32).max:
            raise CoremlFileError(f"the constant {int(array.max())} is beyond int32, the widest integer of Core ML")
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        elif array.dtype.kind in "iu" and array.dtype != np.int64:
            array = array.astype(np.int32)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= INLINE_ELEMENTS else None
        if key is not None and key in self._shared.known:
            return self._shared.known[key]
        name = self.fresh()
        self.weights[name] = np.ascontiguousarray(array).reshape(array.shape)  # which would make a scalar a vector
        if key is not None:
            self._shared.known[key] = name
        return name

    def floats(self, number: float) -> str:
        """A float32 scalar."""
        import numpy as np

        return self.constant(np.array(number, np.float32))

    def ints(self, numbers: int | Sequence[int]) -> str:
        """int64, as ONNX wants axes and shapes: a scalar or a vector."""
        import numpy as np

        return self.constant(np.array(numbers, np.int64))

    def to(self, operand: Operand, onnx_type: str) -> str:
        """Cast to an ONNX element type, such as ``INT64``."""
        import onnx

        return self.node("Cast", operand, to=int(getattr(onnx.TensorProto, onnx_type)))

    def long(self, operand: Operand) -> str:
        """As int64; a constant is converted here and now."""
        import numpy as np

        if isinstance(operand, Value) and operand.constant:
            return self.constant(operand.array().astype(np.int64))
        return self.to(operand, "INT64")

    def shape(self, value: Value) -> str:
        """int64 ``[rank]``."""
        if None not in value.type.shape:
            return self.ints([size or 0 for size in value.type.shape])
        return self.node("Shape", value)

    def rounded(self, name: str, kind: TensorType) -> str:
        """What the program declares as fp16, rounded to it where that is asked for."""
        if self.precision == "fp32" or kind.dtype != "fp16":
            return name
        return self.to(self.to(name, "FLOAT16"), "FLOAT")


def compute_type(kind: TensorType) -> str:
    """The ONNX element type that a value of this type has inside the graph."""
    if kind.is_float:
        return "FLOAT"
    return "BOOL" if kind.dtype == "bool" else "INT32"


def interface_type(kind: TensorType) -> str:
    """The ONNX element type that it has at the graph's inputs and outputs: its own."""
    return {"fp16": "FLOAT16", "fp32": "FLOAT"}.get(kind.dtype, kind.dtype.upper())
