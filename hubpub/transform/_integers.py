"""The way of a step that makes products run in integers: calibrate, rewrite, store the other weights, write."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubpub.errors import StepError
from hubpub.transform._convert import write_checked
from hubpub.transform.layout import Layout

if TYPE_CHECKING:
    from hubpub.onnxfile import OnnxFile
    from hubpub.transform._ledger import Ledger
    from hubpub.transform._scratch import Scratch
    from hubpub.transform._weights import Weights
    from hubpub.transform.base import Facts, Progress

StoreOthers = Literal["int8", "fp16", "fp32"]
Target = Literal["x86", "x86_vnni", "arm", "wasm"]

STORE_HELP = (
    "How weights that do not run in integers (convolutions, tables, what was skipped) are stored: int8 per channel, "
    "fp16, or fp32 as they were. They are computed in float32 all the same; what `exclude` names is left alone."
)
REPORT_HELP = (
    "Load the result in onnxruntime, in a process of its own that needs the memory, and report which layers it runs in "
    "integers."
)
STORE_FP16_HELP = "Globs of weights of these that are stored at 16 bits, whatever store_others says."
TARGET_HELP = (
    "Where it shall run. x86 = also on AVX2 and AVX512 without VNNI, where pairs of products saturate at 16 bits: "
    "weights are bounded so that no pair can. The others (x86_vnni, arm, wasm) add up in 32 bits and need no such care."
)


@dataclass(frozen=True)
class Plan:
    """What such a step was told."""

    layout: Layout
    store_others: StoreOthers
    store_fp16: tuple[str, ...]
    exclude: tuple[str, ...]
    min_elements: int
    report_runtime: bool


def rewrite_file(
    plan: Plan,
    model: Path,
    target: Path,
    progress: Progress,
    rewrite: Callable[[Weights, Scratch], tuple[Ledger, Mapping[str, str], Facts]],
) -> Facts:
    """Open a model, let ``rewrite`` edit it, store what is left, write, and check what was written.

    Args:
        plan: how.
        model: to read.
        target: to write.
        progress: told of bytes written; ``rewrite`` tells of the windows.
        rewrite: gives its ledger, for each fused product the name of its integers (by layer name), and further facts.

    Returns:
        ``layers``, ``not_integer`` (weight, reason, bytes of what stays float), ``skipped`` and ``small`` (see
        `hubpub.transform._ledger`), ``bytes_in``, ``bytes_out``, ``fused`` (see `fused_facts`), and those of
        ``rewrite``; of a float16 or bfloat16 model also ``widened`` (see `hubpub.transform._widen`); and ``unmatched``,
        the globs that match nothing.

    Raises:
        OnnxFileError: the model is not sound, or cannot be written.
        StepError: nothing can be quantized, or a postcondition does not hold.
    """
    from hubpub.onnxfile import OnnxFile
    from hubpub.transform._scratch import Scratch
    from hubpub.transform._weights import Weights
    from hubpub.transform._widen import is_narrow, widen
    from hubpub.transform.fp16 import bring_in_small, tensor_bytes, unsound

    where = model.name
    file = OnnxFile.open(model)
    bring_in_small(file)
    bytes_in = tensor_bytes(file, where)
    was_sound = not unsound(file)
    with Scratch(target) as scratch:
        weights = Weights(file, scratch, where)
        weights.refuse_quantized(rest=False)
        widened = None
        if is_narrow(file):
            widened = widen(file, scratch, where)
            weights = Weights(file, scratch, where)
        unmatched: list[Any] = weights.unmatched((*plan.exclude, *plan.store_fp16))
        ledger, integers, facts = rewrite(weights, scratch)
        sizes = [weights.nbytes(constant) for constant in ledger.reasons]
        weights.drop_unused()
        rest = Weights(file, scratch, where)
        others = _store_others(rest, plan)
        rest.drop_unused()
        bytes_out = write_checked(file, target, plan.layout, progress, where=where, was_sound=was_sound)
    left, own = others.facts(rest, plan.min_elements), _scales(file)
    skipped: Any = left["skipped"]
    return {
        "layers": [*ledger.layers, *others.layers],
        "not_integer": [
            {"weight": constant.name, "reason": reason, "bytes": nbytes}
            for (constant, reason), nbytes in zip(ledger.reasons.items(), sizes, strict=True)
        ],
        "skipped": [entry for entry in skipped if entry["weight"] not in own],
        "small": left["small"],
        **facts,
        **({"widened": widened} if widened else {}),
        **({"unmatched": unmatched} if unmatched else {}),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "fused": fused_facts(model, target, integers) if plan.report_runtime else None,
    }


def nothing_to_do(ledger: Ledger, weights: Weights) -> StepError:
    """The error for a model of which no product can run in integers."""
    largest = max(ledger.reasons, key=lambda constant: constant.size, default=None)
    why = f"; the largest weight, {largest.name!r}, is {ledger.reasons[largest]}" if largest else ""
    return StepError(
        f"holds no product that can run in integers{why}", where=weights.where, fix="leave the step out for this model"
    )


def window_progress(weights: Weights, windows: int, progress: Progress) -> Callable[[int], None]:
    """Three quarters of the model's bytes in as many parts as windows are run; writing is about the rest."""
    part = sum(weights.nbytes(constant) for constant in weights.constants()) * 3 // 4 // max(windows, 1)
    return lambda count: progress(count * part)


