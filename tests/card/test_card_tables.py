"""Figures side by side: which runs share a table, which columns it has, and how a narrow cell is written."""

from __future__ import annotations

from typing import Any

from test_render import CARD, SHIPPED, manifest, measured

from hubpub.card import render_card
from hubpub.card.figures import narrow
from hubpub.card.tables import choices, side_by_side
from hubpub.corpus.corpus import Corpus
from hubpub.manifest import CandidateRecord, ChoiceRecord, Digest, FileRecord, Manifest, StepRecord

CORPUS = Corpus(role="evaluation", clips=())
FILES = {"m.onnx": ("1" * 64, 4_000_000), "m.int8.onnx": ("2" * 64, 1_000_000), "vocab.txt": ("3" * 64, 500_000)}


def step(client: str, *files: str) -> StepRecord:
    inputs = {f"files/{path}": FILES[path][0] for path in files}
    identity = {"client": {"client": client}}
    return StepRecord(kind="run", key="k", identity=identity, libraries={}, inputs=inputs, outputs={}, facts={})


def figures(**fields: Any) -> Any:
    return measured(corpus=CORPUS.digest, **fields)


def with_runs(**fields: Any) -> Manifest:
    """Two variants by one client, a run by another, and one over other audio."""
    found = [
        figures(metric="rtf", unit="s/s", value=0.05, low=None, high=None, observed=True),
        figures(metric="download_size", unit="bytes", value=4_500_000, low=None, high=None),
        figures(),
        figures(run="int8", value=0.05, low=0.02, high=0.09),
        figures(run="int8", value=0.0126, low=-0.01, high=0.03, against="fp32/wer"),
        figures(run="int8", metric="disagreement", value=0.02, low=0.0, high=0.03, reference="fp32"),
        figures(run="int8", subset="clip:a", value=0.5),
        figures(run="encoder", metric="cosine", unit="cosine", value=0.99, low=None, high=None),
        measured(run="elsewhere", corpus="f" * 64),
    ]
    steps = {
        "runs/fp32": step("onnx-asr", "m.onnx", "vocab.txt"),
        "runs/int8": step("onnx-asr", "m.int8.onnx", "vocab.txt"),
        "runs/encoder": step("onnxruntime", "m.onnx"),
        "runs/elsewhere": step("onnx-asr", "m.onnx", "vocab.txt"),
    }
    records = {path: FileRecord(sha256=sha256, size=size, made_by="x") for path, (sha256, size) in FILES.items()}
    values: dict[str, Any] = {
        "measurements": tuple(found),
        "steps": steps,
        "files": records,
        "runs": ("fp32", "int8", "encoder", "elsewhere"),
        "corpora": {"read|speech": CORPUS},
    }
    return manifest(**{**values, **fields})


def test_runs_with_references_of_their_own_share_columns() -> None:
    found, steps = [], {}
    for model in ("a", "b"):
        compared = f"{model}-fp32"
        found += [
            figures(run=compared, value=0.1),
            figures(run=f"{model}-int8", value=0.12),
            figures(run=f"{model}-int8", value=0.02, against=f"{compared}/wer"),
            figures(run=f"{model}-int8", metric="cosine", value=0.99, low=None, high=None, reference=compared),
        ]
        steps |= {f"runs/{run}": step("onnx-asr", "m.onnx") for run in (compared, f"{model}-int8")}
    runs = tuple(name.partition("/")[2] for name in steps)
    (table,) = side_by_side(with_runs(measurements=tuple(found), steps=steps, runs=runs))
    assert table["head"] == ["", "compared with", "size", "wer", "difference in wer", "cosine"]
    assert [(row[0], row[1]) for row in table["rows"]] == [
        ("a-fp32", ""), ("a-int8", "a-fp32"), ("b-fp32", ""), ("b-int8", "b-fp32"),
    ]  # fmt: skip
    assert all(table["rows"][1])
    assert all(table["rows"][3])


def test_runs_of_one_client_over_one_corpus_share_a_table() -> None:
    (table,) = side_by_side(with_runs())
    assert (table["corpus"], table["client"]) == ("read|speech", "onnx-asr")
    assert table["head"] == ["", "size", "wer", "wer − fp32", "disagreement against fp32"]
    rows = [[each.replace("\N{NO-BREAK SPACE}", " ") for each in row] for row in table["rows"]]
    assert rows == [
        ["fp32", "4.50 MB", "3.74 %<br>(1.00 to 7.00)", "", ""],
        ["int8", "1.50 MB", "5.00 %<br>(2.00 to 9.00)", "1.26 %<br>(-1.00 to 3.00)", "2.00 %<br>(0.00 to 3.00)"],
    ]


