"""Convolutions over one to three axes."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates
from hubpub.coremlfile.mil.ops._windows import padding
from hubpub.coremlfile.mil.ops.slicing import FAR


@translates("conv")
def conv(op: Operation, graph: Graph) -> Operand:
    """``x [n, c_in, *d]`` with ``weight [c_out, c_in / groups, *k]``."""
    strides, dilations, spans = _windows(op)
    inputs = [op["x"], op["weight"]]
    if (bias := op.get("bias")) is not None:
        inputs.append(bias)
    attributes = {"strides": strides, "dilations": dilations, "group": op.one("groups", 1)}
    return graph.node("Conv", *inputs, **padding(op, spans, strides), **attributes)


@translates("conv_transpose")
def conv_transpose(op: Operation, graph: Graph) -> Operand:
    """``x [n, c_in, *d]`` with ``weight [c_in, c_out / groups, *k]``.

    The whole result is made and the declared part cut out of it: ONNX's own paddings do not cover every case.
    """
    strides, dilations, spans = _windows(op)
    attributes = {"strides": strides, "dilations": dilations, "group": op.one("groups", 1)}
    found = graph.node("ConvTranspose", op["x"], op["weight"], **attributes)
    before, after = _cut(op, strides, spans)
    axes = list(range(2, op["x"].rank))
    if any(each < 0 for each in after):
        missing = [max(0, -each) for each in after]
        found = graph.node("Pad", found, graph.ints([0] * len(axes) + missing), "", graph.ints(axes))
    if any(before) or any(each > 0 for each in after):
        ends = [-each if each > 0 else FAR for each in after]
        found = graph.node("Slice", found, graph.ints(before), graph.ints(ends), graph.ints(axes))
    if (bias := op.get("bias")) is not None:
        found = graph.node("Add", found, graph.node("Unsqueeze", bias, graph.ints(list(range(1, len(axes) + 1)))))
    return found


def _cut(op: Operation, strides: list[int], spans: list[int]) -> tuple[list[int], list[int]]:
    """How much of the whole result lies before the output and after it; negative: what is missing there."""
    kind, axes = op.one("pad_type", "valid"), len(strides)
    shape = op.ints("output_shape", [])[2:] or None
    if kind == "same" and shape is None:
        # What a convolution with `same` padding that made this input would have padded.
        over = [span - step for span, step in zip(spans, strides, strict=True)]
        before = [max(0, each) // 2 for each in over]
        return before, [each - b for each, b in zip(over, before, strict=True)]
    if kind not in ("same", "valid", "custom"):
        raise op.fail(f"its padding {kind} is not known")
    pad = op.ints("pad", [0] * 2 * axes) if kind == "custom" else [0] * 2 * axes
    if shape is None:
        return pad[::2], pad[1::2]
    sizes = op.sizes("x")[2:]
    whole = [(size - 1) * step + span for size, step, span in zip(sizes, strides, spans, strict=True)]
    over = [all_ - each for all_, each in zip(whole, shape, strict=True)]
    before = [max(0, each) // 2 for each in over] if kind == "same" else pad[::2]
    return before, [each - b for each, b in zip(over, before, strict=True)]


def _windows(op: Operation) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, and what a kernel spans with its dilation."""
    kernel = op.sizes("weight")[2:]
    ones = [1] * len(kernel)
    strides, dilations = op.ints("strides", ones), op.ints("dilations", ones)
    return strides, dilations, [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
