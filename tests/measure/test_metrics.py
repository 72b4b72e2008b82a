from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_fakes import fake_corpus, fake_run
from pydantic import TypeAdapter

from hubpub.corpus.corpus import Turn
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics import AnyMetric, MetricName
from hubpub.measure.metrics.base import Metric

NAMES: tuple[str, ...] = get_args(MetricName)
METRIC: TypeAdapter[Any] = TypeAdapter(AnyMetric)


def metric(name: str, **fields: object) -> Metric:
    made = METRIC.validate_python({"metric": name} | fields)
    assert isinstance(made, Metric)
    return made


def pooled(figures: list[Measurement], name: str, against: str | None = None) -> Measurement:
    (figure,) = [f for f in figures if f.metric == name and f.against == against and f.subset is None]
    return figure


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Any, Any, Any]:
    turns = [(Turn(start=0, end=0.5, speaker="a"), Turn(start=0.4, end=0.9, speaker="b"))] * 6
    speakers = ["x", "x", "y", "y", "z", None]
    corpus = fake_corpus(["a b c", "d e", None, "", "f", "g h"], speakers=speakers, turns=turns)
    rng = np.random.default_rng(0)
    outputs = [[rng.normal(size=(1, 4, 3)).astype(np.float32)] for _ in corpus.clips]
    texts = ["a b c", "d x", "y", "", "f", "g"]
    run = fake_run(corpus, texts, folder=tmp_path / "a", outputs=outputs, turns=turns)
    return corpus, run, fake_run(corpus, texts, name="fp32", folder=tmp_path / "b", outputs=outputs, turns=turns)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_gives_what_it_says_with_all_that_must_be_known(two_runs: tuple[Any, Any, Any], name: str) -> None:
    corpus, run, reference = two_runs
    for against in (None, reference):
        if against is None and metric(name).needs_against:
            continue
        figures = metric(name).measure(run, corpus, against)
        deltas = metric(name).deltas if against is not None and not metric(name).needs_against else ()
        assert {f.metric for f in figures if f.against is not None} == set(deltas)
        assert [f.metric for f in figures if f.subset is None and f.against is None] == list(metric(name).gives)
        for figure in figures:
            assert figure.run == "int8"
            assert figure.corpus == corpus.digest
            assert run.job.artifacts.items() <= figure.artifacts.items()
            assert figure.client == "a client"
            assert figure.versions["onnxruntime"] == "1"
            assert figure.n >= 1
            assert figure.interval
            assert not figure.synthetic
            compared = figure.against is not None or figure.reference is not None
            assert (reference.job.artifacts.items() <= figure.artifacts.items()) == compared
            if figure.against is not None:
                assert figure.metric in metric(name).deltas
            assert figure.observed == (name in ("rtf", "latency", "load_time", "peak_rss"))


def test_the_union_is_the_registry() -> None:
    schema = METRIC.json_schema()
    assert set(schema["discriminator"]["mapping"]) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_synthetic_stays_synthetic(name: str, tmp_path: Path) -> None:
    turns = [(Turn(start=0, end=1, speaker="a"),)] * 3
    corpus = fake_corpus(["a"] * 3, speakers=["x", "x", "y"], turns=turns)
    outputs = [[np.ones(3)]] * 3
    run = fake_run(corpus, ["a"] * 3, folder=tmp_path, outputs=outputs, turns=turns)
    made_up = fake_run(
        corpus, ["a"] * 3, name="fake", folder=tmp_path / "f", outputs=outputs, turns=turns, synthetic=True
    )
    assert all(figure.synthetic for figure in metric(name).measure(made_up, corpus, run))
    against = [f for f in metric(name).measure(run, corpus, made_up) if f.against or f.reference]
    assert all(figure.synthetic for figure in against)


@pytest.mark.parametrize("name", NAMES)
def test_another_corpus_is_refused(two_runs: tuple[Any, Any, Any], name: str) -> None:
    _, run, reference = two_runs
    with pytest.raises(MeasureError, match="another corpus"):
        metric(name).measure(run, fake_corpus(["a"]), reference)


