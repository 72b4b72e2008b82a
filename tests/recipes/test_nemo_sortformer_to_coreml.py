"""The conversion of NeMo's Sortformer checkpoints: NeMo's own numbers, and a reader that trusts nothing.

`tiny_sortformer.nemo` was written by NeMo and run by it; `make_tiny_sortformer.py` beside it says how. Probabilities
are compared absolutely. In single precision what differs is that the folded batch norms and the projected positions are
stored as float16; with float16 rounding after each operation it is ten times that.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("coremltools")

from standins.nemo_archive import saved, write_nemo, write_tar, zipped

from hubpub.coremlfile import Package, find_aliases
from hubpub.coremlfile.mil import Model
from hubpub.measure.sortformer import Chunking, diarize

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "scripts" / "nemo_sortformer_to_coreml.py"
TINY = ROOT / "tests" / "data" / "tiny_sortformer.nemo"
STREAMING = (5, 1, 2, 9, 24, 7)  # as NeMo ran it
FRAMES = 24 + 9 + 8
BOUNDS = {"fp32": 2e-3, "fp16": 2e-2}

Tensors = dict[str, npt.NDArray[Any]]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nemo_sortformer_to_coreml", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


def run(checkpoint: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    names = ("chunk-len", "chunk-left-context", "chunk-right-context", "fifo-len", "spkcache-len")
    options = zip((*names, "spkcache-update-period"), STREAMING, strict=True)
    numbers = [text for name, value in options for text in (f"--{name}", str(value))]
    command = [sys.executable, SCRIPT, "--checkpoint", checkpoint, "--out", out, *numbers]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    path = tmp_path_factory.mktemp("tiny") / "tiny.mlpackage"
    done = run(TINY, path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Package.open(path)


@pytest.fixture(scope="module")
def reference() -> Tensors:
    with np.load(TINY.with_suffix(".npz")) as packed:
        return dict(packed)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    with tarfile.open(TINY) as archive:
        content = archive.extractfile("./model_config.yaml")
        assert content is not None
        found: dict[str, Any] = yaml.safe_load(content)
    return found


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    with io.BytesIO() as file:
        script.unpack(TINY, file)
        state = script.State(file, "tiny")
        return {name: state.get(name) for name in sorted(state.names()) if "num_batches" not in name}


# -------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("precision", BOUNDS)
def test_one_step_says_what_nemo_says(package: Package, reference: Tensors, precision: Any) -> None:
    """Cache and FIFO are partly filled and the chunk is not whole, so that every mask and the packing count."""
    chunk, cache, fifo = (int(each) for each in reference["step_lengths"])
    given: dict[str, npt.NDArray[Any]] = {}
    for name, length in (("chunk", chunk), ("spkcache", cache), ("fifo", fifo)):
        given[name] = reference[f"step_{name}"][None].astype(np.float32)
        given[f"{name}_lengths"] = np.array([length], np.int32)
    said = Model(package, precision=precision, threads=1).run(given)
    count = int(reference["step_embeddings_length"][0])
    valid = cache + fifo + count
    assert said["chunk_pre_encoder_lengths"].tolist() == [count]
    assert said["nest_encoder_lengths"].tolist() == [valid]
    embeddings = reference["step_embeddings"]
    np.testing.assert_allclose(said["chunk_pre_encoder_embs"][0], embeddings, rtol=0, atol=1e-4)
    inside = reference["step_inside"]
    assert inside.shape[0] == valid
    np.testing.assert_allclose(said["nest_encoder_embs"][0, :valid], inside, rtol=0, atol=4 * BOUNDS[precision])
    predictions = said["speaker_preds"]
    assert predictions.shape == (1, FRAMES, 4)
    np.testing.assert_allclose(
        predictions[0, :valid], reference["step_predictions"][:valid], rtol=0, atol=BOUNDS[precision]
    )
    assert not predictions[0, valid:].any()


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_stream_says_what_nemo_says(package: Package, reference: Tensors, precision: Any) -> None:
    """The whole way: chunks, speaker cache and FIFO of the client, against NeMo's own loop over the same features."""
    chunking = Chunking.of_metadata(dict(package.spec.description.metadata.userDefined), "tiny")
    model = Model(package, precision=precision, threads=1)
    said = diarize(model.run, reference["features"].astype(np.float32), chunking, 20, "tiny")
    expected = reference["streamed"]
    shares = (expected > 0.5).mean(axis=0)
    assert ((shares > 0.1) & (shares < 0.5)).all()  # everyone comes and goes, else agreement would mean little
    np.testing.assert_allclose(said, expected, rtol=0, atol=BOUNDS[precision])


