"""The tasks other than scripts: transformations, corpora, client runs, metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from hubpub.build.run import sidecars
from hubpub.build.task import Inputs, Outcome, Room, Task, named_for_the_reader
from hubpub.coremlfile.marks import is_synthetic as coreml_is_synthetic
from hubpub.corpus.corpus import Corpus
from hubpub.corpus.disjoint import check_disjoint
from hubpub.corpus.feed import LIBRARIES as FEED_LIBRARIES
from hubpub.corpus.prepare import LIBRARIES as CORPUS_LIBRARIES
from hubpub.corpus.prepare import VERSION as CORPUS_VERSION
from hubpub.corpus.prepare import prepare
from hubpub.corpus.rows import LIBRARIES as DATASET_LIBRARIES
from hubpub.corpus.spec import CorpusSpec
from hubpub.errors import CoremlFileError, MeasureError, OnnxFileError, StepError
from hubpub.manifest import candidate_file
from hubpub.measure.clients.base import Client
from hubpub.measure.machine import machine
from hubpub.measure.measurement import Measurement
from hubpub.measure.result import RunResult, others_in_words
from hubpub.measure.run import run_client
from hubpub.onnxfile.marks import is_synthetic
from hubpub.recipe import RunSpec
from hubpub.store import copy_file
from hubpub.transform.base import Calibrated, Transform
from hubpub.transform.calibration.windows import CorpusWindows

MEASUREMENTS, OBSERVED = "measurements.json", "observed.json"


class TransformTask(Task):
    """One transformation of a model file; its sidecars lie beside it."""

    kind: ClassVar[str] = "transform"

    def __init__(
        self, name: str, transform: Transform, inputs: Inputs, primary: str, target: str, *, where: str
    ) -> None:
        super().__init__(name, inputs, where=where)
        self.transform = transform
        self.primary = primary
        self.target = target
        self.libraries = transform.libraries

    def identity(self) -> dict[str, Any]:
        """The parameters, and the name under which the result is published (sidecars are named after it)."""
        return {
            "params": self.transform.model_dump(mode="json"),
            "version": self.transform.version,
            "primary": self.primary,
            "target": self.target,
        }

    def run(self, room: Room) -> Outcome:
        """Apply it."""
        try:
            facts = self.transform.apply(room.inputs / self.primary, room.outputs / self.target, room.progress)
            return Outcome(facts, remark=_unmatched_in_words(facts))
        except (OnnxFileError, CoremlFileError, StepError) as error:
            raise named_for_the_reader(error, self.where, room.inputs, room.outputs) from error


def _unmatched_in_words(facts: Mapping[str, Any]) -> str:
    globs = ", ".join(repr(each) for each in facts.get("unmatched", ()))
    return f"nothing of the model matches {globs}" if globs else ""


CALIBRATION = "calibration"
"""Where a calibrated transformation finds its prepared corpus, below its inputs."""


class CalibratedTask(TransformTask):
    """A transformation that is shown audio of a calibration corpus first; goes on where it was interrupted."""

    def __init__(
        self, name: str, transform: Calibrated, inputs: Inputs, primary: str, target: str, *, where: str
    ) -> None:
        super().__init__(name, transform, inputs, primary, target, where=where)
        self.calibrated = transform
        self.libraries = tuple(sorted({*transform.libraries, *transform.calibration_libraries, *FEED_LIBRARIES}))

    def run(self, room: Room) -> Outcome:
        """Calibrate and apply it."""
        spec, model = self.calibrated.calibrate, room.inputs / self.primary
        assert spec is not None
        try:
            windows = CorpusWindows(room.inputs / CALIBRATION, spec, model)
            target = room.outputs / self.target
            facts = self.calibrated.apply_calibrated(model, target, windows, room.resume, room.progress)
            return Outcome(facts, remark=_unmatched_in_words(facts))
        except (OnnxFileError, CoremlFileError, StepError, MeasureError) as error:
            raise named_for_the_reader(error, self.where, room.inputs, room.outputs) from error


class CorpusTask(Task):
    """Decodes, crops and resamples the clips of one corpus."""

    kind: ClassVar[str] = "corpus"
    libraries: tuple[str, ...] = CORPUS_LIBRARIES

    def __init__(self, name: str, spec: CorpusSpec, inputs: Inputs, *, where: str) -> None:
        super().__init__(name, inputs, where=where)
        self.spec = spec
        if spec.datasets:
            self.libraries = (*CORPUS_LIBRARIES, *DATASET_LIBRARIES)

    def identity(self) -> dict[str, Any]:
        """What the recipe says of the corpus."""
        # What it stands in for, or what for it, decides no byte of it; keys of corpora of audio are older than prompts.
        silent = {"stand_in_for", "stand_in", *(() if self.spec.prompts else ("prompts",))}
        return {"spec": self.spec.model_dump(mode="json", exclude=silent), "version": CORPUS_VERSION}

    def run(self, room: Room) -> Outcome:
        """Prepare it."""
        files = {name: room.inputs / name for name, _ in self.inputs}
        corpus = prepare(self.spec, files, room.outputs)
        return Outcome({"digest": corpus.digest, "clips": len(corpus.clips), "seconds": round(corpus.seconds, 6)})


class DisjointTask(Task):
    """Proves that no calibration clip shares audio with an evaluation clip."""

    kind: ClassVar[str] = "disjointness"
    reads_sealed = True
    version: ClassVar[int] = 3
    libraries = ("numpy",)

    def identity(self) -> dict[str, Any]:
        """Nothing but the corpora."""
        return {}

    def run(self, room: Room) -> Outcome:
        """Compare every pair."""
        corpora = {name: Corpus.load(room.inputs / name) for name, _ in self.inputs}
        proof = check_disjoint(corpora, {name: room.inputs / name for name in corpora})
        facts = asdict(proof)
        (room.outputs / "disjoint.json").write_text(json.dumps(facts, sort_keys=True) + "\n")
        return Outcome(facts)


class ClientTask(Task):
    """Runs a client over a corpus; goes on where an interrupted run stopped."""

    kind: ClassVar[str] = "run"
    version: ClassVar[int] = 2
    reads_sealed = True

    def __init__(self, name: str, client: Client, inputs: Inputs, *, where: str, timed: bool = True) -> None:
        super().__init__(name, inputs, where=where)
        self.client = client
        self.timed = timed
        self.libraries = client.libraries

    def identity(self) -> dict[str, Any]:
        """Options and class of machine, as other kernels may give other figures; their names come with the metrics."""
        kind = {"client": self.client.model_dump(mode="json"), "machine": machine().model_dump(mode="json")}
        return kind if self.timed else {**kind, "timed": False}

    def run(self, room: Room) -> Outcome:
        """Run it in a process of its own."""
        prefix = "files/"
        artifacts = {name[len(prefix) :]: file.sha256 for name, file in room.digests.items() if name.startswith(prefix)}
        options = {reference: room.inputs / "options" / reference for reference in self.client.references()}
        # Progress is shown in bytes of the inputs; the clips that were dealt with stand for their share of them.
        share = sum(file.size for file in room.digests.values()) / Corpus.load(room.inputs / "corpus").work
        result = run_client(
            self.client,
            room.inputs / "files",
            room.inputs / "corpus",
            room.resume,
            lambda work: room.progress(round(work * share)),
            run=self.name.removeprefix("runs/"),
            artifacts=artifacts,
            files=options,
            synthetic=any(marked(room.inputs / prefix / name) for name in artifacts),
            timed=self.timed,
            jobs=room.jobs,
        )
        for path in (path for path in sorted(room.resume.rglob("*")) if path.is_file()):
            target = room.outputs / path.relative_to(room.resume)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, target)
        seconds = sum(utterance.audio_s for utterance in result.utterances)
        facts = {"utterances": len(result.utterances), "audio_seconds": round(seconds, 3)}
        observed = result.observed.model_dump(mode="json", exclude={"machine"})  # the identity has that
        return Outcome(facts, observed, others_in_words(result.observed.others_share))


def marked(path: Path) -> bool:
    """Whether the file is a model that says that its weights are random; a damaged one fails where it is loaded."""
    if path.suffix not in (".onnx", ".mlmodel"):
        return False
    try:
        return is_synthetic(path) if path.suffix == ".onnx" else coreml_is_synthetic(path)
    except (OnnxFileError, CoremlFileError):
        return False


class MetricsTask(Task):
    """Takes the metrics of a run, and its paired differences to other runs."""

    kind: ClassVar[str] = "metrics"
    reads_sealed = True

    def __init__(
        self,
        name: str,
        run_name: str,
        spec: RunSpec,
        inputs: Inputs,
        *,
        against: tuple[str, ...],
        where: str,
        candidates: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> None:
        """``candidates``: by run of a candidate, the paths whose files are this candidate's."""
        super().__init__(name, inputs, where=where, outputs=(MEASUREMENTS, OBSERVED))
        self.candidates = candidates
        self.run_name = run_name
        self.spec = spec
        self.against = against
        self.metrics = spec.metric_specs()
        self.libraries = tuple(sorted({library for metric in self.metrics for library in metric.libraries}))

    def identity(self) -> dict[str, Any]:
        """The metrics, and what is compared with what."""
        return {
            "run": self.run_name,
            "metrics": [metric.model_dump(mode="json") for metric in self.metrics],
            "reference": self.spec.reference,
            "against": list(self.against),
            **(
                {"candidates": {name: list(paths) for name, paths in self.candidates.items()}}
                if self.candidates
                else {}
            ),
        }

    def run(self, room: Room) -> Outcome:
        """Take them."""
        corpus = Corpus.load(room.inputs / "corpus")
        # Runs that do the same share one result, which bears one of their names.
        run = self._named(RunResult.load(room.inputs / "run"), self.run_name)
        others = {name: self._named(RunResult.load(room.inputs / "others" / name), name) for name in self.against}
        found: list[Measurement] = []
        for metric in self.metrics:
            reference = others.get(self.spec.reference or "")
            found += metric.measure(run, corpus, reference)
            for name, other in others.items():
                if name == self.spec.reference:
                    continue
                if not metric.needs_against:
                    found += [each for each in metric.measure(run, corpus, other) if each.against is not None]
                elif reference is not None:
                    found += metric.compare(run, corpus, reference, other)
        for name, observed in ((MEASUREMENTS, False), (OBSERVED, True)):
            text = figures_text(each for each in found if each.observed is observed)
            (room.outputs / name).write_text(text, "utf-8")
        return Outcome({"measurements": len(found)})

    def _named(self, result: RunResult, name: str) -> RunResult:
        """Under its name here; files of a candidate under names that those of no other one have."""
        job = result.job.model_copy(update={"run": name})
        if name in self.candidates:
            paths = self.candidates[name]
            own = {*paths, *(beside for path in paths for beside in sidecars(path, job.artifacts))}
            candidate = name.partition("@")[2]
            new = {path: candidate_file(path, candidate) if path in own else path for path in job.artifacts}
            artifacts = {new[path]: digest for path, digest in job.artifacts.items()}
            sizes = {new[path]: size for path, size in job.sizes.items()}
            job = job.model_copy(update={"artifacts": artifacts, "sizes": sizes})
        return result.model_copy(update={"job": job})


def figures_text(figures: Iterable[Measurement]) -> str:
    """The content of a file of figures."""
    data = [each.model_dump(mode="json") for each in figures]
    return json.dumps(data, ensure_ascii=False, sort_keys=True, indent=1) + "\n"
