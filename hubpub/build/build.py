"""The main job: plan, fetch, run, assemble, check with the real clients, judge, and put the release in place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hubpub.build.at_hand import notes
from hubpub.build.decide import decide
from hubpub.build.elsewhere import notes as notes_elsewhere
from hubpub.build.last import note_last
from hubpub.build.pins import check_local_files, obey_lock, update_lock
from hubpub.build.plan import Forecast, Plan, forecast, make_plan
from hubpub.build.published import UnpublishedError, open_published, published_by
from hubpub.build.release import (
    assemble,
    claim,
    listed_in,
    publish_folder,
    read_in_release,
    rebuild_files,
    refuse_foreign,
    release_files,
    stage,
    verify_release,
)
from hubpub.build.run import Done, Origins
from hubpub.build.task import distribution_version, named_for_the_reader
from hubpub.build.tasks import CorpusTask
from hubpub.build.work import Work, foreseen, preparing
from hubpub.corpus.corpus import INDEX, Corpus
from hubpub.errors import GateError, OnnxFileError, Problem, RecipeError, ReleaseError, StoreError
from hubpub.manifest import CARD, MANIFEST, Manifest
from hubpub.measure.machine import machine
from hubpub.measure.run import check_folder
from hubpub.recipe import Lock, load_recipe
from hubpub.recipe.check import impossible_gate
from hubpub.report import Reporter
from hubpub.store import FileDigest, Result, Store

RELEASE_VERSION = 1
"""Raise it when the same steps give another release folder."""


@dataclass(frozen=True)
class Built:
    """A finished release, and what it took."""

    folder: Path
    manifest: Manifest
    ran: tuple[str, ...]
    cached: tuple[str, ...]
    bytes_fetched: int
    unchanged: bool
    """The folder held this release already."""
    published: tuple[str, ...] = ()
    """Those of `cached` that were taken from a published release."""


def lock(recipe: Path, store: Store, reporter: Reporter) -> Lock:
    """Resolve all sources of ``recipe`` anew and write its lock file."""
    return update_lock(load_recipe(recipe), store, reporter)


def plan(
    recipe: Path, store: Store, reporter: Reporter, *, locked: bool, only: str | None, variant: str | None
) -> tuple[Plan, Forecast]:
    """What `build` would do now."""
    loaded = load_recipe(recipe)
    pinned = obey_lock(loaded, store, reporter, locked=locked)
    made = make_plan(loaded, pinned, only=only, variant=variant)
    if made.choices and (decided := foreseen(made, store, reporter)) is not None:
        made = make_plan(loaded, pinned, only=only, variant=variant, decided=decided)
    for note in (*notes(made.missing), *notes_elsewhere(made.not_run)):
        reporter.note(note)
    return made, forecast(made, store)


def build(
    recipe: Path,
    store: Store,
    reporter: Reporter,
    *,
    output: Path,
    locked: bool = False,
    only: str | None = None,
    variant: str | None = None,
    published: bool = False,
    reuse: str | None = None,
    jobs: int | None = None,
) -> Built:
    """Build the release of ``recipe`` into the folder ``output`` (``<output>.partial`` for a part of the recipe).

    Steps with the same key are taken from the release ``reuse`` (a folder or ``hf://OWNER/REPO[@REVISION]``), or with
    ``published`` from the one that lies where the recipe is published, and do not run. ``jobs`` workers share the
    clips of a run that is not timed; default: one for each of its client's threads, one for a large model.

    Raises:
        HubpubError: something is wrong; ``output`` is as it was.
        GateError: a budget was missed; the release is left in ``<output>.rejected`` for a person to read.
    """
    loaded = load_recipe(recipe)
    pinned = obey_lock(loaded, store, reporter, locked=locked)
    made = make_plan(loaded, pinned, only=only, variant=variant)
    check_local_files(made.loaded, made.lock, store)
    for note in (*notes(made.missing), *notes_elsewhere(made.not_run)):
        reporter.note(note)
    output = output.resolve()
    folder = output.with_name(f"{output.name}.partial") if made.partial else output
    with claim(folder):
        rebuild = rebuild_files(made)
        there = open_published(reuse, store, reporter) if reuse else None
        if published and not reuse:
            there = published_by(loaded, store, reporter)
        work = Work(store, reporter, there, jobs)
        made = _run_all(
            made, lambda decided: make_plan(loaded, pinned, only=only, variant=variant, decided=decided), work
        )
        done, fetched = work.done, work.bytes_fetched
        ran = tuple(name for name, each in done.items() if not each.cached)
        cached = tuple(name for name, each in done.items() if each.cached)
        reused = tuple(name for name, each in done.items() if each.published)
        key = _release_key(made, done, rebuild)
        known = store.result(key)
        if known is not None and (current := _in_place(folder, known, store)):
            note_last(folder, partial=made.partial)
            return Built(folder, current, ran, cached, fetched, unchanged=True, published=reused)
        refuse_foreign(folder, (*(listed_in(folder) or ()), *(known.facts["files"] if known else ())))
        reporter.start("release", "assemble and check", None)
        with stage(folder) as staged:
            manifest = assemble(made, done, rebuild, store, staged)
            check_models(made, staged, manifest)
            _check_clients(made, _with_results(made, done), staged, manifest, store)
            if missed := manifest.missed():
                rejected = folder.with_name(f"{folder.name}.rejected")
                publish_folder(staged, rejected)
                lines = "\n".join(missed)
                raise GateError(f"{lines}\n{loaded.path}: no release was made", fix=f"see {rejected / CARD}")
            verify_release(staged, store.digest)
            publish_folder(staged, folder)
        listing = {path: FileDigest(each.sha256, each.size) for path, each in manifest.listed_files().items()}
        _remember(key, folder, listing, store)
        note_last(folder, partial=made.partial)
        reporter.end("release", f"{len(listing) + 1} files")
    return Built(folder, manifest, ran, cached, fetched, unchanged=False, published=reused)


def _run_all(undecided: Plan, plan_again: Callable[..., Plan], work: Work) -> Plan:
    """Fetch, choose and run; all bytes that the release needs are in the store then. Gives the plan that was run."""
    while True:
        work.done = {}
        try:
            made = undecided
            if undecided.choices:
                work.fetch(preparing(undecided))
                _prepare(undecided, work)
                made = plan_again(decided=decide(undecided, work))
            work.fetch(made)
            _prepare(made, work)
            work.run(made, made.work)
            if work.known:
                work.bring(_read_in_the_end(made, work.done, work.store))
                work.known.keep(work.done.values())
                work.bytes_fetched += work.known.bytes_fetched
            return made
        except UnpublishedError as gap:  # what ran is in the store by now, so beginning again costs nothing
            assert work.known is not None
            work.known.run_again(gap.step)


def _prepare(made: Plan, work: Work) -> None:
    work.run(made, made.preparation)
    work.bring(read_in_release(made, work.done, work.store))
    _refuse_impossible_gates(made, work.done, work.store)


def _read_in_the_end(made: Plan, done: Mapping[str, Done], store: Store) -> Iterator[tuple[str, FileDigest]]:
    """Every output that the release is assembled from or that its clients are given, with its step."""
    yield from read_in_release(made, done, store)
    for file in release_files(made, done).values():
        yield file.made_by, file.digest
    for run in made.runs:
        for reference in made.loaded.recipe.measure[run].via.references():
            origin, path = reference.split("/", 1)
            if origin in done:
                yield origin, done[origin].result.outputs[path]


def _with_results(made: Plan, done: Mapping[str, Done]) -> dict[str, Mapping[str, FileDigest]]:
    return {**made.sources, **{name: each.result.outputs for name, each in done.items()}}


def _refuse_impossible_gates(made: Plan, done: Mapping[str, Done], store: Store) -> None:
    """Stop before anything expensive where a corpus turns out too small for a gate ever to pass."""
    recipe, loaded = made.loaded.recipe, made.loaded
    texts: dict[str, list[str | None]] = {}
    for name, each in done.items():
        if isinstance(each.task, CorpusTask):
            corpus = Corpus.model_validate_json(store.path(each.result.outputs[INDEX].sha256).read_bytes())
            texts[name.removeprefix("corpora/")] = [clip.text for clip in corpus.clips]
    problems: list[Problem] = []
    for index, gate in enumerate(recipe.gates):
        run = recipe.measure[gate.measure.partition("/")[0]]
        if run.corpus in texts and (reason := impossible_gate(gate, run, texts[run.corpus])):
            problems.append(loaded.document.problem(("gates", index), f"can never pass: {reason}"))
    if problems:
        raise RecipeError(problems)


def _release_key(made: Plan, done: Mapping[str, Done], rebuild: Mapping[str, bytes]) -> str:
    text = json.dumps(
        {
            "release": RELEASE_VERSION,
            "files": {path: file.digest.sha256 for path, file in release_files(made, done).items()},
            "steps": {name: each.key for name, each in done.items()},
            "observed": {name: each.result.observed for name, each in done.items()},
            "rebuild": {path: hashlib.sha256(text).hexdigest() for path, text in rebuild.items()},
            "partial": made.partial,
            **({"not_run": dict(made.not_run)} if made.not_run else {}),
            **({"choices": [each.model_dump(mode="json") for each in made.decided]} if made.decided else {}),
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _remember(key: str, folder: Path, listing: dict[str, FileDigest], store: Store) -> None:
    """Note that ``folder`` holds the release ``key``: the digest of its manifest stands for all of it."""
    manifest = store.digest(folder / MANIFEST)
    facts = {"manifest": manifest.sha256, "files": {path: digest.sha256 for path, digest in listing.items()}}
    store.save(key, Result({}, facts, {}))


def _in_place(folder: Path, known: Result, store: Store) -> Manifest | None:
    """The manifest of the release in ``folder``, if that still is, byte for byte, what was made for this key."""
    try:
        if store.digest(folder / MANIFEST).sha256 == known.facts["manifest"]:
            return verify_release(folder, store.digest)
    except (ReleaseError, StoreError, OSError):
        pass
    return None


def check_models(made: Plan, folder: Path, manifest: Manifest) -> None:
    """Open every ONNX file of the release: its graph can be read, and its external data lies beside it, whole.

    Raises:
        OnnxFileError: one does not.
    """
    from hubpub.onnxfile import OnnxFile

    for path in manifest.files:
        if path.endswith(".onnx"):
            try:
                OnnxFile.open(folder / path)
            except OnnxFileError as error:
                raise named_for_the_reader(error, made.loaded.where("files", path), folder) from error


def _check_clients(made: Plan, origins: Origins, folder: Path, manifest: Manifest, store: Store) -> None:
    """Load the whole release with every client that measured it: no file may confuse its loader."""
    recipe = made.loaded.recipe
    listing = {path: file.sha256 for path, file in manifest.files.items()}
    for name in made.runs:
        client = recipe.measure[name].via
        text = json.dumps(
            {
                "loads": listing,
                "client": client.model_dump(mode="json"),
                "libraries": {library: distribution_version(library) for library in client.libraries},
                "machine": machine().model_dump(mode="json"),
            },
            sort_keys=True,
        )
        key = hashlib.sha256(text.encode()).hexdigest()
        if store.result(key) is None:
            options = {reference: store.path(_sha256_of(origins, reference)) for reference in client.references()}
            check_folder(client, folder, run=name, files=options)
            store.save(key, Result({}, {"loads": True}, {}))


def _sha256_of(origins: Origins, reference: str) -> str:
    origin, path = reference.split("/", 1)
    return origins[origin][path].sha256
