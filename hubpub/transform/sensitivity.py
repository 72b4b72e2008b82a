"""How much error each layer adds when it alone is quantized, and which layers to leave out to meet a budget.

The scan asks nothing of the method but a function that quantizes some layers and leaves the others. For ``L``
layers and ``W`` windows it costs ``L + 1`` quantizations, ``L + 2`` sessions and ``(L + 2) · W`` runs; one session and
one model on disk exist at a time. In memory are the reference outputs of all windows.

The search is greedy: layers by the error they add for each byte that they save, worst first, and of that list as
many from the front as the budget asks for. A budget on error is met by bisection, each step measured, so by at most
``ceil(log2(L + 1))`` further quantizations; one on size is met by arithmetic and measured once. Errors of layers add
up only roughly, so the list is a heuristic; what is returned is measured, not predicted.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hubpub.errors import StepError
from hubpub.store import write_atomic
from hubpub.transform._runtime import one_line, open_session

if TYPE_CHECKING:
    import numpy as np
    from pydantic import JsonValue

    from hubpub.transform.base import Facts, Progress

    Array = np.ndarray[Any, np.dtype[Any]]

Window = Mapping[str, "Array"]
"""The inputs of one run, by name."""

Quantize = Callable[[frozenset[str], Path], None]
"""Write, as the path given, the model with the layers named quantized and no others."""

NO_ERROR_DB = 300.0
"""Stands for the SNR of outputs that are equal."""


@dataclass(frozen=True)
class Layer:
    """What is quantized or left as a whole."""

    name: str
    op: str
    bytes_saved: int
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A layer, and what quantizing it alone does to the model's outputs."""

    layer: Layer
    noise: float
    """Squared error over squared signal, pooled over the windows, mean over the outputs."""

    @property
    def snr_db(self) -> float:
        """The same in dB."""
        return to_db(self.noise)


@dataclass(frozen=True)
class Scan:
    """All layers, the one that adds most error first."""

    rows: tuple[Row, ...]
    together_db: float
    """SNR with all of them quantized."""
    windows: int

    @property
    def cost(self) -> dict[str, int]:
        """What it took: models quantized, sessions made, windows run."""
        layers = len(self.rows)
        return {"quantizations": layers + 1, "sessions": layers + 2, "runs": (layers + 2) * self.windows}

    def facts(self) -> dict[str, JsonValue]:
        """The table for a manifest."""
        return {
            "layers": [
                {
                    "layer": row.layer.name,
                    "op": row.layer.op,
                    "weights": list(row.layer.weights),
                    "snr_db": round(row.snr_db, 2),
                    "bytes_saved": row.layer.bytes_saved,
                }
                for row in self.rows
            ],
            "together_snr_db": round(self.together_db, 2),
            "windows": self.windows,
            "cost": {**self.cost},
        }


@dataclass(frozen=True)
class Choice:
    """Layers to leave out, and what was measured without them."""

    excluded: tuple[Layer, ...]
    snr_db: float
    bytes_saved: int
    evaluations: int
    """Models quantized and run for it, beyond the scan."""

    @property
    def exclude(self) -> tuple[str, ...]:
        """Globs for a step's ``exclude`` that match just these layers' weights."""
        return tuple(glob.escape(weight) for layer in self.excluded for weight in layer.weights or (layer.name,))


