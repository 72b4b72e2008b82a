from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_fakes import fake_corpus, fake_run
from scipy.optimize import linear_sum_assignment

from hubpub.corpus.corpus import Turn
from hubpub.errors import MeasureError
from hubpub.measure.assignment import best_assignment
from hubpub.measure.diarization import Parts, compare_turns
from hubpub.measure.metrics.der import Der
from hubpub.measure.result import RunResult

# 40 random cases with what pyannote.metrics 4.2.0 says of them (its collar is twice ours).
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "der_pyannote_metrics.json").read_text())
Rows = list[tuple[float, float, str]]


def turns(rows: Rows) -> tuple[Turn, ...]:
    return tuple(Turn(start=start, end=end, speaker=name) for start, end, name in rows)


def as_dict(parts: Parts) -> dict[str, float]:
    return {name: getattr(parts, name) for name in ("speech", "missed", "false_alarm", "confusion")}


@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_pyannote_metrics_says_the_same(number: int) -> None:
    case = GOLDEN[number]
    found = compare_turns(
        turns(case["reference"]),
        turns(case["hypothesis"]),
        case["scored"],
        collar_s=case["collar_s"],
        overlap=case["overlap"],
    )
    assert as_dict(found) == pytest.approx(case["expected"], abs=1e-6)


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 10_000), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_assignment_is_as_good_as_that_of_scipy(rows: int, columns: int, seed: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    gain = rng.integers(0, 4, (rows, columns)).astype(float) if tied else rng.normal(size=(rows, columns))
    pairs = best_assignment(gain)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs) == min(rows, columns)
    expected = gain[linear_sum_assignment(gain, maximize=True)].sum()
    assert sum(gain[pair] for pair in pairs) == pytest.approx(expected, abs=1e-9)


def by_frames(reference: Rows, hypothesis: Rows, scored: list[tuple[int, int]], collar: int, overlap: bool) -> Parts:
    """An independent one: whole numbers of frames, every mapping tried."""

    def speaking(rows: Rows, frame: int) -> set[str]:
        return {name for start, end, name in rows if start <= frame < end}

    edges = set()
    for name in {row[2] for row in reference}:
        frames = [frame for frame in range(-1, 41) if name in speaking(reference, frame)]
        edges |= {frame for frame in frames if frame - 1 not in frames}
        edges |= {frame + 1 for frame in frames if frame + 1 not in frames}
    kept = [
        frame
        for frame in range(40)
        if any(start <= frame < end for start, end in scored)
        and not any(edge - collar <= frame < edge + collar for edge in edges)
        and (overlap or len(speaking(reference, frame)) < 2)
    ]
    moments = [(speaking(reference, frame), speaking(hypothesis, frame)) for frame in kept]
    names, others = sorted({row[2] for row in reference}), sorted({row[2] for row in hypothesis})
    others += [""] * max(0, len(names) - len(others))
    best = max(
        sum(len({mapping[name] for name in here} & there - {""}) for here, there in moments)
        for chosen in itertools.permutations(others, len(names))
        for mapping in [dict(zip(names, chosen, strict=True))]
    )
    return Parts(
        speech=sum(len(here) for here, _ in moments),
        missed=sum(max(0, len(here) - len(there)) for here, there in moments),
        false_alarm=sum(max(0, len(there) - len(here)) for here, there in moments),
        confusion=sum(min(len(here), len(there)) for here, there in moments) - best,
    )


def rows_of(names: str) -> st.SearchStrategy[Rows]:
    row = st.tuples(st.integers(0, 36), st.integers(1, 12), st.sampled_from(names))
    return st.lists(row.map(lambda r: (r[0], min(40, r[0] + r[1]), r[2])), max_size=8)


@given(rows_of("abc"), rows_of("wxyz"), st.integers(0, 20), st.integers(21, 40), st.integers(0, 3), st.booleans())
@settings(max_examples=200, deadline=None)
def test_an_independent_count_of_frames_says_the_same(
    reference: Rows, hypothesis: Rows, start: int, end: int, collar: int, overlap: bool
) -> None:
    scored = [(0, start), (end - 1, end)]
    found = compare_turns(turns(reference), turns(hypothesis), scored, collar_s=float(collar), overlap=overlap)
    assert as_dict(found) == pytest.approx(as_dict(by_frames(reference, hypothesis, scored, collar, overlap)), abs=1e-6)


