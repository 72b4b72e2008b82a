"""Palettize the weights of a Core ML package: a lookup table per tensor, of the best entries there are.

Input and output are ``.mlpackage`` folders of ML programs, or of pipelines of them, which stay pipelines. Program and
weights are written directly, as coremltools' own palettization would write them (the same operations and types), so
that nothing but the weights asked for changes. Weights of the same content, in however many packages, are clustered
once; see `hubpub.transform._luts`.

Origin: k-means weight sharing, Han et al., Deep Compression (arXiv:1510.00149), as in coremltools'
``palettize_weights``. The clustering is exact (`hubpub.transform._kmeans`). With calibration: `_seen_palettes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from hubpub.errors import StepError
from hubpub.transform.base import Calibrated, Facts, Progress, Windows
from hubpub.transform.calibration.windows import Calibration

Bits = Literal[1, 2, 3, 4, 6, 8]
Globs = tuple[Annotated[str, StringConstraints(min_length=1)], ...]


class MixedBits(BaseModel):
    """Bits chosen weight by weight under one budget."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: tuple[Bits, ...] = Field(default=(4, 6, 8), min_length=2, description="Bits to choose from.")
    max_bytes: Annotated[ByteSize, Field(gt=0)] | None = Field(
        default=None, description="Bytes that the weight files of the package may have; the noise is then the least."
    )
    max_noise: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Mean over the weights of squared error over squares (0.001 = 30 dB); the files are then the "
        "smallest.",
    )

    @model_validator(mode="after")
    def _check(self) -> MixedBits:
        if (self.max_bytes is None) == (self.max_noise is None):
            raise ValueError("mixed takes one budget: max_bytes or max_noise")
        if len(set(self.bits)) != len(self.bits):
            raise ValueError("mixed.bits names one width twice")
        return self


