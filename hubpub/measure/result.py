"""What a run of a client over a corpus leaves on disk, and the frozen value that metrics read.

``job.json`` (what was run), ``utterances.jsonl`` (what came out) and ``outputs/`` are the same bytes whenever the same
thing is run; ``timings.jsonl`` and ``run.json`` hold what was observed and differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from hubpub.corpus.corpus import Turn
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Machine

JOB, UTTERANCES, TIMINGS, RUN, OUTPUTS = "job.json", "utterances.jsonl", "timings.jsonl", "run.json", "outputs"
PARTS = "parts"
"""What each of several workers has done so far; gone when the run is finished."""


Kind = Literal["text", "arrays", "turns", "audio"]
"""What a client makes of a clip, and a metric needs; audio is arrays too."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Job(_Frozen):
    """All that decides what comes out; a run goes on only where an equal job stopped.

    Attributes:
        run: its name in the recipe.
        spec: the client's parameters.
        client: the same in words.
        versions: of the libraries that the client uses.
        corpus: digest of the corpus.
        artifacts: sha256 of each file measured, by published name.
        sizes: their bytes.
        files: sha256 of other files that the client reads, by reference.
        synthetic: whether the weights or the audio are made up.
        timed: whether it ran alone; else several workers shared the machine, and its timings say nothing.
    """

    run: str
    spec: dict[str, JsonValue]
    client: str
    versions: dict[str, str]
    corpus: str
    artifacts: dict[str, str]
    sizes: dict[str, int]
    files: dict[str, str]
    synthetic: bool
    timed: bool = True

    @model_serializer(mode="wrap")
    def _timed_without_saying_so(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What earlier versions wrote."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if name != "timed" or not value}


class Piece(_Frozen):
    """What was heard in one segment of a clip, in seconds from the start of the clip."""

    start: float
    end: float
    text: str


class Utterance(_Frozen):
    """What came out for one clip.

    Attributes:
        id: of the clip.
        audio_s: its length.
        segments: how many parts it was cut into.
        text: what was heard.
        outputs: files of arrays, one for each of its segments; of audio, FLAC.
        rate: samples per second of the outputs, where they are audio; then ``audio_s`` is the length of these.
        turns: who was heard when.
        windows: start and end of the stretches within which alone the names in ``turns`` hold; ``None``: everywhere.
        pieces: what was heard in each segment, where they have a place in the clip.
    """

    id: str
    audio_s: float
    segments: int
    text: str | None = None
    outputs: tuple[str, ...] = ()
    turns: tuple[Turn, ...] | None = None
    windows: tuple[tuple[float, float], ...] | None = None
    pieces: tuple[Piece, ...] | None = None
    rate: int | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Lines of runs that have no turns, pieces or audio say nothing of them."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name not in _OF_SOME}


_OF_SOME = ("turns", "windows", "pieces", "rate")


class Timing(_Frozen):
    """What one clip took.

    Attributes:
        id: of the clip.
        wall_s: time on the clock.
        peak_rss_bytes: the worker's peak so far.
        others_cpu_s: CPU time that other programs took meanwhile, where the system tells.
    """

    id: str
    wall_s: float
    peak_rss_bytes: int
    others_cpu_s: float | None = None


class Observed(_Frozen):
    """What the whole run took.

    Attributes:
        machine: where.
        load_s: time to load the model.
        peak_rss_bytes: of the process.
        others_share: what other programs took of the CPU time of all cores while clips were timed, where that is known.
    """

    machine: Machine
    load_s: float
    peak_rss_bytes: int
    others_share: float | None = None


BUSY = 0.1
"""What other programs take of the processor, from which on it is said beside the timings."""


def others_in_words(share: float | None) -> str:
    """What is to be said of timings that were taken beside other programs; nothing of a quiet machine."""
    if share is None or share < BUSY:
        return ""
    return f"other programs took {share * 100:.0f} % of the processor while it was timed"


class RunResult(_Frozen):
    """A finished run; utterances and timings are in the order of the corpus."""

    job: Job
    utterances: tuple[Utterance, ...]
    timings: tuple[Timing, ...]
    observed: Observed
    folder: Path

    @classmethod
    def load(cls, folder: Path) -> RunResult:
        """Read a finished run.

        Raises:
            MeasureError: it is unfinished or damaged.
        """
        try:
            utterances = (folder / UTTERANCES).read_text(encoding="utf-8").splitlines()
            timings = (folder / TIMINGS).read_text(encoding="utf-8").splitlines()
            return cls(
                job=Job.model_validate_json((folder / JOB).read_bytes()),
                utterances=tuple(Utterance.model_validate_json(line) for line in utterances),
                timings=tuple(Timing.model_validate_json(line) for line in timings),
                observed=Observed.model_validate_json((folder / RUN).read_bytes()),
                folder=folder,
            )
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            raise MeasureError("the run is unfinished or damaged", where=str(folder), fix="run it again") from error


def canonical_json(model: BaseModel) -> str:
    """One line of JSON, the same bytes for the same value."""
    return json.dumps(model.model_dump(mode="json"), ensure_ascii=False, sort_keys=True) + "\n"