def test_a_size_that_the_manifest_does_not_tell_is_left_empty() -> None:
    (table,) = side_by_side(with_runs(steps={"runs/elsewhere": step("onnx-asr", "m.onnx")}))
    assert {row[1] for row in table["rows"]} == {""}
    assert side_by_side(manifest()) == []


def test_candidates_stand_in_the_order_of_the_recipe_with_what_became_of_them() -> None:
    kept = Digest(sha256="4" * 64, size=2_000_000)
    records = (
        CandidateRecord(name="upstream", state="missed", reason="int8/wer: too much", files={"m.int8.onnx": kept}),
        CandidateRecord(
            name="smooth", state="chosen", reason="passes 1 gate",
            files={"m.int8.onnx": Digest(sha256="2" * 64, size=1_000_000)},
        ),
        CandidateRecord(name="broken", state="failed", reason="cannot be made: <no> product | none", failed_key="k"),
    )  # fmt: skip
    choice = ChoiceRecord(
        name="small", rule="promoted by name", chosen="smooth", runs=("int8",), against="upstream", candidates=records
    )
    base = with_runs()
    found = (
        *base.measurements,
        figures(run="int8@upstream", value=0.08, low=0.02, high=0.1),
        figures(run="int8@upstream", value=0.04, low=0.01, high=0.06, against="fp32/wer"),
        figures(run="int8@smooth", value=0.05, low=0.02, high=0.09),
        figures(run="int8@smooth", value=-0.03, low=-0.05, high=-0.01, against="int8@upstream/wer"),
    )
    runs = (*base.runs, "int8@upstream", "int8@smooth")
    made = with_runs(choices=(choice,), measurements=found, runs=runs)
    (table,) = choices(made)
    assert table["head"] == ["", "outcome", "size", "wer", "wer − fp32", "wer − upstream"]
    assert [row[0] for row in table["rows"]] == ["fp32", "upstream", "smooth", "broken"]
    assert [row[1] for row in table["rows"]] == ["compared with", "misses a gate", "**published**", "failed"]
    assert "(-5.00" in table["rows"][2][table["head"].index("wer − upstream")]
    assert [note["name"] for note in table["notes"]] == ["upstream", "broken"]
    given = {f"runs/int8@{each}": step("onnx-asr", "m.int8.onnx", "vocab.txt") for each in ("upstream", "smooth")}
    (wider,) = choices(made.model_copy(update={"steps": {**made.steps, **given}}))
    assert wider["head"][:4] == ["", "outcome", "size", "all files"]
    row = [each.replace("\N{NO-BREAK SPACE}", " ") for each in wider["rows"][2]]
    assert row[:4] == ["smooth", "**published**", "1.00 MB", "1.50 MB"]
    both = choice.model_copy(update={"runs": ("int8", "encoder")})
    (two,) = choices(made.model_copy(update={"choices": (both,)}))
    assert two["head"][3:] == ["int8 wer", "int8 wer − fp32", "int8 wer − upstream"]
    assert two["rows"][0][3].startswith("3.74")  # the reference, in the column of the run that it serves
    assert len(side_by_side(made)) == 1  # the candidates have no part in it
    card = render_card(made, CARD, SHIPPED)
    assert "- broken: cannot be made: &lt;no> product \\| none" in card
    assert "| smooth |" in card
    assert "### int8@" not in card


def test_a_narrow_cell_says_its_unit_once() -> None:
    def written(**fields: Any) -> str:
        return narrow(measured(**fields).model_dump(mode="json")).replace("\N{NO-BREAK SPACE}", " ")

    assert written() == "3.74 %<br>(1.00 to 7.00)"
    assert written(unit="s", value=1.5, low=0.5, high=2.5) == "1.50 s<br>(0.500 to 2.50)"
    assert written(unit="bytes", value=2e6, low=9e5, high=3e6) == "2.00 MB<br>(900 kB to 3.00 MB)"
    assert written(unit="cosine", value=0.5, low=0.25, high=0.75) == "0.500000<br>(0.250000 to 0.750000)"
    assert written(low=None, high=None) == "3.74 %"
    assert written(low=0.0374, high=0.0374) == "3.74 %"
