"""Figures side by side: runs over one corpus, and the candidates of a ladder or roster, in rows; figures in columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """A line of a table.

    Attributes:
        name: of the run or candidate.
        sizes: bytes of its files; of a candidate also of all files that its first run is given.
        figures: by column.
        last: what became of it.
    """

    name: str
    sizes: tuple[int | None, ...]
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
        rows = [_Row(run, (_size(manifest, run),), _columns(manifest, {run: [run]})) for run in runs]
        last = "compared with" if _references_differ(rows) else None
        if last:
            rows = [_with_its_reference(row) for row in rows]
        if len(rows) > 1 and (columns := _shown(rows)):
            corpus_name = names.get(corpus or "", "the same audio")
            tables.append({"corpus": corpus_name, "client": client, **_table(rows, columns, last)})
    return tables


def _others(row: _Row) -> set[str]:
    """The runs that one is compared with."""
    return {(each.against or each.reference or "").partition("/")[0] for each in row.figures.values()} - {""}


def _references_differ(rows: Sequence[_Row]) -> bool:
    """Whether each run is compared with one other at most, and not all with the same."""
    others = [_others(row) for row in rows]
    return max(map(len, others)) == 1 and len(set().union(*others)) > 1


def _with_its_reference(row: _Row) -> _Row:
    """The same figures in columns that do not name the reference, which the row does."""
    figures = {f"difference in {each.metric}" if each.against else each.metric: each for each in row.figures.values()}
    return replace(row, figures=figures, last="".join(_others(row)))


def choices(manifest: Manifest) -> list[dict[str, Any]]:
    """Ladders and rosters: what each candidate measured, and what became of it."""
    return [_choice(manifest, each) for each in manifest.choices]


def _choice(manifest: Manifest, choice: ChoiceRecord) -> dict[str, Any]:
    made = [each for each in choice.candidates if each.files]
    paths = dict.fromkeys(path for each in made if each.name == choice.chosen for path in each.files)
    found = manifest.all_measurements()
    served: dict[str, list[str]] = {}  # by run that candidates are compared with, the runs of the choice
    for measured in found:
        run = measured.run.partition("@")[0]
        other = (measured.reference or measured.against or "").partition("/")[0]
        if run in choice.runs and other:
            served.setdefault(other, []).append(run)
    rows = [
        _Row(run, (None, _size(manifest, run)), _columns(manifest, {run: served[run]}, choice), "compared with")
        for run in manifest.runs
        if run in served and "@" not in run and run not in choice.runs
    ]
    for each in choice.candidates:
        sizes = _total(file.size for file in each.files.values()), _size(manifest, f"{choice.runs[0]}@{each.name}")
        figures = _columns(manifest, {f"{run}@{each.name}": [run] for run in choice.runs}, choice)
        rows.append(_Row(each.name, sizes, figures, _STATES[each.state]))
    if all(own == given for own, given in (row.sizes for row in rows) if own is not None and given is not None):
        rows = [replace(row, sizes=(row.sizes[0] if row.sizes[1] is None else row.sizes[1],)) for row in rows]
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


def _total(sizes: Iterable[int]) -> int | None:
    return sum(sizes) or None


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


def _columns(
    manifest: Manifest, runs: Mapping[str, Sequence[str]], choice: ChoiceRecord | None = None
) -> dict[str, Measurement]:
    """Figures over the whole corpus, by what their column is called.

    Args:
        manifest: where they stand.
        runs: whose figures, and by the names of which runs their columns are told apart, where a choice has several.
        choice: the choice.
    """
    found: dict[str, Measurement] = {}
    for each in manifest.all_measurements():
        told_elsewhere = each.metric in _LEFT_OUT or (each.observed and each.against)
        if each.run not in runs or each.subset is not None or told_elsewhere:
            continue
        mark = f"@{each.run.partition('@')[2]}"
        other = (each.against or "").partition("/")[0].removesuffix(mark)
        against = f" − {other.partition('@')[2] or other}" if other else ""
        reference = f" against {each.reference.removesuffix(mark)}" if each.reference else ""
        for run in dict.fromkeys(runs[each.run]):
            told = f"{run} " if choice and len(choice.runs) > 1 else ""
            found.setdefault(f"{told}{each.metric}{against}{reference}", each)
    return found


def _shown(rows: Sequence[_Row]) -> list[str]:
    """Columns that let rows be compared: two of them have it, or it compares by itself; timings last."""
    seen: dict[str, Measurement] = {}
    for name, each in ((name, each) for row in rows for name, each in row.figures.items()):
        seen.setdefault(name, each)
    metrics = list(dict.fromkeys(each.metric for row in rows for each in row.figures.values()))
    counts = {name: sum(name in row.figures for row in rows) for name in seen}
    shown = [name for name, each in seen.items() if counts[name] > 1 or each.against or each.reference]
    return sorted(
        shown, key=lambda name: (seen[name].observed, metrics.index(seen[name].metric), seen[name].against is not None)
    )


def _table(rows: Sequence[_Row], columns: Sequence[str], last: str | None = None) -> dict[str, Any]:
    sizes = ("size", "all files")[: len(rows[0].sizes)]
    head = ["", *([last] if last else []), *sizes, *columns]
    lines = [
        [
            cell(row.name),
            *([row.last or ""] if last else []),
            *("" if each is None else size(each).replace(" ", "\N{NO-BREAK SPACE}") for each in row.sizes),
            *(_figure(row.figures, name) for name in columns),
        ]
        for row in rows
    ]
    return {"head": [cell(each) for each in head], "rows": lines}


def _figure(figures: Mapping[str, Measurement], column: str) -> str:
    return narrow(figures[column].model_dump(mode="json")) if column in figures else ""