@dataclass
class Bench:
    """Runs quantized models against the outputs of the original.

    Args:
        model: the original.
        quantize: see `Quantize`.
        windows: inputs, at least one.
        folder: a folder of the caller's, for one model at a time.
        threads: of onnxruntime; 0 = as many as it likes.
        memory: a file that outlives an interrupted search: what it holds is not measured again. The caller sees to it
            that it belongs to the same model, windows and function.
    """

    model: Path
    quantize: Quantize
    windows: Sequence[Window]
    folder: Path
    threads: int = 0
    memory: Path | None = None
    _known: dict[frozenset[str], float] = field(default_factory=dict, repr=False)
    _reference: list[list[Array]] = field(default_factory=list, repr=False)
    _signal: list[float] = field(default_factory=list, repr=False)

    @property
    def models(self) -> int:
        """How many models were asked for, those of an interrupted search too."""
        return len(self._known)

    def noise(self, layers: frozenset[str]) -> float:
        """Relative error power of the outputs with ``layers`` quantized; the same is measured once.

        Raises:
            StepError: the outputs are not comparable: other shapes, none of floats, NaN or infinity.
        """
        if layers not in self._known:
            kept = self._remembered()
            key = hashlib.sha256("\n".join(sorted(layers)).encode()).hexdigest()
            if key not in kept:
                kept[key] = self._measure(layers)
                if self.memory is not None:
                    write_atomic(self.memory, json.dumps(kept, sort_keys=True).encode())
            self._known[layers] = kept[key]
        return self._known[layers]

    def _remembered(self) -> dict[str, float]:
        if self.memory is None or not self.memory.exists():
            return {}
        found: dict[str, float] = json.loads(self.memory.read_bytes())
        return found

    def _measure(self, layers: frozenset[str]) -> float:
        import numpy as np

        self._refer()
        target = self.folder / "candidate.onnx"
        try:
            self.quantize(layers, target)
            session = open_session(target, self.threads, target.name)
            errors = [0.0] * len(self._signal)
            for window, expected in zip(self.windows, self._reference, strict=True):
                for index, (before, after) in enumerate(zip(expected, _floats(session, window), strict=True)):
                    if before.shape != after.shape:
                        raise StepError(
                            f"has an output of {after.shape}, the original one of {before.shape}", where=target.name
                        )
                    errors[index] += float(np.square(after.astype(np.float64) - before).sum())
            del session
        finally:
            for path in self.folder.glob("candidate.onnx*"):
                path.unlink()
        if not all(map(math.isfinite, errors)):
            raise StepError(f"gives NaN or infinity with {_few(layers)} quantized", where=self.model.name)
        pairs = [(error, signal) for error, signal in zip(errors, self._signal, strict=True) if signal > 0]
        return sum(error / signal for error, signal in pairs) / len(pairs)

    def _refer(self) -> None:
        import numpy as np

        if self._reference:
            return
        if not self.windows:
            raise StepError("there is no window to run", where=self.model.name)
        session = open_session(self.model, self.threads, self.model.name)
        self._reference = [_floats(session, window) for window in self.windows]
        count = len(self._reference[0])
        self._signal = [
            sum(float(np.square(outputs[index], dtype=np.float64).sum()) for outputs in self._reference)
            for index in range(count)
        ]
        if not all(map(math.isfinite, self._signal)) or not any(self._signal):
            raise StepError("its outputs are no finite numbers to compare with, or all zero", where=self.model.name)


def scan(bench: Bench, layers: Sequence[Layer], done: Callable[[int], None] = lambda _: None) -> Scan:
    """Quantize each layer alone, and all together.

    Args:
        bench: where the models run.
        layers: at least one; names are unique.
        done: told 1 whenever a model has been run.
    """
    if not layers or len({layer.name for layer in layers}) != len(layers):
        raise ValueError("layers must be there, with names of their own")
    rows = []
    for layer in layers:
        rows.append(Row(layer, bench.noise(frozenset({layer.name}))))
        done(1)
    together = bench.noise(frozenset(layer.name for layer in layers))
    done(1)
    rows.sort(key=lambda row: (-row.noise, row.layer.name))
    return Scan(tuple(rows), to_db(together), len(bench.windows))


