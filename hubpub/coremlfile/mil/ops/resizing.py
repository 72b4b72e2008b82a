"""Other sizes of the last axes, by interpolation.

Where a point of the result lies in the input is computed here, in double precision, by the formulas of coremltools'
definitions of ``upsample_bilinear`` and ``resize_bilinear``; ONNX's own modes are not quite these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


@translates("upsample_nearest_neighbor", "resize_nearest_neighbor", moves=True)
def nearest(op: Operation, graph: Graph) -> Operand:
    """Each point from ``floor(i * from / to)``."""
    if op.type.startswith("upsample") and None in op["x"].type.shape[-2:]:
        return _repeated(op, graph)
    sizes, targets = op.sizes("x")[-2:], _targets(op)
    return _nearest(op["x"], sizes, targets, graph)


@translates("upsample_bilinear", "resize_bilinear")
def bilinear(op: Operation, graph: Graph) -> Operand:
    """Between neighbours, along the last two axes."""
    if op.type == "upsample_bilinear":
        mode = "STRICT_ALIGN_CORNERS" if op.one("align_corners", True) else "UNALIGN_CORNERS"
    else:
        mode = op.one("sampling_mode", "DEFAULT")
    return _linear(op, op.sizes("x")[-2:], _targets(op), mode, graph)


@translates("resize")
def resize(op: Operation, graph: Graph) -> Operand:
    """The last ``resized_dims`` axes to the last numbers of ``shape``, of which 0 keeps an axis."""
    count = op.one("resized_dims", 0)
    if count == 0:
        return op["x"]
    sizes = op.sizes("x")[-count:]
    targets = tuple(to or size for to, size in zip(op.ints("shape")[-count:], sizes, strict=True))
    mode = op.one("sampling_mode", "DEFAULT")
    if op.one("interpolation_mode", "LINEAR") == "LINEAR":
        return _linear(op, sizes, targets, mode, graph)
    if mode not in ("DEFAULT", "UNALIGN_CORNERS"):
        raise op.fail(f"nearest neighbours in sampling mode {mode} are not defined")
    return _nearest(op["x"], sizes, targets, graph)


def points(size: int, target: int, mode: str) -> npt.NDArray[np.float64]:
    """Where the points of an axis of ``target`` lie in one of ``size``, from 0 to ``size - 1``."""
    import numpy as np

    steps = np.arange(target)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        found = steps * ((size - 1) / (target - 1)) if target > 1 else np.zeros(1)
        if target == 1 and mode == "ALIGN_CORNERS":
            found = np.full(1, (size - 1) / 2)
    elif mode == "DEFAULT":
        found = steps * ((size - size / target) / (target - 1)) if target > 1 else np.zeros(1)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / target
        found = 0.5 * delta + steps * delta
    else:
        spacing = size / target
        found = steps * spacing + 0.5 * spacing - 0.5
    return np.clip(found, 0, size - 1)


def _targets(op: Operation) -> tuple[int, ...]:
    sizes = op.sizes("x")[-2:]
    names = ("height", "width")
    if op.type.startswith("resize"):
        return tuple(op.one(f"target_size_{name}", 1) for name in names)
    return tuple(int(size * op.one(f"scale_factor_{name}", 1.0)) for size, name in zip(sizes, names, strict=True))


def _repeated(op: Operation, graph: Graph) -> Operand:
    """By whole numbers, along axes of any size."""
    factors = [op.one(f"scale_factor_{name}", 1.0) for name in ("height", "width")]
    if any(each != int(each) for each in factors):
        op.sizes("x")  # says which sizes would have to be known
    import numpy as np

    scales = graph.constant(np.array([1.0] * (op["x"].rank - 2) + factors, np.float32))
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.node("Resize", op["x"], "", scales, mode="nearest", **how)


def _nearest(x: Operand, sizes: tuple[int, ...], targets: tuple[int, ...], graph: Graph) -> Operand:
    import numpy as np

    for place, (size, target) in enumerate(zip(sizes, targets, strict=True)):
        if size != target:
            x = graph.node("Gather", x, graph.constant(np.arange(target) * size // target), axis=place - len(sizes))
    return x


def _linear(op: Operation, sizes: tuple[int, ...], targets: tuple[int, ...], mode: str, graph: Graph) -> Operand:
    import numpy as np

    if mode not in MODES:
        raise op.fail(f"its sampling mode {mode} is not known")
    x: Operand = op["x"]
    for place, (size, target) in enumerate(zip(sizes, targets, strict=True)):
        where = points(size, target, mode)
        low = np.floor(where).astype(np.int64)
        axis = place - len(sizes)
        share = (where - low).astype(np.float32).reshape([-1] + [1] * (-axis - 1))
        lower = graph.node("Gather", x, graph.constant(low), axis=axis)
        if share.any():
            upper = graph.node("Gather", x, graph.constant(np.minimum(low + 1, size - 1)), axis=axis)
            step = graph.node("Mul", graph.node("Sub", upper, lower), graph.constant(share))
            lower = graph.node("Add", lower, step)
        x = lower
    return x
