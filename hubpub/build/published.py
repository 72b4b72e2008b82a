"""What a published release already gave: a step with the same key is taken from there, never made again.

Bytes come from the published files, by sha256 and only where something reads them; small ones that are not published
(the corpus index, a run's job, a metric's figures) are written again from the manifest, and count only if they have the
digest that is recorded. A step whose unpublished bytes turn out to be needed runs after all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hubpub.build.rebuild import release_source
from hubpub.build.release import READ
from hubpub.build.run import Done
from hubpub.build.task import Task
from hubpub.build.tasks import MEASUREMENTS, OBSERVED, ClientTask, MetricsTask, figures_text
from hubpub.corpus.corpus import INDEX, Corpus
from hubpub.errors import DigestMismatch, MeasureError, ReleaseError, SourceError
from hubpub.manifest import MANIFEST, Digest, Manifest, StepRecord, read_manifest
from hubpub.measure.measurement import Machine
from hubpub.measure.result import JOB, RUN, TIMINGS, UTTERANCES, Job, Observed, canonical_json
from hubpub.measure.run import client_in_words, library_versions
from hubpub.recipe import LoadedRecipe, unsafe_path
from hubpub.report import Reporter
from hubpub.source import LockedSource, Pinned, SourceContext
from hubpub.source.base import Progress
from hubpub.source.hub import is_absent
from hubpub.store import FileDigest, Result, Store, copy_file
from hubpub.store.files import storage_errors

Fetch = Callable[[str, FileDigest, Progress], None]
"""Puts the published file of this path, which must have this digest, into the store."""


class UnpublishedError(Exception):
    """Bytes are needed that the published release does not hold, so ``step`` has to run; never reaches a user."""

    def __init__(self, step: str) -> None:
        self.step = step
        super().__init__(step)


class PublishedRelease:
    """A release whose steps need not run again; counts ``bytes_fetched``. Implements `hubpub.build.run.Known`."""

    def __init__(self, where: str, manifest: Manifest, fetch: Fetch, store: Store, reporter: Reporter) -> None:
        self.where = where
        self.manifest = manifest
        self.bytes_fetched = 0
        self._fetch = fetch
        self._store = store
        self._reporter = reporter
        self._files = {_plain(digest): path for path, digest in manifest.listed_files().items()}
        self._steps: dict[str, tuple[str, StepRecord]] = {}
        for name, record in manifest.steps.items():
            self._steps.setdefault(record.key, (name, record))
        self._metrics = {
            str(seen["key"]): name.removeprefix("measurements/")
            for name, seen in manifest.observed.steps.items()
            if name.startswith("measurements/") and "key" in seen
        }
        self._failed = {
            each.failed_key: each.reason.partition(": ")[2]
            for choice in manifest.choices
            for each in choice.candidates
            if each.failed_key is not None
        }
        self._corpora: dict[str, Corpus] = {}
        self._texts: dict[str, bytes] = {}
        for corpus in manifest.corpora.values():
            self._corpora[self._text(corpus.text()).sha256] = corpus
        self._taken: dict[str, str] = {}
        self._run_again: set[str] = set()

    def result(self, task: Task, key: str, digests: Mapping[str, FileDigest]) -> Result | None:
        """What the published step with this key gave.

        Raises:
            ReleaseError: the manifest records other inputs under this key, which cannot be.
        """
        if key in self._run_again:
            return None
        found = self._of_metrics(key) if isinstance(task, MetricsTask) else self._of_step(task, key, digests)
        if found is not None:
            self._taken[task.name] = key
        return found

    def failure(self, key: str) -> str | None:
        """Why a candidate was out whose step with this key failed there."""
        return self._failed.get(key)

    def bring(self, step: str, digest: FileDigest) -> None:
        """Put an output of ``step`` into the store; nothing to do for what was made here.

        Raises:
            UnpublishedError: it was not published.
            ReleaseError: the published file has other bytes than the manifest says.
        """
        if step not in self._taken or self._store.has(digest.sha256):
            return
        if digest.sha256 in self._texts:
            with self._store.scratch("published") as folder, storage_errors("write a published record"):
                (folder / "text").write_bytes(self._texts[digest.sha256])
                self._store.put(folder / "text", expected=digest)
        elif not self.offer([digest]):
            raise UnpublishedError(step)

    def offer(self, digests: Iterable[FileDigest]) -> bool:
        """Put those that are published into the store; whether all are there now.

        Raises:
            ReleaseError: a published file has other bytes than the manifest says.
        """
        complete = True
        for digest in sorted(set(digests)):
            if self._store.has(digest.sha256):
                continue
            path = self._files.get(digest)
            if path is None:
                complete = False
                continue
            self._reporter.start(path, f"take from {self.where}", digest.size)
            try:
                self._fetch(path, digest, self._reporter.advance)
            except DigestMismatch as error:
                raise _lies(self.where, f"{path} has sha256 {error.got}, the manifest says {error.expected}") from error
            self.bytes_fetched += digest.size
            self._reporter.end(path, "as published")
        return complete

    def run_again(self, step: str) -> None:
        """Take the result of ``step``, and of whatever has the same key, from here no more."""
        self._run_again.add(self._taken[step])
        self._taken.clear()

    def keep(self, done: Iterable[Done]) -> None:
        """Remember what was taken in the store too, where all its bytes are there."""
        for each in done:
            if each.published and all(self._store.has(output.sha256) for output in each.result.outputs.values()):
                self._store.save(each.key, each.result)

    def _of_step(self, task: Task, key: str, digests: Mapping[str, FileDigest]) -> Result | None:
        if key not in self._steps:
            return None
        name, record = self._steps[key]
        if record.kind != task.kind or record.inputs != {path: each.sha256 for path, each in digests.items()}:
            raise _lies(self.where, f"step {name} records inputs that its key was not made of")
        outputs = {path: _plain(each) for path, each in record.outputs.items()}
        seen = self.manifest.observed.steps.get(name, {})
        if isinstance(task, ClientTask):
            unrecorded = self._of_run(name, record, seen)
            if unrecorded is None:
                return None
            outputs |= unrecorded
            self._write_job(task, key, digests, outputs)
        if missing := sorted({*(task.outputs or ()), *READ.get(task.kind, ())} - outputs.keys()):
            raise _lies(self.where, f"step {name} records no {missing[0]}")
        return Result(outputs, record.facts, seen)

    def _of_run(self, name: str, record: StepRecord, seen: Mapping[str, Any]) -> dict[str, FileDigest] | None:
        """What a run observed, which no step record lists: its timings, and what the whole run took."""
        timings = self.manifest.observed.files.get(f"measurements/{name.removeprefix('runs/')}.timings.jsonl")
        try:
            machine = Machine.model_validate(record.identity.get("machine"))
            whole = {field: seen.get(field) for field in ("load_s", "peak_rss_bytes", "others_share")}
            observed = Observed.model_validate({"machine": machine, **whole})
        except ValidationError:
            return None
        if timings is None:
            return None
        return {TIMINGS: _plain(timings), RUN: self._text(canonical_json(observed))}

    def _write_job(
        self, task: ClientTask, key: str, digests: Mapping[str, FileDigest], outputs: Mapping[str, FileDigest]
    ) -> None:
        """Write the run's job again; runs that do the same share one, which bears the name of the first that ran."""
        corpus = self._corpora.get(digests[f"corpus/{INDEX}"].sha256)
        artifacts = {name.removeprefix("files/"): each for name, each in digests.items() if name.startswith("files/")}
        names = [name.removeprefix("runs/") for name, each in self.manifest.steps.items() if each.key == key]
        if corpus is None or JOB not in outputs or outputs[JOB].sha256 in self._texts:
            return
        try:
            versions = library_versions(*task.client.libraries)
        except MeasureError:
            return  # then it cannot be run here either, but what it gave stands
        for name, synthetic in ((name, synthetic) for name in names for synthetic in (False, True)):
            job = Job(
                run=name,
                spec=task.client.model_dump(mode="json"),
                client=client_in_words(task.client, timed=task.timed),
                versions=versions,
                corpus=corpus.digest,
                artifacts={path: each.sha256 for path, each in artifacts.items()},
                sizes={path: each.size for path, each in artifacts.items()},
                files={each: digests[f"options/{each}"].sha256 for each in task.client.references()},
                synthetic=synthetic,
                timed=task.timed,
            )
            self._text(canonical_json(job))

    def _of_metrics(self, key: str) -> Result | None:
        run = self._metrics.get(key)
        if run is None:
            return None
        manifest = self.manifest
        outputs = {
            name: self._text(figures_text(each for each in measurements if each.run == run))
            for name, measurements in (
                (MEASUREMENTS, manifest.measurements),
                (OBSERVED, manifest.observed.measurements),
            )
        }
        count = sum(each.run == run for each in manifest.all_measurements())
        seen = {name: value for name, value in manifest.observed.steps[f"measurements/{run}"].items() if name != "key"}
        return Result(outputs, {"measurements": count}, seen)

    def _text(self, text: str) -> FileDigest:
        raw = text.encode()
        digest = FileDigest(hashlib.sha256(raw).hexdigest(), len(raw))
        self._texts[digest.sha256] = raw
        return digest