def exclude_until(
    bench: Bench, scanned: Scan, *, min_snr_db: float | None = None, max_bytes_given_up: int | None = None
) -> Choice:
    """Leave out the worst layers until a budget is met; exactly one budget is given.

    Args:
        bench: where the models run; that of the scan, or one that quantizes more besides.
        scanned: from `scan`.
        min_snr_db: leave out as few as give the outputs at least this SNR.
        max_bytes_given_up: leave out as many as, together, would have saved at most so many bytes.

    Raises:
        StepError: the budget cannot be met with anything quantized.
    """
    if (min_snr_db is None) == (max_bytes_given_up is None):
        raise ValueError("give one budget")
    ranked = [row.layer for row in sorted(scanned.rows, key=_worth)]
    before = bench.models

    def measure(excluded: Sequence[Layer]) -> float:
        left = frozenset(layer.name for layer in ranked) - {layer.name for layer in excluded}
        return to_db(bench.noise(left)) if left else NO_ERROR_DB

    if min_snr_db is None:
        excluded: list[Layer] = []
        left = max_bytes_given_up or 0
        for layer in ranked:
            if layer.bytes_saved <= left and len(excluded) < len(ranked) - 1:
                excluded.append(layer)
                left -= layer.bytes_saved
        snr = measure(excluded)
    else:
        low, high = 0, len(ranked)  # the first `high` are enough, fewer than `low` are not
        at = {high: NO_ERROR_DB}
        while low < high:
            middle = (low + high) // 2
            at[middle] = measure(ranked[:middle])
            low, high = (low, middle) if at[middle] >= min_snr_db else (middle + 1, high)
        excluded, snr = ranked[:high], at[high]
        if high == len(ranked):
            raise StepError(
                f"an SNR of {min_snr_db:g} dB is not met with any layer quantized",
                where=bench.model.name,
                fix="lower it, or choose another method",
            )
    saved = sum(layer.bytes_saved for layer in ranked) - sum(layer.bytes_saved for layer in excluded)
    return Choice(tuple(excluded), snr, saved, bench.models - before)


def to_db(noise: float) -> float:
    """An error power relative to the signal as an SNR in dB."""
    return min(-10 * math.log10(noise), NO_ERROR_DB) if noise > 0 else NO_ERROR_DB


def _worth(row: Row) -> tuple[float, str]:
    """Most error for a byte first."""
    return -row.noise / max(row.layer.bytes_saved, 1), row.layer.name


# ------------------------------------------------------------------------------------------------ steps as methods


class Step(Protocol):
    """A transformation that can be told what to leave out, and says what it quantized."""

    @property
    def exclude(self) -> tuple[str, ...]: ...  # noqa: D102
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Step: ...  # noqa: D102
    def apply(self, model: Path, target: Path, progress: Progress) -> Facts: ...  # noqa: D102


def layers_of(step: Step, model: Path, folder: Path) -> list[Layer]:
    """What a step quantizes of a model, found by letting it: the matrices of one LSTM are one layer.

    Raises:
        StepError: nothing can be quantized.
    """
    target = folder / "candidate.onnx"
    try:
        entries: Any = step.model_copy(update={"report_runtime": False}).apply(model, target, lambda _: None)["layers"]
    finally:
        for path in folder.glob("candidate.onnx*"):
            path.unlink()
    found: dict[str, Layer] = {}
    for entry in entries:
        name = entry["node"] if entry["op"] in ("LSTM", "GRU", "RNN") and entry["node"] else entry["weight"]
        before = found.get(name, Layer(name, entry["op"], 0))
        saved = before.bytes_saved + entry["bytes_in"] - entry["bytes_out"]
        found[name] = Layer(name, entry["op"], saved, (*before.weights, entry["weight"]))
    return list(found.values())


def by_exclusion(step: Step, model: Path, layers: Sequence[Layer]) -> Quantize:
    """The step as a `Quantize`: it excludes every layer but those asked for."""

    def quantize(wanted: frozenset[str], target: Path) -> None:
        others = Choice(tuple(layer for layer in layers if layer.name not in wanted), 0, 0, 0).exclude
        update = {"exclude": (*step.exclude, *others), "report_runtime": False}
        step.model_copy(update=update).apply(model, target, lambda _: None)

    return quantize


# ---------------------------------------------------------------------------------------------------------- sessions


def _floats(session: Any, window: Window) -> list[Array]:
    """The outputs that have fractions."""
    import numpy as np

    try:
        outputs = session.run(None, dict(window))
    except Exception as error:  # onnxruntime's errors have no class of their own
        fix = "give every input of the model by name"
        raise StepError(f"a window does not run: {one_line(error)}", fix=fix) from None
    floats = [np.asarray(output) for output in outputs if isinstance(output, np.ndarray) and output.dtype.kind == "f"]
    if not floats:
        raise StepError("none of its outputs has fractions, so there is no error to measure")
    return floats


def _few(names: frozenset[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
