"""Store matrices of a safetensors file as integers of 8 or 4 bits, their scales beside them.

A matrix ``w`` ``[out, in]`` that is asked for becomes integers under the same name and ``w_scale`` (float32):

- 8 bits: I8 ``[out, in]``, scale ``[out, 1]``, and ``w = integers * scale``;
- 4 bits: U8 ``[out, ceil(in / 2)]``, two columns in a byte, the first in its low half, scale
  ``[out, ceil(in / block_size)]``, and ``w = (integers - 8) * scale`` with the scale of the column's block.

Everything else, metadata included, is copied byte for byte: convolutions, norms, embeddings, and what is excluded by
name, as an end-of-speech head should be, whose one number decides when speech stops.

The loader has to know. `config` names a JSON file beside the model of which a variant with a
``quantization_config`` is written. It states the dtype of activations and of the key-value cache: a cache that takes
its dtype from a weight would become int8.

Origin: weight-only round to nearest per output channel, as the int8 of Kyutai's pocket-tts and of llm.int8 (without
its outliers).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from hubpub.errors import StepError
from hubpub.transform.base import Facts, Progress, Transform

if TYPE_CHECKING:
    import numpy as np

    from hubpub.transform._blocks import Blocks
    from hubpub.transform._safetensors import Entry, Header

    Array = np.ndarray[Any, np.dtype[Any]]

_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_VALUES = 1 << 22  # of a matrix in memory at once
_MAX_CONFIG_BYTES = 16 << 20

FileName = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]+$", max_length=200)]
Globs = tuple[Annotated[str, StringConstraints(min_length=1)], ...]


class SafetensorsInt8(Transform):
    """Store matrices as int8 or int4 with scales beside them."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    transform: Literal["safetensors_int8"] = "safetensors_int8"
    include: Globs = Field(
        min_length=1, description="Globs of tensor names ('flow_lm.transformer.*.weight'): matrices that are quantized."
    )
    exclude: Globs = Field(default=(), description="Globs of names that stay as they are, though included.")
    bits: Literal[4, 8] = Field(default=8, description="Bits of a weight.")
    block_size: Annotated[int, Field(ge=16, le=1024)] | None = Field(
        default=None, description="Columns that share a scale with 4 bits; none = 32. With 8 bits a row shares one."
    )
    clip: Literal["none", "mse"] = Field(
        default="none", description="none = scales cover the largest weight; mse = those of the least squared error."
    )
    config: FileName | None = Field(
        default=None, description="JSON file beside the model, of which a variant is written beside the target."
    )
    config_as: FileName | None = Field(default=None, description="The variant's name; none = that of config.")

    @model_validator(mode="after")
    def _check(self) -> SafetensorsInt8:
        if self.block_size and self.bits == 8:
            raise ValueError("block_size is for bits: 4; of 8 bits a row shares a scale")
        if self.config_as and not self.config:
            raise ValueError("config_as names the variant of config, which is missing")
        if {".", ".."} & {self.config, self.config_as}:
            raise ValueError("config must be the name of a file")
        return self

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Write ``target`` and, if there is a ``config``, its variant.

        Precondition: every glob matches something, a misspelt one is an error. Postcondition, checked: what was
        written is a sound file with the planned tensors.

        Returns:
            ``layers`` (weight, shape, method, bytes before and after, SNR in dB, digest of the scales), ``skipped``
            (included matrices left as they are: weight, shape, reason, bytes), ``kept`` (number and bytes of all
            tensors copied), ``bytes_in``, ``bytes_out``.

        Raises:
            OnnxFileError: a file cannot be read.
            StepError: the model is not sound, a glob matches nothing, the config cannot have a variant, or the disk
                is full.
        """
        from hubpub.transform._safetensors import lay_out, read_header

        header = read_header(model)
        plan = self._plan(header, model.name)
        # Before anything is written, so that a config that cannot be read costs nothing.
        config = self._variant(model.parent / self.config, plan) if self.config else None
        written = [made for weight in plan.chosen for made in self._made(weight)]
        copied = [entry for entry in header.entries if entry not in plan.chosen]
        head, begins = lay_out([*written, *copied], header.metadata)
        layers: list[JsonValue] = []
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _write(fd, 0, head, progress)
            for entry in copied:
                if entry.data is not None:
                    entry.data.copy_to(fd, begins[entry.name], progress)
            for entry in plan.chosen:
                layers.append(self._quantize(entry, fd, begins, progress))
        except OSError as error:
            raise StepError(f"cannot be written: {error.strerror}", where=target.name) from None
        finally:
            os.close(fd)
        if {(e.name, e.dtype, e.shape) for e in read_header(target).entries} != {
            (e.name, e.dtype, e.shape) for e in (*written, *copied)
        }:
            raise StepError("the tensors of the written file are not those planned", where=target.name)
        if self.config and config is not None:
            target.with_name(self.config_as or self.config).write_bytes(config)
        return {
            "layers": layers,
            "skipped": list(plan.skipped),
            "kept": {"tensors": len(copied), "bytes": sum(entry.nbytes for entry in copied)},
            "bytes_in": sum(entry.nbytes for entry in header.entries),
            "bytes_out": sum(entry.nbytes for entry in (*written, *copied)),
        }

    # ------------------------------------------------------------------------------------------------- choosing

    def _plan(self, header: Header, where: str) -> Plan:
        plan = Plan()
        names = {entry.name for entry in header.entries}
        included = [e for e in header.entries if any(fnmatchcase(e.name, glob) for glob in self.include)]
        for glob in self.include:
            if not any(fnmatchcase(e.name, glob) and len(e.shape) == 2 and e.dtype in _FLOATS for e in included):
                raise StepError(
                    f"include {glob!r} matches no matrix of float32, float16 or bfloat16", where=where, fix="mend it"
                )
        for glob in self.exclude:
            if not any(fnmatchcase(entry.name, glob) for entry in included):
                raise StepError(f"exclude {glob!r} matches nothing that is included", where=where, fix="mend it")
        for entry in included:
            if len(entry.shape) != 2 or entry.dtype not in _FLOATS:
                continue
            by = next((glob for glob in self.exclude if fnmatchcase(entry.name, glob)), None)
            if by:
                plan.skip(entry, f"excluded by {by!r}")
            elif not entry.nbytes:
                plan.skip(entry, "empty")
            elif not _finite(entry):
                plan.skip(entry, "not finite (NaN or infinity)")
            elif f"{entry.name}_scale" in names:
                raise StepError(
                    f"holds {entry.name!r} and {entry.name + '_scale'!r}, so it seems to be quantized already",
                    where=where,
                    fix="start from the float model",
                )
            else:
                plan.chosen.append(entry)
        if not plan.chosen:
            raise StepError("nothing that is included can be quantized", where=where, fix="look at exclude")
        return plan

    def _block(self) -> int:
        return self.block_size or 32

    def _made(self, entry: Entry) -> tuple[Entry, Entry]:
        """Integers and scales that stand for a matrix."""
        from hubpub.transform._safetensors import Entry

        rows, columns = entry.shape
        scale = f"{entry.name}_scale"
        if self.bits == 8:
            return Entry(entry.name, "I8", (rows, columns)), Entry(scale, "F32", (rows, 1))
        blocks = -(-columns // self._block())
        return Entry(entry.name, "U8", (rows, -(-columns // 2))), Entry(scale, "F32", (rows, blocks))

    # ----------------------------------------------------------------------------------------------- quantizing

    def _quantize(self, entry: Entry, fd: int, begins: dict[str, int], progress: Progress) -> JsonValue:
        """Write a matrix's integers and scales, some rows at a time."""
        import numpy as np

        from hubpub.transform._blocks import pack, quantize_blocks, to_signed
        from hubpub.transform._int8_values import snr_db

        columns = entry.shape[1]
        integers_at, scales_at = begins[entry.name], begins[f"{entry.name}_scale"]
        digest = hashlib.sha256()
        error = signal = 0.0
        for rows in _pieces(entry):
            block = None if self.bits == 8 else self._block()
            blocks: Blocks = quantize_blocks(rows, self.bits, block, search=self.clip == "mse")
            flat = blocks.integers.reshape(len(rows), -1)[:, :columns]
            stored = to_signed(flat, 8) if self.bits == 8 else pack(flat, 4)
            scales = np.ascontiguousarray(blocks.scales, "<f4").tobytes()
            _write(fd, integers_at, stored.tobytes(), progress)
            _write(fd, scales_at, scales, progress)
            integers_at, scales_at = integers_at + stored.nbytes, scales_at + len(scales)
            digest.update(scales)
            error, signal = error + blocks.error, signal + blocks.signal
        unit = "per row" if self.bits == 8 else f"blocks of {self._block()}"
        return {
            "weight": entry.name,
            "shape": list(entry.shape),
            "method": f"int{self.bits} {unit}",
            "bytes_in": entry.nbytes,
            "bytes_out": sum(made.nbytes for made in self._made(entry)),
            "snr_db": round(snr_db(signal, error), 2),
            "scales_sha256": digest.hexdigest(),
        }

    def _variant(self, config: Path, plan: Plan) -> bytes:
        """The config with a ``quantization_config``."""
        try:
            if config.stat().st_size > _MAX_CONFIG_BYTES:
                raise StepError(f"has more than {_MAX_CONFIG_BYTES} bytes", where=config.name)
            document = json.loads(config.read_bytes().decode("utf-8"))
        except OSError as error:
            raise StepError(f"cannot be read: {error.strerror}", where=config.name, fix="check config") from None
        except (ValueError, RecursionError):
            raise StepError("is not JSON", where=config.name, fix="check config") from None
        if not isinstance(document, dict) or "quantization_config" in document:
            raise StepError(
                "is not an object without a quantization_config", where=config.name, fix="start from the float model's"
            )
        dtypes = sorted({_FLOATS[entry.dtype] for entry in plan.chosen})
        document["quantization_config"] = {
            "quant_method": "hubpub_weight_only",
            "bits": self.bits,
            "granularity": "per_channel" if self.bits == 8 else "per_block",
            "block_size": None if self.bits == 8 else self._block(),
            "symmetric": True,
            "packing": None if self.bits == 8 else "two columns a byte, the first in the low half, zero is 8",
            "scale_suffix": "_scale",
            "scale_dtype": "float32",
            "include": list(self.include),
            "exclude": list(self.exclude),
            "quantized": [entry.name for entry in plan.chosen],
            "not_quantized": [str(skip["weight"]) for skip in plan.skipped],
            "compute_dtype": dtypes[0] if len(dtypes) == 1 else "float32",
            "kv_cache_dtype": dtypes[0] if len(dtypes) == 1 else "float32",
        }
        return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8")