@pytest.mark.parametrize("name", [n for n in NAMES if metric(n).needs_against])
def test_a_missing_reference_is_named(two_runs: tuple[Any, Any, Any], name: str) -> None:
    corpus, run, _ = two_runs
    with pytest.raises(MeasureError, match=r"^run int8: .* needs a run to compare with"):
        metric(name).measure(run, corpus)


def levenshtein(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (expected != found))
    return row[-1]


words = st.lists(st.sampled_from(["a", "b", "ab", "bb"]), max_size=8).map(" ".join)
pairs = st.lists(st.tuples(words, words, words), min_size=1, max_size=8)


@given(pairs)
@settings(max_examples=25, deadline=None)
def test_error_rates_agree_with_a_levenshtein_of_our_own(texts: list[tuple[str, str, str]]) -> None:
    texts = [*texts, ("a b a", "a b", "a")]
    corpus = fake_corpus([reference for reference, _, _ in texts])
    run = fake_run(corpus, [hypothesis for _, hypothesis, _ in texts])
    other = fake_run(corpus, [hypothesis for _, _, hypothesis in texts], name="fp32")

    def rate(which: int, split: bool, of: int = 0) -> float:
        cut = [tuple(text.split() if split else list(text) for text in row) for row in texts]
        return sum(levenshtein(row[of], row[which]) for row in cut) / sum(len(row[of]) for row in cut)

    for name, split in (("wer", True), ("cer", False)):
        figures = metric(name).measure(run, corpus, other)
        assert pooled(figures, name).value == pytest.approx(rate(1, split), abs=1e-9)
        delta = pooled(figures, name, f"fp32/{name}")
        assert delta.value == pytest.approx(rate(1, split) - rate(2, split), abs=1e-9)
        for figure in figures:
            assert figure.low is None or figure.low <= figure.value <= (figure.high or math.inf)
        by_clip = {f.subset: f for f in figures if f.subset}
        for i, (reference, hypothesis, _) in enumerate(texts):
            units = reference.split() if split else list(reference)
            if units:
                found = levenshtein(units, hypothesis.split() if split else list(hypothesis))
                assert by_clip[f"clip:clip{i}"].value == pytest.approx(found / len(units), abs=1e-9)
                assert by_clip[f"clip:clip{i}"].n == len(units)
    if any(hypothesis for _, _, hypothesis in texts):
        disagreement = pooled(metric("disagreement").measure(run, corpus, other), "disagreement")
        assert disagreement.value == pytest.approx(rate(1, True, of=2), abs=1e-9)
        assert disagreement.reference == "fp32"


def test_normalizers_are_applied_and_named() -> None:
    corpus = fake_corpus(["It was, the BEST."])
    run = fake_run(corpus, ["it was the best"])
    basic = pooled(metric("wer").measure(run, corpus), "wer")
    assert (basic.value, basic.normalizer) == (0.0, "basic")
    raw = pooled(metric("wer", normalizer="none").measure(run, corpus), "wer")
    assert (raw.value, raw.normalizer) == (0.75, "none")
    assert raw.versions.keys() == {"onnxruntime", "jiwer"}


def test_clips_without_transcript_are_left_out_and_n_says_so() -> None:
    corpus = fake_corpus(["a b", None, ""])
    figures = metric("wer").measure(fake_run(corpus, ["a b", "noise", "c"]), corpus)
    assert pooled(figures, "wer").n == 2
    assert pooled(figures, "wer").value == 0.5  # words where nobody speaks are errors too
    assert metric("wer").units([clip.text for clip in corpus.clips]) == 2
    assert metric("cer").units([clip.text for clip in corpus.clips]) == 3
    assert [f.subset for f in figures] == [None, "clip:clip0"]
    assert len(metric("wer", per_clip=False).measure(fake_run(corpus, ["a b", "", ""]), corpus)) == 1