def test_every_parameter_counts(tensors: Tensors, config: dict[str, Any]) -> None:
    asked: set[str] = set()

    class Noted(script.State):  # type: ignore[misc, name-defined]
        def get(self, name: str) -> Any:
            asked.add(name)
            return super().get(name)

    state, design = Noted(io.BytesIO(saved(tensors)), "tiny"), script.Design.of(config, "tiny")
    chunking = script.Chunking(*STREAMING)
    script.PreEncoder(design, state, np.float32).program(chunking)
    script.Head(design, state, np.float16).program(chunking)
    assert asked == set(design.parameters())
    idle = {name for name in tensors if name.startswith(("preprocessor.", "sortformer_modules.hidden_to_spks."))}
    assert set(tensors) == asked | idle


def test_the_package_is_the_interface_that_callers_know(package: Package) -> None:
    inputs, outputs = (
        {each.name: list(each.type.multiArrayType.shape) for each in ends}
        for ends in (package.spec.description.input, package.spec.description.output)
    )
    assert list(inputs) == ["chunk", "chunk_lengths", "spkcache", "spkcache_lengths", "fifo", "fifo_lengths"]
    assert (inputs["chunk"], inputs["spkcache"], inputs["fifo"]) == ([1, 64, 24], [1, 24, 20], [1, 9, 20])
    assert outputs == {
        "speaker_preds": [1, FRAMES, 4],
        "nest_encoder_embs": [1, FRAMES, 12],
        "nest_encoder_lengths": [1],
        "chunk_pre_encoder_embs": [1, 8, 20],
        "chunk_pre_encoder_lengths": [1],
    }
    assert not find_aliases(package)
    assert len(package.parts) == 2
    said = dict(package.spec.description.metadata.userDefined)
    assert said["mel_feature_frames"] == "40"
    assert said["subsampling_factor"] == "8"
    assert float(said["frame_duration"]) == 0.08
    assert "hubpub.synthetic" not in said


def test_the_same_bytes_come_from_every_process(
    package: Package, tensors: Tensors, config: dict[str, Any], tmp_path: Path
) -> None:
    """Also from a gzip archive, from storages of another kind, and under another hash seed."""
    halves = {name: values.astype(np.float16) for name, values in tensors.items() if "preprocessor" not in name}
    again = tmp_path / "again.mlpackage"
    done = run(write_nemo(tmp_path / "a.nemo", config, halves, gz=True), again, PYTHONHASHSEED="3")
    assert done.returncode == 0, done.stderr
    assert contents(again) == contents(package.path)


def test_random_weights_stay_marked(tensors: Tensors, config: dict[str, Any], tmp_path: Path) -> None:
    made = tmp_path / "a.mlpackage"
    marked = {**config, "hubpub.synthetic": "random weights"}
    done = run(write_nemo(tmp_path / "a.nemo", marked, tensors), made)
    assert done.returncode == 0, done.stderr
    assert dict(Package.open(made).spec.description.metadata.userDefined)["hubpub.synthetic"] == "random weights"


# --------------------------------------------------------------------------------------------------- what is refused


def check(path: Path) -> None:
    """All that is done before a program is written."""
    with io.BytesIO() as file:
        design = script.Design.of(script.unpack(path, file), path.name)
        state = script.State(file, path.name)
        script.check_parameters(state, design.parameters())
        for name in design.parameters():
            state.get(name)


