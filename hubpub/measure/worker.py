"""The process that runs a client: ``python -m hubpub.measure.worker``, started by ``hubpub.measure.run``.

The first line of standard input is the work; the pipe stays open as long as the parent lives, and when it closes the
worker ends at once, so that nothing goes on behind the back of a killed build. Standard output carries one JSON event
a line: ``loaded``, ``clip`` (done), ``error``; whatever libraries print goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel, ConfigDict

from hubpub.corpus.corpus import Clip, Corpus, Prompt, load_samples
from hubpub.errors import HubpubError, MeasureError
from hubpub.measure.clients import AnyClient
from hubpub.measure.clients.base import Client, Loaded, Output
from hubpub.measure.journal import Journal, recover
from hubpub.measure.machine import OthersClock, peak_rss_bytes
from hubpub.measure.result import OUTPUTS, Timing, Utterance

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

WARM_UP_S = 10


class Work(BaseModel):
    """What the parent asks for; without a corpus the client is loaded and that is all.

    ``clips`` are those of the corpus that are this worker's, ``None`` for all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    client: AnyClient
    folder: Path
    files: dict[str, Path]
    corpus: Path | None = None
    out: Path | None = None
    clips: tuple[str, ...] | None = None


class Events:
    """The way back to the parent; standard output is taken away from everybody else."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.clip: str | None = None

    def send(self, event: str, **fields: object) -> None:
        """Raises BrokenPipeError when the parent is gone."""
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()

    def send_error(self, error: BaseException) -> None:
        """One line of what went wrong, the kind of error first."""
        text = " ".join((error.what if isinstance(error, HubpubError) else str(error)).split())
        fix = error.fix if isinstance(error, HubpubError) else None
        kind = "" if isinstance(error, HubpubError) else type(error).__name__
        self.send("error", kind=kind, message=text[:500], clip=self.clip, fix=fix)


def main() -> int:
    """Do the work on standard input; 0 when it is done, 1 when an error was sent."""
    events = Events()
    work = Work.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _work(work, events)
    except Exception as error:  # every failure of a client has to reach the reader as one line
        events.send_error(error)
        return 1
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock would be held when the interpreter shuts down
        pass
    os._exit(1)


def _work(work: Work, events: Events) -> None:
    for module in work.client.modules:
        importlib.import_module(module)
    work.client.prepare(work.folder)
    began = time.perf_counter()
    loaded = work.client.load(work.folder, work.files)
    load_s = time.perf_counter() - began
    if work.corpus is not None and work.out is not None:
        _run_corpus(work, loaded, work.corpus, work.out, events)
    events.send("loaded", load_s=load_s, peak_rss_bytes=peak_rss_bytes())


def _run_corpus(work: Work, loaded: Loaded, corpus_dir: Path, out: Path, events: Events) -> None:
    clips = list(enumerate(Corpus.load(corpus_dir).clips))
    if work.clips is None:
        done, _ = recover(out, [clip.id for _, clip in clips])
        left = clips[len(done) :]
        if left:
            _warm_up(work.client, loaded, corpus_dir, [clip for _, clip in clips])
    else:
        wanted = set(work.clips)
        left = [(number, clip) for number, clip in clips if clip.id in wanted]
    with Journal(out) as journal:
        for number, clip in left:
            events.clip = clip.id
            given = _given(work.client, corpus_dir, clip)
            others, began = OthersClock(), time.perf_counter()
            output = loaded.run(given)
            wall_s, others_cpu_s = time.perf_counter() - began, others.seconds()
            utterance = _utterance(clip, output, _save_arrays(output, number, out))
            peak = peak_rss_bytes()
            timing = Timing(id=clip.id, wall_s=wall_s, peak_rss_bytes=peak, others_cpu_s=others_cpu_s)
            journal.append(utterance, timing)
            events.send("clip", id=clip.id)
    events.clip = None


def _given(client: Client, corpus_dir: Path, clip: Clip | Prompt) -> Samples | str:
    """What the client takes of a clip.

    Raises:
        MeasureError: it has none of that.
    """
    if client.takes == "text":
        if clip.text is None:
            raise MeasureError("there is no text to say", fix="give the clip a text, or another corpus to the run")
        return clip.text
    if isinstance(clip, Prompt):
        raise MeasureError("there is no audio to listen to", fix="give the run a corpus of audio")
    return load_samples(corpus_dir, clip)


def _warm_up(client: Client, loaded: Loaded, corpus_dir: Path, clips: list[Clip | Prompt]) -> None:
    """One call that is not timed, on a few seconds: the first call allocates and plans."""
    clip = min(clips, key=lambda each: each.work)
    with suppress(Exception):  # whatever is wrong shows again on the clips, and is reported there
        given = _given(client, corpus_dir, clip)
        loaded.run(given if isinstance(given, str) else given[: WARM_UP_S * 16_000])


def _utterance(clip: Clip | Prompt, output: Output, outputs: tuple[str, ...]) -> Utterance:
    made_s = None if output.rate is None else sum(len(array) for array in output.arrays) / output.rate
    return Utterance(
        id=clip.id,
        audio_s=clip.seconds if made_s is None else made_s,
        rate=output.rate,
        segments=output.segments,
        text=output.text,
        outputs=outputs,
        turns=output.turns,
        windows=output.windows,
        pieces=output.pieces,
    )


def _save_arrays(output: Output, number: int, out: Path) -> tuple[str, ...]:
    import numpy as np

    from hubpub.measure.audio import write_audio

    names = []
    for part, array in enumerate(output.arrays):
        path = out / OUTPUTS / f"{number:05}.{part:03}.{'npy' if output.rate is None else 'flac'}"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            if output.rate is None:
                np.save(file, array, allow_pickle=False)
            else:
                write_audio(file, array, output.rate)
            file.flush()
            os.fsync(file.fileno())
        names.append(f"{OUTPUTS}/{path.name}")
    return tuple(names)


if __name__ == "__main__":
    sys.exit(main())
