"""Evaluations of what is there already, and comparisons of two of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hub_stub import COMMIT, CdnStub, HubStub
from measure_fakes import fake_corpus, fake_run
from toy import Finished, Project, Recorder, hubpub, write_model

from hubpub.build.compare import Compared, compare
from hubpub.build.evaluate import Evaluated, evaluate
from hubpub.build.evaluation import EVALUATION, Evaluation, read_evaluation
from hubpub.build.measured import Measured, open_measured
from hubpub.errors import ReleaseError, SourceError
from hubpub.manifest import MANIFEST, Digest, read_manifest
from hubpub.measure.metrics.wer import Wer
from hubpub.measure.result import canonical_json
from hubpub.store import Store


def run(project: Project, where: str | Path, store: Path, output: Path) -> Evaluated:
    with Store(store) as opened:
        return evaluate(str(where), project.path, opened, Recorder(), output=output, locked=True)


def opened(store: Path, *where: str | Path) -> list[Measured]:
    with Store(store) as made, ExitStack() as stack:
        return [open_measured(str(each), made, stack) for each in where]


def side_by_side(store: Path, old: str | Path, new: str | Path) -> Compared:
    with Store(store) as made, ExitStack() as stack:
        return compare(*(open_measured(str(each), made, stack) for each in (old, new)))


@pytest.fixture
def other(copied: Finished, tmp_path: Path) -> Path:
    """A folder with other weights under the same names, of which hubpub knows nothing."""
    folder = tmp_path / "other"
    (folder / "sharded").mkdir(parents=True)
    write_model(folder / "model.onnx", seed=7)
    write_model(folder / "sharded" / "model.onnx", seed=7, external="model.onnx.data")
    (folder / "secret.txt").write_text("not asked for")
    return folder


def test_what_was_built_here_is_not_measured_again(copied: Finished, tmp_path: Path) -> None:
    done = run(copied.project, copied.release, copied.store, tmp_path / "eval")
    assert done.ran == ()
    manifest = read_manifest(copied.release)
    found = read_evaluation(tmp_path / "eval" / EVALUATION)
    assert found == done.evaluation
    for mine, theirs in (
        (found.measurements, manifest.all_measurements()),
        (found.verdicts, manifest.all_verdicts()),
    ):
        assert {each.model_dump_json() for each in mine} == {each.model_dump_json() for each in theirs}
    assert found.corpora["chords"] == manifest.corpora["chords"]
    assert not found.missed()
    for path, digest in found.records.items():
        assert hashlib.sha256((tmp_path / "eval" / path).read_bytes()).hexdigest() == digest.sha256
        assert (tmp_path / "eval" / path).read_bytes() == (copied.release / path).read_bytes()
    assert all(found.files[path] == Digest(sha256=each.sha256, size=each.size) for path, each in manifest.files.items()
               if path in found.files)  # fmt: skip
    assert "notes.txt" not in found.files


def test_other_files_are_measured_the_same_way(copied: Finished, other: Path, tmp_path: Path) -> None:
    done = run(copied.project, other, copied.store, tmp_path / "eval")
    assert {"runs/whole", "runs/sharded"} <= set(done.ran)
    assert not {"convert", "files/sharded/model.onnx#1", "corpora/chords"} & set(done.ran)
    assert done.evaluation.files.keys() == {"model.onnx", "sharded/model.onnx", "sharded/model.onnx.data"}
    (largest,) = [each for each in done.evaluation.measurements if each.key == "sharded/max_abs_diff"]
    assert largest.value == 0
    found = side_by_side(copied.store, copied.release, tmp_path / "eval")
    rows = {row.path: row for row in found.files}
    assert not rows["model.onnx"].same
    assert rows["notes.txt"].new is None
    figures = {row.key: row for row in found.figures}
    rtf = figures["whole/rtf"]
    assert rtf.old is not None
    assert rtf.new is not None
    assert rtf.delta is None or rtf.delta.value == pytest.approx(rtf.new.value - rtf.old.value)
    size = figures["whole/download_size"]
    assert size.delta is not None
    assert size.delta.value == (rows["model.onnx"].new or 0) - (rows["model.onnx"].old or 0)


def test_a_run_whose_files_are_missing_is_left_out_and_said(copied: Finished, other: Path, tmp_path: Path) -> None:
    shutil.rmtree(other / "sharded")
    done = run(copied.project, other, copied.store, tmp_path / "eval")
    assert done.evaluation.left_out == {"sharded": "there is no sharded/model.onnx"}
    assert {each.run for each in done.evaluation.measurements} == {"whole"}
    assert {each.gate.measure for each in done.evaluation.verdicts} == {"whole/rtf"}
    (other / "model.onnx").rename(other / "x.onnx")
    with pytest.raises(ReleaseError, match=r"no run of .*toy\.yaml can be made: there is no model\.onnx"):
        run(copied.project, other, copied.store, tmp_path / "again")


def test_a_missed_budget_is_said_and_the_figures_are_kept(copied: Finished, other: Path, tmp_path: Path) -> None:
    write_model(other / "sharded" / "model.onnx", seed=8, external="model.onnx.data2")
    (other / "sharded" / "model.onnx.data2").rename(other / "sharded" / "model.onnx.data3")
    write_model(other / "sharded" / "model.onnx", seed=8, external="model.onnx.data")
    (other / "sharded" / "model.onnx.data3").unlink()
    said = hubpub(
        *("eval", other, "--recipe", copied.project.path, "--cache", copied.store, "-o", tmp_path / "e", "-q")
    )
    assert said.returncode == 3, said.stderr
    assert "hubpub: budget missed: sharded/cosine: at least 0.999" in said.stderr
    assert len(read_evaluation(tmp_path / "e" / EVALUATION).missed()) == 2
    shown = hubpub("compare", copied.release, tmp_path / "e", "--cache", copied.store)
    assert shown.returncode == 0, shown.stderr
    assert "sharded/cosine" in shown.stdout
    asked = hubpub("compare", copied.release, tmp_path / "e" / EVALUATION, "--cache", copied.store, "--json")
    data = json.loads(asked.stdout)
    assert {row["key"] for row in data["figures"]} >= {"whole/rtf", "sharded/cosine"}


def test_nothing_foreign_is_overwritten(copied: Finished, tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "thesis.txt").write_text("mine")
    with pytest.raises(ReleaseError, match=r"holds thesis\.txt, which no evaluation wrote"):
        run(copied.project, copied.release, copied.store, tmp_path / "eval")
    with pytest.raises(ReleaseError, match="no such folder"):
        run(copied.project, tmp_path / "nowhere", copied.store, tmp_path / "e")
    (copied.release / "model.onnx").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"model\.onnx has other bytes than recorded"):
        run(copied.project, copied.release, copied.store, tmp_path / "e")


@pytest.fixture
def hub(copied: Finished, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    """A Hub with the release in ``owner/repo``."""
    paths = (path for path in copied.release.rglob("*") if path.is_file())
    files = {path.relative_to(copied.release).as_posix(): path.read_bytes() for path in paths}
    with CdnStub() as cdn, HubStub(files, cdn, {name for name in files if ".onnx" in name}) as stub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stub.url)
        template = stub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield stub


def test_a_published_release_is_measured_and_compared(copied: Finished, hub: HubStub, tmp_path: Path) -> None:
    done = run(copied.project, "hf://owner/repo@v1", copied.store, tmp_path / "eval")
    assert done.evaluation.of == f"owner/repo@{COMMIT}"
    assert done.ran == ()  # the same bytes as were measured by the build
    found = side_by_side(copied.store, "hf://owner/repo", tmp_path / "eval")
    assert found.old.startswith(f"owner/repo@{COMMIT[:12]} (")
    assert all(row.same for row in found.files if row.new is not None)
    (deltas,) = [row.delta for row in found.figures if row.key == "whole/download_size"]
    assert deltas is not None
    assert deltas.value == 0
    del hub.files[MANIFEST]
    with pytest.raises(SourceError, match=r"holds no hubpub\.json.* run `hubpub eval` on it with a recipe"):
        opened(copied.store, "hf://owner/repo")
    again = run(copied.project, "hf://owner/repo", copied.store, tmp_path / "again")
    assert again.evaluation.files == done.evaluation.files


def test_what_is_no_release_is_said(copied: Finished, tmp_path: Path) -> None:
    assert opened(copied.store, copied.release / MANIFEST)[0].files == opened(copied.store, copied.release)[0].files
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ReleaseError, match="neither a release nor an evaluation"):
        opened(copied.store, tmp_path / "x.json")
    (tmp_path / EVALUATION).write_text("{}")
    with pytest.raises(ReleaseError, match=r"not an evaluation that this version reads: name: "):
        opened(copied.store, tmp_path / EVALUATION)


def text_side(
    folder: Path, corpus: Any, name: str, texts: Sequence[str], size: int, strata: Sequence[str] = ()
) -> Path:
    """An evaluation of an ASR run that gave ``texts``."""
    result = fake_run(corpus, texts, name="asr", sizes={"model.onnx": size})
    result.job.artifacts["model.onnx"] = hashlib.sha256(name.encode()).hexdigest()
    wer = Wer(metric="wer", strata=tuple(strata))
    told = wer.model_copy(update={"strata": tuple(each for each in strata if each != "section")})
    (folder / "measurements").mkdir(parents=True)
    records = {}
    for suffix, rows in (("jsonl", result.utterances), ("timings.jsonl", result.timings)):
        path = f"measurements/asr.{suffix}"
        data = "".join(canonical_json(row) for row in rows).encode()
        (folder / path).write_bytes(data)
        records[path] = Digest(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    evaluation = Evaluation(
        name="toy",
        of=name,
        files={"model.onnx": Digest(sha256=result.job.artifacts["model.onnx"], size=size)},
        corpora={"texts": corpus},
        metrics={"asr": [wer.model_dump(mode="json")]},
        left_out={},
        measurements=tuple(told.measure(result, corpus)),
        verdicts=(),
        records=records,
    )
    (folder / EVALUATION).write_text(evaluation.text())
    return folder


def test_transcripts_are_paired_utterance_by_utterance(tmp_path: Path) -> None:
    corpus = fake_corpus([f"a b c d {i}" for i in range(8)])
    right = [f"a b c d {i}" for i in range(8)]
    old = text_side(tmp_path / "a", corpus, "first", right, 100)
    new = text_side(tmp_path / "b", corpus, "second", [*right[:6], "a b c x 6", "a b c 7"], 25)
    found = side_by_side(tmp_path / "store", old, new)
    (row,) = found.figures
    assert (row.key, row.note) == ("asr/wer", None)
    assert row.delta is not None
    assert row.delta.value == pytest.approx(2 / 40)
    assert row.delta.low is not None
    assert row.delta.low <= row.delta.value <= (row.delta.high or 0)
    assert "paired bootstrap" in row.delta.interval
    (differ,) = found.disagreements
    assert differ.value == pytest.approx(2 / 40)
    assert (found.files[0].old, found.files[0].new, found.files[0].same) == (100, 25, False)
    elsewhere = text_side(tmp_path / "c", fake_corpus(["a", "b"]), "third", ["a", "b"], 25)
    (row,) = side_by_side(tmp_path / "store", old, elsewhere).figures
    assert (row.delta, row.note) == (None, "measured on other audio")
    (new / "measurements" / "asr.jsonl").unlink()
    (row,) = side_by_side(tmp_path / "store", old, new).figures
    assert (row.delta, row.note) == (None, "the utterances are not at hand")
    (old / "measurements" / "asr.jsonl").write_text("{}\n")
    with pytest.raises(ReleaseError, match=r"measurements/asr\.jsonl has other bytes than recorded"):
        side_by_side(tmp_path / "store", old, new)


def test_parts_are_paired_and_silence_is_a_transcript(tmp_path: Path) -> None:
    corpus = fake_corpus([*(f"a b c d {i}" for i in range(7)), ""], languages=["en"] * 5 + ["fr"] * 3)
    right = [*(f"a b c d {i}" for i in range(7)), ""]
    strata = ("language", "section")  # the sections of these runs cannot be told: their texts have no times
    old = text_side(tmp_path / "a", corpus, "first", right, 100, strata)
    new = text_side(tmp_path / "b", corpus, "second", [*right[:5], "a b c x 6", *right[6:]], 25, strata)
    found = side_by_side(tmp_path / "store", old, new)
    paired = {row.key: row.delta.value for row in found.figures if row.delta is not None}
    assert paired == pytest.approx({"asr/wer": 2 / 35, "asr/wer [language:en]": 0, "asr/wer [language:fr]": 2 / 10})
    (differ,) = found.disagreements
    assert differ.value == pytest.approx(2 / 35)
