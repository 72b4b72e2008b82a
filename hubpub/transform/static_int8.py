"""Let products and convolutions run in int8, with ranges of activations taken from calibration.

QDQ form, weights symmetric int8 per output channel. A MatMul or Gemm gets unsigned inputs and keeps a float32 output,
which onnxruntime fuses to MatMulIntegerToFloat. A Conv gets unsigned inputs and outputs, after its Relu if it has one,
and an int32 bias, which it fuses to QLinearConv; values between two such convolutions stay integers. For a
ConvTranspose onnxruntime's CPU kernels have no integer form: it is computed in float32, as ``fused`` says.

Origin: ``quantize_static`` of onnxruntime in its QDQ format.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from hubpub.transform._integers import (
    REPORT_HELP,
    STORE_FP16_HELP,
    STORE_HELP,
    TARGET_HELP,
    Plan,
    StoreOthers,
    Target,
    rewrite_file,
)
from hubpub.transform.base import Calibrated, Facts, Progress, Windows
from hubpub.transform.layout import LAYOUT_HELP, Layout
from hubpub.transform.smoothquant_int8 import EXCLUDE_HELP

StaticOp = Literal["MatMul", "Gemm", "Conv", "ConvTranspose"]


class StaticInt8(Calibrated):
    """Quantize weights and activations to int8, ranges from calibration."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "protobuf", "numpy", "onnxruntime")

    transform: Literal["static_int8"] = "static_int8"
    layout: Layout = Field(default="inline", description=LAYOUT_HELP)
    op_types: tuple[StaticOp, ...] = Field(
        default=("MatMul", "Gemm", "Conv"), description="Operations that run in integers."
    )
    method: Literal["minmax", "percentile", "entropy", "mse"] = Field(
        default="minmax",
        description="How ranges follow from values: minmax = all that was seen; percentile = all but the outermost; "
        "entropy and mse = by the error of the quantized values (opset 16). All but minmax take a second pass.",
    )
    percentile: float = Field(
        default=99.999,
        gt=50,
        lt=100,
        description="With method: percentile, the share of values below the upper end, %.",
    )
    asymmetric: bool = Field(
        default=True, description="Ranges need not lie evenly about zero; otherwise the zero point is 128."
    )
    correct_means: bool = Field(
        default=False,
        description="Take what rounding a kernel does to the mean of its outputs, on calibration input, out of the "
        "bias of the Conv, where it has one. Takes a pass more.",
    )
    only_store: tuple[str, ...] = Field(
        default=(),
        description="Globs ('*/fc2', 'conv?.weight') of convolutions that are computed in float32, their kernels "
        "stored at 8 bits; with correct_means their biases are corrected too.",
    )
    target: Target = Field(default="x86", description=TARGET_HELP)
    store_others: StoreOthers = Field(default="int8", description=STORE_HELP)
    store_fp16: tuple[str, ...] = Field(default=(), description=STORE_FP16_HELP)
    exclude: tuple[str, ...] = Field(default=(), description=EXCLUDE_HELP)
    min_elements: int = Field(default=1024, ge=1, description="Weights of fewer elements stay as they are.")
    threads: int = Field(default=0, ge=0, description="Of the calibration, 0 = all cores. The result is the same.")
    report_runtime: bool = Field(default=True, description=REPORT_HELP)

    def apply_calibrated(
        self, model: Path, target: Path, windows: Windows, resume: Path | None, progress: Progress
    ) -> Facts:
        """Write ``target`` and, if external, its data file.

        Preconditions: opset 13 or later, float32, no training graph, not quantized yet. Postconditions, checked: the
        graph passes ONNX's checker if the source does; the written file opens and has the planned tensors;
        onnxruntime loads it, if it loads the source.

        Returns:
            What `hubpub.transform._integers.rewrite_file` says, of each layer also ``input_low``, ``input_high`` and
            ``columns_rescaled``; and ``calibration`` (windows, values, method).

        Raises:
            OnnxFileError: the model is not sound, or cannot be written.
            StepError: nothing of it can be quantized, it is of a kind that cannot be, or a window does not fit it.
        """
        from hubpub.transform._static import Static

        plan = Plan(
            self.layout, self.store_others, self.store_fp16, self.exclude, self.min_elements, self.report_runtime
        )
        return rewrite_file(
            plan,
            model,
            target,
            progress,
            lambda weights, _: Static(weights, self, windows, target, resume, progress).run(),
        )
