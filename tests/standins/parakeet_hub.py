"""What `recipes/parakeet-v3.yaml` takes from the Hub, written for one on loopback: the model's repo and the dataset.

The model is the stand-in at any scale. The dataset has the paths, columns and types of ``google/fleurs``, and a few
rows in each file: real speech with what is really said, though not in the language that the path names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parakeet import REPO, write_repo
from parakeet_scale import SCALES, Scale

from hubpub.localhub import LocalHub
from hubpub.recipe import load_recipe, read_lock
from hubpub.source import SourceContext
from hubpub.store import Store

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "parakeet-v3.yaml"
SPEECH = ROOT / "recipes" / "whisper-tiny.en.yaml"
DATASET = "google/fleurs"
MINI = replace(SCALES["tiny"], frames=5000)
"""The smallest that takes six and a half minutes in one pass."""
TRAINED = ("en_us", "fr_fr", "pl_pl")
VALIDATED = ("de_de", "en_us", "es_419", "fi_fi", "fr_fr", "it_it", "pl_pl", "ru_ru")
_FEATURES: dict[str, Any] = {
    "id": {"dtype": "int32", "_type": "Value"},
    "num_samples": {"dtype": "int32", "_type": "Value"},
    "path": {"dtype": "string", "_type": "Value"},
    "audio": {"sampling_rate": 16_000, "_type": "Audio"},
    "transcription": {"dtype": "string", "_type": "Value"},
    "raw_transcription": {"dtype": "string", "_type": "Value"},
    "language": {"dtype": "string", "_type": "Value"},
}

Row = tuple[Path, str]
"""A recording, and what is said in it."""


def speech(store: Store, folder: Path) -> Path:
    """The recordings of the Whisper recipe's own sources, linked into ``folder`` as ``<source>/<path>``."""
    loaded, lock = load_recipe(SPEECH), read_lock(SPEECH)
    assert lock is not None
    context = SourceContext(store, loaded.folder)
    for reference in {each for corpus in loaded.recipe.corpora.values() for each in corpus.references()}:
        name, path = reference.split("/", 1)
        loaded.recipe.sources[name].fetch(lock.sources[name], [path], context, lambda _: None)
        link = folder / reference
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(store.path(lock.sources[name].files[path].sha256))
    return folder


def seed(hub: LocalHub, scale: Scale, recordings: Path, scratch: Path) -> None:
    """Put both repos on a Hub.

    Args:
        hub: where to.
        scale: of the model.
        recordings: as by `speech`.
        scratch: an empty folder; the model is removed from it again.
    """
    model = scratch / "model"
    write_repo(model, scale)
    hub.seed(REPO, model)
    for file in model.iterdir():
        file.unlink()
    write_dataset(scratch / "dataset", recordings)
    hub.seed(DATASET, scratch / "dataset", repo_type="dataset")


def write_dataset(folder: Path, recordings: Path) -> None:
    """All the files that the recipe names."""
    said = _rows(recordings, "transcribed") + _rows(recordings, "two-cities")
    for split, languages, rows in (
        ("train", TRAINED, _rows(recordings, "untranscribed")),
        ("validation", VALIDATED, [row for row in said if _is_dense(*row)]),
    ):
        for number, language in enumerate(languages):
            path = folder / "parquet-data" / language / f"{split}-00000-of-00001.parquet"
            _write(path, language, rows[number :: len(languages)])


def _rows(recordings: Path, corpus: str) -> list[Row]:
    rows = []
    for clip in load_recipe(SPEECH).recipe.corpora[corpus].clips:
        text = clip.text if clip.text_from is None else (recordings / clip.text_from).read_text("utf-8")
        rows.append((recordings / clip.audio, " ".join((text or "").split())))
    return rows


def _is_dense(file: Path, text: str) -> bool:
    """Whether more words are said than the stand-in makes up in that time: else its figures hang on what it inserts."""
    import soundfile

    return len(text.split()) > 2.1 * float(soundfile.info(file).duration)


def _write(path: Path, language: str, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile

    audio = [{"bytes": file.read_bytes(), "path": file.name} for file, _ in rows]
    columns = {
        "id": pa.array(range(len(rows)), pa.int32()),
        "num_samples": pa.array([soundfile.info(file).frames for file, _ in rows], pa.int32()),
        "path": pa.array([file.name for file, _ in rows], pa.string()),
        "audio": pa.array(audio, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "transcription": pa.array([text.casefold() for _, text in rows], pa.string()),
        "raw_transcription": pa.array([text for _, text in rows], pa.string()),
        "language": pa.array([language] * len(rows), pa.string()),
    }
    metadata = {"huggingface": json.dumps({"info": {"features": _FEATURES}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
