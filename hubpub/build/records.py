"""What of each run is kept beside its figures: what every clip gave, what it took, and the audio that was made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from hubpub.build.run import Done
from hubpub.measure.result import TIMINGS, UTTERANCES, Utterance
from hubpub.recipe import RunSpec
from hubpub.store import FileDigest, Store

FOLDER = "measurements"


def lines_kept(run: str) -> dict[str, str]:
    """The files of lines that a run leaves, by their names in its result."""
    return {UTTERANCES: f"{FOLDER}/{run}.jsonl", TIMINGS: f"{FOLDER}/{run}.timings.jsonl"}


def audio_kept(run: str, spec: RunSpec, done: Done, store: Store) -> Iterator[tuple[str, FileDigest]]:
    """Where the audio of a run is kept, ``measurements/<run>/<clip>.flac``, and its bytes."""
    outputs = done.result.outputs
    if spec.audio == "none" or not any(name.endswith(".flac") for name in outputs):
        return
    for line in store.path(outputs[UTTERANCES].sha256).read_text("utf-8").splitlines():
        utterance = Utterance.model_validate_json(line)
        if utterance.rate is not None and (spec.audio == "all" or utterance.id in spec.audio):
            for name in utterance.outputs:
                yield f"{FOLDER}/{run}/{utterance.id}{PurePosixPath(name).suffix}", outputs[name]