def published_by(loaded: LoadedRecipe, store: Store, reporter: Reporter) -> PublishedRelease | None:
    """What lies where the recipe is published; None, and a note, when nothing does yet.

    Raises:
        ReleaseError: the recipe says no place, or what lies there is damaged.
        SourceError: the Hub cannot be asked.
    """
    publish = loaded.recipe.publish
    if publish is None:
        fix = "add it, or name a release with --reuse"
        raise ReleaseError("the recipe has no `publish`, so nothing tells where it is", where=str(loaded.path), fix=fix)
    where = f"hf://{publish.repo}@{publish.branch}"
    try:
        commit, siblings = release_source(where, MANIFEST).listing()
    except SourceError as error:
        if not is_absent(error):
            raise
        commit, siblings = "", []
    if MANIFEST not in (sibling.rfilename for sibling in siblings):
        reporter.note(f"no release is published at {where} yet, so nothing is reused")
        return None
    return open_published(f"hf://{publish.repo}@{commit}", store, reporter)


def open_published(where: str, store: Store, reporter: Reporter) -> PublishedRelease:
    """The release in the folder ``where``, or at ``hf://OWNER/REPO[@REVISION]``.

    Raises:
        ReleaseError: it is none, is damaged, or contradicts itself.
        SourceError: the Hub does not have it.
    """
    if not where.startswith("hf://"):
        folder = Path(where)
        manifest = read_manifest(folder)
        _check(manifest, where)
        return PublishedRelease(where, manifest, _from_folder(folder, store), store, reporter)
    spec = release_source(where, MANIFEST)
    with store.scratch("published") as desk:
        context = SourceContext(store, desk)
        locked = spec.resolve(context)
        spec.fetch(locked, [MANIFEST], context, lambda _: None)
        store.place(locked.files[MANIFEST].digest, desk / MANIFEST)
        try:
            manifest = read_manifest(desk)
        except ReleaseError as error:
            raise ReleaseError(error.what, where=f"{where}: {MANIFEST}", fix="build without reusing it") from error
    _check(manifest, where)

    def fetch(path: str, digest: FileDigest, progress: Progress) -> None:
        files = {path: Pinned(sha256=digest.sha256, size=digest.size)}
        pinned = LockedSource(kind="hub", name=spec.hub, revision=locked.revision, files=files, asked=spec.asked())
        spec.fetch(pinned, [path], SourceContext(store, Path()), progress)

    return PublishedRelease(f"hf://{spec.hub}@{locked.revision[:12]}", manifest, fetch, store, reporter)


