"""What a calibration may ask about a value: extra nodes of the graph whose outputs are a few numbers.

A probe adds its nodes to a graph, and folds what they give for one window into an accumulator: a dict of arrays whose
size depends on the probe, not on the number or length of the windows. The result is the same for any order of threads,
because minima, maxima, largest values and counts do not depend on the order in which they are taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Accumulator = dict[str, Array]

_INT64, _INT32, _FLOAT = 7, 6, 1
_END = (1 << 63) - 1

MIN_OPSET = 13
"""Below it Min and Max do not take integers."""


class Writer:
    """Adds nodes and constants to a graph under names of its own."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.opset = opset
        self._graph = graph
        self._taken = {name for node in graph.node for name in (*node.output, node.name)}
        self._taken |= {value.name for value in (*graph.input, *graph.initializer)}
        self._shared: dict[tuple[str, ...], str] = {}

    def name(self, stem: str) -> str:
        """A name that nothing in the graph bears."""
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name

    def constant(self, values: Array) -> str:
        """An initializer."""
        from onnx import numpy_helper

        key = ("constant", str(values.dtype), str(values.shape), values.tobytes().hex())
        if key not in self._shared:
            self._shared[key] = self.name("probe/constant")
            self._graph.initializer.append(numpy_helper.from_array(values, self._shared[key]))
        return self._shared[key]

    def node(self, op_type: str, inputs: list[str], *, outputs: int = 1, **attributes: Any) -> list[str]:
        """A node and the names of its outputs; the same node is made once."""
        from onnx import helper

        key = (op_type, *inputs, str(outputs), str(sorted(attributes.items())))
        if key not in self._shared:
            names = [self.name(f"probe/{op_type}") for _ in range(outputs)]
            self._shared[key] = "\n".join(names)
            self._graph.node.append(helper.make_node(op_type, inputs, names, self.name("probe/node"), **attributes))
        return self._shared[key].split("\n")

    def reduce(self, op_type: str, value: str) -> str:
        """Least or greatest over the first axis."""
        if self.opset >= 18:
            axes = self.constant(np.array([0], np.int64))
            return self.node(op_type, [value, axes], keepdims=0)[0]
        return self.node(op_type, [value], axes=[0], keepdims=0)[0]

    def rows(self, value: str, width: int) -> str:
        """The value as a matrix with ``width`` columns, its last axis; -1: as one row of all values."""
        shape = [-1] if width < 0 else [-1, width]
        return self.node("Reshape", [value, self.constant(np.array(shape, np.int64))])[0]

    def input(self, name: str, type_: int, shape: list[int]) -> str:
        """A value that is given with each window."""
        from onnx import helper

        self._taken.add(name)
        self._graph.input.append(helper.make_tensor_value_info(name, type_, shape))
        return name

    def output(self, name: str, type_: int) -> None:
        """Make a value an output of the graph."""
        from onnx import helper

        self._graph.output.append(helper.make_tensor_value_info(name, type_, None))


@dataclass(frozen=True)
class Probe(ABC):
    """A question about a value, float32 of any shape; in some windows it may have no values.

    ``divide`` are divisors of each index of its last axis, applied first.
    """

    value: str

    @abstractmethod
    def key(self) -> tuple[str, ...]:
        """What is asked, in words; the same words, the same numbers."""

    @abstractmethod
    def attach(self, writer: Writer) -> list[tuple[str, int]]:
        """Add the nodes; names and element types of what they give."""

    def feeds(self, seen: Accumulator) -> dict[str, Array]:
        """What its nodes are given with the next window, after those ``seen``: inputs that `attach` added."""
        return {}

    def sound(self, given: list[Array]) -> bool:
        """Whether the values of one window were numbers, as far as what the nodes gave tells."""
        return all(bool(np.isfinite(array).all()) for array in given if array.dtype == np.float32)

    @abstractmethod
    def start(self) -> Accumulator:
        """Of no window."""

    @abstractmethod
    def fold(self, seen: Accumulator, given: list[Array]) -> None:
        """Take in what the nodes gave for one window."""


@dataclass(frozen=True)
class Extremes(Probe):
    """Least and greatest value, exact, per index of the last axis (``width`` of them) or of all (None).

    Accumulates ``low`` and ``high``, ``[2, width]`` or ``[2]``, ``count``, of values in all, and ``windows``. The first
    row is of the first ``split`` windows, the second of the others, so that what was found on one half can be tried
    on the other; where there was none, the extremes are infinite the wrong way round.
    """

    width: int | None = None
    split: int = 0

    def key(self) -> tuple[str, ...]:
        """Value, width, halves."""
        return ("extremes", self.value, str(self.width), str(self.split))

    def attach(self, writer: Writer) -> list[tuple[str, int]]:
        """ReduceMin and ReduceMax, and Size."""
        rows = writer.rows(self.value, -1 if self.width is None else self.width)
        size = writer.node("Size", [self.value])[0]
        low, high = writer.reduce("ReduceMin", rows), writer.reduce("ReduceMax", rows)
        return [(low, _FLOAT), (high, _FLOAT), (size, _INT64)]

    def sound(self, given: list[Array]) -> bool:
        """See `Probe.sound`; of no values the extremes are infinite, and a NaN among others may not show."""
        return not given[2] or super().sound(given)

    def start(self) -> Accumulator:
        """Infinite."""
        shape = (2,) if self.width is None else (2, self.width)
        low, high = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
        return {"low": low, "high": high, "count": np.zeros((), np.int64), "windows": np.zeros((), np.int64)}

    def fold(self, seen: Accumulator, given: list[Array]) -> None:
        """Lower and raise."""
        half = int(seen["windows"] >= self.split)
        if given[2]:
            seen["low"][half] = np.minimum(seen["low"][half], given[0])
            seen["high"][half] = np.maximum(seen["high"][half], given[1])
        seen["count"] = seen["count"] + given[2]
        seen["windows"] = seen["windows"] + 1


