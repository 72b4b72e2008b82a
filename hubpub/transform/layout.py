"""Where a step that writes a model puts its weights: a notion that every such step shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hubpub.errors import StepError

if TYPE_CHECKING:
    from pathlib import Path

    from hubpub.onnxfile import Located, OnnxFile
    from hubpub.transform.base import Progress

Layout = Literal["inline", "external"]
"""inline = all in the model, one file below 2 GiB; external = the weights in ``<name>.data`` beside it."""

LAYOUT_HELP = (
    "inline = one file, which must stay below 2 GiB; external = the weights in one file <name>.data beside the model."
)

MIN_EXTERNAL_BYTES = 1024
"""Tensors of fewer bytes stay in the model: onnxruntime refuses a shape or an axis in a data file."""


def lay_out(file: OnnxFile, target: Path, layout: Layout, progress: Progress) -> dict[str, int]:
    """Write a model in a layout, streamed.

    Returns:
        Name and size in bytes of each file written, the model last.

    Raises:
        StepError: inline, and it would have 2 GiB or more; nothing is written then.
        OnnxFileError: the system cannot write it.
    """
    from hubpub import onnxfile

    tensors = [(located, file.payload(located.tensor)) for located in file.tensors()]
    if layout == "inline":
        size = sum(payload.nbytes for _, payload in tensors if payload)
        if size > onnxfile.MAX_FILE_BYTES:
            raise StepError(
                f"would have {size} bytes of tensors in one file, and protobuf reads at most {onnxfile.MAX_FILE_BYTES}",
                where=target.name,
                fix="set layout: external",
            )
        return onnxfile.write(file, target, progress=progress)
    to_move = [
        (located.steps, payload)
        for located, payload in tensors
        if payload and payload.nbytes >= MIN_EXTERNAL_BYTES and movable(located)
    ]
    slots = onnxfile.pack(to_move, name=lambda _: f"{target.name}.data", max_bytes=1 << 62)
    return onnxfile.write(file, target, slots, progress=progress)


def movable(located: Located) -> bool:
    """Whether clients find the tensor's bytes in a data file.

    They do for initializers and for the values of Constant nodes, also in functions: onnxruntime 1.31 and onnx.load
    read all of them. What lies in a subgraph stays in the model: onnxruntime loads it from a data file only if that
    is neither a symbolic link, as in the Hub's cache, nor one of several hard links. Tensors in attributes of other
    nodes, in sparse tensors and in training graphs stay too, because onnx.load or a kernel that reads its attribute
    directly would not find their bytes.
    """
    if located.steps[0][0] == "training_info" or any(name in ("g", "graphs") for name, _ in located.steps):
        return False
    holder = located.steps[-1][0]
    constant = (
        located.node is not None and located.node.op_type == "Constant" and located.node.domain in ("", "ai.onnx")
    )
    return holder == "initializer" or (holder == "t" and constant)
