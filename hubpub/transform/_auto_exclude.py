"""``exclude: {auto: …}`` of a calibrated step: scan its layers, search, and run it with what the search left out.

All models of the search share one calibration, whose state lies in a folder with the windows as they were fed. Stored
weights of other operations (``store_others``) stay float32 in the scan, so that each row is of its layer alone; in the
search they are stored as they will be. The result is what the same step makes with the globs that were found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.errors import StepError
from hubpub.transform import sensitivity
from hubpub.transform._calibrated_int8 import CalibratedInt8, Call
from hubpub.transform._integers import state_folder
from hubpub.transform.exclude import AutoExclude, ExcludeBudget

if TYPE_CHECKING:
    from hubpub.transform.base import Facts, Progress, Windows

    Window = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


@dataclass(frozen=True)
class _Bound:
    """A step with its windows: a `hubpub.transform.sensitivity.Step`."""

    step: CalibratedInt8
    windows: Windows
    folder: Path
    always: tuple[str, ...]
    exclude: tuple[str, ...]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> _Bound:
        update = {name: value for name, value in (update or {}).items() if hasattr(self.step, name)}
        exclude = update.get("exclude", self.exclude)
        return replace(self, step=self.step.model_copy(update=update, deep=deep), exclude=exclude)

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        return self.step.quantize(model, Call(target, self.windows, self.folder, progress, self.always))


def leave_out_worst(step: CalibratedInt8, exclude: AutoExclude, model: Path, call: Call) -> Facts:
    """Run a step with the layers excluded that its budget asks for.

    Temporary disk: one model at a time, at most as large as the source, and the windows. An interrupted call goes on
    with the model it was at.

    Returns:
        The facts of the step, and ``sensitivity``: those of `hubpub.transform.sensitivity.Scan.facts`, ``excluded``
        (weights), ``budget``, ``snr_db`` of the result, ``models`` and ``runs`` that were made in all.

    Raises:
        StepError: the budget cannot be met, or the step fails.
    """
    from hubpub.onnxfile import OnnxFile
    from hubpub.transform.fp16 import tensor_bytes

    budget, always = exclude.auto, exclude.always
    plain = step.model_copy(update={"exclude": always, "layout": "external", "report_runtime": False})
    file = OnnxFile.open(model)
    size = tensor_bytes(file, model.name)
    with state_folder(call.resume, call.target) as state:
        folder = state / "search"
        folder.mkdir(exist_ok=True)
        kept = Kept(call.windows, state / "windows")
        rest = _Bound(plain, kept, state, always, always)
        alone = rest.model_copy(update={"store_others": "fp32", "store_fp16": (), "store_excluded": "fp32"})
        layers = sensitivity.layers_of(alone, model, folder)
        shown = kept.some(budget.windows)
        graph = file.model.SerializeToString(deterministic=True)
        identity = hashlib.sha256(f"{step.model_dump_json()} {kept.digest()}".encode() + graph).hexdigest()[:16]
        benches = [
            sensitivity.Bench(
                model,
                sensitivity.by_exclusion(bound, model, layers),
                shown,
                folder,
                step.threads,
                state / f"{name}.{identity}.json",
            )
            for name, bound in (("alone", alone), ("rest", rest))
        ]
        part = size * 3 // 4 // (len(layers) + 1)
        scanned = sensitivity.scan(benches[0], layers, lambda count: call.progress(count * part))
        choice, made = _choose(benches[1], scanned, budget, rest, model, folder)
        final = step.model_copy(update={"exclude": (*always, *choice.exclude)})
        last = replace(call, windows=kept, resume=state, progress=lambda n: call.progress(n // 4), shared=always)
        facts = final.quantize(model, last)
    models = 1 + benches[0].models + benches[1].models + made + 1
    measured = benches[0].models + benches[1].models
    return {
        **facts,
        "sensitivity": {
            **scanned.facts(),
            "excluded": [weight for layer in choice.excluded for weight in layer.weights],
            "budget": budget.model_dump(mode="json", exclude_none=True),
            "snr_db": round(choice.snr_db, 2),
            "models": models,
            "runs": (measured + 2) * len(shown),  # each bench ran the source too
        },
    }


def _choose(
    bench: sensitivity.Bench,
    scanned: sensitivity.Scan,
    budget: ExcludeBudget,
    rest: _Bound,
    model: Path,
    folder: Path,
) -> tuple[sensitivity.Choice, int]:
    """What to leave out, and how many models were made to see their size."""
    if budget.min_snr_db is not None:
        return sensitivity.exclude_until(bench, scanned, min_snr_db=budget.min_snr_db), 0
    assert budget.max_size is not None
    made = 0

    def bytes_over(exclude: tuple[str, ...]) -> int:
        nonlocal made
        made += 1
        try:
            found: Any = rest.model_copy(update={"exclude": (*rest.always, *exclude)}).apply(
                model, folder / "sized.onnx", lambda _: None
            )
        finally:
            for path in folder.glob("sized.onnx*"):
                path.unlink()
        return int(found["bytes_out"]) - int(budget.max_size * found["bytes_in"])

    over = bytes_over(())
    if over > 0:
        raise StepError(
            f"a size of {budget.max_size:g} of the source's weights is not met with every layer quantized, by "
            f"{over:,} bytes",
            where=model.name,
            fix="raise max_size, or store other weights at fewer bits",
        )
    left = -over
    while True:
        choice = sensitivity.exclude_until(bench, scanned, max_bytes_given_up=left)
        # What was added to the graph for a layer, and not only its weights, comes or goes with it.
        if not choice.excluded or (over := bytes_over(choice.exclude)) <= 0:
            return choice, made
        left -= max(over, 1)


class Kept:
    """Windows that are kept on disk when they are first asked for, because their features take time to compute."""

    def __init__(self, windows: Windows, folder: Path) -> None:
        self._windows, self._folder = windows, folder
        folder.mkdir(exist_ok=True)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._windows)

    def __iter__(self) -> Iterator[Window]:
        """From the first on."""
        paths = [self._folder / f"{number}.npz" for number in range(len(self))]
        if all(path.exists() for path in paths):
            yield from map(_load, paths)
            return
        for path, window in zip(paths, self._windows, strict=True):
            partial = path.with_name(f".{path.name}")
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **window)
            partial.replace(path)
            yield window

    def some(self, count: int) -> list[Window]:
        """At most so many, evenly from all."""
        wanted = min(count, len(self))
        chosen = {round((index + 0.5) * len(self) / wanted - 0.5) for index in range(wanted)}
        return [dict(window) for number, window in enumerate(self) if number in chosen]

    def digest(self) -> str:
        """Of all of them."""
        found = hashlib.sha256()
        for window in self:
            for name in sorted(window):
                array = np.ascontiguousarray(window[name])
                found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                found.update(array.tobytes())
        return found.hexdigest()


def _load(path: Path) -> Window:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
