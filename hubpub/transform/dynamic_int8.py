"""Quantize the weights of matrix products, recurrences and embeddings to int8; activations as they come.

A MatMul or Gemm becomes DynamicQuantizeLinear (uint8 per tensor, its range taken anew for every input), MatMulInteger,
and a product with both scales: standard ONNX, which onnxruntime fuses to DynamicQuantizeMatMul, or to
MatMulIntegerToFloat where several products share an input. Weights are symmetric int8 per output channel. An LSTM
becomes com.microsoft DynamicQuantizeLSTM, weights per gate and unit. An embedding table is stored as int8 per row,
and only rows that are looked up become floats again; a table that is also the output projection (tied weights) is
stored once for both. A Conv, only if asked for, becomes ConvInteger. Products of two activations are left alone.

Origin: ``quantize_dynamic`` of onnxruntime, whose operations these are.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from hubpub.transform.base import Facts, Progress, Transform
from hubpub.transform.layout import LAYOUT_HELP, Layout

DynamicOp = Literal["MatMul", "Gemm", "LSTM", "Gather", "Conv"]
Target = Literal["x86", "x86_vnni", "arm", "wasm"]

QUANTIZED_HELP = (
    "What to do with a model that holds quantized operations already: refuse it, or quantize the rest, what is "
    "still float in it."
)
EXCLUDE_HELP = "Globs ('*/fc2', 'conv?.weight'); a weight stays as it is where one matches its name or its node's."


class DynamicInt8(Transform):
    """Quantize weights to int8, and activations when the model runs."""

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "protobuf", "numpy", "onnxruntime")

    transform: Literal["dynamic_int8"] = "dynamic_int8"
    layout: Layout = Field(default="inline", description=LAYOUT_HELP)
    op_types: tuple[DynamicOp, ...] = Field(
        default=("MatMul", "Gemm", "LSTM", "Gather"),
        description="Operations whose weights are quantized. Conv is not among them by default: at the front end of "
        "speech models it costs more than it saves.",
    )
    exclude: tuple[str, ...] = Field(default=(), description=EXCLUDE_HELP)
    min_elements: int = Field(default=1024, ge=1, description="Weights of fewer elements stay as they are.")
    target: Target = Field(
        default="x86",
        description="Where it shall run. x86 = also without VNNI, where pairs of products saturate at 16 bits: a "
        "column whose weights could do that gets a larger scale, at most twice; the others need no such care.",
    )
    clip: Literal["none", "mse"] = Field(
        default="none", description="none = scales cover the largest weight; mse = those of the least squared error."
    )
    quantized: Literal["refuse", "rest"] = Field(default="refuse", description=QUANTIZED_HELP)
    report_runtime: bool = Field(
        default=True,
        description="Load the result in onnxruntime, in a process of its own that needs the memory, and report the "
        "operations that it runs.",
    )

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Write ``target`` and, if external, its data file.

        Preconditions: opset 11 or later, no training graph, not quantized yet. Postconditions, checked: the written
        file opens and has the planned tensors; onnxruntime loads it, if it loads the source.

        Returns:
            ``layers`` (weight, op, node, method, bytes before and after, SNR of the weights in dB, scales' digest),
            ``skipped`` (weight, shape, reason, bytes), ``small`` (float tensors below ``min_elements``), ``bytes_in``
            and ``bytes_out`` (of all tensors), ``runtime`` (`hubpub.transform._convert.runtime_facts`).

        Raises:
            OnnxFileError: the model is not sound, or cannot be written.
            StepError: nothing of it can be quantized, it is quantized already, or is too large for its layout.
        """
        from hubpub.transform._convert import convert
        from hubpub.transform._dynamic import Dynamic

        return convert(self, model, target, progress, lambda weights: Dynamic(weights, self).run())
