"""Repack a model's tensors into data files under a byte budget.

A pure repack: every tensor keeps its bits, the graph its nodes, names and metadata. The file names are those
that the client will ask for; the budget is a browser's, whose ArrayBuffer ends at 2^31 - 1 bytes.
Which tensors may move: `hubpub.transform.layout.movable`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ByteSize, Field

from hubpub.errors import StepError
from hubpub.transform.base import Facts, Progress, Transform
from hubpub.transform.layout import movable

if TYPE_CHECKING:
    from collections.abc import Callable

Naming = Literal["numbered", "single", "optimum"]

_NAMES: dict[str, Callable[[str, int], str]] = {
    "numbered": lambda model, number: f"{model}.data.{number:03d}",
    "single": lambda model, _: f"{model}.data",
    "optimum": lambda model, number: f"{model}_data_{number}" if number else f"{model}_data",
}


class Shard(Transform):
    """Repack tensors into data files of at most ``max_bytes``, in the order of the graph."""

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "protobuf")

    transform: Literal["shard"] = "shard"
    max_bytes: Annotated[ByteSize, Field(gt=0, lt=2**31 - 1)] = Field(
        default=ByteSize(1_500_000_000), description="Bytes that one data file may have, as 1500000000 or 1.5GB."
    )
    naming: Naming = Field(
        default="numbered",
        description="Whose file names: numbered = m.onnx.data.000, .001 (parakeet_web); single = m.onnx.data "
        "(onnx-asr, which takes one file only); optimum = m.onnx_data, m.onnx_data_1 (transformers.js).",
    )
    min_tensor_bytes: int = Field(
        default=1024,
        ge=1,
        le=1 << 24,
        description="Tensors of fewer bytes stay in the model: onnxruntime refuses a shape or an axis in a data file.",
    )
    alignment: Literal[64, 4096, 65536] = Field(
        default=4096,
        description="Bytes; tensors of at least so many start at a multiple of it, so that they can be mapped "
        "(65536 on Windows). Smaller ones start at a multiple of 64.",
    )

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Write ``target`` and its data files.

        Precondition: no tensor to be moved is larger than ``max_bytes``. Postconditions, checked by opening what
        was written: the same tensors at the same places; every external one inside a new file, which has the
        size planned; as many bytes as were moved; no data file over ``max_bytes``.

        Returns:
            ``shards`` (name and bytes of each), ``tensors_moved``, ``bytes_moved`` (a shared tensor counts once),
            ``tensors_inline``.

        Raises:
            OnnxFileError: the model is not sound, or cannot be written.
            StepError: it does not fit the budget, or a postcondition does not hold.
        """
        from hubpub.onnxfile import OnnxFile, pack, write

        source = OnnxFile.open(model, lazy_bytes=self.min_tensor_bytes)
        tensors = list(source.tensors())
        to_move = []
        for located in tensors:
            payload = source.payload(located.tensor)
            if payload is None or payload.nbytes < self.min_tensor_bytes or not movable(located):
                continue
            if payload.nbytes > self.max_bytes:
                raise StepError(
                    f"{located.place} has {payload.nbytes} bytes, more than max_bytes = {self.max_bytes:d}",
                    where=str(model),
                    fix="raise max_bytes, or make the tensor smaller first (fp16, int8)",
                )
            to_move.append((located.steps, payload))

        bytes_moved = sum(payload.nbytes for payload in {payload for _, payload in to_move})

        def name(number: int) -> str:
            if number and self.naming == "single":
                raise StepError(
                    f"its tensors have {bytes_moved} bytes, and naming: single allows one file of {self.max_bytes:d}",
                    where=str(model),
                    fix="choose naming: numbered or optimum for a client that reads several files, or raise max_bytes",
                )
            return _NAMES[self.naming](target.name, number)

        slots = pack(to_move, name=name, max_bytes=self.max_bytes, alignment=self.alignment)
        sizes = write(source, target, slots, progress=progress)
        shards = {file: size for file, size in sizes.items() if file != target.name}
        self._check(target, [located.steps for located in tensors], sizes, bytes_moved)
        return {
            "shards": [{"name": file, "bytes": size} for file, size in shards.items()],
            "tensors_moved": len(to_move),
            "bytes_moved": bytes_moved,
            "tensors_inline": len(tensors) - len(to_move),
        }

    def _check(self, target: Path, places: list[object], sizes: dict[str, int], bytes_moved: int) -> None:
        from hubpub.onnxfile import FileBytes, OnnxFile

        written = OnnxFile.open(target, lazy_bytes=self.min_tensor_bytes)
        tensors = list(written.tensors())
        payloads = {payload for located in tensors if (payload := written.payload(located.tensor))}
        external = {p for p in payloads if isinstance(p, FileBytes) and p.path.name != target.name}
        problem = None
        if [located.steps for located in tensors] != places:
            problem = "the tensors of the written model are not those of the source"
        elif {p.path.name for p in external} != set(sizes) - {target.name}:
            problem = "the written model refers to other data files than were written"
        elif sum(p.nbytes for p in external) != bytes_moved:
            problem = (
                f"the data files hold {sum(p.nbytes for p in external)} bytes of tensors, {bytes_moved} were moved"
            )
        for file, size in sizes.items():
            on_disk = (target.parent / file).stat().st_size
            if on_disk != size:
                problem = f"{file} has {on_disk} bytes, {size} were written"
            elif size > self.max_bytes and file != target.name:
                problem = f"{file} has {size} bytes, max_bytes is {self.max_bytes:d}"
        if problem:
            raise StepError(problem, where=str(target))
