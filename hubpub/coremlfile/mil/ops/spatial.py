"""Elements moved between the spatial axes, the channels and the batch of ``[n, c, h, w]``."""

from __future__ import annotations

from collections.abc import Sequence

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates


@translates("depth_to_space", moves=True)
def depth_to_space(op: Operation, graph: Graph) -> Operand:
    """Channels ``[block, block, c]`` to the spatial axes."""
    return graph.node("DepthToSpace", op["x"], blocksize=op.one("block_size", 2), mode="DCR")


@translates("pixel_shuffle", moves=True)
def pixel_shuffle(op: Operation, graph: Graph) -> Operand:
    """Channels ``[c, block, block]`` to the spatial axes."""
    return graph.node("DepthToSpace", op["x"], blocksize=op.one("upscale_factor", 2), mode="CRD")


@translates("space_to_depth", moves=True)
def space_to_depth(op: Operation, graph: Graph) -> Operand:
    """The inverse of ``depth_to_space``."""
    return graph.node("SpaceToDepth", op["x"], blocksize=op.one("block_size", 2))


@translates("pixel_unshuffle", moves=True)
def pixel_unshuffle(op: Operation, graph: Graph) -> Operand:
    """The inverse of ``pixel_shuffle``."""
    n, c, h, w = op.sizes("x")
    block = op.one("downscale_factor", 2)
    cut = [n, c, h // block, block, w // block, block]
    return _moved(op["x"], cut, (0, 1, 3, 5, 2, 4), [n, c * block * block, h // block, w // block], graph)


@translates("space_to_batch", moves=True)
def space_to_batch(op: Operation, graph: Graph) -> Operand:
    """Padded, then every ``block_shape``-th place of the spatial axes to an item of its own."""
    n, c, *spatial = op.sizes("x")
    (rows, columns), pads = op.ints("block_shape"), op.ints("paddings")
    padded = graph.node("Pad", op["x"], graph.ints([pads[0], pads[2], pads[1], pads[3]]), "", graph.ints([2, 3]))
    h, w = spatial[0] + pads[0] + pads[1], spatial[1] + pads[2] + pads[3]
    cut = [n, c, h // rows, rows, w // columns, columns]
    shape = [rows * columns * n, c, h // rows, w // columns]
    return _moved(padded, cut, (3, 5, 0, 1, 2, 4), shape, graph)


@translates("batch_to_space", moves=True)
def batch_to_space(op: Operation, graph: Graph) -> Operand:
    """The inverse of ``space_to_batch``, then cut by ``crops``."""
    n, c, h, w = op.sizes("x")
    (rows, columns), crops = op.ints("block_shape"), op.ints("crops")
    n //= rows * columns
    whole = [n, c, h * rows, w * columns]
    found = _moved(op["x"], [rows, columns, n, c, h, w], (2, 3, 4, 0, 5, 1), whole, graph)
    ends = graph.ints([whole[2] - crops[1], whole[3] - crops[3]])
    return graph.node("Slice", found, graph.ints([crops[0], crops[2]]), ends, graph.ints([2, 3]))


def _moved(x: Operand, cut: Sequence[int], perm: Sequence[int], shape: Sequence[int], graph: Graph) -> str:
    moved = graph.node("Transpose", graph.node("Reshape", x, graph.ints(cut)), perm=list(perm))
    return graph.node("Reshape", moved, graph.ints(shape))
