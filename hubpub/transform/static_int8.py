"""Let products and convolutions run in int8, with ranges of activations taken from calibration.

QDQ form, weights symmetric int8 per output channel. A MatMul or Gemm gets unsigned inputs and keeps a float32 output,
which onnxruntime fuses to MatMulIntegerToFloat. A Conv gets unsigned inputs and outputs, after its Relu if it has one,
and an int32 bias, which it fuses to QLinearConv; values between two such convolutions stay integers. For a
ConvTranspose onnxruntime's CPU kernels have no integer form: it is computed in float32, as ``fused`` says.

Origin: ``quantize_static`` of onnxruntime in its QDQ format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.transform._calibrated_int8 import CalibratedInt8, Call
from hubpub.transform.base import Facts

if TYPE_CHECKING:
    from hubpub.transform._ledger import Ledger
    from hubpub.transform._weights import Weights

StaticOp = Literal["MatMul", "Gemm", "Conv", "ConvTranspose"]


class StaticInt8(CalibratedInt8):
    """Quantize weights and activations to int8, ranges from calibration.

    Adds to the facts of each layer ``input_low``, ``input_high`` and ``columns_rescaled`` (see ``target``); and
    ``calibration`` (windows, values, method).
    """

    version: ClassVar[int] = 2

    transform: Literal["static_int8"] = "static_int8"
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

    def rewrite(self, weights: Weights, call: Call) -> tuple[Ledger, Mapping[str, str], Facts]:
        """See `CalibratedInt8.rewrite`."""
        from hubpub.transform._static import Static

        return Static(weights, self, call).run()