def test_nothing_to_count_is_an_error_and_not_a_zero() -> None:
    corpus = fake_corpus([None, ""])
    with pytest.raises(MeasureError, match="no words to count"):
        metric("wer").measure(fake_run(corpus, ["a", "b"]), corpus)
    with pytest.raises(MeasureError, match="makes none"):
        metric("wer").measure(fake_run(corpus), corpus)
    with pytest.raises(MeasureError, match="no words to count"):
        metric("disagreement").measure(fake_run(corpus, ["a", "b"]), corpus, fake_run(corpus, ["", ""], name="r"))


def test_a_run_is_not_different_from_itself_but_that_is_no_proof() -> None:
    corpus = fake_corpus(["a b c d e"] * 8)
    run, other = fake_run(corpus, ["a b c d x"] * 8), fake_run(corpus, ["a b c d x"] * 8, name="fp32")
    delta = pooled(metric("wer").measure(run, corpus, other), "wer", "fp32/wer")
    assert delta.value == 0
    assert delta.low is not None
    assert delta.high is not None
    assert delta.low < 0 < delta.high


vectors = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


@given(st.lists(vectors, min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_output_comparisons_agree_with_plain_sums(
    tmp_path_factory: pytest.TempPathFactory, clips: list[list[float]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("outputs")
    rng = np.random.default_rng(seed)
    reference = [np.array(clip, dtype=np.float32) for clip in clips]
    output = [(clip + rng.normal(0, 0.1, clip.shape)).astype(np.float32) for clip in reference]
    corpus = fake_corpus([None] * len(clips))
    run = fake_run(corpus, folder=folder / "a", outputs=[[o[:1], o[1:]] for o in output])
    other = fake_run(corpus, name="fp32", folder=folder / "b", outputs=[[o[:1], o[1:]] for o in reference])
    cosines, snrs, largest = [], [], 0.0
    for a, b in zip(output, reference, strict=True):
        x, y = a.tolist(), b.tolist()
        dot, xx, yy = (math.fsum(p * q for p, q in zip(s, t, strict=True)) for s, t in ((x, y), (x, x), (y, y)))
        noise = math.fsum((p - q) ** 2 for p, q in zip(x, y, strict=True))
        cosines.append(dot / math.sqrt(xx) / math.sqrt(yy) if xx and yy else float(xx == yy))
        snrs.append(
            max(-200.0, min(200.0, 10 * math.log10(yy / noise))) if yy and noise else math.copysign(200, yy - 1e-99)
        )
        largest = max(largest, *(abs(p - q) for p, q in zip(x, y, strict=True)))
    figures = [f for name in ("cosine", "snr", "max_abs_diff") for f in metric(name).measure(run, corpus, other)]
    values = {f.metric: f.value for f in figures}
    ordered = sorted(cosines)
    at = 0.01 * (len(ordered) - 1)
    p1 = ordered[0] + (ordered[min(1, len(ordered) - 1)] - ordered[0]) * at
    expected = {
        "cosine": math.fsum(cosines) / len(cosines),
        "cosine_p1": p1,
        "cosine_min": ordered[0],
        "snr": math.fsum(snrs) / len(snrs),
        "max_abs_diff": largest,
    }
    assert values == pytest.approx(expected, abs=1e-6)
    assert {f.n for f in figures} == {len(clips)}


@pytest.mark.parametrize(
    ("output", "reference", "cosine", "snr"),
    [
        ([0.0, 0.0], [0.0, 0.0], 1.0, 200.0),
        ([0.0, 0.0], [1.0, 0.0], 0.0, 0.0),
        ([1.0, 0.0], [0.0, 0.0], 0.0, -200.0),
        ([1e30, -1e30], [1e30, -1e30], 1.0, 200.0),
        ([-2.0, 1.0], [2.0, -1.0], -1.0, -6.0206),
    ],
)
def test_corners_of_output_comparisons(
    tmp_path: Path, output: list[float], reference: list[float], cosine: float, snr: float
) -> None:
    corpus = fake_corpus([None])
    run = fake_run(corpus, folder=tmp_path / "a", outputs=[[np.array(output)]])
    other = fake_run(corpus, name="fp32", folder=tmp_path / "b", outputs=[[np.array(reference)]])
    assert metric("cosine").measure(run, corpus, other)[0].value == pytest.approx(cosine)
    assert metric("snr").measure(run, corpus, other)[0].value == pytest.approx(snr, abs=1e-3)


@pytest.mark.parametrize("name", ["cosine", "snr", "max_abs_diff"])
def test_outputs_that_cannot_be_compared_are_errors(tmp_path: Path, name: str) -> None:
    corpus = fake_corpus([None])

    def run(which: str, outputs: Sequence[Sequence[Any]] | None) -> Any:
        return fake_run(corpus, name=which, folder=tmp_path / which, outputs=outputs)

    good = run("good", [[np.ones((2, 3))]])
    with pytest.raises(MeasureError, match=r"^run nan, clip clip0: .*NaN"):
        metric(name).measure(run("nan", [[np.full((2, 3), np.nan)]]), corpus, good)
    with pytest.raises(MeasureError, match=r"its outputs are 3x2, those of good 2x3"):
        metric(name).measure(run("turned", [[np.ones((3, 2))]]), corpus, good)
    with pytest.raises(MeasureError, match="kept no outputs"):
        metric(name).measure(run("none", None), corpus, good)
    with pytest.raises(MeasureError, match=r"^run words, clip clip0: the model's output is <U1, not numbers"):
        metric(name).measure(run("words", [[np.array([["a", "b", "c"]] * 2)]]), corpus, good)
    empty = run("empty", [[np.ones((0, 3))]])  # two of them are no proof that the models are alike
    with pytest.raises(MeasureError, match=r"output is empty|no frames to count in"):
        metric(name).measure(empty, corpus, empty)
    damaged = run("damaged", [[np.ones((2, 3))]])
    (tmp_path / "damaged" / "outputs" / "00000.000.npy").write_bytes(b"")
    with pytest.raises(MeasureError, match="missing or damaged"):
        metric(name).measure(damaged, corpus, good)


def test_speed() -> None:
    seconds, walls = [10.0, 20.0, 5.0, 5.0, 10.0], [1.0, 4.0, 1.0, 1.0, 3.0]
    corpus = fake_corpus([None] * 5, seconds)
    run = fake_run(corpus, walls=walls)
    values = {f.metric: f for name in ("rtf", "latency") for f in metric(name).measure(run, corpus)}
    assert values["rtf"].value == pytest.approx(0.2)
    assert values["rtfx"].value == pytest.approx(5.0)
    assert values["latency_median"].value == 1.0
    assert values["latency_p95"].value == pytest.approx(3.8)
    assert values["rtf"].low is not None
    other = fake_run(corpus, walls=[wall * 2 for wall in walls], name="fp32")
    delta = pooled(metric("rtf").measure(run, corpus, other), "rtf", "fp32/rtf")
    assert delta.value == pytest.approx(-0.2)
    assert delta.high is not None
    assert delta.high < 0


def test_sizes_and_single_observations() -> None:
    corpus = fake_corpus([None])
    run = fake_run(corpus, sizes={"a": 100, "b": 20})
    other = fake_run(corpus, sizes={"c": 500}, name="fp32")
    size, delta = metric("download_size").measure(run, corpus, other)
    assert (size.value, size.low, size.high, size.n) == (120, 120, 120, 2)
    assert (delta.value, delta.high, delta.against) == (-380, -380, "fp32/download_size")
    (rss,), (load,) = metric("peak_rss").measure(run, corpus), metric("load_time").measure(run, corpus)
    assert (rss.value, rss.interval, rss.low) == (123, "none: n = 1", None)
    assert (load.value, load.unit) == (0.25, "s")


def test_two_files_of_one_name_are_not_confused() -> None:
    corpus = fake_corpus(["a"])
    run = fake_run(corpus, ["a"], sizes={"model.onnx": 1})
    other = fake_run(corpus, ["a"], name="fp32", sizes={"model.onnx": 1})
    metric("wer").measure(run, corpus, other)  # the same file under one name is fine
    other.job.artifacts["model.onnx"] = "f" * 64
    with pytest.raises(MeasureError, match=r"two different files model\.onnx"):
        metric("wer").measure(run, corpus, other)
