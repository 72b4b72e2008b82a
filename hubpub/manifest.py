"""``hubpub.json``: what a release holds, how each byte of it was made, and every figure that was measured.

All but ``observed`` is the same whenever the same recipe is built from the same lock; ``digest`` says so in one line.
Timings, memory and what depends on them stand under ``observed``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hubpub.corpus.corpus import Corpus
from hubpub.corpus.spec import Provenance
from hubpub.errors import ReleaseError
from hubpub.gate import Verdict
from hubpub.measure.measurement import Measurement
from hubpub.onnxfile.interface import Interface

MANIFEST = "hubpub.json"
CARD = "README.md"
MAX_BYTES = 64 << 20
_SHARED = (
    *("artifacts", "client", "corpus", "interval", "machine"),
    *("n_unit", "normalizer", "synthetic", "unit", "versions"),
)
"""Fields of measurements that many of them share."""

_LATER = ("provisional", "drop_in", "missing", "choices", "not_run")
"""Fields that manifests of earlier versions do not have."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Digest(_Frozen):
    """A file's bytes."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class FileRecord(Digest):
    """A published file: its bytes, the source file or step that gave them, and the variants that it belongs to."""

    made_by: str
    variants: tuple[str, ...] = ()


class SourceRecord(_Frozen):
    """A source as it was locked; ``files`` are those that the release was made from."""

    kind: Literal["pypi", "hub", "path"]
    name: str
    revision: str
    filename: str | None = None
    archive: Digest | None = None
    license: str | None = None
    files: dict[str, Digest]


class StepRecord(_Frozen):
    """A step as it was run: everything that its key was made of, and what came out."""

    kind: str
    key: str
    identity: dict[str, Any]
    libraries: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, Digest]
    facts: dict[str, Any]


class DropInRecord(_Frozen):
    """What the source that the release replaces promised its users, so that any machine can check the promise."""

    source: str
    files: tuple[str, ...]
    """Every locked file."""
    graphs: dict[str, Interface]
    """Of each of its ONNX files."""
    keys: dict[str, tuple[str, ...]]
    """Top-level keys of each of its ``config.json``."""


class Missing(_Frozen):
    """A recording that a person has to supply and that was not at hand."""

    id: str
    audio: str
    """As the recipe names it."""
    crop: tuple[float, float] | None
    provenance: Provenance


class MissingCorpus(_Frozen):
    """A corpus that could not be used for want of recordings."""

    stand_in: str
    """The corpus that took its place."""
    supply: str
    """How to get the recordings."""
    clips: tuple[Missing, ...]


def candidate_file(path: str, candidate: str) -> str:
    """What figures call a file of a candidate, so that it is not taken for the published one."""
    return f"{path}@{candidate}"


class CandidateRecord(_Frozen):
    """What became of a candidate.

    Attributes:
        name: its name in the recipe.
        state: ``chosen``; ``passed`` or ``missed`` its gates; ``failed``: could not be made or measured; ``not tried``:
            a rung below the chosen one.
        reason: why, in words.
        files: what was made, by the path at which it would be published, sidecars too.
        verdicts: of the gates that decide, on its own figures; these stand among the measurements as ``run@name``.
        failed_key: the key of the step that failed.
    """

    name: str
    state: Literal["chosen", "passed", "missed", "failed", "not tried"]
    reason: str
    files: dict[str, Digest] = {}
    verdicts: tuple[Verdict, ...] = ()
    failed_key: str | None = None


class ChoiceRecord(_Frozen):
    """A ladder or a roster, as it was decided.

    Attributes:
        name: its name in the recipe.
        rule: how one was chosen, in words.
        chosen: the candidate that is published.
        runs: the runs that all were measured by.
        against: the candidate that the others are compared with.
        candidates: in the order of the recipe.
    """

    name: str
    rule: str
    chosen: str
    runs: tuple[str, ...]
    against: str | None = None
    candidates: tuple[CandidateRecord, ...]


def digests_of_candidates(choices: Iterable[ChoiceRecord]) -> dict[str, str]:
    """sha256 of the files of all candidates, as figures call them."""
    return {
        candidate_file(path, candidate.name): file.sha256
        for choice in choices
        for candidate in choice.candidates
        for path, file in candidate.files.items()
    }


class Observed(_Frozen):
    """What differs from run to run."""

    hubpub: str
    files: dict[str, Digest] = {}
    """The card and the per-utterance timings."""
    steps: dict[str, dict[str, Any]]
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]


class Manifest(_Frozen):
    """The content of ``hubpub.json``."""

    manifest_version: Literal[1] = 1
    name: str
    recipe: str
    """Path of the recipe in the release; its lock, scripts and template lie beside it."""
    synthetic: bool
    provisional: tuple[str, ...] = ()
    """Corpora that the files were made with or measured on and that stand in for others, a line each."""
    missing: dict[str, MissingCorpus] = {}
    """Corpora that the recipe names and that others took the place of, since recordings of them were not at hand."""
    partial: bool
    license: str
    drop_in: DropInRecord | None = None
    sources: dict[str, SourceRecord]
    steps: dict[str, StepRecord]
    files: dict[str, FileRecord]
    records: dict[str, Digest]
    """The recipe and what it needs, the per-utterance results, and plots."""
    choices: tuple[ChoiceRecord, ...] = ()
    """Ladders and rosters, in the order in which they were decided."""
    corpora: dict[str, Corpus]
    runs: tuple[str, ...]
    """Names of the runs, in the order of the recipe; after them those of candidates, ``run@candidate``."""
    not_run: dict[str, str] = {}
    """Runs of the recipe that the machine could not make, and why; they have no figures."""
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    observed: Observed
    digest: str = ""

    def sealed(self) -> Self:
        """The same with its digest filled in."""
        return self.model_copy(update={"digest": self.content_digest()})

    def content_digest(self) -> str:
        """sha256 over the canonical JSON of all but ``observed`` and ``digest``."""
        data = self._dump()
        del data["observed"], data["digest"]
        return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def text(self) -> str:
        """The file's content; what measurements have in common is written once, under ``conditions``."""
        data = self._dump()
        conditions: dict[str, Any] = {}
        names: dict[str, str] = {}
        for each in (*data["measurements"], *data["observed"]["measurements"]):
            shared = {field: each.pop(field) for field in _SHARED}
            name = names.setdefault(json.dumps(shared, sort_keys=True), f"{each['run']}.{len(names) + 1}")
            conditions[name] = shared
            each["conditions"] = name
        return json.dumps({**data, "conditions": conditions}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def _dump(self) -> dict[str, Any]:
        """All of it; fields that came later are left out while they say nothing, so that old digests hold."""
        data = self.model_dump(mode="json")
        return {key: value for key, value in data.items() if value or key not in _LATER}

    @model_validator(mode="before")
    @classmethod
    def _unfold_conditions(cls, data: Any) -> Any:
        """Give every measurement its conditions back."""
        if not isinstance(data, dict) or not isinstance(data.get("conditions"), dict):
            return data
        conditions = {name: each for name, each in data["conditions"].items() if isinstance(each, dict)}

        def unfold(measurements: Any) -> Any:
            if not isinstance(measurements, list):
                return measurements
            return [
                {**conditions.get(each["conditions"], {}), **{key: each[key] for key in each if key != "conditions"}}
                if isinstance(each, dict) and isinstance(each.get("conditions"), str)
                else each
                for each in measurements
            ]

        plain = {key: value for key, value in data.items() if key != "conditions"}
        observed = plain.get("observed")
        if isinstance(observed, dict):
            plain["observed"] = {**observed, "measurements": unfold(observed.get("measurements"))}
        return {**plain, "measurements": unfold(plain.get("measurements"))}

    def all_measurements(self) -> tuple[Measurement, ...]:
        """Digested and observed figures, in the order of the recipe."""
        found = (*self.measurements, *self.observed.measurements)
        return tuple(each for run in self.runs for each in found if each.run == run)

    def digests(self) -> dict[str, str]:
        """sha256 of every file that figures may be of: the published ones, and those of candidates."""
        return {path: file.sha256 for path, file in self.files.items()} | digests_of_candidates(self.choices)

    def all_verdicts(self) -> tuple[Verdict, ...]:
        """Digested and observed verdicts."""
        return (*self.verdicts, *self.observed.verdicts)

    def missed(self) -> list[str]:
        """The budgets that were missed, a line each; a release has none."""
        verdicts = (verdict for verdict in self.all_verdicts() if not verdict.passed)
        return [f"budget missed: {verdict.gate}: {verdict.reason}" for verdict in verdicts]

    def listed_files(self) -> dict[str, Digest]:
        """Every file of the release but the manifest itself."""
        return {**self.files, **self.records, **self.observed.files}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the release in ``folder``.

    Raises:
        ReleaseError: there is none, or it is damaged or of another version.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ReleaseError(f"is larger than {MAX_BYTES} bytes", where=str(path))
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        fix = "build it with `hubpub build`"
        raise ReleaseError(f"is not a release: it holds no {MANIFEST}", where=str(folder), fix=fix) from error
    except OSError as error:
        raise ReleaseError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"is not a manifest that this version reads: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ReleaseError(" ".join(what.split())[:400], where=str(path)) from error
    if manifest.content_digest() != manifest.digest:
        raise ReleaseError("was edited: its digest does not match", where=str(path), fix="build the release again")
    return manifest
