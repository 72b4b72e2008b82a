"""The main job, for real: real weights, real speech, the real client, as `make demo` runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx_asr
import pytest

from hubpub.build import Built, build, verify_release
from hubpub.corpus.corpus import Corpus, load_samples
from hubpub.errors import ReleaseError
from hubpub.recipe import load_recipe, read_lock
from hubpub.report import Silent
from hubpub.store import FileDigest, Store

RECIPE = Path(__file__).parents[1] / "recipes" / "whisper-tiny.en.yaml"

pytestmark = [pytest.mark.slow, pytest.mark.registry]


@pytest.fixture(scope="module")
def built(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Built:
    output = tmp_path_factory.mktemp("dist") / "whisper-tiny.en"
    return build(RECIPE, shared_store, Silent(), output=output, locked=True)


def test_the_release_is_complete(built: Built) -> None:
    manifest = verify_release(built.folder)
    assert set(load_recipe(RECIPE).recipe.files) <= set(manifest.files)
    assert all(verdict.passed for verdict in manifest.all_verdicts())
    assert len(manifest.all_verdicts()) == len(load_recipe(RECIPE).recipe.gates)
    wer = {each.run: each for each in manifest.measurements if each.metric == "wer" and each.subset is None}
    assert wer["two-cities"].value <= 0.01
    assert wer["two-cities"].n == 119
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in built.folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("quantization", [None, "sharded"])
def test_a_user_loads_it_and_transcribes(
    built: Built, shared_store: Store, tmp_path: Path, quantization: str | None
) -> None:
    """From the whole folder, with every file in it that might confuse the loader's patterns."""
    for name, digest in _outputs(built, shared_store, "corpora/transcribed").items():
        shared_store.place(digest, tmp_path / name)
    clip = next(clip for clip in Corpus.load(tmp_path).clips if clip.id == "jfk")
    model = onnx_asr.load_model("whisper", built.folder, quantization=quantization, providers=["CPUExecutionProvider"])
    text = model.recognize(load_samples(tmp_path, clip), language="en")
    assert "ask not what your country can do for you, ask what you can do for your country" in str(text)


def test_transcripts_lie_beside_the_manifest(built: Built) -> None:
    lines = (built.folder / "measurements" / "two-cities.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["two_cities"]
    assert json.loads(lines[0])["text"].startswith("It was the best of times")


def test_building_again_does_nothing(built: Built, shared_store: Store) -> None:
    again = build(RECIPE, shared_store, Silent(), output=built.folder, locked=True)
    assert again.unchanged
    assert again.ran == ()
    assert again.bytes_fetched == 0
    assert again.manifest == built.manifest


def test_one_flipped_byte_is_found_and_mended(built: Built, shared_store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(built.folder, folder)
    with (folder / "encoder_model.onnx").open("r+b") as file:
        file.seek(20_000_000)
        byte = file.read(1)
        file.seek(20_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ReleaseError, match=r"encoder_model\.onnx has other bytes"):
        verify_release(folder)
    build(RECIPE, shared_store, Silent(), output=folder, locked=True)
    assert verify_release(folder).digest == built.manifest.digest


def test_two_fresh_stores_give_the_same_bytes(built: Built, shared_store: Store, tmp_path: Path) -> None:
    """Conversion and shards; what they are made from is copied into the stores, so that nothing is fetched twice."""
    only = "sharded/encoder_model.sharded.onnx"
    for name in ("one", "two"):
        with Store(tmp_path / name / "store") as store:
            _seed(store, shared_store)
            fresh = build(RECIPE, store, Silent(), output=tmp_path / name / "dist", locked=True, only=only)
        assert "convert" in fresh.ran
        for path, file in fresh.manifest.files.items():
            assert file.sha256 == built.manifest.files[path].sha256, path
        assert fresh.manifest.steps["convert"] == built.manifest.steps["convert"]


def _outputs(built: Built, store: Store, step: str) -> dict[str, FileDigest]:
    result = store.result(built.manifest.steps[step].key)
    assert result is not None
    return dict(result.outputs)


def _seed(store: Store, shared: Store) -> None:
    lock = read_lock(RECIPE)
    assert lock is not None
    for locked in lock.sources.values():
        for pin in locked.files.values():
            if shared.has(pin.sha256):
                with store.scratch("seed") as folder:
                    shutil.copyfile(shared.path(pin.sha256), folder / "blob")
                    store.put(folder / "blob", expected=pin.digest)
