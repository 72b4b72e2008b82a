"""A corpus whose clips are rows of a Hub dataset at a tag: locked, fetched from a Hub on loopback, built."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toy import Project, hubpub, make_project

from hubpub.localhub import LocalHub
from hubpub.manifest import read_manifest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the extra `datasets` is not installed"
)


def write_shard(path: Path, seeds: list[int]) -> None:
    """A second of noise in each row, and what is said in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for seed in seeds:
        file = io.BytesIO()
        soundfile.write(file, np.random.default_rng(seed).uniform(-0.3, 0.3, 16_000), 16_000, format="FLAC")
        rows.append({"bytes": file.getvalue(), "path": f"{seed}.flac"})
    audio = pa.array(rows, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    text = pa.array([f"row {seed}" for seed in seeds])
    features: dict[str, Any] = {"audio": {"_type": "Audio"}, "text": {"dtype": "string", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"audio": audio, "text": text}).replace_schema_metadata(metadata), path)


def with_dataset(project: Project) -> None:
    project.recipe["sources"]["fleurs"] = {
        "hub": "tester/fleurs",
        "repo_type": "dataset",
        "revision": "v1",
        "include": ["fr/*.parquet"],
        "license": "cc-by-4.0",
    }
    project.recipe["corpora"]["tuning"] = {
        "role": "calibration",
        "sample": {"count": 3, "seed": 1},
        "datasets": [
            {
                "files": ["fleurs/fr/train-0.parquet", "fleurs/fr/train-1.parquet"],
                "columns": {"text": "text"},
                "source": "made up for a test",
                "license": "CC-BY-4.0",
                "language": "fr",
            }
        ],
    }
    project.save()


def test_rows_of_a_dataset_at_a_tag(tmp_path: Path) -> None:
    data, project = tmp_path / "data", make_project(tmp_path / "project")
    with_dataset(project)
    write_shard(data / "fr" / "train-0.parquet", [1, 2, 3])
    write_shard(data / "fr" / "train-1.parquet", [4, 5])
    with LocalHub(tmp_path / "hub") as hub:
        hub.seed("tester/fleurs", data, repo_type="dataset", tag="v1")
        write_shard(data / "fr" / "train-0.parquet", [6, 7, 8])  # what is newer is not what was asked for
        hub.seed("tester/fleurs", data, repo_type="dataset")
        env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token(), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        env["HF_HOME"] = str(tmp_path / "home")
        output = tmp_path / "out"
        done = hubpub("build", project.path, "--output", output, HUBPUB_CACHE=str(tmp_path / "store"), **env)
        assert done.returncode == 0, done.stderr
    manifest = read_manifest(output)
    clips = manifest.corpora["tuning"].clips
    assert len(clips) == 3
    assert {clip.text for clip in clips} < {f"row {seed}" for seed in range(1, 6)}
    assert all(clip.audio.startswith("fleurs/fr/train-") for clip in clips)
    assert {"datasets", "pyarrow"} <= manifest.steps["corpora/tuning"].libraries.keys()
    assert manifest.steps["disjointness"].facts["calibration_clips"] == 3
