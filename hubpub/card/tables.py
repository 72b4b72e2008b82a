"""Figures side by side: runs over one corpus, and the candidates of a ladder or roster, in rows; figures in columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubpub.card.figures import cell, narrow, size
from hubpub.manifest import CandidateRecord, ChoiceRecord, Manifest
from hubpub.measure.measurement import Measurement

_LEFT_OUT = ("download_size", "rtfx", "latency_p95")
"""What the column of sizes, or another figure of the same kind, says too; the tables of the runs have them."""

_STATES = {
    "chosen": "**published**",
    "passed": "passes its gates",
    "missed": "misses a gate",
    "failed": "failed",
    "not tried": "not tried",
}


@dataclass(frozen=True)
class _Row:
    """Its name, what it is called as part of a key, its bytes, and its figures by column."""

    name: str
    size: int | None
    figures: dict[str, Measurement]
    last: str | None = None


def side_by_side(manifest: Manifest) -> list[dict[str, Any]]:
    """Runs of one client over one corpus: the variants of a model. None where a run stands alone."""
    groups: dict[tuple[str | None, str], list[str]] = {}
    for run in manifest.runs:
        corpus = next((each.corpus for each in manifest.all_measurements() if each.run == run), None)
        if "@" not in run and corpus is not None:
            groups.setdefault((corpus, _client(manifest, run)), []).append(run)
    names = {corpus.digest: name for name, corpus in manifest.corpora.items()}
    tables = []
    for (corpus, client), runs in groups.items():
        rows = [_Row(run, _size(manifest, run), _columns(manifest, [run])) for run in runs]
        if len(rows) > 1 and (columns := _shown(rows)):
            tables.append(
                {"corpus": names.get(corpus or "", "the same audio"), "client": client, **_table(rows, columns)}
            )
    return tables


def choices(manifest: Manifest) -> list[dict[str, Any]]:
    """Ladders and rosters: what each candidate measured, and what became of it."""
    return [_choice(manifest, each) for each in manifest.choices]


def _choice(manifest: Manifest, choice: ChoiceRecord) -> dict[str, Any]:
    made = [each for each in choice.candidates if each.files]
    paths = dict.fromkeys(path for each in made if each.name == choice.chosen for path in each.files)
    candidates = {each.name: [f"{run}@{each.name}" for run in choice.runs] for each in choice.candidates}
    found = manifest.all_measurements()
    references = {
        (each.reference or str(each.against)).partition("/")[0]
        for each in found
        if each.run.partition("@")[0] in choice.runs and (each.reference or each.against)
    }
    rows = [
        _Row(run, _size(manifest, run), _columns(manifest, [run], as_runs=choice.runs), "compared with")
        for run in manifest.runs
        if run in references and "@" not in run and run not in choice.runs
    ]
    for each in choice.candidates:
        bytes_ = sum(file.size for file in each.files.values()) if each.files else None
        figures = _columns(manifest, candidates[each.name], as_runs=choice.runs)
        rows.append(_Row(each.name, bytes_, figures, _STATES[each.state]))
    corpora = {each.corpus for each in found if each.run in choice.runs}
    return {
        "name": choice.name,
        "rule": choice.rule,
        "chosen": choice.chosen,
        "paths": list(paths),
        "corpora": [name for name, corpus in manifest.corpora.items() if corpus.digest in corpora],
        "notes": [{"name": each.name, "reason": each.reason} for each in choice.candidates if _needs_words(each)],
        **_table(rows, _shown(rows), last="outcome"),
    }


def _needs_words(candidate: CandidateRecord) -> bool:
    return candidate.state in ("missed", "failed", "not tried") or any(not each.passed for each in candidate.verdicts)


def _client(manifest: Manifest, run: str) -> str:
    step = manifest.steps.get(f"runs/{run}")
    return str(step.identity.get("client", {}).get("client", "")) if step else ""


def _size(manifest: Manifest, run: str) -> int | None:
    """Bytes of all files that a run is given; None where the manifest does not say."""
    step = manifest.steps.get(f"runs/{run}")
    if step is None:
        return None
    given = [sha256 for name, sha256 in step.inputs.items() if name.startswith("files/")]
    made = (file for choice in manifest.choices for each in choice.candidates for file in each.files.values())
    sizes = {file.sha256: file.size for file in (*manifest.files.values(), *made)}
    return sum(sizes[sha256] for sha256 in given) if given and set(given) <= sizes.keys() else None


def _columns(manifest: Manifest, runs: Sequence[str], as_runs: Sequence[str] = ()) -> dict[str, Measurement]:
    """The figures of ``runs`` over the whole corpus, by what their column is called."""
    found: dict[str, Measurement] = {}
    for each in manifest.all_measurements():
        if each.run in runs and each.subset is None and each.metric not in _LEFT_OUT:
            if each.observed and each.against:
                continue
            base, _, candidate = each.run.partition("@")
            run = f"{base} " if len(as_runs) > 1 else ""
            other = (each.against or "").partition("/")[0].removesuffix(f"@{candidate}")
            against = f" − {other.partition('@')[2] or other}" if other else ""
            reference = f" against {each.reference.removesuffix(f'@{candidate}')}" if each.reference else ""
            found.setdefault(f"{run}{each.metric}{against}{reference}", each)
    return found


def _shown(rows: Sequence[_Row]) -> list[str]:
    """Columns that let rows be compared: two of them have it, or it compares by itself; timings last."""
    seen: dict[str, Measurement] = {}
    for row in rows:
        seen = {**row.figures, **seen}
    metrics = list(dict.fromkeys(each.metric for row in rows for each in row.figures.values()))
    counts = {name: sum(name in row.figures for row in rows) for name in seen}
    shown = [name for name, each in seen.items() if counts[name] > 1 or each.against or each.reference]
    return sorted(
        shown, key=lambda name: (seen[name].observed, metrics.index(seen[name].metric), seen[name].against is not None)
    )


def _table(rows: Iterable[_Row], columns: Sequence[str], last: str | None = None) -> dict[str, Any]:
    head = ["", "size", *columns, *([last] if last else [])]
    lines = [
        [
            cell(row.name),
            "" if row.size is None else size(row.size).replace(" ", "\N{NO-BREAK SPACE}"),
            *(_figure(row.figures, name) for name in columns),
            *([row.last or ""] if last else []),
        ]
        for row in rows
    ]
    return {"head": [cell(each) for each in head], "rows": lines}


def _figure(figures: Mapping[str, Measurement], column: str) -> str:
    return narrow(figures[column].model_dump(mode="json")) if column in figures else ""