def reciprocal(divisors: Array) -> NDArray[np.float32]:
    """The factors by which probes divide."""
    factors: NDArray[np.float32] = (1 / np.asarray(divisors, np.float64)).astype(np.float32)
    return factors


@dataclass(frozen=True)
class Scaled(Probe):
    """A probe of a value divided by something."""

    divide: tuple[float, ...] | None = None

    def scaled(self, writer: Writer) -> str:
        """All values, divided, in a row."""
        if self.divide is None:
            return writer.rows(self.value, -1)
        matrix = writer.rows(self.value, len(self.divide))
        factors = writer.constant(reciprocal(np.array(self.divide)))
        return writer.rows(writer.node("Mul", [matrix, factors])[0], -1)

    def _scaled_key(self) -> str:
        return "" if self.divide is None else np.array(self.divide, np.float32).tobytes().hex()


@dataclass(frozen=True)
class Tail(Scaled):
    """The ``count`` greatest and the ``count`` least values, exact.

    Accumulates ``greatest`` (descending) and ``least`` (ascending), each of at most ``count``.
    """

    count: int = 1

    def key(self) -> tuple[str, ...]:
        """Value, divisors, count."""
        return ("tail", self.value, self._scaled_key(), str(self.count))

    def attach(self, writer: Writer) -> list[tuple[str, int]]:
        """TopK, of no more than there are."""
        row = self.scaled(writer)
        wanted = writer.constant(np.array([self.count], np.int64))
        size = writer.node("Shape", [row])[0]
        count = writer.node("Min", [wanted, size])[0]
        given = []
        for largest in (1, 0):
            values, _ = writer.node("TopK", [row, count], outputs=2, axis=0, largest=largest, sorted=1)
            given.append((values, _FLOAT))
        return given

    def start(self) -> Accumulator:
        """Nothing."""
        return {"greatest": np.zeros(0, np.float32), "least": np.zeros(0, np.float32)}

    def fold(self, seen: Accumulator, given: list[Array]) -> None:
        """Merge and cut off."""
        greatest = np.sort(np.concatenate([seen["greatest"], given[0]]))[::-1]
        seen["greatest"] = greatest[: self.count].copy()
        seen["least"] = np.sort(np.concatenate([seen["least"], given[1]]))[: self.count].copy()


@dataclass(frozen=True)
class Histogram(Scaled):
    """How many values lie in each of ``bins`` equal parts of ``low`` to ``high``; what is outside goes to the ends.

    Accumulates ``counts``, int64 ``[bins]``. Needs opset 16.
    """

    low: float = 0.0
    high: float = 1.0
    bins: int = 2048

    def key(self) -> tuple[str, ...]:
        """Value, divisors, parts."""
        return ("histogram", self.value, self._scaled_key(), self.low.hex(), self.high.hex(), str(self.bins))

    def attach(self, writer: Writer) -> list[tuple[str, int]]:
        """ScatterElements that adds ones."""
        row = self.scaled(writer)
        low, per_part, last = (
            writer.constant(np.array(number, np.float32))
            for number in (self.low, self.bins / max(self.high - self.low, 1e-30), self.bins - 1)
        )
        offset = writer.node("Mul", [writer.node("Sub", [row, low])[0], per_part])[0]
        zero = writer.constant(np.array(0, np.float32))
        part = writer.node("Clip", [offset, zero, last])[0]
        indices = writer.node("Cast", [part], to=_INT64)[0]
        one = writer.constant(np.array([1], np.int32))  # float32 cannot count past 2^24
        ones = writer.node("Expand", [one, writer.node("Shape", [row])[0]])[0]
        empty = writer.constant(np.zeros(self.bins, np.int32))
        counts = writer.node("ScatterElements", [empty, indices, ones], axis=0, reduction="add")[0]
        return [(counts, _INT32)]

    def start(self) -> Accumulator:
        """No counts."""
        return {"counts": np.zeros(self.bins, np.int64)}

    def fold(self, seen: Accumulator, given: list[Array]) -> None:
        """Add up."""
        seen["counts"] = seen["counts"] + given[0]


@dataclass(frozen=True)
class Rows(Probe):
    """At most ``count`` rows of each window, evenly spaced, of a value with ``width`` columns.

    Accumulates nothing: what is given is kept on disk, see `hubpub.transform.calibration.observe`.
    """

    width: int = 0
    count: int = 1

    def key(self) -> tuple[str, ...]:
        """Value, width, count."""
        return ("rows", self.value, str(self.width), str(self.count))

    def attach(self, writer: Writer) -> list[tuple[str, int]]:
        """Slice with a step that follows from the number of rows."""
        matrix = writer.rows(self.value, self.width)
        one, zero, end = (writer.constant(np.array([number], np.int64)) for number in (1, 0, _END))
        shape = writer.node("Shape", [matrix])[0]
        rows = writer.node("Slice", [shape, zero, one])[0]
        more = writer.node("Add", [rows, writer.constant(np.array([self.count - 1], np.int64))])[0]
        step = writer.node("Div", [more, writer.constant(np.array([self.count], np.int64))])[0]
        step = writer.node("Max", [step, one])[0]
        return [(writer.node("Slice", [matrix, zero, end, zero, step])[0], _FLOAT)]

    def start(self) -> Accumulator:
        """Nothing."""
        return {}

    def fold(self, seen: Accumulator, given: list[Array]) -> None:
        """Nothing."""
