"""What steps share that make products run in integers, with ranges from calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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
from hubpub.transform.exclude import EXCLUDE_HELP, AutoExclude, Exclude, named
from hubpub.transform.layout import LAYOUT_HELP, Layout

if TYPE_CHECKING:
    from hubpub.transform._ledger import Ledger
    from hubpub.transform._weights import Weights


@dataclass(frozen=True)
class Call:
    """One call of a calibrated step.

    Attributes:
        target: the model to write.
        windows: calibration input.
        resume: a folder for state that outlives an interrupted call, or None.
        progress: told of bytes.
        shared: globs; if given, all layers but these are calibrated, whatever ``exclude`` says, and the state in
            ``resume`` is left whole, so that steps that exclude more can share it.
    """

    target: Path
    windows: Windows
    resume: Path | None
    progress: Progress
    shared: tuple[str, ...] | None = None


class CalibratedInt8(Calibrated):
    """Base of the calibrated int8 steps; a subclass adds its parameters and `rewrite`."""

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "protobuf", "numpy", "onnxruntime")

    layout: Layout = Field(default="inline", description=LAYOUT_HELP)
    target: Target = Field(default="x86", description=TARGET_HELP)
    store_others: StoreOthers = Field(default="int8", description=STORE_HELP)
    store_fp16: tuple[str, ...] = Field(default=(), description=STORE_FP16_HELP)
    exclude: Exclude = Field(default=(), description=EXCLUDE_HELP)
    min_elements: int = Field(default=1024, ge=1, description="Weights of fewer elements stay as they are.")
    threads: int = Field(default=0, ge=0, description="Of the calibration, 0 = all cores. The result is the same.")
    report_runtime: bool = Field(default=True, description=REPORT_HELP)

    def apply_calibrated(
        self, model: Path, target: Path, windows: Windows, resume: Path | None, progress: Progress
    ) -> Facts:
        """Write ``target`` and, if external, its data file.

        Preconditions: opset 13 or later, floats of one type (float16 and bfloat16 are widened to float32 first), no
        training graph, not quantized yet. Postconditions, checked: the graph passes ONNX's checker if the source
        does; the written file opens and has the planned tensors; onnxruntime loads it, if it loads the source.

        Returns:
            What `hubpub.transform._integers.rewrite_file` says and what `rewrite` adds. With ``exclude: {auto: …}``
            also ``sensitivity``, see `hubpub.transform._auto_exclude`.

        Raises:
            OnnxFileError: the model is not sound, or cannot be written.
            StepError: nothing of it can be quantized, it is of a kind that cannot be, or a window does not fit it.
        """
        call = Call(target, windows, resume, progress)
        if isinstance(self.exclude, AutoExclude):
            from hubpub.transform._auto_exclude import leave_out_worst

            return leave_out_worst(self, self.exclude, model, call)
        return self.quantize(model, call)

    def quantize(self, model: Path, call: Call) -> Facts:
        """As `apply_calibrated`, without the search for layers to exclude."""
        return rewrite_file(
            self.plan(), model, call.target, call.progress, lambda weights, _: self.rewrite(weights, call)
        )

    def plan(self) -> Plan:
        """What becomes of the weights that do not run in integers, and how the file is written."""
        return Plan(
            self.layout, self.store_others, self.store_fp16, named(self.exclude), self.min_elements, self.report_runtime
        )

    def rewrite(self, weights: Weights, call: Call) -> tuple[Ledger, Mapping[str, str], Facts]:
        """Calibrate, and edit the graph of ``weights``; what `rewrite_file` asks for."""
        raise NotImplementedError
