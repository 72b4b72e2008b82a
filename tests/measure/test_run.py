"""Real processes, a small real ONNX model, real speech."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from measure_fakes import digests
from onnx import TensorProto

from hubpub.corpus.corpus import Corpus, load_samples
from hubpub.errors import MeasureError
from hubpub.measure.clients.ort import OnnxRuntime
from hubpub.measure.journal import recover
from hubpub.measure.metrics.cosine import Cosine
from hubpub.measure.metrics.max_abs_diff import MaxAbsDiff
from hubpub.measure.result import RunResult
from hubpub.measure.run import check_folder, run_client

Speech = tuple[Path, Corpus]
Model = Callable[..., Path]
DIGESTED = ("job.json", "utterances.jsonl", "outputs")


def client(**fields: Any) -> OnnxRuntime:
    return OnnxRuntime(**{"client": "onnxruntime", "model": "model.onnx", "features": "nemo80"} | fields)


def run(speech: Speech, folder: Path, out: Path, progress: Callable[[float], None] = lambda _: None) -> RunResult:
    return run_client(client(), folder, speech[0], out, progress, run="small", artifacts=digests(folder))


def digested(out: Path) -> dict[str, bytes]:
    paths = [p for name in DIGESTED for p in ([out / name] if (out / name).is_file() else (out / name).rglob("*.npy"))]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def test_a_run(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    folder = mel_model()
    heard: list[float] = []
    result = run(speech, folder, tmp_path / "out", heard.append)
    clips = speech[1].clips
    assert [u.id for u in result.utterances] == [t.id for t in result.timings] == [clip.id for clip in clips]
    assert heard == [0, *(clip.seconds for clip in clips)]
    assert all(timing.wall_s > 0 for timing in result.timings)
    assert result.observed.load_s > 0
    assert 20_000_000 < result.observed.peak_rss_bytes < 1_000_000_000
    assert result.job.sizes == {"model.onnx": (folder / "model.onnx").stat().st_size}
    assert result.job.versions.keys() == {"onnxruntime", "onnx-asr", "numpy"}
    assert "2 threads" in result.job.client
    assert RunResult.load(tmp_path / "out") == result


def test_outputs_are_those_of_the_features_through_the_graph(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    from onnx_asr.preprocessors.numpy_preprocessor import NemoPreprocessorNumpy

    folder = mel_model()
    result = run(speech, folder, tmp_path / "out")
    weight = onnx.numpy_helper.to_array(onnx.load(folder / "model.onnx").graph.initializer[0])
    for clip, utterance in zip(speech[1].clips, result.utterances, strict=True):
        samples = load_samples(speech[0], clip)
        features, _ = NemoPreprocessorNumpy("nemo80")(samples[None], np.array([len(samples)]))
        (name,) = utterance.outputs
        expected = np.maximum(weight @ features.astype(np.float32), 0)
        np.testing.assert_allclose(np.load(tmp_path / "out" / name), expected, atol=1e-3)


def test_the_digested_part_is_the_same_in_every_run(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    folder = mel_model()
    for name in ("a", "b"):
        run(speech, folder, tmp_path / name)
    assert digested(tmp_path / "a") == digested(tmp_path / "b")
    assert len(digested(tmp_path / "a")) == 2 + 6
    assert str(tmp_path) not in (tmp_path / "a" / "job.json").read_text()


def test_a_finished_run_is_not_repeated(
    speech: Speech, mel_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mel_model()
    heard: list[float] = []
    first = run(speech, folder, tmp_path / "out")
    monkeypatch.delattr(subprocess, "Popen")  # no process is started
    assert run(speech, folder, tmp_path / "out", heard.append) == first
    assert heard == [pytest.approx(speech[1].seconds)]


@pytest.mark.parametrize("cut", [0, 1, 250, -5])
def test_an_interrupted_run_goes_on_where_it_stopped(
    speech: Speech, mel_model: Model, tmp_path: Path, cut: int
) -> None:
    folder, out = mel_model(), tmp_path / "out"
    heard: list[float] = []
    whole = run(speech, folder, out)
    expected = digested(out)
    (out / "run.json").unlink()
    lines = (out / "utterances.jsonl").read_bytes()
    (out / "utterances.jsonl").write_bytes(lines[:cut])
    left = lines[:cut].count(b"\n")
    again = run(speech, folder, out, heard.append)
    assert digested(out) == expected
    assert len(heard) == 1 + 6 - left
    assert [t.wall_s for t in again.timings[:left]] == [t.wall_s for t in whole.timings[:left]]


def test_another_model_does_not_go_on_from_the_old_one(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old = run(speech, mel_model(), out)
    before = digested(out)
    new = run(speech, mel_model(scale=2.0), out)
    assert new.job.artifacts != old.job.artifacts
    assert all(before[name] != data for name, data in digested(out).items() if name.endswith(".npy"))


def test_two_runs_are_compared(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    corpus = speech[1]
    reference = run(speech, mel_model(), tmp_path / "a")
    folder = mel_model("other.onnx", scale=-1.0)
    spec = client(model="other.onnx")
    other = run_client(spec, folder, speech[0], tmp_path / "b", lambda _: None, run="other", artifacts=digests(folder))
    mean, _, lowest = Cosine(metric="cosine").measure(other, corpus, reference)
    assert lowest.value <= mean.value < 0.5
    assert mean.n == 6
    assert mean.low is not None
    (largest,) = MaxAbsDiff(metric="max_abs_diff").measure(reference, corpus, reference)
    assert largest.value == 0


def test_long_audio_is_cut_into_windows(long_speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    folder = mel_model()
    spec = client(segment={"by": "silence", "max_s": 12, "search_s": 4})
    result = run_client(spec, folder, long_speech[0], tmp_path / "o", lambda _: None, run="r", artifacts={})
    (utterance,) = result.utterances
    frames = [np.load(tmp_path / "o" / name).shape[-1] for name in utterance.outputs]
    assert utterance.segments == len(frames)
    assert 4 <= len(frames) <= 6
    assert max(frames) <= 1201
    assert "windows of at most 12 s" in result.job.client


def test_inputs_of_other_types_are_cast(speech: Speech, mel_model: Model) -> None:
    check_folder(client(), mel_model(input_type=TensorProto.FLOAT16), run="half")


@pytest.mark.parametrize(
    "features", ["waveform", "whisper80", "kaldi", "wespeaker", "campplus", "gigaam_v2", "nemo128"]
)
def test_every_kind_of_features_reaches_the_model(speech: Speech, tmp_path: Path, features: str) -> None:
    rank = 2 if features == "waveform" else 3
    shape = [f"d{i}" for i in range(rank)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    folder = tmp_path / "f"
    folder.mkdir()
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "model.onnx")
    result = run_client(
        client(features=features), folder, speech[0], tmp_path / "o", lambda _: None, run="r", artifacts={}
    )
    array = np.load(tmp_path / "o" / result.utterances[0].outputs[0])
    samples = load_samples(speech[0], speech[1].clips[0])
    assert array.ndim == rank
    if features == "waveform":
        np.testing.assert_array_equal(array[0], samples)
    if features in ("wespeaker", "campplus"):
        np.testing.assert_allclose(array.mean(axis=1), 0, atol=1e-3)


def broken(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / "model.onnx"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-700])
    elif kind == "missing":
        path.unlink()
    elif kind == "no output":
        return {"output": "nowhere"}
    elif kind == "wrong features":
        return {"features": "nemo128"}
    elif kind == "more inputs":
        model = onnx.load(path)
        extra = onnx.helper.make_tensor_value_info("state", TensorProto.FLOAT, [1])
        model.graph.input.append(extra)
        onnx.save(model, path)
    return {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", r"^run small: InvalidProtobuf: "),
        ("missing", r"^run small: NoSuchFile: "),
        ("no output", r"^run small: model\.onnx has no output nowhere; choose from outputs, encoded_lengths$"),
        ("wrong features", r"^run small, clip clip0: InvalidArgument: "),
        ("more inputs", r"^run small: model\.onnx needs state too; "),
    ],
)
def test_failures_of_the_client_are_one_line_with_run_clip_and_cause(
    speech: Speech, mel_model: Model, tmp_path: Path, kind: str, message: str
) -> None:
    folder = mel_model()
    fields = broken(folder, kind)
    with pytest.raises(MeasureError, match=message) as caught:
        run_client(client(**fields), folder, speech[0], tmp_path / "o", lambda _: None, run="small", artifacts={})
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_check_folder(mel_model: Model, tmp_path: Path) -> None:
    folder = mel_model()
    check_folder(client(), folder, run="small")
    broken(folder, "truncated")
    with pytest.raises(MeasureError, match=r"^run small: InvalidProtobuf"):
        check_folder(client(), folder, run="small")
    with pytest.raises(MeasureError, match="no such folder"):
        check_folder(client(), tmp_path / "none", run="small")


def test_the_model_stays_inside_the_release() -> None:
    for bad in ("/etc/passwd", "../x.onnx", "a/../../x.onnx", "a\\b.onnx"):
        with pytest.raises(ValueError, match="inside the release"):
            client(model=bad)


def workers(of: int) -> list[int]:
    children = Path(f"/proc/{of}/task").glob("*/children")  # of each of its threads
    return [int(pid) for each in children for pid in each.read_text().split()]


linux = pytest.mark.skipif(sys.platform != "linux", reason="finds the worker through /proc")


@linux
def test_a_killed_worker_is_reported_and_its_work_is_kept(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    folder, out, seen = mel_model(slow=True), tmp_path / "out", 0

    def kill_after_three(_: float) -> None:
        nonlocal seen
        seen += 1
        if seen == 4:
            for pid in workers(os.getpid()):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(MeasureError, match=r"^run small: the worker was killed, most likely because memory ran out"):
        run(speech, folder, out, kill_after_three)
    done, _ = recover(out, [clip.id for clip in speech[1].clips])
    assert 3 <= len(done) < 6
    heard: list[float] = []
    result = run(speech, folder, out, heard.append)
    assert len(heard) == 1 + 6 - len(done)
    run(speech, folder, tmp_path / "fresh")
    assert digested(out) == digested(tmp_path / "fresh")
    assert result.observed.peak_rss_bytes >= max(timing.peak_rss_bytes for timing in result.timings)


@linux
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_the_caller_ends_the_worker(
    speech: Speech, mel_model: Model, tmp_path: Path, error: type[BaseException]
) -> None:
    found: list[int] = []

    def stop(seconds: float) -> None:
        if seconds:
            found.extend(pid for pid in workers(os.getpid()) if alive(pid))
            raise error

    with pytest.raises(error):
        run(speech, mel_model(slow=True), tmp_path / "out", stop)
    assert found
    assert not any(Path(f"/proc/{pid}").exists() for pid in found)


@linux
def test_a_killed_build_leaves_no_worker_behind(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys, time, pathlib
        from hubpub.measure.clients.ort import OnnxRuntime
        from hubpub.measure.run import run_client
        folder, corpus, out = map(pathlib.Path, sys.argv[1:])
        client = OnnxRuntime(client="onnxruntime", model="model.onnx", features="nemo80")
        def wait(seconds):
            print("here", flush=True)
            if seconds:
                time.sleep(60)
        run_client(client, folder, corpus, out, wait, run="small", artifacts={})
        """
    )
    arguments = [sys.executable, "-c", code, str(mel_model(slow=True)), str(speech[0]), str(tmp_path / "out")]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        for _ in range(2):
            assert parent.stdout.readline() == b"here\n"
        found = [pid for pid in workers(parent.pid) if alive(pid)]
        parent.kill()
    assert found
    until = time.monotonic() + 10
    while any(alive(pid) for pid in found) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in found)


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended may wait to be collected by a process that never does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_worker_sees_no_token_and_no_module_of_the_working_folder(
    speech: Speech, mel_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mel_model()
    bait = tmp_path / "bait"
    bait.mkdir()
    for name in ("onnxruntime", "numpy", "pydantic"):
        (bait / f"{name}.py").write_text("import os; os._exit(7)")
    monkeypatch.chdir(bait)
    run(speech, folder, tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    from hubpub.measure.run import _environment

    assert "hf_secret" not in _environment(2).values()
    assert _environment(3)["OMP_NUM_THREADS"] == "3"


def test_a_worker_that_cannot_start_is_reported(mel_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mel_model()
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(MeasureError, match=r"^run small: the worker ended with code 1: "):
        check_folder(client(), folder, run="small")


def test_a_damaged_corpus_names_the_clip(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    copy = tmp_path / "corpus"
    copy.mkdir()
    for path in speech[0].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "00002.npy").write_bytes(b"")
    with pytest.raises(MeasureError, match=r"^run small, clip clip2: prepared samples are missing or damaged"):
        run((copy, speech[1]), mel_model(), tmp_path / "out")


def test_the_worker_speaks_json_only_whatever_libraries_print(mel_model: Model) -> None:
    code = "import os, hubpub.measure.worker as w; e = w.Events(); print('noise'); os.write(1, b'noise'); e.send('x')"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
    assert json.loads(done.stdout) == {"event": "x"}
    assert b"noise" in done.stderr
