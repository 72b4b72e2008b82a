"""What the card says of the audio: where each clip comes from, and what was proved of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_render import CARD, manifest

from hubpub.card import render_card
from hubpub.corpus.corpus import Clip, Corpus
from hubpub.corpus.spec import Provenance
from hubpub.manifest import StepRecord

TEMPLATE = Path(__file__).parents[2] / "templates" / "speech.md.j2"


def clip(name: str, crop: tuple[float, float] | None = None) -> Clip:
    provenance = Provenance(
        speaker="Ann | Bo", language="fr", title="A <b>", year=1974, source="an archive", license="CC0-1.0"
    )
    return Clip(
        id=name,
        samples="00000.npy",
        rate=16_000,
        seconds=30,
        text=None,
        provenance=provenance,
        audio="s/a.wav",
        crop=crop,
        native_rate=16_000,
        start=0,
        stop=480_000,
        file_sha256="a" * 64,
        file_samples_sha256="b" * 64,
        samples_sha256="0123456789abcdef" * 4,
    )


def card(short: int = 0, calibration: int = 1) -> str:
    corpora = {
        "tuning": Corpus(role="calibration", clips=(clip("x@30-60", (30, 60)),)),
        "final": Corpus(role="evaluation", sealed=True, clips=(clip("y"),)),
    }
    facts = {
        "calibration_clips": calibration,
        "calibration_seconds": 30.0,
        "evaluation_clips": 1,
        "evaluation_seconds": 390.0,
        "by_digest_only": short,
    }
    proof = StepRecord(kind="disjointness", key="k", identity={}, libraries={}, inputs={}, outputs={}, facts=facts)
    return render_card(manifest(corpora=corpora, steps={"disjointness": proof}), CARD, TEMPLATE)


def test_every_clip_is_documented_in_a_table_that_folds() -> None:
    text = card()
    row = "| x@30-60 | 30.0 s | fr | Ann \\| Bo | A &lt;b> | 1974 | an archive | CC0-1.0 | 30 s to 60 s |"
    assert "<details><summary>Clips of tuning</summary>\n\n| clip |" in text
    assert f"{row} `0123456789abcdef…` |" in text.split("\n")
    assert "| final | evaluation, sealed | 1 | 30.0 s |" in text


@pytest.mark.parametrize(
    ("short", "end"),
    [
        (0, "it stops when two of them meet."),
        (1, "meet. 1 clip shorter than 0.4 s was compared by digest only."),
        (3, "meet. 3 clips shorter than 0.4 s were compared by digest only."),
    ],
)
def test_the_proof_of_disjointness_says_what_was_compared(short: int, end: str) -> None:
    (line,) = (line for line in card(short).split("\n") if line.startswith("Calibration and evaluation audio"))
    assert "compared 1 clip (30.0 s) with 1 clip (6 min 30 s)" in line
    assert line.endswith(end)


def test_nothing_is_claimed_where_nothing_was_compared() -> None:
    assert "disjoint" not in card(calibration=0)
    assert "disjoint" not in render_card(manifest(), CARD, TEMPLATE)
