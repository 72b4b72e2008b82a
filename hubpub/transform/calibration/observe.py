"""Run a model over windows, one at a time, and keep what the probes give; interruptible between windows."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.errors import StepError
from hubpub.transform._runtime import one_line, open_session
from hubpub.transform.calibration.probes import MIN_OPSET, Extremes, Histogram, Probe, Rows, Writer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hubpub.onnxfile import OnnxFile
    from hubpub.transform.base import Windows
    from hubpub.transform.calibration.probes import Accumulator

    Array = NDArray[Any]

_VERSION = 3
_HISTOGRAM_OPSET = 16
Done = Callable[[int], None]
"""Called with the number of windows just dealt with."""


class Observations:
    """What was seen, by probe."""

    def __init__(self, folder: Path, probes: Sequence[Probe], seen: Sequence[Accumulator], blocks: list[Any]) -> None:
        self._folder = folder
        self._seen = {probe.key(): each for probe, each in zip(probes, seen, strict=True)}
        self._blocks = blocks

    def __getitem__(self, probe: Probe) -> Accumulator:
        """The accumulator of a probe."""
        return self._seen[probe.key()]

    def rows(self, probe: Rows, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """The rows sampled in the windows ``start:stop``, ``[rows, width]``, from disk; in the order of the windows."""
        key = "/".join(probe.key())
        parts = []
        with (self._folder / "rows.bin").open("rb") as file:
            for window in self._blocks[start:stop]:
                if key in window:
                    offset, count = window[key]
                    file.seek(offset)
                    parts.append(np.frombuffer(file.read(4 * count * probe.width), np.float32))
        return np.concatenate(parts or [np.zeros(0, np.float32)]).reshape(-1, probe.width)


def observe(
    file: OnnxFile,
    windows: Windows,
    probes: Sequence[Probe],
    folder: Path,
    *,
    threads: int = 0,
    progress: Done = lambda _: None,
) -> Observations:
    """Let onnxruntime run a model over all windows, and take in what the probes give for each.

    The tapped graph refers to the bytes of the model where they are (by hard links, so only graph and numbers take
    disk, where ``folder`` is on the model's file system). After every window the state is saved in ``folder``; a call
    with the same arguments goes on from there and gives the identical result.

    Args:
        file: the model; it is not changed. Its weights may have been replaced.
        windows: what to run.
        probes: what to ask.
        folder: for state and graph; kept by the caller as long as a repetition should go on from it.
        threads: of onnxruntime, 0 = all cores.
        progress: told of every window, those of an earlier call too.

    Raises:
        StepError: no window, a window does not fit the model, values are NaN, infinite, or none at all, opset too old.
    """
    where = file.path.name
    opset = next((o.version for o in file.model.opset_import if o.domain in ("", "ai.onnx")), 0)
    needed = _HISTOGRAM_OPSET if any(isinstance(probe, Histogram) for probe in probes) else MIN_OPSET
    if opset < needed:
        raise StepError(
            f"has opset {opset}, this calibration needs {needed}", where=where, fix="export it with opset 17"
        )
    if not len(windows):
        raise StepError("there are no windows to calibrate on", where=where, fix="name a corpus with audio")
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(file, probes, folder, len(windows), opset)
    run.resume()
    session: Any = None
    with tempfile.TemporaryDirectory(dir=folder, prefix="graph.") as scratch:
        for number, window in enumerate(windows):
            digest = _digest(window)
            if number < len(run.done) and run.done[number] == digest:
                progress(1)
                continue
            if number < len(run.done):  # other windows than those that the state is of
                (folder / "state.npz").unlink()
                return observe(file, windows, probes, folder, threads=threads, progress=progress)
            session = session or open_session(run.write(Path(scratch)), threads, where)
            run.take(session, window, digest, where)
            progress(1)
    for probe, seen in zip(probes, run.seen, strict=True):
        if isinstance(probe, Extremes) and not seen["count"]:
            raise StepError(
                f"value {probe.value!r} is empty in every window",
                where=where,
                fix="give windows in which it is not, or exclude the nodes that use it",
            )
    return Observations(folder, probes, run.seen, run.blocks)


class _Run:
    def __init__(self, file: OnnxFile, probes: Sequence[Probe], folder: Path, windows: int, opset: int) -> None:
        self._file, self._probes, self._folder, self._opset = file, probes, folder, opset
        identity = hashlib.sha256(file.model.SerializeToString(deterministic=True))
        identity.update(json.dumps([_VERSION, windows, [probe.key() for probe in probes]]).encode())
        self._identity = identity.hexdigest()
        self._outputs: list[list[str]] = []
        self.restart()

    def restart(self) -> None:
        """Start from nothing."""
        self.seen: list[Accumulator] = [probe.start() for probe in self._probes]
        self.done: list[str] = []
        self.blocks: list[dict[str, tuple[int, int]]] = []
        self._end = 0

    def resume(self) -> None:
        """Take up what an earlier call left, if it was of the same kind."""
        try:
            with np.load(self._folder / "state.npz", allow_pickle=False) as state:
                head = json.loads(str(state["head"]))
                if head["identity"] != self._identity:
                    return
                unpack(state["seen"], head["layout"], self.seen)
        except (OSError, ValueError, KeyError, EOFError):
            return
        self.done, self._end = head["done"], head["end"]
        self.blocks = [{key: (at, count) for key, (at, count) in window.items()} for window in head["blocks"]]

    def take(self, session: Any, window: Mapping[str, Array], digest: str, where: str) -> None:
        """Run one window and save the state."""
        names = [name for group in self._outputs for name in group]
        fed = dict(window)
        for name, array in fed.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise StepError(
                    f"input {name!r} is NaN in window {len(self.done) + 1}",
                    where=where,
                    fix="leave out audio that is too short, or that its features cannot be computed of",
                )
        for probe, seen in zip(self._probes, self.seen, strict=True):
            fed.update(probe.feeds(seen))
        try:
            given = iter(session.run(names, fed))
        except Exception as error:  # onnxruntime's errors have no class of their own
            raise StepError(
                f"window {len(self.done) + 1} does not run: {one_line(error)}",
                where=where,
                fix="give windows that the model takes",
            ) from error
        blocks: dict[str, tuple[int, int]] = {}
        with (self._folder / "rows.bin").open("r+b" if self._end else "wb") as rows:
            rows.seek(self._end)
            for probe, seen, group in zip(self._probes, self.seen, self._outputs, strict=True):
                arrays = [np.asarray(next(given)) for _ in group]
                if not probe.sound(arrays):
                    raise StepError(
                        f"value {probe.value!r} is NaN or infinite in window {len(self.done) + 1}",
                        where=where,
                        fix="exclude the nodes that use it",
                    )
                if isinstance(probe, Rows):
                    blocks["/".join(probe.key())] = (rows.tell(), len(arrays[0]))
                    rows.write(np.ascontiguousarray(arrays[0], np.float32).tobytes())
                else:
                    probe.fold(seen, arrays)
            self._end = rows.tell()
            rows.flush()
            os.fsync(rows.fileno())
        self.done.append(digest)
        self.blocks.append(blocks)
        self._save()

    def _save(self) -> None:
        seen, layout = pack(self.seen)
        head = {"identity": self._identity, "done": self.done, "end": self._end, "blocks": self.blocks}
        partial = self._folder / ".state.partial"
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, head=np.array(json.dumps({**head, "layout": layout})), seen=seen)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._folder / "state.npz")

    def write(self, folder: Path) -> Path:
        """Write the tapped graph, its outputs those of the probes alone; the data it refers to is linked."""
        import onnx

        from hubpub.onnxfile import FileBytes
        from hubpub.onnxfile.file import detach
        from hubpub.onnxfile.tensors import walk
        from hubpub.store import copy_file
        from hubpub.transform.layout import MIN_EXTERNAL_BYTES, movable

        model = onnx.ModelProto()
        model.CopyFrom(self._file.model)
        del model.graph.output[:]
        writer = Writer(model.graph, self._opset)
        self._outputs = []
        known: set[str] = set()
        for probe in self._probes:
            given = probe.attach(writer)
            for name, type_ in given:
                if name not in known:
                    known.add(name)
                    writer.output(name, type_)
            self._outputs.append([name for name, _ in given])
        linked: dict[Path, str] = {}
        for located in walk(model):
            payload = self._file.payload(located.tensor)
            if payload is None:
                continue
            detach(located.tensor)
            if not (isinstance(payload, FileBytes) and payload.nbytes >= MIN_EXTERNAL_BYTES and movable(located)):
                located.tensor.raw_data = payload.read()
                continue
            if payload.path not in linked:
                linked[payload.path] = f"weights.{len(linked)}"
                copy_file(payload.path, folder / linked[payload.path], link=True)
            located.tensor.data_location = located.tensor.EXTERNAL
            entries = {"location": linked[payload.path], "offset": payload.offset, "length": payload.nbytes}
            for key, value in entries.items():
                located.tensor.external_data.add(key=key, value=str(value))
        (folder / "tapped.onnx").write_bytes(model.SerializeToString(deterministic=True))
        return folder / "tapped.onnx"


def pack(accumulators: Sequence[Accumulator]) -> tuple[Array, list[list[Any]]]:
    """All arrays of accumulators as bytes in a row, and type and shape of each."""
    arrays = [array for seen in accumulators for array in seen.values()]
    joined = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return np.frombuffer(joined, np.uint8), [[array.dtype.str, list(array.shape)] for array in arrays]


def unpack(packed: Array, layout: Sequence[Sequence[Any]], accumulators: Sequence[Accumulator]) -> None:
    """Fill accumulators, of the same names as those packed, with what `pack` gave.

    Raises:
        ValueError: it is not of them.
    """
    names = [(seen, name) for seen in accumulators for name in seen]
    data, at = packed.tobytes(), 0
    for (seen, name), (kind, shape) in zip(names, layout, strict=True):
        dtype = np.dtype(kind)
        count = math.prod(shape)
        seen[name] = np.frombuffer(data, dtype, count, at).reshape(shape).copy()
        at += count * dtype.itemsize
    if at != len(data):
        raise ValueError("more than was asked for")


def _digest(window: Mapping[str, Array]) -> str:
    found = hashlib.sha256()
    for name in sorted(window):
        array = np.ascontiguousarray(window[name])
        found.update(f"{name}\n{array.dtype.str}\n{array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()
