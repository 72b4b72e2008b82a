"""Convolutions over one to three axes."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates
from hubpub.coremlfile.mil.ops._windows import pads


@translates("conv")
def conv(op: Operation, graph: Graph) -> Operand:
    """``x [n, c_in, *d]`` with ``weight [c_out, c_in / groups, *k]``."""
    strides, dilations, spans = _windows(op)
    inputs = [op["x"], op["weight"]]
    if (bias := op.get("bias")) is not None:
        inputs.append(bias)
    attributes = {"strides": strides, "dilations": dilations, "group": op.one("groups", 1)}
    return graph.node("Conv", *inputs, pads=pads(op, spans, strides), **attributes)


@translates("conv_transpose")
def conv_transpose(op: Operation, graph: Graph) -> Operand:
    """``x [n, c_in, *d]`` with ``weight [c_in, c_out / groups, *k]``.

    The whole result is made and the declared part cut out of it: ONNX's own paddings do not cover every case.
    """
    strides, dilations, spans = _windows(op)
    attributes = {"strides": strides, "dilations": dilations, "group": op.one("groups", 1)}
    found = graph.node("ConvTranspose", op["x"], op["weight"], **attributes)
    sizes = op.sizes("x")[2:]
    whole = [(size - 1) * step + span for size, step, span in zip(sizes, strides, spans, strict=True)]
    before, wanted = _part(op, sizes, whole, strides, spans)
    missing = [max(0, b + w - all_) for b, w, all_ in zip(before, wanted, whole, strict=True)]
    axes = list(range(2, op["x"].rank))
    if any(missing):
        found = graph.node("Pad", found, graph.ints([0] * len(axes) + missing), "", graph.ints(axes))
    if before != [0] * len(axes) or wanted != whole:
        ends = [b + w for b, w in zip(before, wanted, strict=True)]
        found = graph.node("Slice", found, graph.ints(before), graph.ints(ends), graph.ints(axes))
    if (bias := op.get("bias")) is not None:
        found = graph.node("Add", found, graph.node("Unsqueeze", bias, graph.ints(list(range(1, len(axes) + 1)))))
    return found


def _part(
    op: Operation, sizes: tuple[int, ...], whole: list[int], strides: list[int], spans: list[int]
) -> tuple[list[int], list[int]]:
    """Where the output begins in the whole result, and its sizes."""
    kind, axes = op.one("pad_type", "valid"), len(sizes)
    shape = op.ints("output_shape", [])[2:] or None
    if kind == "same":
        wanted = shape or [size * step for size, step in zip(sizes, strides, strict=True)]
        # What a convolution with `same` padding that made this input would have padded.
        over = [max(0, all_ - each) for all_, each in zip(whole, wanted, strict=True)]
        return [each // 2 for each in over], wanted
    if kind not in ("valid", "custom"):
        raise op.fail(f"its padding {kind} is not known")
    pad = op.ints("pad", [0] * 2 * axes) if kind == "custom" else [0] * 2 * axes
    wanted = shape or [all_ - b - a for all_, b, a in zip(whole, pad[::2], pad[1::2], strict=True)]
    return pad[::2], wanted


def _windows(op: Operation) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, and what a kernel spans with its dilation."""
    kernel = op.sizes("weight")[2:]
    ones = [1] * len(kernel)
    strides, dilations = op.ints("strides", ones), op.ints("dilations", ones)
    return strides, dilations, [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