@dataclass
class Plan:
    """Which matrices are quantized, and which of those included are not."""

    chosen: list[Entry] = field(default_factory=list)
    skipped: list[dict[str, JsonValue]] = field(default_factory=list)

    def skip(self, entry: Entry, reason: str) -> None:
        """Note a matrix left as it is."""
        self.skipped.append({"weight": entry.name, "shape": list(entry.shape), "reason": reason, "bytes": entry.nbytes})


def _pieces(entry: Entry) -> Iterator[Array]:
    """Rows of a matrix as float32, some at a time."""
    import numpy as np

    rows, columns = entry.shape
    width = columns * entry.nbytes // max(rows * columns, 1)
    step = max(_VALUES // max(columns, 1), 1)
    if entry.data is None:
        raise ValueError(f"{entry.name!r} has no bytes")
    for start in range(0, rows, step):
        raw = entry.data.read(start * width, min(start + step, rows) * width)
        if entry.dtype == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[entry.dtype]).astype(np.float32)
        yield values.reshape(-1, columns)


def _finite(entry: Entry) -> bool:
    import numpy as np

    return all(bool(np.isfinite([rows.min(), rows.max()]).all()) for rows in _pieces(entry))


def _write(fd: int, offset: int, data: bytes, progress: Progress) -> None:
    from hubpub.onnxfile.payload import write_at

    write_at(fd, offset, data)
    progress(len(data))
