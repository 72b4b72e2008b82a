"""Rows of datasets as clips; without the optional library only what is told about it."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from hubpub.corpus.audio import decode
from hubpub.corpus.corpus import Corpus
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec
from hubpub.errors import AudioError

THERE = importlib.util.find_spec("datasets") is not None
needs_datasets = pytest.mark.skipif(not THERE, reason="the extra `datasets` is not installed")
RATE = 16_000


def encoded(seed: int, kind: str = "FLAC", seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * RATE))
    soundfile.write(file, samples, RATE, format=kind)
    return file.getvalue()


def write_parquet(path: Path, rows: list[dict[str, Any]], *, audio: str = "audio") -> None:
    """As the Hub holds them: audio as it was encoded, the features in the schema's metadata, several row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {name: pa.array(values, type=struct if name == audio else None) for name, values in columns.items()}
    features: dict[str, Any] = {audio: {"sampling_rate": RATE, "_type": "Audio"}}
    for name, array in arrays.items():
        features.setdefault(name, {"dtype": str(array.type), "_type": "Value"})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(arrays).replace_schema_metadata(metadata), path, row_group_size=2)


def rows(start: int, stop: int) -> list[dict[str, Any]]:
    return [
        {
            "id": 100 + number,
            "audio": {"bytes": encoded(number), "path": f"{number} .flac"},
            "transcription": f" row  {number}",
            "speaker": f"S{number % 2}",
        }
        for number in range(start, stop)
    ]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two shards, called as the store calls its blobs."""
    write_parquet(tmp_path / "aa", rows(0, 5))
    write_parquet(tmp_path / "bb", rows(5, 8))
    return {"fleurs/fr_fr/train-0.parquet": tmp_path / "aa", "fleurs/fr_fr/train-1.parquet": tmp_path / "bb"}


def spec(*files: str, **fields: Any) -> CorpusSpec:
    corpus = {name: fields.pop(name) for name in ("sample", "windows", "clips") if name in fields}
    dataset = {"files": files, "source": "a dataset", "license": "CC-BY-4.0", **fields}
    return CorpusSpec.model_validate({"role": "calibration", "datasets": [dataset], **corpus})


SHARDS = ("fleurs/fr_fr/train-0.parquet", "fleurs/fr_fr/train-1.parquet")
COLUMNS = {"text": "transcription", "speaker": "speaker", "id": "id"}


@needs_datasets
def test_rows_of_all_shards_become_clips_in_order(files: dict[str, Path], tmp_path: Path) -> None:
    corpus = prepare(spec(*SHARDS, columns=COLUMNS, language="fr"), files, tmp_path / "out")
    assert [clip.id for clip in corpus.clips] == [str(100 + number) for number in range(8)]
    assert [clip.text for clip in corpus.clips] == [f"row {number}" for number in range(8)]
    assert [clip.audio for clip in corpus.clips] == [
        *(f"{SHARDS[0]}#{row}" for row in range(5)),
        *(f"{SHARDS[1]}#{row}" for row in range(3)),
    ]
    assert {clip.provenance.speaker for clip in corpus.clips} == {"S0", "S1"}
    assert {clip.provenance.language for clip in corpus.clips} == {"fr"}
    (tmp_path / "3.flac").write_bytes(encoded(3))
    assert corpus.clips[3].samples_sha256 == decode(tmp_path / "3.flac").samples_sha256
    assert Corpus.load(tmp_path / "out") == corpus
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.flac", "aa", "bb", "out"]  # nothing is left over


@needs_datasets
def test_rows_are_limited_and_sampled(files: dict[str, Path], tmp_path: Path) -> None:
    limited = prepare(spec(*SHARDS, limit=6), files, tmp_path / "a")
    assert [clip.id for clip in limited.clips] == [f"{number}_-{number:05}" for number in range(6)]
    sample = {"count": 4, "balance": "speaker", "seed": 3}
    sampled = prepare(spec(*SHARDS, columns=COLUMNS, sample=sample), files, tmp_path / "b")
    assert sorted(str(clip.provenance.speaker) for clip in sampled.clips) == ["S0", "S0", "S1", "S1"]
    assert prepare(spec(*SHARDS, columns=COLUMNS, sample=sample), files, tmp_path / "c") == sampled


@needs_datasets
def test_a_folder_of_audio_with_its_metadata(tmp_path: Path) -> None:
    names = ["train/metadata.csv", *(f"train/{number}.wav" for number in range(3))]
    (tmp_path / "in").mkdir()
    files = {f"data/{name}": tmp_path / "in" / name.replace("/", "_") for name in names}
    for number in range(3):
        files[f"data/train/{number}.wav"].write_bytes(encoded(number, "WAV"))
    files["data/train/metadata.csv"].write_text("file_name,transcription\n1.wav,one\n0.wav,zero\n2.wav,two\n")
    columns = {"text": "transcription"}
    corpus = prepare(spec(*files, format="audiofolder", columns=columns), files, tmp_path / "out")
    assert {(clip.audio, clip.text) for clip in corpus.clips} == {
        (f"data/train/{number}.wav", text) for number, text in enumerate(("zero", "one", "two"))
    }


@needs_datasets
@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (b"", {}, "it cannot be read"),
        (b"PAR1 and nothing", {}, "it cannot be read"),
        (None, {"columns": {"audio": "sound"}}, "there is no column 'sound' among id, audio, transcription, speaker"),
        (None, {"columns": {"text": "sentence"}}, "train-0.parquet#0: 'sentence' is missing or no text"),
        ([{"audio": {"bytes": None, "path": __file__}, "x": "y"}], {}, "#0: 'audio' holds no audio"),
        ([{"audio": {"bytes": b"", "path": "a.wav"}, "x": "y"}], {}, "train-0.parquet#0: 'audio' holds no audio"),
        ([{"audio": {"bytes": b"no audio", "path": "a.wav"}, "x": "y"}], {}, "it cannot be decoded"),
        ([{"audio": {"bytes": encoded(i), "path": "a.wav"}, "x": "y"} for i in (1, 2)], {"columns": {"id": "x"}},
         "fleurs/fr_fr/train-0.parquet#0 and fleurs/fr_fr/train-0.parquet#1 are both called y"),
    ],
)  # fmt: skip
def test_bad_datasets_are_told_in_one_line(
    files: dict[str, Path], tmp_path: Path, content: Any, fields: dict[str, Any], message: str
) -> None:
    if isinstance(content, bytes):
        files[SHARDS[0]].write_bytes(content)
    elif content is not None:
        write_parquet(files[SHARDS[0]], content)
    with pytest.raises(AudioError) as caught:
        prepare(spec(SHARDS[0], **fields), files, tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@needs_datasets
def test_no_row_counts_twice(files: dict[str, Path], tmp_path: Path) -> None:
    twice = spec(SHARDS[0], limit=2)
    twice = twice.model_copy(update={"datasets": twice.datasets * 2})
    with pytest.raises(AudioError, match=r"train-0\.parquet#0 is there twice, so it would count twice"):
        prepare(twice, files, tmp_path / "a")
    with pytest.raises(AudioError, match=r"^fleurs/fr_fr/train-0\.parquet: the dataset names it twice"):
        prepare(spec(SHARDS[0], SHARDS[0]), files, tmp_path / "b")


@needs_datasets
def test_datasets_whose_files_are_all_called_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    for number, shard in enumerate(SHARDS):
        write_parquet(files[shard], [{"audio": {"bytes": encoded(2 * number + i), "path": None}} for i in (0, 1)])
    one, other = (spec(shard) for shard in SHARDS)
    both = one.model_copy(update={"datasets": one.datasets + other.datasets})
    ids = [clip.id for clip in prepare(both, files, tmp_path / "a").clips]
    assert ids == ["row-00000", "row-00001", "row-00000.2", "row-00001.2"]


@needs_datasets
def test_shards_without_rows_are_passed_over(files: dict[str, Path], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(files[SHARDS[0]]).slice(0, 0), files[SHARDS[0]])
    assert len(prepare(spec(*SHARDS), files, tmp_path / "a").clips) == 3
    with pytest.raises(AudioError, match=r"^fleurs/fr_fr/train-0\.parquet: the datasets have no rows"):
        prepare(spec(SHARDS[0]), files, tmp_path / "b")


@needs_datasets
def test_a_class_is_called_by_its_name(files: dict[str, Path], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(files[SHARDS[0]]).append_column("lang", pa.array([1, 0, 1, 0, 1]))
    known = json.loads(table.schema.metadata[b"huggingface"])
    known["info"]["features"]["lang"] = {"names": ["en", "fr"], "_type": "ClassLabel"}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(known)}), files[SHARDS[0]])
    corpus = prepare(spec(SHARDS[0], columns={"language": "lang"}), files, tmp_path / "out")
    assert [clip.provenance.language for clip in corpus.clips] == ["fr", "en", "fr", "en", "fr"]


@needs_datasets
@pytest.mark.parametrize("parts", [("test",), ("train", "test")])
def test_every_file_of_a_folder_is_read_whatever_its_part_is_called(tmp_path: Path, parts: tuple[str, ...]) -> None:
    files = {}
    for number, part in enumerate(parts):
        (tmp_path / part).mkdir()
        (tmp_path / part / "0.wav").write_bytes(encoded(number, "WAV"))
        (tmp_path / part / "metadata.csv").write_text(f"file_name,transcription\n0.wav,{part}\n")
        files |= {f"data/{part}/{name}": tmp_path / part / name for name in ("metadata.csv", "0.wav")}
    columns = {"text": "transcription"}
    corpus = prepare(spec(*files, format="audiofolder", columns=columns), files, tmp_path / "out")
    assert {(clip.audio, clip.text) for clip in corpus.clips} == {(f"data/{part}/0.wav", part) for part in parts}


@needs_datasets
@pytest.mark.parametrize("name", ["../../secret.wav", "/etc/hosts", "train/../../secret.wav"])
def test_metadata_cannot_name_files_beyond_the_dataset(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.wav").write_bytes(encoded(1, "WAV"))
    (tmp_path / "0.wav").write_bytes(encoded(0, "WAV"))
    (tmp_path / "metadata.csv").write_text(f"file_name,transcription\n0.wav,zero\n{name},one\n")
    files = {f"data/{each}": tmp_path / each for each in ("metadata.csv", "0.wav")}
    with pytest.raises(AudioError) as caught:
        prepare(spec(*files, format="audiofolder"), files, tmp_path / "out")
    assert "\n" not in str(caught.value)


@needs_datasets
def test_odd_names_in_rows_do_no_harm(files: dict[str, Path], tmp_path: Path) -> None:
    names = ["a.w\0v", "../../b.flac", ".", "ü ñ².FLAC", "x" * 300 + ".flac", "c." + "y" * 300, None]
    rows = [{"audio": {"bytes": encoded(i), "path": name}, "key": f"../{i}"} for i, name in enumerate(names)]
    write_parquet(files[SHARDS[0]], rows)
    corpus = prepare(spec(SHARDS[0]), files, tmp_path / "a")
    assert len({clip.id for clip in corpus.clips}) == len(names)
    assert [clip.id for clip in prepare(spec(SHARDS[0], columns={"id": "key"}), files, tmp_path / "b").clips] == [
        f"_{i}" for i in range(len(names))
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"aa", "bb", "a", "b"}


@needs_datasets
def test_its_decoder_is_not_needed(files: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, json; from hubpub.corpus.prepare import prepare;"
        "from hubpub.corpus.spec import CorpusSpec;"
        "s, f, out = json.load(sys.stdin); f = {k: pathlib.Path(v) for k, v in f.items()};"
        "prepare(CorpusSpec.model_validate(s), f, pathlib.Path(out));"
        "print(sorted({'torch', 'torchcodec', 'torchaudio', 'librosa'} & set(sys.modules)))"
    )
    work = [spec(*SHARDS).model_dump(mode="json"), {k: str(v) for k, v in files.items()}, str(tmp_path / "out")]
    run = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(work), text=True, capture_output=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(THERE, reason="the library is there")
def test_without_the_library_the_reader_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"the library `datasets` is not installed; pip install 'hubpub\[datasets\]'"):
        prepare(spec(SHARDS[0]), {SHARDS[0]: tmp_path / "x"}, tmp_path / "out")


def test_a_file_that_no_source_holds(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^fleurs/fr_fr/train-0\.parquet: no such file is among the sources"):
        prepare(spec(SHARDS[0]), {}, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"license": None}, ("datasets", 0, "license")),
        ({"format": "csv"}, ("datasets", 0, "format")),
        ({"limit": 0}, ("datasets", 0, "limit")),
        ({"files": []}, ("datasets", 0, "files")),
        ({"columns": {"audio": "a", "words": "b"}}, ("datasets", 0, "columns", "words")),
        ({"sample": {"count": 1, "balance": "speaker"}}, ("datasets", 0, "speaker")),
        ({"windows": {"seconds": 1}, "columns": COLUMNS}, ("datasets", 0, "columns")),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], loc: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(*SHARDS, **fields)
    assert [error["loc"] for error in caught.value.errors()] == [loc]
