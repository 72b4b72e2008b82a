"""Convert a model's weights and its arithmetic from float32 to float16, whatever its size.

Every weight that is used in float16 is rounded to nearest, ties to even (IEEE 754 binary16), while it streams from
the source to the target. Every operation goes to float16 unless one of the rules at the head of
`hubpub.transform._fp16_rules` keeps it: lengths and shapes, long sums, squares on their way to a root, operations
that ONNX does not define for float16. Casts stand only where the two meet, constants are stored in the type in
which they are used, and the branches of an If are rewritten like the rest. The bodies of Loop and Scan and custom
operations stay float32; functions are inlined.

Origin: ``convert_float_to_float16`` of onnxconverter-common and onnxruntime, whose lists of operations and whose
interface ("keep_io_types") this follows; what to keep in float32 by data flow is hubpub's own.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.errors import StepError
from hubpub.transform.base import Facts, Progress, Transform
from hubpub.transform.layout import LAYOUT_HELP, MIN_EXTERNAL_BYTES, Layout, lay_out

if TYPE_CHECKING:
    from hubpub.onnxfile import OnnxFile
    from hubpub.transform._fp16_graph import Program
    from hubpub.transform._fp16_values import Report


class Fp16(Transform):
    """Convert weights and arithmetic to float16."""

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "protobuf", "numpy")

    transform: Literal["fp16"] = "fp16"
    layout: Layout = Field(default="inline", description=LAYOUT_HELP)
    interface: Literal["fp32", "fp16"] = Field(
        default="fp32",
        description="Type of the inputs and outputs: fp32 = as they were; fp16 = float16, but for those that count.",
    )
    keep_fp32_ops: tuple[str, ...] = Field(default=(), description="Further operations (Softmax …) left in float32.")
    keep_fp32_nodes: tuple[str, ...] = Field(default=(), description="Names of nodes left in float32.")
    overflow: Literal["refuse", "clip", "allow"] = Field(
        default="refuse",
        description="What to do about a finite weight beyond 65504: refuse the model, clip it to 65504, or allow "
        "infinity. Weights that become zero or lose bits are counted, never refused.",
    )

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Write ``target`` and, if external, its data file.

        Preconditions: opset 11 or later, no float16 in it yet, no training graph. Postconditions, checked: the
        graph passes ONNX's checker and its type inference if the source does; the written file opens and has the
        planned tensors.

        Returns:
            ``nodes_fp16``, ``nodes_fp32`` (reason → operation → nodes; `hubpub.transform._fp16_rules` says what the
            reasons mean), ``casts`` inserted (by type they give), ``tensors_converted``, ``totals`` (see `Counts`),
            ``tensors`` (name → what was found, for those with something other than ordinary values),
            ``bytes_in`` and ``bytes_out`` (of all tensors).

        Raises:
            OnnxFileError: the model is not sound, or cannot be written.
            StepError: it is of a kind that cannot be converted, overflows, or is too large for its layout.
        """
        from hubpub.onnxfile import OnnxFile
        from hubpub.transform._fp16_graph import read
        from hubpub.transform._fp16_rewrite import Rewriter
        from hubpub.transform._fp16_rules import Rules
        from hubpub.transform._fp16_values import Report

        where = model.name
        file = OnnxFile.open(model)
        bring_in_small(file)
        bytes_in = tensor_bytes(file, where)
        was_sound = not unsound(file)
        program = read(file, where)
        rules = Rules(program, set(self.keep_fp32_ops), set(self.keep_fp32_nodes), self.interface == "fp16", where)
        rules.decide()
        report = Report(self.overflow, where)
        rewriter = Rewriter(program, rules, report)
        rewriter.run()
        if was_sound and (problem := unsound(file)):
            raise StepError(f"the converted graph is not sound: {problem}", where=where, fix="report this")
        bytes_out = tensor_bytes(file, where)
        places = [located.steps for located in file.tensors()]
        lay_out(file, target, self.layout, progress)
        if [located.steps for located in OnnxFile.open(target).tensors()] != places:
            raise StepError("the tensors of the written model are not those planned", where=target.name)
        return {
            **_node_facts(program),
            "casts": {f"to_{name}": rewriter.casts[name] for name in ("fp16", "fp32")},
            **_value_facts(report),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
        }


def bring_in_small(file: OnnxFile) -> None:
    """Bring tensors that are shapes, axes and scalars into the graph, where inference and onnxruntime want them."""
    from hubpub.onnxfile.file import detach

    for located in file.tensors():
        payload = file.payload(located.tensor)
        if payload and payload.nbytes < MIN_EXTERNAL_BYTES:
            detach(located.tensor)
            located.tensor.raw_data = payload.read()


def tensor_bytes(file: OnnxFile, where: str) -> int:
    """Bytes of all tensors but those of strings."""
    from hubpub.onnxfile import raw_nbytes

    tensors = [located.tensor for located in file.tensors()]
    return sum(raw_nbytes(tensor, where) for tensor in tensors if tensor.data_type != tensor.STRING)


def unsound(file: OnnxFile) -> str:
    """What ONNX's checker, or its type inference, has against a graph; the bulk of its tensors is not looked at."""
    import onnx
    from onnx import shape_inference

    from hubpub.onnxfile.file import detach
    from hubpub.onnxfile.tensors import walk

    bare = onnx.ModelProto()
    bare.CopyFrom(file.model)
    try:
        shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
        for located in walk(bare):
            if located.tensor.data_location == located.tensor.EXTERNAL:  # the checker would look for its file
                detach(located.tensor)
                located.tensor.dims[:] = [0]
                located.tensor.raw_data = b""
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        return str(error).strip().splitlines()[0]
    return ""


def _node_facts(program: Program) -> Facts:
    from hubpub.transform._fp16_graph import FLOAT

    kept: dict[str, Counter[str]] = {}
    converted = 0
    for op in program.ops():
        if op.half:
            converted += 1
        elif op.reason and any(value and value.type == FLOAT for value in (*op.inputs, *op.outputs)):
            kept.setdefault(op.reason, Counter())[op.type] += 1
    return {
        "nodes_fp16": converted,
        "nodes_fp32": {reason: dict(sorted(ops.items())) for reason, ops in sorted(kept.items())},
    }


def _value_facts(report: Report) -> Facts:
    from hubpub.transform._fp16_values import Counts

    totals = Counts()
    for counts in report.tensors.values():
        totals.add(counts)
    return {
        "tensors_converted": len(report.tensors),
        "totals": vars(totals),
        "tensors": {name: dict(found) for name, counts in report.tensors.items() if (found := counts.found())},
    }
