"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubpub.coremlfile.mil.operation import Operation


def padding(op: Operation, kernel: Sequence[int], strides: Sequence[int]) -> dict[str, Any]:
    """ONNX's attribute for ``pad_type`` and ``pad``.

    It is ``pads`` ``[before…, after…]``, or ONNX's word for ``same`` where sizes are known only when it runs.

    Args:
        op: a convolution or a pool of ``x`` ``[n, c, *spatial]``.
        kernel: what a window spans on each axis, dilation included.
        strides: steps from window to window.
    """
    kind, axes = op.one("pad_type", "valid"), len(kernel)
    if kind == "valid":
        return {"pads": [0] * 2 * axes}
    if kind == "custom":
        given = op.ints("pad", [0] * 2 * axes)
        if len(given) != 2 * axes:
            raise op.fail(f"`pad` has {len(given)} numbers for {axes} axes", "the model is damaged")
        return {"pads": given[::2] + given[1::2]}
    if kind not in ("same", "same_lower"):
        raise op.fail(f"its padding {kind} is not known")
    sizes = op["x"].type.shape[2:]
    total = []
    for size, span, step in zip(sizes, kernel, strides, strict=True):
        if size is None and step > 1:
            return {"auto_pad": "SAME_UPPER" if kind == "same" else "SAME_LOWER"}
        total.append(max(0, (-(-(size or 1) // step) - 1) * step + span - (size or 1)))
    less, more = [each // 2 for each in total], [each - each // 2 for each in total]
    return {"pads": less + more if kind == "same" else more + less}
