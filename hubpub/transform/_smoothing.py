"""The run of `hubpub.transform.smoothquant_int8` over a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.transform import _int8_values as i8
from hubpub.transform import _smooth
from hubpub.transform._float_inputs import FloatInputs, see_inputs
from hubpub.transform._fold import Folder
from hubpub.transform._int8_layers import Group, Layer, find_layers, group
from hubpub.transform._integers import nothing_to_do, state_folder, window_progress
from hubpub.transform._ledger import Ledger
from hubpub.transform._percentiles import SomeWindows, cover
from hubpub.transform._products import product
from hubpub.transform._qdq import QdqWriter, check_opset, replace_product
from hubpub.transform._smooth import Half, Smoothing
from hubpub.transform.calibration.observe import Observations, observe
from hubpub.transform.calibration.probes import Extremes, Probe, Rows, Tail
from hubpub.transform.calibration.smoothed_tail import SmoothedTail
from hubpub.transform.exclude import named

if TYPE_CHECKING:
    from hubpub.transform._calibrated_int8 import Call
    from hubpub.transform._weights import Weights
    from hubpub.transform.base import Facts, Windows
    from hubpub.transform.smoothquant_int8 import SmoothQuantInt8

    Array = np.ndarray[Any, np.dtype[Any]]

_ROWS = 800
"""Rows sampled in all, of which a choice is made; fewer where they would take too much disk."""
_ROWS_TO_REPORT = 64
_ROW_BYTES = 64 << 20
_ROW_SHARE = 0.2
"""Rows take at most this share of the model's bytes, or `_ROW_BYTES` if that is more."""
_WORKERS = 2

Made = tuple[Layer, "Array", "Array", float, int, "Array | None"]
"""A layer, its integers and scales (or floats), SNR of the weights, columns rescaled, mean error of its output."""


