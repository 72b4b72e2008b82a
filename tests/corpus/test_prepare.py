from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hubpub.corpus.audio import decode, resample
from hubpub.corpus.corpus import Corpus, load_samples
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec
from hubpub.errors import AudioError, OverlapError

Prepare = Callable[..., Corpus]


def spec(*clips: dict[str, Any]) -> CorpusSpec:
    defaults = {"source": "a package", "license": "CC0-1.0", "language": "en"}
    return CorpusSpec.model_validate({"role": "evaluation", "defaults": defaults, "clips": list(clips)})


@pytest.fixture
def files(two_cities_wav: Path, tmp_path: Path) -> dict[str, Path]:
    lab = tmp_path / "x.lab"
    lab.write_bytes("\ufeffIt was the best\r\n of times \n".encode())
    return {"s/two_cities.wav": two_cities_wav, "s/x.lab": lab}


CLIPS: tuple[dict[str, Any], ...] = (
    {"audio": "s/two_cities.wav", "crop": [0, 2.5], "text_from": "s/x.lab"},
    {"audio": "s/two_cities.wav", "crop": [10, 12], "id": "other", "text": "", "language": "en-GB"},
    {"audio": "s/two_cities.wav", "crop": [20, 21]},
)


def test_a_prepared_corpus(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    corpus = prepare(spec(*CLIPS), files, out)
    assert [clip.id for clip in corpus.clips] == ["two_cities@0-2.5", "other", "two_cities@20-21"]
    assert [clip.text for clip in corpus.clips] == ["It was the best of times", "", None]
    assert [clip.provenance.language for clip in corpus.clips] == ["en", "en-GB", "en"]
    assert corpus.seconds == 5.5
    first = corpus.clips[0]
    decoded = decode(files["s/two_cities.wav"], (0, 2.5))
    np.testing.assert_array_equal(load_samples(out, first), resample(decoded.samples, 48_000))
    assert (first.rate, first.native_rate, first.start, first.stop) == (16_000, 48_000, 0, 120_000)
    assert first.samples_sha256 == decoded.samples_sha256
    assert len({clip.file_samples_sha256 for clip in corpus.clips}) == 1
    assert Corpus.load(out) == corpus


def test_the_same_bytes_in_another_process_and_under_another_hash_seed(files: dict[str, Path], tmp_path: Path) -> None:
    prepare(spec(*CLIPS), files, tmp_path / "a")
    code = (
        "import json, sys, pathlib;"
        "from hubpub.corpus.prepare import prepare; from hubpub.corpus.spec import CorpusSpec;"
        "s, f, out = json.load(sys.stdin);"
        "prepare(CorpusSpec.model_validate(s), {k: pathlib.Path(v) for k, v in f.items()}, pathlib.Path(out))"
    )
    work = [spec(*CLIPS).model_dump(mode="json"), {k: str(v) for k, v in files.items()}, str(tmp_path / "b")]
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", code], input=json.dumps(work), text=True, env=env, check=True)
        names = sorted(path.name for path in (tmp_path / "a").iterdir())
        assert names == ["00000.npy", "00001.npy", "00002.npy", "corpus.json"]
        for name in names:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_path_of_this_machine_is_in_the_index(files: dict[str, Path], tmp_path: Path) -> None:
    prepare(spec(*CLIPS), files, tmp_path / "out")
    index = (tmp_path / "out" / "corpus.json").read_text()
    assert str(tmp_path) not in index
    assert str(files["s/two_cities.wav"].parent) not in index


def test_the_digest_follows_ids_samples_and_texts_alone(files: dict[str, Path], tmp_path: Path) -> None:
    digest = prepare(spec(*CLIPS), files, tmp_path / "a").digest
    told_more = [clip | {"speaker": "Ann"} for clip in CLIPS]
    assert prepare(spec(*told_more), files, tmp_path / "b").digest == digest
    changes: list[dict[str, Any]] = [{"text": "x", "text_from": None}, {"id": "x"}, {"crop": [0, 2.4], "id": "y"}]
    for number, change in enumerate(changes):
        changed = [CLIPS[0] | change, *CLIPS[1:]]
        assert prepare(spec(*changed), files, tmp_path / f"c{number}").digest != digest


def test_errors_name_the_clip_as_the_recipe_does(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^clip late \(s/two_cities\.wav\): the crop ends at 50 s"):
        prepare(spec({"audio": "s/two_cities.wav", "crop": [1, 50], "id": "late"}), files, tmp_path / "a")
    with pytest.raises(AudioError, match=r"^s/no\.wav: no such file"):
        prepare(spec({"audio": "s/no.wav"}), files, tmp_path / "b")


@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe\x00", "not UTF-8"), (b" \n", "empty")])
def test_bad_transcripts(files: dict[str, Path], tmp_path: Path, content: bytes, message: str) -> None:
    files["s/x.lab"].write_bytes(content)
    with pytest.raises(AudioError, match=rf"^s/x\.lab: .*{message}"):
        prepare(spec(CLIPS[0]), files, tmp_path / "out")


def test_one_clip_does_not_count_twice(files: dict[str, Path], tmp_path: Path) -> None:
    decoded = decode(files["s/two_cities.wav"], (10, 12))
    soundfile.write(tmp_path / "copy.flac", decoded.samples, decoded.rate)
    with pytest.raises(OverlapError, match="clips other and copy are the same samples"):
        prepare(spec(*CLIPS, {"audio": "s/copy.flac"}), files | {"s/copy.flac": tmp_path / "copy.flac"}, tmp_path / "o")


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"role": "evaluation", "clips": [{}]}'])
def test_a_damaged_index_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "corpus.json").write_bytes(content)
    with pytest.raises(AudioError, match="missing or damaged"):
        Corpus.load(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY", "pickle", "ints"])
def test_damaged_samples_are_refused(files: dict[str, Path], tmp_path: Path, content: bytes | str | None) -> None:
    out = tmp_path / "out"
    clip = prepare(spec(CLIPS[2]), files, out).clips[0]
    path = out / clip.samples
    if content is None:
        path.unlink()
    elif content == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif content == "ints":
        np.save(path, np.zeros(3, dtype=np.int16))
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    with pytest.raises(AudioError):
        load_samples(out, clip)


def test_what_is_not_said_of_a_corpus_is_not_written() -> None:
    """Manifests of releases that were made before corpora could be sealed, or clips have turns, keep their digests."""
    plain = Corpus(role="evaluation", clips=())
    assert "sealed" not in plain.model_dump(mode="json")
    assert plain.model_copy(update={"sealed": True}).model_dump(mode="json")["sealed"] is True
