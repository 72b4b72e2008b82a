"""Figures of parts of a corpus: classes of clips, and sections of long audio placed by another run's segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_fakes import fake_corpus, fake_run

from hubpub.corpus.corpus import Spoken
from hubpub.errors import MeasureError
from hubpub.gate import GateSpec, judge
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.cer import Cer
from hubpub.measure.metrics.disagreement import Disagreement
from hubpub.measure.metrics.wer import Wer
from hubpub.measure.result import Piece
from hubpub.measure.strata import placed_by, unit_times


def by_subset(figures: Sequence[Measurement], *, delta: bool = False) -> dict[str | None, Measurement]:
    return {each.subset: each for each in figures if (each.against is not None) == delta}


def pieces(*texts: str, seconds: float = 20.0) -> tuple[Piece, ...]:
    return tuple(Piece(start=i * seconds, end=(i + 1) * seconds, text=text) for i, text in enumerate(texts))


def test_classes_of_clips_are_pooled_each_for_itself() -> None:
    corpus = fake_corpus(
        ["a b", "c d", "e f", None, ""],
        [4.0, 20.0, 70.0, 1.0, 2.0],
        speakers=["x", "y", "x", "z", None],
        languages=["fr", "en", "en", "fr", "de"],
    )
    run = fake_run(corpus, ["a b", "c x", "y z", "noise", ""])
    other = fake_run(corpus, ["a b", "c d", "e z", "", ""], name="fp32")
    wer = Wer(metric="wer", strata=("length", "language", "speaker"), per_clip=False)
    found = by_subset(wer.measure(run, corpus, other))
    assert {name: (each.value, each.n) for name, each in found.items()} == {
        None: (0.5, 6),
        "length:0-5 s": (0, 2),
        "length:15-30 s": (0.5, 2),
        "length:60 s or more": (1, 2),
        "language:en": (0.75, 4),
        "language:fr": (0, 2),
        "speaker:x": (0.5, 4),
        "speaker:y": (0.5, 2),
    }
    deltas = by_subset(wer.measure(run, corpus, other), delta=True)
    assert deltas.keys() == found.keys()
    assert {name: each.value for name, each in deltas.items() if each.value} == {
        None: pytest.approx(2 / 6),
        "length:15-30 s": 0.5,
        "length:60 s or more": 0.5,
        "language:en": 0.5,
        "speaker:x": 0.25,
        "speaker:y": 0.5,
    }


def test_one_pass_over_long_audio_against_an_oracle_that_was_cut_into_short_pieces() -> None:
    corpus = fake_corpus([None], [100.0])
    said = ("a b c", "d e f", "", "g h i j", "k l")  # 20 s each
    oracle = fake_run(corpus, [" ".join(filter(None, said))], name="fp32", pieces=[pieces(*said)])
    run = fake_run(corpus, ["a b x d e f g h k l l"])
    figures = Disagreement(metric="disagreement", strata=("section",), per_clip=False).measure(run, corpus, oracle)
    found = by_subset(figures)
    assert {name: (round(each.value * each.n), each.n) for name, each in found.items()} == {
        None: (4, 12),
        "section:0-60 s": (1, 6),
        "section:60-120 s": (3, 6),
    }
    assert found["section:60-120 s"].low is not None
    assert found["section:60-120 s"].reference == "fp32"


def test_how_much_further_one_run_departs_from_an_oracle_than_another() -> None:
    corpus = fake_corpus([None], [120.0])
    oracle = fake_run(corpus, ["a b c d e f"], name="oracle", pieces=[pieces("a b c", "d e f", seconds=60.0)])
    fp32 = fake_run(corpus, ["a b x d e f"], name="fp32")
    run = fake_run(corpus, ["a b c d y z"])
    metric = Disagreement(metric="disagreement", strata=("section",))
    figures = metric.compare(run, corpus, oracle, fp32)
    assert {each.subset: round(each.value * each.n) for each in figures} == {
        None: 1,
        "section:0-60 s": -1,
        "section:60-120 s": 2,
    }
    for figure in figures:
        assert (figure.key, figure.against, figure.reference) == ("int8/disagreement", "fp32/disagreement", "oracle")
        assert figure.low is not None
        for each in (run, oracle, fp32):
            assert each.job.artifacts.items() <= figure.artifacts.items()
    gate = GateSpec(measure="int8/disagreement", against="fp32/disagreement", subset="section:*", max=0.1)
    (verdict,) = judge([gate], figures, figures[0].artifacts)
    assert not verdict.passed
    assert "the upper end of its interval is above 0.1" in verdict.reason
    made_up = fake_run(corpus, ["a"], name="made-up", pieces=[pieces("a")], synthetic=True)
    assert all(each.synthetic for each in metric.compare(run, corpus, made_up, fp32))


def test_transcripts_are_placed_by_the_segments_of_the_reference_run() -> None:
    corpus = fake_corpus(["one two three four five six"], [60.0])
    reference = fake_run(
        corpus, ["one to three five six"], name="fp32", pieces=[pieces("One, to three", "five", "six")]
    )
    run = fake_run(corpus, ["one two three four six"])
    wer = Wer(metric="wer", strata=("section",), section_s=20, per_clip=False)
    figures = wer.measure(run, corpus, reference)
    assert {name: (round(each.value * each.n), each.n) for name, each in by_subset(figures).items()} == {
        None: (1, 6),
        "section:0-20 s": (0, 4),  # four, which the reference run missed, is where three is
        "section:20-40 s": (1, 1),
        "section:40-60 s": (0, 1),
    }
    assert {name: round(each.value * each.n) for name, each in by_subset(figures, delta=True).items()} == {
        None: -1,
        "section:0-20 s": -2,
        "section:20-40 s": 1,
        "section:40-60 s": 0,
    }
    cer = Cer(metric="cer", strata=("section",), section_s=20, per_clip=False)
    sections = by_subset(cer.measure(run, corpus, reference))
    assert sum(each.n for name, each in sections.items() if name) == len("one two three four five six")


words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=6).map(" ".join)


@given(st.lists(words, min_size=1, max_size=6), st.lists(words, min_size=1, max_size=6), st.floats(5, 50))
@settings(max_examples=60, deadline=None)
def test_sections_share_out_every_unit_and_every_error(said: list[str], heard: list[str], section_s: float) -> None:
    said = [*said, "a"]
    text = " ".join(filter(None, said))
    corpus = fake_corpus([text], [20.0 * len(said)])
    oracle = fake_run(corpus, [text], name="fp32", pieces=[pieces(*said)])
    run = fake_run(corpus, [" ".join(filter(None, heard))])
    for metric in (
        Disagreement(metric="disagreement", strata=("section",), section_s=section_s, per_clip=False),
        Wer(metric="wer", strata=("section",), section_s=section_s, per_clip=False),
        Cer(metric="cer", strata=("section",), section_s=section_s, per_clip=False),
    ):
        found = by_subset(metric.measure(run, corpus, oracle))
        whole = found.pop(None)
        assert sum(each.n for each in found.values()) == whole.n
        errors = sum(each.value * each.n for each in found.values())
        assert errors == pytest.approx(whole.value * whole.n, abs=1e-6)


def test_times_are_spread_over_a_piece() -> None:
    text, times = unit_times(pieces("A, b!", "", "c"), "words", "basic")
    assert text == "a b c"
    np.testing.assert_allclose(times, [5, 15, 50])
    np.testing.assert_allclose(placed_by("a x b c", pieces("a b", "", "c"), "words", "basic"), [5, 5, 15, 50])
    assert placed_by("a b", (), "words", "basic").tolist() == [0, 0]
    with pytest.raises(MeasureError, match="nothing in common"):
        placed_by("", pieces("x"), "words", "none")[0]


def test_without_segments_there_are_no_sections() -> None:
    corpus = fake_corpus(["a b"])
    wer = Wer(metric="wer", strata=("section",))
    with pytest.raises(MeasureError, match="nothing to tell the sections by"):
        wer.measure(fake_run(corpus, ["a b"]), corpus)
    with pytest.raises(MeasureError, match=r"^run fp32: its transcripts are not in segments; let it cut"):
        wer.measure(fake_run(corpus, ["a b"]), corpus, fake_run(corpus, ["a b"], name="fp32"))


def test_a_gate_on_parts_judges_each(tmp_path: Path) -> None:
    corpus = fake_corpus(["a b c d"] * 3, languages=["en", "fr", "de"])
    run = fake_run(corpus, ["a b c d", "a b c x", "a b c d"])
    figures = Wer(metric="wer", strata=("language",)).measure(run, corpus)

    def verdict(**fields: object) -> tuple[bool, str]:
        gate = GateSpec.model_validate({"measure": "int8/wer"} | fields)
        (found,) = judge([gate], figures, run.job.artifacts)
        return found.passed, found.reason

    assert verdict(max=0.1)[0]
    passed, reason = verdict(max=0.1, subset="language:*")
    assert not passed
    assert reason.startswith("language:fr: 0.25 (")
    passed, reason = verdict(max=0.3, subset="language:*")
    assert passed
    assert reason.startswith("language:fr: 0.25 (")
    assert reason.endswith("(the worst of 3 parts)")
    assert verdict(max=0, subset="language:en")[0]
    assert verdict(max=0, subset="section:*") == (False, "int8/wer was not measured on section:*")
    assert not verdict(max=0.3, subset="language:*", min_n=5)[0]
    assert str(GateSpec(measure="a/b", subset="language:*", max=0)) == "a/b on language:*: at most 0"
    assert "subset" not in GateSpec(measure="a/b", max=0).model_dump()


def test_stitched_clips_have_their_own_places() -> None:
    corpus = fake_corpus(["a b c d"], [120.0])
    spoken = tuple(Spoken(start=60.0 * i, end=60.0 * (i + 1), text=text) for i, text in enumerate(["a b", "c d"]))
    clip = corpus.clips[0].model_copy(update={"spoken": spoken})
    corpus = corpus.model_copy(update={"clips": (clip,)})
    run = fake_run(corpus, ["a b c x"])
    found = by_subset(Wer(metric="wer", strata=("section",), per_clip=False).measure(run, corpus))
    assert {name: (each.value, each.n) for name, each in found.items()} == {
        None: (0.25, 4),
        "section:0-60 s": (0, 2),
        "section:60-120 s": (0.5, 2),
    }
