"""The way of a step that quantizes weights, from model file to model file, around the rewriting that is its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hubpub.errors import StepError
from hubpub.transform.layout import Layout, lay_out

if TYPE_CHECKING:
    from hubpub.onnxfile import OnnxFile
    from hubpub.transform._ledger import Ledger
    from hubpub.transform._weights import Weights
    from hubpub.transform.base import Facts, Progress


class Params(Protocol):
    """What every such step can be told."""

    @property
    def layout(self) -> Layout: ...
    @property
    def min_elements(self) -> int: ...
    @property
    def exclude(self) -> tuple[str, ...]: ...
    @property
    def quantized(self) -> str: ...
    @property
    def report_runtime(self) -> bool: ...


def convert(
    params: Params, model: Path, target: Path, progress: Progress, rewrite: Callable[[Weights], Ledger]
) -> Facts:
    """Open a model, let ``rewrite`` edit it, write it and check what was written.

    Returns:
        The ledger's facts, ``bytes_in``, ``bytes_out`` and ``runtime``; ``unmatched``, the globs that match nothing.

    Raises:
        OnnxFileError: the model is not sound, or cannot be written.
        StepError: ``rewrite`` quantized nothing, or a postcondition does not hold.
    """
    from hubpub.onnxfile import OnnxFile
    from hubpub.transform._scratch import Scratch
    from hubpub.transform._weights import Weights
    from hubpub.transform.fp16 import bring_in_small, tensor_bytes, unsound

    where = model.name
    file = OnnxFile.open(model)
    bring_in_small(file)
    bytes_in = tensor_bytes(file, where)
    was_sound = not unsound(file)
    with Scratch(target) as scratch:
        weights = Weights(file, scratch, where)
        if params.quantized == "refuse":
            weights.refuse_quantized(rest=True)
        unmatched: list[Any] = weights.unmatched(params.exclude)
        ledger = rewrite(weights)
        if not ledger.layers:
            raise _nothing(ledger, weights, params.min_elements)
        weights.drop_unused()
        bytes_out = write_checked(file, target, params.layout, progress, where=where, was_sound=was_sound)
    return {
        **ledger.facts(weights, params.min_elements),
        **({"unmatched": unmatched} if unmatched else {}),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "runtime": runtime_facts(model, target) if params.report_runtime else None,
    }


def write_checked(
    file: OnnxFile, target: Path, layout: Layout, progress: Progress, *, where: str, was_sound: bool
) -> int:
    """Write an edited model and check what was written; bytes of its tensors.

    Raises:
        OnnxFileError: it cannot be written.
        StepError: the graph was sound before and is not now, or the written tensors are not those planned.
    """
    from hubpub.onnxfile import OnnxFile
    from hubpub.transform.fp16 import tensor_bytes, unsound

    if was_sound and (problem := unsound(file)):
        raise StepError(f"the quantized graph is not sound: {problem}", where=where, fix="report this")
    count = tensor_bytes(file, where)
    places = [located.steps for located in file.tensors()]
    lay_out(file, target, layout, progress)
    if [located.steps for located in OnnxFile.open(target).tensors()] != places:
        raise StepError("the tensors of the written model are not those planned", where=target.name)
    return count


def _nothing(ledger: Ledger, weights: Weights, min_elements: int) -> StepError:
    skipped: Any = ledger.facts(weights, min_elements)["skipped"]
    largest = max(skipped, key=lambda entry: entry["bytes"], default=None)
    why = f"; the largest, {largest['weight']!r}, is {largest['reason']}" if largest else ""
    return StepError(
        f"holds no weight that can be quantized so{why}",
        where=weights.where,
        fix="leave the step out for this model, or ask for other op_types",
    )


def runtime_facts(model: Path, target: Path) -> dict[str, Any]:
    """The operations that onnxruntime runs on a CPU for the quantized model.

    Returns:
        ``ops`` (name → nodes after its fusions); or ``not_loaded``, why onnxruntime loads neither source nor result
        (operations of a domain of their own, say).

    Raises:
        StepError: it loads the source, but not the result.
    """
    from hubpub.transform._runtime import optimized_ops

    try:
        return {"ops": dict(optimized_ops(target))}
    except StepError as error:
        try:
            optimized_ops(model)
        except StepError as its_own:
            return {"not_loaded": its_own.what}
        raise error from None