def _from_folder(folder: Path, store: Store) -> Fetch:
    def fetch(path: str, digest: FileDigest, progress: Progress) -> None:
        source = folder / path
        if not source.resolve().is_relative_to(folder.resolve()) or not source.is_file():
            raise ReleaseError(f"{path} is missing", where=str(folder), fix="build without reusing it")
        with store.scratch("published") as desk, storage_errors(f"copy {path}"):
            copy_file(source, desk / "file")
            store.put(desk / "file", expected=digest)
        progress(digest.size)

    return fetch


def _check(manifest: Manifest, where: str) -> None:
    """Refuse a manifest whose parts contradict each other; its files are checked as they come."""
    for path in manifest.listed_files():
        if why := unsafe_path(path):
            raise _lies(where, f"it lists {path!r}, which {why}")
    for path, file in manifest.files.items():
        made: Iterable[Digest] = ()
        if file.made_by in manifest.steps:
            made = manifest.steps[file.made_by].outputs.values()
        elif file.made_by in manifest.sources:
            made = manifest.sources[file.made_by].files.values()
        if _plain(file) not in map(_plain, made):
            raise _lies(where, f"{path} is not what {file.made_by} gave")
    for name, step in manifest.steps.items():
        kept = f"measurements/{name.removeprefix('runs/')}.jsonl"
        if step.kind == ClientTask.kind and step.outputs.get(UTTERANCES) != manifest.records.get(kept):
            raise _lies(where, f"{kept} is not what {name} gave")


def _plain(digest: Digest) -> FileDigest:
    return FileDigest(digest.sha256, digest.size)


def _lies(where: str, what: str) -> ReleaseError:
    return ReleaseError(f"cannot be believed: {what}", where=where, fix="build without reusing it, and publish that")
