"""Store weights at 4, 8 or 16 bits and compute in float.

Two forms. ``matmulnbits``: the operations of onnxruntime that take packed weights, com.microsoft MatMulNBits for MatMul
and Gemm and GatherBlockQuantized for tables that rows are looked up in; whatever else there is takes the other
form. ``dequantize``: standard ONNX, a DequantizeLinear in front of the users of a weight, with a scale per output
channel or, from opset 21, per block along the summed axis; it needs no change in the users, and so serves Conv,
ConvTranspose, LSTM, GRU, RNN and tables that are added. 16 bits are float16 with a Cast behind.

Origin: round to nearest in blocks as in llama.cpp and ``matmul_nbits_quantizer`` of onnxruntime; the
search for a scale tries a grid.

What onnxruntime 1.31 does with each on a CPU, and the memory that loading 12 weights of 1024 × 1024 adds (as float32 a
file of 50.3 MB: 89 MB for MatMul, 60 MB for Conv and Gather), measured by `hubpub.transform._runtime.load_footprint`:

    form and bits                 file     loaded   what runs
    MatMul, matmulnbits, 8, 32    14.2 MB   25 MB   MatMulNBits, in float or int8 as ``activations`` says
    MatMul, matmulnbits, 4, 32     7.9 MB   20 MB   the same
    MatMul, dequantize, 8         12.6 MB   58 MB   fused at load to MatMulNBits, activations int8 by block
    MatMul, dequantize, 4          6.3 MB   31 MB   the same
    Conv, dequantize, 8           12.6 MB   22 MB   DequantizeLinear before the Conv, in every run
    Conv, dequantize, 4            6.3 MB   16 MB   the same
    Gather, dequantize, 8         12.6 MB   23 MB   rows are looked up as integers
    Gather, matmulnbits, 4, 32     7.9 MB   19 MB   GatherBlockQuantized
    MatMul, 16 bits               25.2 MB  100 MB   folded back to float32 at load
    Conv, 16 bits                 25.2 MB   92 MB   folded back to float32 at load
    Gather, 16 bits               25.2 MB   35 MB   rows are looked up as float16

So 16 bits save disk and download, never memory, but for tables; and what is added or convolved is made float again in
every run, which costs time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hubpub.transform.base import Facts, Progress, Transform
from hubpub.transform.dynamic_int8 import EXCLUDE_HELP, QUANTIZED_HELP
from hubpub.transform.layout import LAYOUT_HELP, Layout

WeightOp = Literal["MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "LSTM", "GRU", "RNN", "other"]
ALL_OPS: tuple[WeightOp, ...] = (
    "MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "LSTM", "GRU", "RNN", "other",
)  # fmt: skip


class WeightOnly(Transform):
    """Store weights at fewer bits; activations and arithmetic stay float."""

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "protobuf", "numpy", "onnxruntime")

    transform: Literal["weight_only"] = "weight_only"
    layout: Layout = Field(default="inline", description=LAYOUT_HELP)
    bits: Literal[4, 8, 16] = Field(default=8, description="Bits of a weight; 16 = float16.")
    form: Literal["matmulnbits", "dequantize"] = Field(
        default="dequantize",
        description="matmulnbits = MatMul, Gemm and Gather by onnxruntime's packed operations, the rest as dequantize; "
        "dequantize = standard ONNX, DequantizeLinear before the user.",
    )
    block_size: Annotated[int, Field(ge=16, le=1024)] | None = Field(
        default=None,
        description="Weights that share a scale, a power of two, along the summed axis; none = a whole output channel "
        "(dequantize), 32 (matmulnbits). With dequantize it takes opset 21.",
    )
    symmetric: bool = Field(
        default=True, description="Zero in the middle; otherwise each channel or block has a zero point of its own."
    )
    clip: Literal["none", "mse"] = Field(
        default="none", description="none = scales cover the largest weight; mse = those of the least squared error."
    )
    activations: Literal["float", "int8"] = Field(
        default="float",
        description="How MatMulNBits computes: in float, or with activations quantized by block (accuracy level 4).",
    )
    op_types: tuple[WeightOp, ...] = Field(
        default=ALL_OPS,
        description="Operations whose weights are stored so; other = constants of at least two axes that anything "
        "else uses, such as a table of positions that is added.",
    )
    exclude: tuple[str, ...] = Field(default=(), description=EXCLUDE_HELP)
    min_elements: int = Field(default=1024, ge=1, description="Weights of fewer elements stay as they are.")
    quantized: Literal["refuse", "rest"] = Field(default="refuse", description=QUANTIZED_HELP)
    report_runtime: bool = Field(
        default=True,
        description="Load the result in onnxruntime, in a process of its own that needs the memory, and report the "
        "operations that it runs.",
    )

    @model_validator(mode="after")
    def _check(self) -> WeightOnly:
        if self.block_size and self.block_size & (self.block_size - 1):
            raise ValueError("block_size must be a power of two")
        if self.bits == 16 and (self.form == "matmulnbits" or self.block_size):
            raise ValueError("bits: 16 has no blocks and no MatMulNBits; set form: dequantize without block_size")
        return self

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Write ``target`` and, if external, its data file.

        Preconditions: opset 11 or later (21 for blocks or 4 bits as ``dequantize``), no training graph, not quantized
        yet. Postconditions, checked: the written file opens and has the planned tensors; onnxruntime loads it,
        if it loads the source.

        Returns:
            As `hubpub.transform.dynamic_int8.DynamicInt8.apply`.

        Raises:
            OnnxFileError: the model is not sound, or cannot be written.
            StepError: nothing of it can be quantized, it is quantized already, its opset lacks what is asked for, or it
                is too large for its layout.
        """
        from hubpub.transform._convert import convert
        from hubpub.transform._stored import Storing

        return convert(self, model, target, progress, lambda weights: Storing(weights, self).run())