@contextlib.contextmanager
def state_folder(resume: Path | None, target: Path) -> Iterator[Path]:
    """Where the state of a calibration lies: ``resume``, or a folder beside ``target`` that goes away."""
    if resume is not None:
        resume.mkdir(parents=True, exist_ok=True)
        yield resume
        return
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".calibration.") as folder:
        yield Path(folder)


def _store_others(weights: Weights, plan: Plan) -> Ledger:
    from hubpub.transform._ledger import Ledger
    from hubpub.transform._stored import Storing
    from hubpub.transform._weights import excluded
    from hubpub.transform.weight_only import WeightOnly

    at_16 = {
        constant.name
        for constant in weights.constants()
        if plan.store_others == "fp16" or excluded([constant.name], plan.store_fp16)
    } - _scales(weights.file)
    at_8 = {c.name for c in weights.constants()} - at_16 if plan.store_others == "int8" else set()
    ledger = Ledger()
    for bits, names in ((16, at_16), (8, at_8)):
        params = WeightOnly(bits=bits, exclude=plan.exclude, min_elements=plan.min_elements)
        one = Storing(weights, params, names).run()
        ledger.layers += one.layers
        ledger.reasons.update(one.reasons)
    return ledger


_SCALES = {"QuantizeLinear": 1, "DequantizeLinear": 1, "MatMulNBits": 2}
"""Which input of an operation is its scales."""


def _scales(file: OnnxFile) -> set[str]:
    """Scales of quantized weights and values, which the step made and which have to stay as they are."""
    return {node.input[_SCALES[node.op_type]] for node in file.model.graph.node if node.op_type in _SCALES}


def fused_facts(model: Path, target: Path, integers: Mapping[str, str]) -> dict[str, Any]:
    """Which products onnxruntime, on this machine's CPU, runs in integers.

    Args:
        model: the source.
        target: the result.
        integers: for each layer the name of its integer weights.

    Returns:
        ``ops`` (integer operation → nodes), ``layers`` (those that run in integers), ``not_fused`` (names of those
        that do not); or ``not_loaded``, why onnxruntime loads neither source nor result.

    Raises:
        StepError: it loads the source, but not the result.
    """
    from hubpub.transform._runtime import optimized_ops, users_in_optimized

    try:
        users = users_in_optimized(target, sorted(set(integers.values())))
    except StepError as error:
        try:
            optimized_ops(model)
        except StepError as its_own:
            return {"not_loaded": its_own.what}
        raise error from None
    fused = {name: [op for op in users.get(weight, []) if op in INTEGER_OPS] for name, weight in integers.items()}
    ops: dict[str, int] = {}
    for name in integers:
        for op in fused[name][:1]:
            ops[op] = ops.get(op, 0) + 1
    return {
        "ops": dict(sorted(ops.items())),
        "layers": sum(1 for found in fused.values() if found),
        "not_fused": [name for name, found in fused.items() if not found],
    }


INTEGER_OPS = frozenset(
    ["MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger", "DynamicQuantizeMatMul", "QGemm", "QLinearConv"]
)
"""Operations whose kernels multiply integers."""