def test_names_that_hold_in_windows_are_mapped_for_each() -> None:
    reference = turns([(0, 10, "a"), (10, 20, "b")])
    swapped = turns([(0, 5, "0"), (5, 10, "1"), (10, 20, "0")])
    assert compare_turns(reference, swapped, [(0, 20)]).confusion == 5
    assert compare_turns(reference, swapped, [(0, 20)], windows=[(0, 10), (10, 20)]).confusion == 5
    assert compare_turns(reference, swapped, [(0, 20)], windows=[(0, 5), (5, 10), (10, 20)]).confusion == 0
    half = compare_turns(reference, swapped, [(0, 20)], windows=[(0, 5)])
    assert (half.speech, half.errors) == (5, 0)


def test_silence_says_nothing() -> None:
    assert compare_turns((), (), [(0, 1)]) == Parts()
    assert compare_turns((), turns([(0, 1, "x")]), [(0, 2)]).false_alarm == 1
    assert compare_turns(turns([(0, 1, "a")]), (), [(0, 2)]).missed == 1
    assert compare_turns(turns([(0, 1, "a")]), (), []) == Parts()


def diarized(clips: int, wrong: float, name: str = "int8") -> tuple[Any, RunResult]:
    reference = [turns([(0, 4, "a"), (4, 8, "b")])] * clips
    corpus = fake_corpus([None] * clips, [10.0] * clips, turns=reference)
    found = [turns([(0, 4 + wrong * i, "0"), (4 + wrong * i, 8, "1")]) for i in range(clips)]
    return corpus, fake_run(corpus, name=name, turns=found)


def figures(der: Der, *runs: RunResult, corpus: Any) -> dict[tuple[str, str | None, str | None], Any]:
    return {(each.metric, each.against, each.subset): each for each in der.measure(runs[0], corpus, *runs[1:])}


def test_a_run_is_scored_with_parts_clips_and_paired_deltas() -> None:
    corpus, run = diarized(6, 0.25)
    _, other = diarized(6, 0.0, "fp32")
    found = figures(Der(metric="der"), run, other, corpus=corpus)
    der = found["der", None, None]
    assert der.value == pytest.approx(sum(0.25 * i for i in range(6)) / 48)
    assert der.low < der.value < der.high
    assert der.normalizer == "no collar, overlapping speech counted"
    parts = [found[f"der_{part}", None, None].value for part in ("missed", "false_alarm", "confusion")]
    assert sum(parts) == pytest.approx(der.value)
    assert found["der", None, "clip:clip2"].value == pytest.approx(0.5 / 8)
    assert found["der", "fp32/der", None].value == pytest.approx(der.value)
    assert found["der", "fp32/der", None].low > 0
    assert found["der_missed", "fp32/der_missed", None].value == 0


def test_no_change_is_no_proof() -> None:
    corpus, run = diarized(6, 0.0)
    delta = figures(Der(metric="der"), run, run, corpus=corpus)["der", "int8/der", None]
    assert (delta.value, delta.low) == (0, -delta.high)
    assert 0.05 < delta.high < 0.08  # 3.69 / 48
    assert delta.interval == "Clopper-Pearson over 48 seconds, none of which changed"


def test_no_error_is_no_proof() -> None:
    corpus, run = diarized(6, 0.0)
    found = figures(Der(metric="der"), run, corpus=corpus)
    perfect = [each for (name, _, subset), each in found.items() if name == "der_confusion" and subset is None]
    assert [(each.value, each.low) for each in perfect] == [(0, 0)]
    assert 0.05 < (perfect[0].high or 0) < 0.08
    assert perfect[0].interval == "Clopper-Pearson over 48 seconds, none of which is wrong"


def test_speech_against_silence() -> None:
    corpus = fake_corpus([None], [10.0], turns=[turns([(0, 4, "a"), (4, 8, "b")])])
    run = fake_run(corpus, turns=[turns([(0, 7, "speech")])])
    (plain, *_) = Der(metric="der", per_clip=False).measure(run, corpus)
    (speech, *_) = Der(metric="der", per_clip=False, speech_only=True).measure(run, corpus)
    assert plain.value == pytest.approx(4 / 8)
    assert speech.value == pytest.approx(1 / 8)
    assert "speech against silence" in str(speech.normalizer)


def test_what_cannot_be_scored_is_said() -> None:
    corpus, _ = diarized(2, 0.0)
    with pytest.raises(MeasureError, match="needs speaker turns, and this client makes none"):
        Der(metric="der").measure(fake_run(corpus), corpus)
    silent = fake_corpus([None], turns=[None])
    with pytest.raises(MeasureError, match="no speech to count in"):
        Der(metric="der").measure(fake_run(silent, turns=[()]), silent)
    # A clip in which nothing was found counts as missed, not as unknown.
    nothing = fake_run(corpus, turns=[(), ()])
    assert Der(metric="der").measure(nothing, corpus)[0].value == 1
    assert RunResult.model_validate_json(nothing.model_dump_json()).utterances[0].turns == ()
    assert "turns" not in fake_run(corpus).utterances[0].model_dump()