class Palettize(Calibrated):
    """Replace weights by indices into lookup tables."""

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("coremltools", "numba", "numpy", "protobuf")
    calibration_required: ClassVar[bool] = False
    calibration_libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    transform: Literal["palettize"] = "palettize"
    bits: Bits = Field(default=6, description="Bits of an index; a table has 2 to the power of it entries.")
    mixed: MixedBits | None = Field(
        default=None, description="Choose the bits of each weight under a budget instead; bits is then not used."
    )
    granularity: Literal["per_tensor", "per_grouped_channel"] = Field(
        default="per_tensor",
        description="Who shares a table: a whole weight, or group_size of its output channels (iOS 18 on).",
    )
    group_size: int = Field(default=32, ge=1, description="Channels that share a table, with per_grouped_channel.")
    per_channel_scale: bool = Field(
        default=False, description="Divide each output channel by its largest magnitude first (iOS 18 on)."
    )
    min_elements: int = Field(default=513, ge=1, description="Weights of fewer elements stay as they are.")
    include: Globs = Field(default=(), description="Globs of weight names; none = all.")
    exclude: Globs = Field(default=(), description="Globs of names of weights that stay as they are.")
    models: tuple[str | int, ...] = Field(
        default=(),
        description="Models of a pipeline whose weights are palettized, by name or by place from 0; none = all ML "
        "programs.",
    )
    split_aliases: bool = Field(
        default=False,
        description="Put an identity where a tensor is input and output of one model of a pipeline, which newer Core "
        "ML runtimes refuse; otherwise such a package is an error.",
    )

    calibrate: Calibration | None = Field(
        default=None,
        description="Audio that the program is executed on, so that the errors of the weights of a conv or linear "
        "cancel on what it meets, and biases take back what is left of them in the mean; default: none.",
    )

    @model_serializer(mode="wrap")
    def _say(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is not calibrated has the keys that it had before it could be.
        said: dict[str, Any] = handler(self)
        return said if self.calibrate else {key: value for key, value in said.items() if key != "calibrate"}

    @model_validator(mode="after")
    def _check(self) -> Palettize:
        if self.per_channel_scale and self.granularity != "per_tensor":
            raise ValueError("per_channel_scale goes with granularity: per_tensor")
        return self

    def widths(self) -> tuple[int, ...]:
        """The bits that may be used, ascending."""
        return tuple(sorted(self.mixed.bits)) if self.mixed else (self.bits,)

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Write the package ``target`` from the package ``model``, both folders.

        Preconditions: the models chosen are ML programs of iOS 16 or later; no tensor is input and output of one
        model (see ``split_aliases``). Postconditions, checked on what was written: it is sound; each chosen weight is
        given by a lookup table; the weight files have exactly the bytes planned, and fewer than before; inputs and
        outputs are what they were.

        Returns:
            ``layers`` (model, weight, shape, method, bytes before and after, SNR in dB), ``skipped`` (model, weight,
            shape, reason, bytes), ``bytes_in`` and ``bytes_out`` of the weight files, ``specification_version`` and
            the systems that it ``needs``, ``split`` (tensors that an identity was put behind).

        Raises:
            CoremlFileError: the package is not sound, or of a kind that cannot be palettized.
            StepError: there is nothing to palettize, a precondition or a postcondition does not hold.
        """
        return self._write(model, target, None, progress)

    def apply_calibrated(
        self, model: Path, target: Path, windows: Windows, resume: Path | None, progress: Progress
    ) -> Facts:
        """As `apply`, with tables, indices and biases that suit what the program computes on ``windows``.

        Preconditions: also, the package is one ML program of one function, and all that it does can be executed here.
        What is not a conv of one group or a linear, grouped or scaled by channel has the tables of `apply`.

        Returns:
            As `apply`; layers say if they are ``compensated``; ``calibration`` (windows, layers, biases).
        """
        return self._write(model, target, windows, progress)

    def _write(self, model: Path, target: Path, windows: Windows | None, progress: Progress) -> Facts:
        from hubpub.coremlfile import Package, check_program, find_aliases, split_alias

        try:
            from hubpub.transform._palettes import SYSTEMS, palettized, plan, predicted, verify
            from hubpub.transform._seen_palettes import Seen
        except ModuleNotFoundError as error:
            raise StepError(
                f"{error.name} is not installed", where=model.name, fix="pip install 'hubpub[coreml]'"
            ) from None

        package = Package.open(model)
        for part in package.programs:
            check_program(package, part)
        parts = [package.part(chosen) for chosen in self.models] or list(package.programs)
        aliases = find_aliases(package)
        if aliases and not self.split_aliases:
            raise StepError(
                f"{aliases[0].name!r} is input and output of {aliases[0].part.label}, which newer Core ML runtimes "
                "refuse",
                where=package.path.name,
                fix="set split_aliases: true",
            )
        for alias in aliases:
            split_alias(package, alias)
        made = plan(package, parts, self)
        seen = None if windows is None else Seen(model, windows)
        if seen is not None:
            made = seen.compensated(package, made)
        want = predicted(package, made.chosen)
        before = sum(package.weight_file(file).size for file in want)
        edit = palettized(package, made)
        calibration = {} if seen is None else {"calibration": seen.correct_means(edit, target)}
        sizes = edit.write(target, progress)
        written = verify(target, Package.open(model), made, sizes, want)
        version = int(written.spec.specificationVersion)
        return {
            "layers": [each.row() for each in made.chosen],
            "skipped": [
                {
                    "model": weight.part.label,
                    "weight": weight.unique,
                    "shape": list(weight.shape),
                    "reason": reason,
                    "bytes": weight.ref.nbytes,
                }
                for weight, reason in made.skipped
            ],
            "bytes_in": before,
            "bytes_out": sum(sizes.values()),
            "specification_version": version,
            "needs": SYSTEMS.get(version, "newer systems than iOS 26"),
            "split": [f"{alias.part.label}: {alias.name}" for alias in aliases],
            **calibration,
        }
