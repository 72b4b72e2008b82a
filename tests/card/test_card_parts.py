"""Parts in rows, runs in columns; and recordings that were not at hand."""

from __future__ import annotations

from typing import Any

from test_card_tables import CORPUS, figures
from test_render import CARD, SHIPPED, manifest

from hubpub.card import render_card
from hubpub.card.parts import by_part
from hubpub.corpus.spec import Provenance
from hubpub.manifest import CandidateRecord, ChoiceRecord, Missing, MissingCorpus


def part(run: str, section: str, value: float, **fields: Any) -> Any:
    known = {"metric": "disagreement", "reference": "oracle", "low": None, "high": None}
    return figures(run=run, subset=f"section:{section}", value=value, **{**known, **fields})


def test_runs_stand_beside_each_other_and_the_chosen_candidate_once() -> None:
    found = (
        *(part(run, "0-60 s", 0.1, n=50) for run in ("fp32", "int8", "int8@stock", "int8@ours")),
        *(part(run, "60-120 s", 0.4, n=40) for run in ("fp32", "int8")),
        part("int8", "0-60 s", 0.2, against="fp32/disagreement"),
        figures(run="int8", subset="clip:a", value=0.5),
        part("int8", "0-60 s", 0.3, metric="wer", reference=None),  # nothing to compare it with
    )
    candidates = tuple(CandidateRecord(name=name, state="passed", reason="") for name in ("stock", "ours"))
    choice = ChoiceRecord(name="int8", rule="", chosen="ours", runs=("int8",), candidates=candidates)
    runs = ("fp32", "int8", "int8@stock", "int8@ours")
    (table,) = by_part(manifest(measurements=found, runs=runs, choices=(choice,), corpora={"long": CORPUS}))
    assert (table["corpus"], table["figure"], table["kind"]) == ("long", "disagreement against oracle", "section")
    assert table["head"] == ["section", "fp32", "int8", "int8@stock", found[0].n_unit]
    rows = [[each.replace("\N{NO-BREAK SPACE}", " ") for each in row] for row in table["rows"]]
    assert rows == [
        ["0-60 s", "10.00 %", "10.00 %", "10.00 %", "50"],
        ["60-120 s", "40.00 %", "40.00 %", "", "40"],
    ]


def test_what_is_not_at_hand_is_told_without_breaking_a_table() -> None:
    known = Provenance(speaker="A | B", title="`x` <b>", year=1970, source="archive 7", license="none")
    clip = Missing(id="a", audio="folder/a.wav", crop=(0, 390), provenance=known)
    missing = {"speeches": MissingCorpus(stand_in="meetings", supply="ask | them", clips=(clip,))}
    text = render_card(manifest(missing=missing, corpora={"long": CORPUS}), CARD, SHIPPED)
    assert "### Not at hand: speeches" in text
    assert "so meetings took their place. How to get them: ask \\| them." in text
    row = next(line for line in text.splitlines() if line.startswith("| `folder/a.wav`"))
    assert row == ("| `folder/a.wav` | 0 s to 390 s |  | A \\| B | 'x' &lt;b> | 1970 | archive 7 | none |")
    assert "Not at hand" not in render_card(manifest(corpora={"long": CORPUS}), CARD, SHIPPED)