def test_what_nemo_wrote_passes(tmp_path: Path, config: dict[str, Any], tensors: Tensors) -> None:
    check(TINY)
    check(write_nemo(tmp_path / "a.nemo", config, tensors))


def test_what_a_config_leaves_out_is_as_nemo_has_it(config: dict[str, Any]) -> None:
    """Also settings that earlier releases of NeMo called otherwise, and nulls in the place of unknown ones."""
    given = script.Design.of(config, "tiny")
    short = copy.deepcopy(config)
    for section, name in [("sortformer_modules", "sil_threshold"), ("sortformer_modules", "num_spks")]:
        del short[section][name]
    for name in ("xscaling", "ff_expansion_factor", "n_heads", "att_context_size", "conv_norm_type"):
        del short["encoder"][name]
    del short["transformer_encoder"]["hidden_act"]
    short["sortformer_modules"]["spkcache_refresh_rate"] = 1
    short["encoder"]["yet_to_come"] = None
    assert script.Design.of(short, "tiny") == given


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("encoder.self_attention_model", "rel_pos_local_attn", "rel_pos_local_attn.*'rel_pos'"),
        ("encoder.att_context_size", [70, 1], r"\[70, 1\]"),
        ("encoder.conv_norm_type", "layer_norm", "'layer_norm'.*'batch_norm'"),
        ("encoder.conv_context_size", [1, 2], r"\[1, 2\].*kernel of 9"),
        ("encoder.subsampling", "striding", "'striding'.*'dw_striding'"),
        ("encoder.subsampling_factor", 4, "subsampling_factor: 4.*8"),
        ("encoder.causal_downsampling", True, "causal_downsampling: True"),
        ("encoder.use_bias", False, "use_bias: False"),
        ("encoder.n_layers", 0, "n_layers: 0"),
        ("encoder.n_layers", True, "n_layers: True"),
        ("encoder.n_heads", 3, "3 heads"),
        ("encoder.d_model", "${model.width}", r"d_model: '\$\{model.width\}'"),
        ("encoder.new_gate", "swish", "new_gate: 'swish'.*not known"),
        ("encoder._target_", "nemo.collections.asr.modules.SqueezeformerEncoder", "SqueezeformerEncoder.*Conformer"),
        ("transformer_encoder.pre_ln", True, "pre_ln: True"),
        ("transformer_encoder.hidden_act", "gelu", "'gelu'.*'relu'"),
        ("sortformer_modules.sil_threshold", 0.3, "sil_threshold: 0.3.*0.2"),
        ("sortformer_modules.tf_d_model", 192, "tf_d_model: 192.*12"),
        ("preprocessor.normalize", "per_feature", "'per_feature'"),
        ("preprocessor.features", 80, "features: 80.*24"),
        ("streaming_mode", False, "streaming_mode: False"),
        ("target", "nemo.collections.asr.models.EncDecCTCModel", "EncDecCTCModel"),
        ("encoder", None, "no encoder"),
        ("max_num_of_spks", 8, "max_num_of_spks: 8"),
    ],
)
def test_a_config_of_something_else_is_refused(config: dict[str, Any], key: str, value: Any, said: str) -> None:
    changed = copy.deepcopy(config)
    *sections, name = key.split(".")
    place = changed
    for section in sections:
        place = place[section]
    place[name] = value
    with pytest.raises(script.ConversionError, match=said):
        script.Design.of(changed, "a.nemo")


Change = Callable[[Tensors], Any]
LAYER = "encoder.layers.1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: each.pop(f"{LAYER}.self_attn.pos_bias_v"), f"{LAYER}.self_attn.pos_bias_v is missing"),
        (lambda each: each.update({"encoder.layers.2.norm_out.bias": np.ones(20)}), r"norm_out.bias \(1 in all\)"),
        (lambda each: each.update({f"{LAYER}.norm_out.bias": np.ones((1, 20))}), r"\[1, 20\].*\[20\]"),
        (lambda each: each.update({f"{LAYER}.norm_out.bias": np.full(20, np.nan)}), "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tensors: Tensors, config: dict[str, Any], change: Change, said: str, tmp_path: Path
) -> None:
    changed = dict(tensors)
    change(changed)
    with pytest.raises(script.ConversionError, match=said):
        check(write_nemo(tmp_path / "a.nemo", config, changed))


