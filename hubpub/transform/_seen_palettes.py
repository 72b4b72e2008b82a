"""Tables, indices and biases of a palettization that suit what the program computes on real input.

The weights of a kernel are assigned one input after the other, each making up for the errors of those before it, and
what is dear is clustered finer; see `hubpub.transform._compensated`. What is left of the errors in the mean of each
output channel is then taken out of the biases, from the first layer to the last, each in the program as mended so far.

Origins: GPTQ (Frantar et al., 2022, arXiv:2210.17323); bias correction, Nagel et al., "Data-free quantization through
weight equalization and bias correction" (ICCV 2019), in its empirical form.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.coremlfile import Edit, Package, Payload, label, main_blocks, operations, values
from hubpub.coremlfile.mil import Program, mean_name
from hubpub.errors import StepError
from hubpub.transform._compensated import damped
from hubpub.transform._luts import compensated_luts
from hubpub.transform._palettes import Chosen, Plan
from hubpub.transform._products import product

if TYPE_CHECKING:
    from pydantic import JsonValue

    from hubpub.transform.base import Windows

    Array = np.ndarray[Any, np.dtype[Any]]

_POSITIONS = 64
"""Places of each window at which it is looked what a kernel is multiplied with; neighbours are alike."""
_MOMENTS = 1 << 27
"""Bytes of second moments that are held at once; where there are more, the windows are run again."""


@dataclass(frozen=True)
class _Layer:
    """A conv or linear of the program.

    Attributes:
        operation: the message.
        input: what it is given.
        weight: name of the constant that it is multiplied with.
        bias: the ``const`` of its bias, where that is its alone.
        dilations: of a conv; None: it is a linear.
        groups: of a conv.
    """

    operation: Any
    input: str
    weight: str
    bias: Any | None
    dilations: tuple[int, ...] | None
    groups: int

    @property
    def output(self) -> str:
        """What it gives."""
        return label(self.operation)

    @property
    def axis(self) -> int:
        """Of the channels of what it gives."""
        return -1 if self.dilations is None else 1


class Seen:
    """A package of one ML program, and what it computes on calibration windows.

    Args:
        model: the package.
        windows: what to run.

    Raises:
        StepError: it is a pipeline, or has several functions, or there are no windows.
    """

    def __init__(self, model: Path, windows: Windows) -> None:
        self._source, self._windows = Package.open(model), windows
        if len(self._source.parts) > 1 or len(self._source.programs[0].program.functions) > 1:
            raise StepError(
                "is no single ML program of one function, which is what can be calibrated",
                where=model.name,
                fix="leave out calibrate",
            )
        if not len(windows):
            raise StepError("there are no windows to calibrate on", where=model.name, fix="name a corpus with audio")
        ((self._function, _, block),) = main_blocks(self._source.programs[0].program)
        self._layers = list(_layers(self._source, block))

    def compensated(self, package: Package, made: Plan) -> Plan:
        """With tables and indices that suit the inputs, for the weights of which these can be seen."""
        of_weight = {layer.weight: layer for layer in self._layers if layer.groups == 1}
        refs = Counter(self._source.blob(value, what)[2] for what, value in _blobs(self._source))
        wanted = [
            (each, of_weight[each.weight.name])
            for each in made.chosen
            if each.weight.name in of_weight and each.form.axis is None and refs[each.weight.ref] == 1
        ]
        found: dict[str, Chosen] = {}
        while wanted:
            size = 0
            group: list[tuple[Chosen, _Layer]] = []
            while wanted and (not group or size + _width(wanted[0][0]) ** 2 * 8 <= _MOMENTS):
                size += _width(wanted[0][0]) ** 2 * 8
                group.append(wanted.pop(0))
            moments = self._moments(group)
            for chosen, _ in group:
                weight = chosen.weight
                seen = moments.pop(weight.name)
                if np.diag(seen).mean() > 0:
                    luts = compensated_luts(
                        weight.ref.read(), weight.kind, weight.shape, chosen.form.bits, damped(seen)
                    )
                    found[weight.name] = replace(chosen, luts=luts)
        return replace(made, chosen=tuple(found.get(each.weight.name, each) for each in made.chosen))

    def correct_means(self, edit: Edit, target: Path) -> dict[str, JsonValue]:
        """Let the biases of what is going to be written take back what happens to the means of channels.

        Args:
            edit: of the same package, palettized.
            target: beside which it is written, to be executed.

        Returns:
            Of the calibration: how many windows, layers with inputs seen, biases corrected.
        """
        mended = {layer.output: layer for layer in self._layers if layer.bias is not None}
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".palettized.") as folder:
            edit.write(Path(folder, target.name), lambda _: None)
            shifts = self._shifts(Package.open(Path(folder, target.name)), mended)
        ((_, _, block),) = main_blocks(edit.package.programs[0].program)
        constants = {label(each): each for each in operations(block) if each.type == "const"}
        for name, layer in mended.items():
            operation = constants[label(layer.bias)]
            value = operation.attributes["val"]
            bias = self._source.array(value, label(operation))
            with np.errstate(over="ignore"):
                moved = (bias.astype(np.float64) + shifts[name].reshape(bias.shape)).astype(bias.dtype)
            if not np.isfinite(moved).all():
                raise StepError(f"the bias of {name} becomes infinite or NaN", where=target.name, fix="exclude it")
            _replace(edit, self._source, value, label(operation), moved)
        return {"windows": len(self._windows), "layers": len(self._layers), "biases": len(mended)}

    def _shifts(self, palettized: Package, mended: Mapping[str, _Layer]) -> dict[str, Array]:
        """How far the mean of each channel has to be moved, by what a layer gives."""
        axes = {name: layer.axis for name, layer in mended.items()}
        wanted = self._program(self._source, means=axes)
        given = self._program(palettized, means=axes, centre=True)
        total: dict[str, Array] = {name: np.zeros(()) for name in mended}
        batches = 0
        for batch in self._batches(wanted):
            means = wanted.run(batch)
            found = given.run({**batch, **{mean_name(name): means[mean_name(name)] for name in mended}})
            for name in mended:
                mean = mean_name(name)
                total[name] = total[name] + (means[mean].astype(np.float64) - found[mean].astype(np.float64))
            batches += 1
        return {name: each / batches for name, each in total.items()}

    def _moments(self, group: list[tuple[Chosen, _Layer]]) -> dict[str, Array]:
        """By weight, second moments of what it is multiplied with; about the mean where a bias takes care of that."""
        program = self._program(self._source, also=dict.fromkeys(layer.input for _, layer in group))
        squares: dict[str, Array] = {}
        sums: dict[str, Array] = {}
        starts: dict[str, Array] = {}
        counts: Counter[str] = Counter()
        for batch in self._batches(program):
            seen = program.run(batch)
            for chosen, layer in group:
                name = chosen.weight.name
                rows = _rows(seen[layer.input], layer, chosen.weight.shape).astype(np.float32)
                if not np.isfinite(rows).all():
                    raise StepError(
                        f"{layer.input} is NaN or infinite on a calibration window",
                        where=self._source.path.name,
                        fix=f"exclude {name}",
                    )
                # About nearly the mean, which float32 would otherwise spend its digits on.
                start = starts.setdefault(
                    name, rows.mean(axis=0) if layer.bias is not None else np.zeros((), np.float32)
                )
                rows = rows - start
                square = product(np.ascontiguousarray(rows.T), rows).astype(np.float64)
                squares[name] = squares.get(name, np.zeros(())) + square
                sums[name] = sums.get(name, np.zeros(())) + rows.sum(axis=0, dtype=np.float64)
                counts[name] += len(rows)
        found = {}
        for _, layer in group:
            name = layer.weight
            found[name] = squares.pop(name) / counts[name]
            if layer.bias is not None:
                mean = sums[name] / counts[name]
                found[name] -= np.outer(mean, mean)
        return found

    def _program(self, package: Package, **asked: Any) -> Program:
        # One thread, so that sums have one order.
        return Program(package.programs[0].program, package.array, function=self._function, threads=1, **asked)

    def _batches(self, program: Program) -> Iterator[dict[str, Array]]:
        """So many windows at a time as the program takes; the last batch is filled up with its own first ones."""
        size = max((kind.shape[0] or 1 for kind in program.inputs.values() if kind.shape), default=1)
        held: list[Mapping[str, Array]] = []
        for number, window in enumerate(self._windows, 1):
            held.append(window)
            if len(held) == size or number == len(self._windows):
                filled = [held[place % len(held)] for place in range(size)]
                yield {name: np.concatenate([each[name] for each in filled]) for name in filled[0]}
                held = []


def _layers(package: Package, block: Any) -> Iterator[_Layer]:
    """Those whose weight is a constant that no other operation reads."""
    constants = {label(each): each for each in block.operations if each.type == "const"}
    readers = Counter(
        binding.name
        for operation in operations(block)
        for parameter in operation.inputs.values()
        for binding in parameter.arguments
        if binding.WhichOneof("binding") == "name"
    )
    readers.update(block.outputs)
    refs = Counter(package.blob(value, what)[2] for what, value in _blobs(package))

    def ints(operation: Any, parameter: str, default: list[int]) -> list[int]:
        for binding in operation.inputs[parameter].arguments if parameter in operation.inputs else ():
            by_name = binding.WhichOneof("binding") == "name"
            value = constants[binding.name].attributes["val"] if by_name else binding.value
            return [int(each) for each in package.array(value, f"{label(operation)}.{parameter}").reshape(-1)]
        return default

    def own(name: str) -> Any | None:
        operation = constants.get(name)
        if operation is None or readers[name] != 1:
            return None
        value = operation.attributes["val"]
        shared = value.WhichOneof("value") == "blobFileValue" and refs[package.blob(value, name)[2]] != 1
        return None if shared else operation

    for operation in block.operations:
        if operation.type not in ("conv", "linear"):
            continue
        given = {
            parameter: operation.inputs[parameter].arguments[0].name
            for parameter in ("x", "weight", "bias")
            if parameter in operation.inputs and operation.inputs[parameter].arguments
        }
        conv, weight = operation.type == "conv", own(given.get("weight", ""))
        if not given.get("x") or given["x"] in constants:
            continue
        rank = len(operation.outputs[0].type.tensorType.dimensions) - 2
        yield _Layer(
            operation,
            given["x"],
            label(weight) if weight is not None else "",
            own(given.get("bias", "")),
            tuple(ints(operation, "dilations", [1] * rank)) if conv else None,
            ints(operation, "groups", [1])[0] if conv else 1,
        )


def _blobs(package: Package) -> Iterator[tuple[str, Any]]:
    for part in package.programs:
        for what, value in values(part.program):
            if value.WhichOneof("value") == "blobFileValue":
                yield what, value


def _width(chosen: Chosen) -> int:
    return chosen.weight.count // chosen.weight.shape[0]


def _rows(given: Array, layer: _Layer, shape: tuple[int, ...]) -> Array:
    """What the kernel is multiplied with at some places of each window, ``[R, K]``; paddings are not looked at."""
    if layer.dilations is None:
        rows = given.reshape(len(given), -1, shape[-1])
        return rows[:, _evenly(rows.shape[1])].reshape(-1, shape[-1])
    rank = len(layer.dilations)
    spans = tuple((size - 1) * step + 1 for size, step in zip(shape[2:], layer.dilations, strict=True))
    lacking = [max(0, span - size) for span, size in zip(spans, given.shape[2:], strict=True)]
    padded = np.pad(given, [(0, 0), (0, 0), *((0, each) for each in lacking)])
    axes: Any = tuple(range(2, 2 + rank))
    seen = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)  # [N, C, places…, spans…]
    apart: tuple[Any, ...] = (..., *(slice(None, None, step) for step in layer.dilations))
    seen = seen[apart]
    seen = np.moveaxis(seen, 1, 1 + rank)
    places = seen.shape[1 : 1 + rank]
    chosen = np.unravel_index(_evenly(int(np.prod(places))), places)
    rows = np.stack([window[chosen].reshape(len(chosen[0]), -1) for window in seen])
    return rows.reshape(-1, rows.shape[-1])


def _evenly(there: int) -> Array:
    count = min(there, _POSITIONS)
    return np.arange(count) * there // count


def _replace(edit: Edit, package: Package, value: Any, what: str, array: Array) -> None:
    """Give a constant other content of the same type."""
    data = array.tobytes()
    if value.WhichOneof("value") != "blobFileValue":
        tensor = value.immediateValue.tensor
        if tensor.WhichOneof("value") == "floats":
            tensor.floats.values[:] = array.reshape(-1).tolist()
        else:
            tensor.bytes.values = data
        return
    kind, shape, ref = package.blob(value, what)
    made = edit.value(value.blobFileValue.fileName, Payload(("bias", ref), kind, shape, lambda: data))
    value.CopyFrom(made)