class SmoothQuant:
    """One run over a model."""

    def __init__(self, weights: Weights, params: SmoothQuantInt8, call: Call) -> None:
        self._weights, self._params, self._call = weights, params, call
        self._share = 1 - params.percentile / 100
        passes = (1 if params.ranges == "minmax" else 2) + (params.store_excluded != "fp32")
        self._progress = window_progress(weights, len(call.windows) * passes, call.progress)
        self._ledger = Ledger()
        self._split = max(len(call.windows) * 3 // 4, 1)
        self._pair_safe = params.target == "x86"

    def run(self) -> tuple[Ledger, Mapping[str, str], Facts]:
        """Calibrate, choose, fold and rewrite."""
        params, weights = self._params, self._weights
        check_opset(weights)
        layers = find_layers(weights, self._ledger, named(params.exclude), params.min_elements)
        excluded = self._excluded(layers)
        if not layers and not excluded:
            raise nothing_to_do(self._ledger, weights)
        groups = group(layers)
        with state_folder(self._call.resume, self._call.target) as folder:
            chosen = self._choose(groups, folder) if groups else []
            self._float_inputs(excluded, folder / "pass0")
        folder_ = Folder(weights, layers)
        places = {g: self._fold(g, smoothing, folder_) for g, smoothing in zip(groups, chosen, strict=True)}
        writer = QdqWriter(weights)
        integers: dict[str, str] = {}
        jobs = [(g, s) for g, s in zip(groups, chosen, strict=True)]
        with ThreadPoolExecutor(_WORKERS) as pool:
            for (g, smoothing), made in zip(jobs, _bounded(pool, self._matrices, jobs, folder_), strict=True):
                self._write(g, smoothing, places[g], made, writer, integers, folder_)
        facts: Facts = {"calibration": {"windows": len(self._call.windows), "groups": len(groups)}}
        return self._ledger, integers, facts

    # ------------------------------------------------------------------------------------------- excluded layers

    def _excluded(self, layers: list[Layer]) -> list[Layer]:
        """The layers that are left out of ``layers`` only because they are excluded, if something becomes of them."""
        if self._params.store_excluded == "fp32" or self._params.output != "int8":
            return []
        taken = {layer.use.index for layer in layers}
        found = find_layers(self._weights, Ledger(), (), self._params.min_elements)
        return [layer for layer in found if layer.use.index not in taken]

    def _float_inputs(self, layers: list[Layer], folder: Path) -> None:
        if not layers:
            return
        rows = see_inputs(self._weights, layers, self._call.windows, folder, self._params.threads, self._progress)
        writer = FloatInputs(self._weights, self._ledger)
        for layer in layers:
            writer.replace(layer, rows)

    # ---------------------------------------------------------------------------------------------- calibration

    def _choose(self, groups: list[Group], folder: Path) -> list[Smoothing]:
        """Calibrate and choose; what was chosen is kept in ``folder``, and the rows it was chosen by are not."""
        params, kept = self._params, folder / "chosen.npz"
        identity = hashlib.sha256(self._weights.file.model.SerializeToString(deterministic=True))
        identity.update(params.model_dump_json().encode() + str(len(self._call.windows)).encode())
        if (loaded := _load(kept, identity.hexdigest(), len(groups))) is not None:
            return loaded
        layers = [layer for g in groups for layer in g.layers]
        if self._call.shared is not None:
            layers = find_layers(self._weights, Ledger(), self._call.shared, params.min_elements)
        inputs = {layer.input: layer.width for layer in layers}
        searched, windows = params.alpha == "search", len(self._call.windows)
        budget = max(_ROW_BYTES, int(_ROW_SHARE * sum(self._weights.nbytes(c) for c in self._weights.constants())))
        total = min(_ROWS if searched else _ROWS_TO_REPORT, budget // (4 * sum(inputs.values())))
        count = max(-(-total // max(windows, 1)), 1)
        extremes = {name: Extremes(name, width, self._split) for name, width in inputs.items()}
        rows = {name: Rows(name, width, count) for name, width in inputs.items()}

        def look(probes: list[Tail], numbers: list[int]) -> Observations:
            return self._observe(probes, SomeWindows(self._call.windows, numbers), folder / "pass2")

        with ThreadPoolExecutor(_WORKERS) as pool:
            tails = self._guesses(layers, pool)
            seen = self._observe(
                [*extremes.values(), *rows.values(), *tails.values()], self._call.windows, folder / "pass1"
            )
            chosen = list(pool.map(lambda g: self._choose_one(g, seen, extremes, rows), groups))
        if params.ranges == "percentile":
            counts = {name: int(seen[probe]["count"]) for name, probe in extremes.items()}
            chosen = cover(groups, chosen, counts, tails, seen, look, windows=windows, share=self._share)
        _save(kept, identity.hexdigest(), chosen)
        if self._call.shared is None:
            for path in folder.glob("pass?/rows.bin"):
                path.unlink()
        return chosen

    def _observe(self, probes: Sequence[Probe], windows: Windows, folder: Path) -> Observations:
        threads = self._params.threads
        return observe(self._weights.file, windows, probes, folder, threads=threads, progress=self._progress)

    def _choose_one(
        self, g: Group, seen: Observations, extremes: Mapping[str, Extremes], rows: Mapping[str, Rows]
    ) -> Smoothing:
        params = self._params
        halves = []
        for half, span in enumerate(((0, self._split), (self._split, None))):
            low = np.minimum.reduce([seen[extremes[name]]["low"][half] for name in g.inputs])
            high = np.maximum.reduce([seen[extremes[name]]["high"][half] for name in g.inputs])
            halves.append(Half(low, high, np.concatenate([seen.rows(rows[name], *span) for name in g.inputs])))
        columns, reach = _smooth.sample([layer.matrix(self._weights) for layer in g.weights.values()])
        if params.alpha == "search":
            tried = _smooth.candidates(_smooth.ALPHAS, _smooth.FLOORS, [params.margin * m for m in _smooth.MARGINS])
        else:
            tried = [_smooth.Candidate(params.alpha, 1.0, params.margin)]
        return _smooth.choose(halves, columns, reach, tried, asymmetric=params.asymmetric, pair_safe=self._pair_safe)

    def _guesses(self, layers: list[Layer], pool: ThreadPoolExecutor) -> dict[str, SmoothedTail]:
        """For each input a look at its tail under the divisors that the windows so far suggest; alpha is known."""
        params, by_input = self._params, dict[str, list[Layer]]()
        if params.ranges != "percentile" or params.alpha == "search":
            return {}
        for layer in layers:
            by_input.setdefault(layer.input, []).append(layer)
        candidate = _smooth.Candidate(params.alpha, 1.0, params.margin)

        def guess(found: list[Layer]) -> SmoothedTail:
            reach = _smooth.sample([layer.matrix(self._weights) for layer in found])[1]
            label = hashlib.sha256(reach.tobytes()).hexdigest() + f" {params.alpha}"
            return SmoothedTail(
                found[0].input,
                found[0].width,
                self._share,
                len(self._call.windows),
                lambda low, high: _smooth.divisors_of(candidate, low, high, reach),
                label,
            )

        return dict(zip(by_input, pool.map(guess, by_input.values()), strict=True))

    # ------------------------------------------------------------------------------------------------- rewriting

    def _fold(self, g: Group, smoothing: Smoothing, folder: Folder) -> dict[str, str]:
        """Where the divisors of each input went; nothing where a Mul has to be added."""
        if smoothing.divisors is None:
            return dict.fromkeys(g.inputs, "none")
        main = self._weights.scopes[0]
        factors = 1 / smoothing.divisors.astype(np.float64)
        places = {}
        for name in g.inputs:
            readers = {(main, layer.use.index, 0) for layer in g.layers if layer.input == name}
            places[name] = folder.fold(name, factors, readers)
        return places

    def _matrices(self, job: tuple[Group, Smoothing], folder: Folder) -> list[Made]:
        """For each distinct matrix of a group: integers, scales, error share and columns rescaled."""
        g, smoothing = job
        found: list[Made] = []
        for layer in g.weights.values():
            matrix = layer.matrix(self._weights)
            if smoothing.divisors is not None:
                matrix *= smoothing.divisors[:, None]
            if layer in folder.columns:
                matrix *= folder.columns[layer].astype(np.float32)
            if self._params.output == "smoothed_fp32":
                found.append((layer, matrix, np.zeros(0, np.float32), 300.0, 0, None))
                continue
            plain, _ = i8.scale_of(*i8.extremes(matrix, 1), i8.INT8)
            scale = i8.pair_safe_scale(matrix, plain) if self._pair_safe else plain
            integers, signal, error = i8.quantize_columns(matrix, scale, i8.INT8)
            snr = i8.snr_db(signal, error)
            offset = product(smoothing.means[:1], matrix)[0]
            offset -= product(smoothing.means[1:], integers.astype(np.float32))[0] * scale
            found.append((layer, integers, scale, snr, int(np.count_nonzero(scale > plain)), offset))
        return found

    def _write(
        self,
        g: Group,
        smoothing: Smoothing,
        places: Mapping[str, str],
        made: list[Made],
        writer: QdqWriter,
        integers: dict[str, str],
        folder: Folder,
    ) -> None:
        by_weight = {(m[0].weight, m[0].transposed, m[0].alpha): m for m in made}
        scale, zero = _smooth.grid_of(smoothing.low, smoothing.high, asymmetric=self._params.asymmetric)
        for layer in g.layers:
            first, values, steps, snr, rescaled, offset = by_weight[layer.weight, layer.transposed, layer.alpha]
            scope, index = layer.use.scope, layer.use.index
            left = layer.input
            if not places[left]:
                assert smoothing.divisors is not None
                left = writer.divided(scope, index, left, smoothing.divisors)
            form = f"{layer.transposed} {layer.alpha}"
            if self._params.output == "smoothed_fp32":
                right = writer.floats(scope, layer.weight, form, values)
            else:
                left = writer.activation(scope, index, left, scale, zero)
                right, integers[layer.name] = writer.weight(scope, index, layer.weight, form, values, steps)
            replace_product(self._weights, layer, left, right)
            corrected = offset is not None and self._params.correct_means and folder.offset(layer, offset)
            if layer is first:
                sizes = self._weights.nbytes(layer.weight), values.nbytes + steps.nbytes
                self._ledger.enter(
                    layer.weight,
                    op=layer.use.node.op_type,
                    node=layer.name,
                    method="smoothed" if self._params.output == "smoothed_fp32" else "smoothquant int8",
                    sizes=sizes,
                    snr=snr,
                    scales=np.concatenate([np.atleast_1d(scale), steps]),
                )
                facts = self._layer_facts(smoothing, places[layer.input])
                self._ledger.layers[-1].update({**facts, "columns_rescaled": rescaled, "mean_corrected": corrected})

    @staticmethod
    def _layer_facts(smoothing: Smoothing, place: str) -> Facts:
        candidate = smoothing.candidate
        return {
            "alpha": candidate.alpha,
            "floor": candidate.floor,
            "margin": round(candidate.margin, 4),
            "folded_into": place or "Mul added",
            "input_low": smoothing.low,
            "input_high": smoothing.high,
            "output_snr_db": round(smoothing.snr_db, 2),
        }


def _bounded(pool: ThreadPoolExecutor, work: Any, jobs: list[Any], *more: Any) -> Any:
    """Results in order, never more than a few ahead, so that memory stays bounded."""
    waiting = []
    for job in jobs:
        waiting.append(pool.submit(work, job, *more))
        if len(waiting) > _WORKERS:
            yield waiting.pop(0).result()
    for each in waiting:
        yield each.result()


def _save(path: Path, identity: str, chosen: list[Smoothing]) -> None:
    arrays: dict[str, Array] = {}
    heads = []
    for number, smoothing in enumerate(chosen):
        arrays[f"{number}/means"] = smoothing.means
        if smoothing.divisors is not None:
            arrays[f"{number}/divisors"] = smoothing.divisors
        c = smoothing.candidate
        heads.append([c.alpha, c.floor, c.margin, smoothing.low, smoothing.high, smoothing.snr_db])
    partial = path.with_name(".chosen.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, head=np.array(json.dumps([identity, heads])), **arrays)
    partial.replace(path)


def _load(path: Path, identity: str, groups: int) -> list[Smoothing] | None:
    try:
        with np.load(path, allow_pickle=False) as state:
            known, heads = json.loads(str(state["head"]))
            if known != identity or len(heads) != groups:
                return None
            return [
                Smoothing(
                    _smooth.Candidate(alpha, floor, margin),
                    state.get(f"{n}/divisors"),
                    low,
                    high,
                    state[f"{n}/means"],
                    snr,
                )
                for n, (alpha, floor, margin, low, high, snr) in enumerate(heads)
            ]
    except (OSError, ValueError, KeyError, EOFError):
        return None
