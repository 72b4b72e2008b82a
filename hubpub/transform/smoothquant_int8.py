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

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

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
from hubpub.transform.exclude import EXCLUDE_HELP, AutoExclude, Exclude, named
from hubpub.transform.layout import LAYOUT_HELP, Layout


class SmoothQuantInt8(Calibrated):
    """Smooth, then quantize matrix products to int8."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "protobuf", "numpy", "onnxruntime")

    transform: Literal["smoothquant_int8"] = "smoothquant_int8"
    layout: Layout = Field(default="inline", description=LAYOUT_HELP)
    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = Field(
        default="search",
        description="How much of the difficulty moves from inputs to weights; 0 = no smoothing. search = per layer, by "
        "the error of its quantized output on calibration rows that the ranges were not taken from.",
    )
    ranges: Literal["minmax", "percentile"] = Field(
        default="minmax",
        description="minmax = the range of a smoothed input covers all that was seen; percentile = all but the "
        "outermost values, exact, which takes a second pass.",
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
    target: Target = Field(default="x86", description=TARGET_HELP)
    store_others: StoreOthers = Field(default="int8", description=STORE_HELP)
    store_fp16: tuple[str, ...] = Field(default=(), description=STORE_FP16_HELP)
    exclude: Exclude = Field(default=(), description=EXCLUDE_HELP)
    store_excluded: Literal["fp32", "int8"] = Field(
        default="fp32",
        description="What becomes of products that `exclude` names: fp32 = left alone; int8 = their inputs stay "
        "float32, their weights take 8 bits with a scale for each 128 that are summed (MatMulNBits), rounded so that "
        "errors cancel on calibration rows. About as small, less error, about as slow as float32; a pass more.",
    )
    min_elements: int = Field(default=1024, ge=1, description="Weights of fewer elements stay as they are.")
    output: Literal["int8", "smoothed_fp32"] = Field(
        default="int8",
        description="smoothed_fp32 = stop after smoothing: float32, equal to the source, easy to quantize.",
    )
    threads: int = Field(default=0, ge=0, description="Of the calibration, 0 = all cores. The result is the same.")
    report_runtime: bool = Field(default=True, description=REPORT_HELP)

    @model_validator(mode="after")
    def _search_quantizes(self) -> Self:
        if isinstance(self.exclude, AutoExclude) and self.output != "int8":
            raise ValueError("exclude: {auto: …} goes with output: int8")
        if isinstance(self.exclude, AutoExclude) and self.exclude.auto.max_size and self.store_excluded != "fp32":
            raise ValueError("exclude: {auto: {max_size: …}} goes with store_excluded: fp32, else nothing grows by it")
        return self

    def apply_calibrated(
        self, model: Path, target: Path, windows: Windows, resume: Path | None, progress: Progress
    ) -> Facts:
        """Write ``target`` and, if external, its data file.

        Preconditions: opset 13 or later, floats of one type (float16 and bfloat16 are widened to
        float32 first), no training graph, not quantized yet. Postconditions, checked: the
        graph passes ONNX's checker if the source does; the written file opens and has the planned tensors;
        onnxruntime loads it, if it loads the source. Memory: that of inference on one window, then that of the
        largest group of layers that share an input.

        Returns:
            What `hubpub.transform._integers.rewrite_file` says, of each layer also ``alpha``, ``floor``, ``margin``,
            ``folded_into``, ``output_snr_db`` (on sampled rows), ``columns_rescaled`` (see ``target``),
            ``mean_corrected``; and ``calibration`` (windows, groups). With ``exclude: {auto: …}`` also ``sensitivity``,
            see `hubpub.transform._auto_exclude`.

        Raises:
            OnnxFileError: the model is not sound, or cannot be written.
            StepError: nothing of it can be quantized, it is of a kind that cannot be, or a window does not fit it.
        """
        if isinstance(self.exclude, AutoExclude):
            from hubpub.transform._auto_exclude import leave_out_worst

            return leave_out_worst(self, self.exclude, self.threads, model, target, windows, resume, progress)
        return self.quantize(model, target, windows, resume, progress)

    def quantize(
        self,
        model: Path,
        target: Path,
        windows: Windows,
        resume: Path | None,
        progress: Progress,
        *,
        shared: tuple[str, ...] | None = None,
    ) -> Facts:
        """As `apply_calibrated`, without the search for layers to exclude.

        Args:
            model: to read.
            target: to write.
            windows: calibration input.
            resume: a folder for state, or None.
            progress: told of bytes.
            shared: globs; all layers but these are calibrated, whatever ``exclude`` says, and the state in ``resume``
                is left whole, so that steps that exclude more can share it.
        """
        from hubpub.transform._smoothing import SmoothQuant

        store_others = self.store_others if self.output == "int8" else "fp32"
        store_fp16 = self.store_fp16 if self.output == "int8" else ()
        plan = Plan(self.layout, store_others, store_fp16, named(self.exclude), self.min_elements, self.report_runtime)
        return rewrite_file(
            plan,
            model,
            target,
            progress,
            lambda weights, _: SmoothQuant(weights, self, windows, target, resume, progress, shared).run(),
        )
