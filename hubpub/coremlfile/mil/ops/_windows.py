"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

from collections.abc import Sequence

from hubpub.coremlfile.mil.operation import Operation


def pads(op: Operation, kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """ONNX's padding ``[before…, after…]`` for ``pad_type`` and ``pad``.

    Args:
        op: a convolution or a pool of ``x`` ``[n, c, *spatial]``.
        kernel: what a window spans on each axis, dilation included.
        strides: steps from window to window.
    """
    kind, axes = op.one("pad_type", "valid"), len(kernel)
    if kind == "valid":
        return [0] * 2 * axes
    if kind == "custom":
        given = op.ints("pad", [0] * 2 * axes)
        if len(given) != 2 * axes:
            raise op.fail(f"`pad` has {len(given)} numbers for {axes} axes", "the model is damaged")
        return given[::2] + given[1::2]
    if kind not in ("same", "same_lower"):
        raise op.fail(f"its padding {kind} is not known")
    sizes = op.sizes("x")[2:]
    total = [
        max(0, (-(-size // step) - 1) * step + span - size)
        for size, span, step in zip(sizes, kernel, strides, strict=True)
    ]
    less, more = [each // 2 for each in total], [each - each // 2 for each in total]
    return less + more if kind == "same" else more + less
