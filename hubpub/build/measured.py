"""One side of a comparison: a release, a manifest or an evaluation, with what each utterance gave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue, ValidationError

from hubpub.build.evaluation import EVALUATION, read_evaluation
from hubpub.build.rebuild import release_source
from hubpub.corpus.corpus import Corpus
from hubpub.errors import HubpubError, ReleaseError, SourceError
from hubpub.manifest import MANIFEST, Digest, read_manifest
from hubpub.measure.measurement import Measurement
from hubpub.measure.result import Job, Observed, RunResult, Timing, Utterance
from hubpub.recipe import load_recipe, unsafe_path
from hubpub.source import SourceContext
from hubpub.store import Store


@dataclass(frozen=True)
class Measured:
    """What was measured, and where its lines lie.

    Attributes:
        of: what it is, for the reader.
        files: the published files.
        corpora: by name.
        measurements: all figures.
        metrics: of each run, with all options; without those of runs whose recipe is not at hand.
        records: digest of each file of lines.
        folder: where they lie.
    """

    of: str
    files: dict[str, Digest]
    corpora: dict[str, Corpus]
    measurements: tuple[Measurement, ...]
    metrics: dict[str, list[dict[str, JsonValue]]]
    records: dict[str, Digest]
    folder: Path
    _results: dict[str, RunResult | None] = field(default_factory=dict, repr=False)

    def result(self, run: str) -> RunResult | None:
        """The run as it was finished, outputs left out; None where its lines are not at hand.

        Raises:
            ReleaseError: its lines are not those that are recorded.
        """
        if run not in self._results:
            self._results[run] = self._read(run)
        return self._results[run]

    def corpus(self, run: str) -> Corpus | None:
        """What the run was made on."""
        digests = {each.corpus for each in self.measurements if each.run == run}
        return next((corpus for corpus in self.corpora.values() if corpus.digest in digests), None)

    def _read(self, run: str) -> RunResult | None:
        figure = next((each for each in self.measurements if each.run == run and each.corpus), None)
        utterances = self._lines(f"measurements/{run}.jsonl")
        timings = self._lines(f"measurements/{run}.timings.jsonl")
        if figure is None or figure.corpus is None or utterances is None:
            return None
        own = [each for each in self.measurements if each.run == run and not each.against and not each.reference]
        artifacts = {name: digest for each in own or [figure] for name, digest in each.artifacts.items()}
        try:
            return RunResult(
                job=Job(
                    run=run,
                    spec={},
                    client=figure.client,
                    versions=figure.versions,
                    corpus=figure.corpus,
                    artifacts=artifacts,
                    sizes={name: self.files[name].size for name in artifacts if name in self.files},
                    files={},
                    synthetic=figure.synthetic,
                ),
                utterances=tuple(Utterance.model_validate_json(line) for line in utterances),
                timings=tuple(Timing.model_validate_json(line) for line in timings or ()),
                observed=Observed(machine=figure.machine, load_s=0, peak_rss_bytes=0),
                folder=self.folder,
            )
        except ValidationError as error:
            raise ReleaseError(f"the lines of run {run} are damaged", where=self.of) from error

    def _lines(self, path: str) -> list[str] | None:
        recorded = self.records.get(path)
        if recorded is None or unsafe_path(path) or not (self.folder / path).is_file():
            return None
        data = (self.folder / path).read_bytes()
        if hashlib.sha256(data).hexdigest() != recorded.sha256:
            raise ReleaseError(f"{path} has other bytes than recorded", where=self.of)
        return data.decode("utf-8").splitlines()


def open_measured(where: str, store: Store, stack: ExitStack) -> Measured:
    """Open one side.

    Args:
        where: a release folder, an evaluation's folder, one of their JSON files, or ``hf://OWNER/REPO[@REVISION]``.
        store: for what has to be downloaded.
        stack: what was downloaded is removed when it closes.

    Raises:
        ReleaseError: it is none of these, or damaged.
        SourceError: the Hub does not have it.
    """
    if where.startswith("hf://"):
        desk = stack.enter_context(store.scratch("compare"))
        return _release(desk, _download(where, desk, store))
    path = Path(where)
    folder = path if path.is_dir() else path.parent
    if path.name == EVALUATION or (path.is_dir() and (path / EVALUATION).is_file()):
        found = read_evaluation(folder / EVALUATION)
        return Measured(found.of, found.files, found.corpora, found.measurements, found.metrics, found.records, folder)
    if not path.is_dir() and path.name != MANIFEST:
        fix = f"name a folder, its {MANIFEST} or {EVALUATION}, or hf://OWNER/REPO"
        raise ReleaseError("is neither a release nor an evaluation", where=where, fix=fix)
    return _release(folder, folder.resolve().name)


def _release(folder: Path, name: str) -> Measured:
    manifest = read_manifest(folder)
    return Measured(
        f"{name} ({manifest.digest[:12]})",
        dict(manifest.files),
        manifest.corpora,
        manifest.all_measurements(),
        _metrics(folder / manifest.recipe, manifest.runs),
        {**manifest.records, **manifest.observed.files},
        folder,
    )


def _metrics(recipe: Path, runs: Sequence[str]) -> dict[str, list[dict[str, JsonValue]]]:
    """The options of the metrics, which the manifest does not hold."""
    try:
        specs = load_recipe(recipe).recipe.measure
    except HubpubError:  # without it figures are compared all the same, only not utterance by utterance
        return {}
    named = {run: run.partition("@")[0] for run in runs}  # run@candidate takes the metrics of the run
    return {
        run: [metric.model_dump(mode="json") for metric in specs[name].metric_specs()]
        for run, name in named.items()
        if name in specs
    }


def _download(where: str, desk: Path, store: Store) -> str:
    """Manifest, recipe and lines of a published release, into ``desk``; the name of the release."""
    commit, siblings = release_source(where, MANIFEST).listing()
    there = [each.rfilename for each in siblings]
    lines = (name for name in there if name.startswith("measurements/") and name.endswith(".jsonl"))
    wanted = [*(name for name in there if name == MANIFEST or name.startswith("recipe/")), *lines]
    repo = where.removeprefix("hf://").partition("@")[0]
    if MANIFEST not in wanted:
        fix = "run `hubpub eval` on it with a recipe, and compare that"
        raise SourceError(f"holds no {MANIFEST}, so nothing says what was measured", where=where, fix=fix)
    spec = release_source(f"hf://{repo}@{commit}", *wanted)
    context = SourceContext(store, desk)
    locked = spec.resolve(context)
    spec.fetch(locked, wanted, context, lambda _: None)
    for name in _safe(wanted):
        store.place(locked.files[name].digest, desk / name)
    return f"{repo}@{commit[:12]}"


def _safe(names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if not unsafe_path(name))
