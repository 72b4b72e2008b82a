"""What an evaluation leaves: the figures of files that were built elsewhere or before, with every utterance."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from hubpub.corpus.corpus import Corpus
from hubpub.errors import ReleaseError
from hubpub.gate import Verdict
from hubpub.manifest import MAX_BYTES, Digest
from hubpub.measure.measurement import Measurement

EVALUATION = "evaluation.json"


class Evaluation(BaseModel):
    """The content of ``evaluation.json``.

    Attributes:
        name: of the recipe whose measurements were made.
        of: what was measured, as it was named, and its commit or digest.
        files: those that were measured.
        corpora: what they were measured on.
        metrics: of each run, with all options.
        left_out: runs that could not be made, and why.
        measurements: all figures, timings too.
        verdicts: of the gates of the runs that were made.
        records: the lines of each run, beside it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluation_version: Literal[1] = 1
    name: str
    of: str
    files: dict[str, Digest]
    corpora: dict[str, Corpus]
    metrics: dict[str, list[dict[str, JsonValue]]]
    left_out: dict[str, str]
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    records: dict[str, Digest]

    def text(self) -> str:
        """The file's content."""
        return self.model_dump_json(indent=1) + "\n"

    def missed(self) -> list[str]:
        """The budgets that were missed, a line each."""
        verdicts = (verdict for verdict in self.verdicts if not verdict.passed)
        return [f"budget missed: {verdict.gate}: {verdict.reason}" for verdict in verdicts]


def read_evaluation(path: Path) -> Evaluation:
    """Read ``evaluation.json``.

    Raises:
        ReleaseError: it is missing, too large or damaged.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ReleaseError(f"is larger than {MAX_BYTES} bytes", where=str(path))
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ReleaseError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"is not an evaluation that this version reads: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ReleaseError(" ".join(what.split())[:400], where=str(path)) from error