def test_what_float16_does_not_hold_is_one_line(tensors: Tensors, config: dict[str, Any], tmp_path: Path) -> None:
    large = {**tensors, f"{LAYER}.norm_out.bias": np.full(20, 1e5, np.float32)}
    done = run(write_nemo(tmp_path / "a.nemo", config, large), tmp_path / "a.mlpackage")
    assert done.returncode == 1
    assert "norm_out.bias holds values that float16 does not" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a.mlpackage").exists()


def test_bfloat16_is_read(tensors: Tensors) -> None:
    upper = {name: (values.view(np.uint32) >> 16).astype(np.uint16) for name, values in tensors.items()}
    state = script.State(io.BytesIO(saved(upper)), "a")
    for name, values in tensors.items():
        np.testing.assert_allclose(state.get(name), values, rtol=2**-7)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_pickle_is_called(protocol: int, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    content = zipped(pickle.dumps({"a": _Trap(sprung)}, protocol), [])
    with pytest.raises(script.ConversionError, match=r"pickle names '.*', which no state dict needs"):
        script.State(io.BytesIO(content), "a")
    assert not sprung.exists()


def _tar(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def _info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return info


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a .nemo archive"),
        (b"PK\x03\x04", "not a .nemo archive"),
        (b"\x1f\x8b\x08\x00 no gzip", "not a .nemo archive"),
        (TINY.read_bytes()[:60_000], "not a .nemo archive, or damaged"),
        (TINY.read_bytes()[:700], "not a .nemo archive, or damaged"),
        (_tar(_info("../model_config.yaml")), "leads out of it"),
        (_tar(_info("/model_config.yaml")), "leads out of it"),
        (_tar(_info("./model_config.yaml", kind=tarfile.SYMTYPE)), "is a link"),
        (_tar(_info("other")), "holds no model_config.yaml"),
        (_tar(_info("model_config.yaml")), "holds no model_weights.ckpt"),
        (_tar(_info("model_config.yaml"), _info("./model_config.yaml")), "twice"),
        (_tar(_info("model_config.yaml", 5_000_000)), "no file of at most"),
        (_tar(_info("model_config.yaml"), _info("model_weights.ckpt")), "not a mapping"),
    ],
)
def test_other_archives_are_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    path.write_bytes(content)
    with pytest.raises(script.ConversionError, match=said) as caught:
        check(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["--fifo-len", "--spkcache-len", "--chunk-len"])
def test_chunks_of_nothing_are_refused(option: str) -> None:
    given = dict(zip(script.Chunking.__dataclass_fields__, STREAMING, strict=True))
    given[option[2:].replace("-", "_")] = 0
    with pytest.raises(script.ConversionError, match=f"{option} is 0"):
        script.Chunking(**given).check(4)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_read(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes of the config, the pickle, the zip's directory or the headers are changed."""
    raw = bytearray(TINY.read_bytes())
    places = st.one_of(st.integers(0, 5_000), st.integers(len(raw) - 30_000, len(raw) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(places)] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.nemo"
    path.write_bytes(bytes(raw))
    with contextlib.suppress(script.ConversionError):
        check(path)


def test_yaml_that_is_none_is_one_line(tmp_path: Path) -> None:
    members = {"model_config.yaml": b"a: [1\nb: }", "model_weights.ckpt": b""}
    done = run(write_tar(tmp_path / "a.nemo", members), tmp_path / "a.mlpackage")
    assert done.returncode == 1
    assert done.stderr.startswith("nemo_sortformer_to_coreml: ")
    assert done.stderr.count("\n") == 1
