from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper

from hubpub.corpus.corpus import Corpus
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec


@pytest.fixture(scope="session")
def speech(two_cities_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    """Six stretches of real speech, from 0.5 s to 3 s, prepared."""
    crops = [(i * 3.0, i * 3.0 + 0.5 * (i + 1)) for i in range(6)]
    clips = [{"audio": "s/two_cities.wav", "crop": crop, "id": f"clip{i}"} for i, crop in enumerate(crops)]
    spec = CorpusSpec.model_validate(
        {"role": "evaluation", "defaults": {"source": "LibriVox", "license": "CC0-1.0"}, "clips": clips}
    )
    folder = tmp_path_factory.mktemp("speech")
    return folder, prepare(spec, {"s/two_cities.wav": two_cities_wav}, folder)


Model = Callable[..., Path]


@pytest.fixture
def mel_model(tmp_path: Path) -> Model:
    """A small graph over NeMo features ``[b, 80, t]`` and their length: a projection, ReLU, a mask by length."""

    def write(
        name: str = "model.onnx", *, scale: float = 1.0, input_type: int = TensorProto.FLOAT, slow: bool = False
    ) -> Path:
        weight = (scale * np.random.default_rng(0).normal(size=(16, 80))).astype(np.float32)
        constants = {"weight": weight, "size": np.array([1100, 1100]), "zero": np.zeros((), dtype=np.float32)}
        nodes = [
            helper.make_node("Cast", ["audio_signal"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["weight", "x"], ["y"]),
            helper.make_node("Relu", ["y"], ["outputs"]),
            helper.make_node("Identity", ["length"], ["encoded_lengths"]),
        ]
        if slow:  # some tenths of a second of work that depends on the input, and adds nothing
            nodes[2].output[0] = "fast"
            nodes += [
                helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
                helper.make_node("Expand", ["mean", "size"], ["m0"]),
                *(helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(8)),
                helper.make_node("ReduceMean", ["m8"], ["burnt"], keepdims=0),
                helper.make_node("Mul", ["burnt", "zero"], ["nothing"]),
                helper.make_node("Add", ["fast", "nothing"], ["outputs"]),
            ]
        graph = helper.make_graph(
            nodes,
            "mel",
            [
                helper.make_tensor_value_info("audio_signal", input_type, ["b", 80, "t"]),
                helper.make_tensor_value_info("length", TensorProto.INT64, ["b"]),
            ],
            [
                helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["b", 16, "t"]),
                helper.make_tensor_value_info("encoded_lengths", TensorProto.INT64, ["b"]),
            ],
            [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        folder = tmp_path / "release"
        folder.mkdir(exist_ok=True)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / name)
        return folder

    return write


@pytest.fixture
def long_speech(two_cities_wav: Path, tmp_path: Path) -> tuple[Path, Corpus]:
    """One clip of 44 s and its transcript is not needed: what counts is that it is cut."""
    data, rate = soundfile.read(two_cities_wav, dtype="float32")
    soundfile.write(tmp_path / "long.wav", data, rate)
    spec = CorpusSpec.model_validate(
        {
            "role": "evaluation",
            "defaults": {"source": "LibriVox", "license": "CC0-1.0"},
            "clips": [{"audio": "long.wav"}],
        }
    )
    return tmp_path / "long", prepare(spec, {"long.wav": tmp_path / "long.wav"}, tmp_path / "long")
