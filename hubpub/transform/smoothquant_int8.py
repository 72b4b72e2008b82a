"""Let matrix products run in int8, inputs smoothed first so that outliers do not cost the other channels their bits.

Every MatMul and Gemm with a constant matrix gets unsigned 8-bit inputs with one scale, taken from calibration, and
int8 weights with a scale per output channel (QDQ form, which onnxruntime fuses to MatMulIntegerToFloat). Before that,
inputs are divided and weights multiplied channel by channel, which changes nothing in exact arithmetic; the divisors go
into the LayerNormalization, product, Mul or bias that makes the input where the graph allows it, else a Mul is added.
Products of two activations stay float32. Other weights are stored at 8 or 16 bits and computed in float32.

Products that are excluded can be stored at 8 bits all the same, their inputs float32, their weights rounded by GPTQ.

Origin: SmoothQuant (Xiao et al., 2022, arXiv:2211.10438); `hubpub.transform._smooth` says what is searched and how.
GPTQ (Frantar et al., 2022, arXiv:2210.17323); see `hubpub.transform._compensated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from hubpub.transform._calibrated_int8 import CalibratedInt8, Call
from hubpub.transform._integers import Plan
from hubpub.transform.base import Facts
from hubpub.transform.exclude import AutoExclude

if TYPE_CHECKING:
    from hubpub.transform._ledger import Ledger
    from hubpub.transform._weights import Weights


class SmoothQuantInt8(CalibratedInt8):
    """Smooth, then quantize matrix products to int8.

    Adds to the facts of each layer ``alpha``, ``floor``, ``margin``, ``folded_into``, ``output_snr_db`` (on sampled
    rows), ``columns_rescaled`` (see ``target``) and ``mean_corrected``; and ``calibration`` (windows, groups). Memory:
    that of inference on one window, then that of the largest group of layers that share an input.
    """

    version: ClassVar[int] = 3

    transform: Literal["smoothquant_int8"] = "smoothquant_int8"
    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = Field(
        default="search",
        description="How much of the difficulty moves from inputs to weights; 0 = no smoothing. search = per layer, by "
        "the error of its quantized output on calibration rows that the ranges were not taken from.",
    )
    ranges: Literal["minmax", "percentile"] = Field(
        default="minmax",
        description="minmax = the range of a smoothed input covers all that was seen; percentile = all but the "
        "outermost values, to a sixteenth of a step; a few windows are run again for it, with alpha: search all.",
    )
    percentile: float = Field(
        default=99.999, gt=50, lt=100, description="With ranges: percentile, the share of values that is covered, in %."
    )
    margin: float = Field(
        default=1.0, ge=1, le=2, description="Factor of every range; with alpha: search it is searched, from this up."
    )
    asymmetric: bool = Field(
        default=True, description="Ranges need not lie evenly about zero; otherwise the zero point is 128."
    )
    correct_means: bool = Field(
        default=True,
        description="Take the mean error of a layer's output, on calibration rows, out of the bias added to it.",
    )
    store_excluded: Literal["fp32", "int8"] = Field(
        default="fp32",
        description="What becomes of products that `exclude` names: fp32 = left alone; int8 = their inputs stay "
        "float32, their weights take 8 bits with a scale for each 128 that are summed (MatMulNBits), rounded so that "
        "errors cancel on calibration rows. About as small, less error, about as slow as float32; a pass more.",
    )
    output: Literal["int8", "smoothed_fp32"] = Field(
        default="int8",
        description="smoothed_fp32 = stop after smoothing: float32, equal to the source, easy to quantize.",
    )

    @model_validator(mode="after")
    def _search_quantizes(self) -> Self:
        if isinstance(self.exclude, AutoExclude) and self.output != "int8":
            raise ValueError("exclude: {auto: …} goes with output: int8")
        if isinstance(self.exclude, AutoExclude) and self.exclude.auto.max_size and self.store_excluded != "fp32":
            raise ValueError("exclude: {auto: {max_size: …}} goes with store_excluded: fp32, else nothing grows by it")
        return self

    def plan(self) -> Plan:
        """Other weights stay float32 too where only smoothing is asked for."""
        plan = super().plan()
        return plan if self.output == "int8" else replace(plan, store_others="fp32", store_fp16=())

    def rewrite(self, weights: Weights, call: Call) -> tuple[Ledger, Mapping[str, str], Facts]:
        """See `CalibratedInt8.rewrite`."""
        from hubpub.transform._smoothing import SmoothQuant

        return SmoothQuant(weights, self, call).run()
