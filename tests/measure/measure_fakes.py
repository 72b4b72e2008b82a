"""Corpora and finished runs made of plain numbers and texts, for the tests of what reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.corpus.corpus import Clip, Corpus, Turn
from hubpub.corpus.spec import Provenance
from hubpub.measure.measurement import Machine
from hubpub.measure.result import OUTPUTS, Job, Observed, Piece, RunResult, Timing, Utterance

MACHINE = Machine(cpu="a cpu", kernels="avx2", cores=2, system="Linux x86_64")


def fake_corpus(
    texts: Sequence[str | None],
    seconds: Sequence[float] | None = None,
    *,
    speakers: Sequence[str | None] | None = None,
    languages: Sequence[str | None] | None = None,
    turns: Sequence[tuple[Turn, ...] | None] | None = None,
) -> Corpus:
    clips = tuple(
        Clip(
            id=f"clip{i}",
            samples=f"{i:05}.npy",
            rate=16_000,
            seconds=1.0 if seconds is None else seconds[i],
            text=text,
            turns=None if turns is None else turns[i],
            provenance=Provenance(
                source="s",
                license="CC0-1.0",
                speaker=None if speakers is None else speakers[i],
                language=None if languages is None else languages[i],
            ),
            audio=f"s/{i}.wav",
            crop=None,
            native_rate=16_000,
            start=0,
            stop=16_000,
            file_sha256="0" * 64,
            file_samples_sha256="0" * 64,
            samples_sha256=hashlib.sha256(str(i).encode()).hexdigest(),
        )
        for i, text in enumerate(texts)
    )
    return Corpus(role="evaluation", clips=clips)


def fake_run(
    corpus: Corpus,
    texts: Sequence[str] | None = None,
    *,
    name: str = "int8",
    walls: Sequence[float] | None = None,
    folder: Path = Path(),
    outputs: Sequence[Sequence[npt.NDArray[Any]]] | None = None,
    sizes: dict[str, int] | None = None,
    synthetic: bool = False,
    turns: Sequence[tuple[Turn, ...]] | None = None,
    pieces: Sequence[tuple[Piece, ...]] | None = None,
) -> RunResult:
    """``outputs`` holds the arrays of each clip; they are written to ``folder``."""
    sizes = {f"{name}.onnx": 10} if sizes is None else sizes
    utterances = []
    for i, clip in enumerate(corpus.clips):
        names = []
        for part, array in enumerate(() if outputs is None else outputs[i]):
            names.append(f"{OUTPUTS}/{i:05}.{part:03}.npy")
            (folder / OUTPUTS).mkdir(parents=True, exist_ok=True)
            np.save(folder / names[-1], array)
        text = None if texts is None else texts[i]
        utterance = Utterance(
            id=clip.id,
            audio_s=clip.seconds,
            segments=1,
            text=text,
            outputs=tuple(names),
            turns=None if turns is None else turns[i],
            pieces=None if pieces is None else pieces[i],
        )
        utterances.append(utterance)
    job = Job(
        run=name,
        spec={},
        client="a client",
        versions={"onnxruntime": "1"},
        corpus=corpus.digest,
        artifacts={file: hashlib.sha256(file.encode()).hexdigest() for file in sizes},
        sizes=sizes,
        files={},
        synthetic=synthetic,
    )
    timings = tuple(
        Timing(id=clip.id, wall_s=0.5 if walls is None else walls[i], peak_rss_bytes=1)
        for i, clip in enumerate(corpus.clips)
    )
    observed = Observed(machine=MACHINE, load_s=0.25, peak_rss_bytes=123)
    return RunResult(job=job, utterances=tuple(utterances), timings=timings, observed=observed, folder=folder)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
