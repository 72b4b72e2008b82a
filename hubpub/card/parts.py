"""Parts of a corpus in rows, runs in columns: how a figure goes with the sections of long audio, languages, lengths."""

from __future__ import annotations

from typing import Any

from hubpub.card.figures import cell, narrow
from hubpub.manifest import Manifest
from hubpub.measure.measurement import Measurement


def by_part(manifest: Manifest) -> list[dict[str, Any]]:
    """A table for each figure that two runs have for the same parts; candidates too, but not the chosen one twice."""
    twice = {f"{run}@{choice.chosen}" for choice in manifest.choices for run in choice.runs}
    tables: dict[tuple[str | None, str, str | None, str], dict[str, dict[str, Measurement]]] = {}
    for each in manifest.all_measurements():
        kind, _, part = (each.subset or "").partition(":")
        if part and kind != "clip" and each.against is None and each.run not in twice:
            rows = tables.setdefault((each.corpus, each.metric, _plain(each.reference), kind), {})
            rows.setdefault(part, {})[each.run] = each
    names = {corpus.digest: name for name, corpus in manifest.corpora.items()}
    return [
        _table(names.get(corpus or "", "the same audio"), metric, reference, kind, rows)
        for (corpus, metric, reference, kind), rows in tables.items()
        if len({run for row in rows.values() for run in row}) > 1
    ]


def _plain(reference: str | None) -> str | None:
    return reference.partition("@")[0] if reference else None


def _table(
    corpus: str, metric: str, reference: str | None, kind: str, rows: dict[str, dict[str, Measurement]]
) -> dict[str, Any]:
    runs = list(dict.fromkeys(run for row in rows.values() for run in row))
    lines = []
    for part, row in rows.items():
        counts = {each.n for each in row.values()}
        figures = [narrow(row[run].model_dump(mode="json")) if run in row else "" for run in runs]
        lines.append([cell(part), *figures, "" if len(counts) > 1 else str(counts.pop())])
    unit = next(each.n_unit for row in rows.values() for each in row.values())
    return {
        "corpus": corpus,
        "figure": metric + (f" against {reference}" if reference else ""),
        "kind": kind,
        "head": [kind, *(cell(run) for run in runs), unit],
        "rows": lines,
    }
