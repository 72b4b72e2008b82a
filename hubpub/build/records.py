"""What of each run is kept beside its figures: what every clip gave, what it took, and the audio that was made."""

from __future__ import annotations

from collections.abc import Iterator

from hubpub.build.run import Done
from hubpub.card.listen import audio_path
from hubpub.measure.result import TIMINGS, UTTERANCES, Utterance
from hubpub.recipe import RunSpec
from hubpub.store import FileDigest, Store


def lines_kept(run: str) -> dict[str, str]:
    """The files of lines that a run leaves, by their names in its result."""
    return {UTTERANCES: f"measurements/{run}.jsonl", TIMINGS: f"measurements/{run}.timings.jsonl"}


def audio_kept(run: str, spec: RunSpec, done: Done, store: Store) -> Iterator[tuple[str, FileDigest]]:
    """Where the audio of a run is kept, and its bytes."""
    outputs = done.result.outputs
    if spec.audio == "none" or not any(name.endswith(".flac") for name in outputs):
        return
    for line in store.path(outputs[UTTERANCES].sha256).read_text("utf-8").splitlines():
        utterance = Utterance.model_validate_json(line)
        if utterance.rate is not None and (spec.audio == "all" or utterance.id in spec.audio):
            for name in utterance.outputs:
                yield audio_path(run, utterance.id), outputs[name]
