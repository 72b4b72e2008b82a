"""The release folder: files, card, manifest, and what is needed to build it again; complete or not there at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.build.decide import files_at
from hubpub.build.dropin import drop_in_record
from hubpub.build.plan import Plan
from hubpub.build.records import audio_kept, lines_kept
from hubpub.build.run import Done, sidecars
from hubpub.build.script import ScriptTask
from hubpub.build.task import Task, distribution_version
from hubpub.build.tasks import MEASUREMENTS, OBSERVED, CalibratedTask, ClientTask, CorpusTask, MetricsTask, marked
from hubpub.card import render_card
from hubpub.card.render import PROSE
from hubpub.card.sensitivity import plots
from hubpub.corpus.corpus import INDEX, Corpus
from hubpub.errors import GateError, ReleaseError
from hubpub.gate import Verdict, judge
from hubpub.manifest import (
    CARD,
    MANIFEST,
    Digest,
    FileRecord,
    Manifest,
    Observed,
    SourceRecord,
    StepRecord,
    digests_of_candidates,
    read_manifest,
)
from hubpub.measure.measurement import Measurement
from hubpub.measure.result import RUN, TIMINGS, UTTERANCES
from hubpub.recipe import lock_path, template_file
from hubpub.store import FileDigest, Store, exchange, sha256_of, write_atomic
from hubpub.store.files import recover, storage_errors, sync_folder

SPARE_BYTES = 8 << 30
"""Disk that a copy must leave free where a link would do; a runner of CI has less, and loads nothing from there."""


@dataclass(frozen=True)
class ReleaseFile:
    """A file of the release that comes from the store."""

    digest: FileDigest
    made_by: str
    variants: tuple[str, ...]


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold the release folder alone; clear what killed builds left beside it.

    Raises:
        ReleaseError: it holds what no build wrote, so it could not be replaced in the end.
    """
    lock_file = folder.parent / f".{folder.name}.lock"
    listed = listed_in(folder)
    if listed is not None or not lock_file.exists():  # else an output of ours, damaged: the end of the build can tell
        refuse_foreign(folder, listed or ())
    with storage_errors("open the output folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file.open("a")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recover(folder)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def listed_in(folder: Path) -> tuple[str, ...] | None:
    """Names of the files that the manifest in ``folder`` lists; None when there is no sound one."""
    try:
        return tuple(read_manifest(folder).listed_files())
    except ReleaseError:
        return None


def refuse_foreign(folder: Path, ours: Collection[str]) -> None:
    """Refuse to replace ``folder`` while it holds anything but ``ours`` and a manifest: nobody could bring it back.

    Raises:
        ReleaseError: it does, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ReleaseError("is not a folder", where=str(folder), fix="move it away")
    if foreign := sorted(_files_in(folder).keys() - set(ours) - {MANIFEST}):
        names = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        what = f"holds {names}, which no build wrote, so it is not replaced"
        raise ReleaseError(what, where=str(folder), fix="move that away, or choose another --output")


def _files_in(folder: Path) -> dict[str, Path]:
    """Everything but folders, by POSIX path; a link is a file, whatever it points to."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def release_files(plan: Plan, done: Mapping[str, Done]) -> dict[str, ReleaseFile]:
    """Every published file with its bytes; a chain's sidecars lie beside the file that it made.

    Raises:
        ReleaseError: two entries publish one path.
    """
    files: dict[str, ReleaseFile] = {}
    for published in plan.published:
        origin = published.ref.origin
        made = files_at(published.path, published.ref, done, plan.sources)
        for name, digest in made.items():
            if name in files:
                where = plan.loaded.where("files", published.path)
                raise ReleaseError(f"{name} is made twice, by {files[name].made_by} and {origin}", where=where)
            files[name] = ReleaseFile(digest, origin, published.variants)
    return dict(sorted(files.items()))


def rebuild_files(plan: Plan) -> dict[str, bytes]:
    """What is needed to build again from the release alone: recipe, lock, scripts, requirements, template.

    Read when the build begins: what is edited meanwhile has no part in it.
    """
    loaded, template = plan.loaded, _template(plan)
    files = {file.name: file.read_bytes() for file in (loaded.path, lock_path(loaded.path))}
    for task in plan.tasks:
        if isinstance(task, ScriptTask):
            files |= task.texts
    files[f"templates/{template.name}"] = template.read_bytes()
    return {f"recipe/{name}": text for name, text in sorted(files.items())}


def read_in_release(plan: Plan, done: Mapping[str, Done], store: Store) -> Iterator[tuple[str, FileDigest]]:
    """Step and digest of every output that `assemble` reads for the card, the manifest or ``measurements/``."""
    for name, each in done.items():
        for path in READ.get(each.task.kind, ()):
            yield name, each.result.outputs[path]
        if isinstance(each.task, ClientTask):  # which audio is kept, the lines say that came just now
            run = plan.loaded.recipe.measure[name.removeprefix("runs/").partition("@")[0]]
            yield from ((name, digest) for _, digest in audio_kept(name, run, each, store))


READ = {
    CorpusTask.kind: (INDEX,),
    ClientTask.kind: (UTTERANCES, TIMINGS),
    MetricsTask.kind: (MEASUREMENTS, OBSERVED),
}
"""Outputs that `assemble` reads, by the kind of their task."""


def _template(plan: Plan) -> Path:
    loaded = plan.loaded
    template = template_file(loaded.folder, loaded.recipe.card.template)
    if template is None:
        name, where = loaded.recipe.card.template, loaded.where("card", "template")
        raise ReleaseError(f"the template {name} is gone", where=where)
    return template


def assemble(
    plan: Plan, done: Mapping[str, Done], rebuild: Mapping[str, bytes], store: Store, folder: Path
) -> Manifest:
    """Write the whole release into the empty ``folder``, the manifest last; ``rebuild`` as by `rebuild_files`."""
    files = release_files(plan, done)
    beside = {each for path in files if path.endswith(".onnx") for each in sidecars(path, files)}
    for path, file in files.items():
        # onnx.load refuses data files with several links; where disk is short they get them all the same.
        room = shutil.disk_usage(folder).free - file.digest.size >= SPARE_BYTES
        store.place(file.digest, folder / path, link=path not in beside or not room)
    records: dict[str, Digest] = {}
    for path, content in rebuild.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / path, content)
        records[path] = _digest(store, folder / path)
    for path, svg in plots({name: each.result.facts for name, each in done.items()}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / path, svg.encode())
        records[path] = _digest(store, folder / path)
    timings: dict[str, Digest] = {}
    for step, each in done.items():
        if isinstance(each.task, ClientTask):
            run, into = step.removeprefix("runs/"), {UTTERANCES: records, TIMINGS: timings}
            for name, kept in lines_kept(run).items():
                digest = each.result.outputs[name]
                store.place(digest, folder / kept)
                into[name][kept] = Digest(sha256=digest.sha256, size=digest.size)
            for kept, digest in audio_kept(run, plan.loaded.recipe.measure[run.partition("@")[0]], each, store):
                store.place(digest, folder / kept)
                records[kept] = Digest(sha256=digest.sha256, size=digest.size)
    synthetic = any(marked(folder / path) for path in files)
    manifest = _manifest(plan, done, store, files, records, synthetic=synthetic)
    card, template = plan.loaded.recipe.card, _template(plan)
    staged = folder / "recipe" / "templates" / template.name
    try:
        text = render_card(manifest, card.model_dump(mode="json"), staged)
    except ReleaseError as error:  # the reader knows recipe and template by their own places
        where = str(error.where).replace(str(staged), str(template))
        raise ReleaseError(error.what, where=plan.loaded.where("card") if where == PROSE else where) from error
    write_atomic(folder / CARD, text.encode())
    observed = manifest.observed.model_copy(update={"files": {**timings, CARD: _digest(store, folder / CARD)}})
    manifest = manifest.model_copy(update={"observed": observed})
    write_atomic(folder / MANIFEST, manifest.text().encode())
    return manifest


def _manifest(
    plan: Plan,
    done: Mapping[str, Done],
    store: Store,
    files: Mapping[str, ReleaseFile],
    records: Mapping[str, Digest],
    *,
    synthetic: bool,
) -> Manifest:
    recipe = plan.loaded.recipe
    figures = {observed: list(figures_of(plan, done, store, observed)) for observed in (False, True)}
    digests = {path: file.digest.sha256 for path, file in files.items()} | digests_of_candidates(plan.decided)
    gates = [gate for gate in recipe.gates if gate.measure.partition("/")[0] in (*plan.runs, *plan.not_run)]
    verdicts: dict[bool, list[Verdict]] = {False: [], True: []}
    timed = {each.key for each in figures[True]}
    for gate in gates:
        verdicts[gate.measure in timed] += judge([gate], figures[False] + figures[True], digests)
    return Manifest(
        name=recipe.name,
        recipe=f"recipe/{plan.loaded.path.name}",
        synthetic=synthetic or any(each.synthetic for each in figures[False] + figures[True]),
        provisional=_provisional(plan),
        missing=plan.missing,
        partial=plan.partial,
        license=recipe.card.license,
        drop_in=drop_in_record(plan, store),
        sources={name: _source_record(plan, name) for name in recipe.sources},
        # A metrics step reads timings, so its key is no part of what is the same in every build; its figures are.
        steps={name: _step_record(each) for name, each in done.items() if not isinstance(each.task, MetricsTask)},
        files={
            path: FileRecord(
                sha256=file.digest.sha256, size=file.digest.size, made_by=file.made_by, variants=file.variants
            )
            for path, file in files.items()
        },
        records=dict(records),
        choices=plan.decided,
        corpora=corpora_of(plan, done, store),
        runs=(*plan.runs, *plan.trials),
        not_run=dict(plan.not_run),
        measurements=tuple(figures[False]),
        verdicts=tuple(verdicts[False]),
        observed=Observed(
            hubpub=distribution_version("hubpub"),
            steps={name: _observed(each) for name, each in done.items()},
            measurements=tuple(figures[True]),
            verdicts=tuple(verdicts[True]),
        ),
    ).sealed()


def _provisional(plan: Plan) -> tuple[str, ...]:
    """The corpora that files were calibrated or measured on and that stand in for others."""
    behind = [published.ref.origin for published in plan.published]
    tasks = {task.name: task for task in plan.tasks}
    for origin in behind:
        behind += [ref.origin for _, ref in tasks[origin].inputs] if origin in tasks else []
    calibrated = (task for name, task in tasks.items() if name in behind and isinstance(task, CalibratedTask))
    measured = (task for task in plan.tasks if isinstance(task, ClientTask))
    read = {ref.origin for task in (*calibrated, *measured) for _, ref in task.inputs}
    specs = {task.name: task.spec for task in plan.tasks if isinstance(task, CorpusTask) and task.name in read}
    return tuple(
        f"{name.removeprefix('corpora/')} stands in for {spec.stand_in_for}"
        for name, spec in specs.items()
        if spec.stand_in_for
    )


def figures_of(plan: Plan, done: Mapping[str, Done], store: Store, observed: bool) -> Iterator[Measurement]:
    """The figures of all runs: timings and memory, or the others."""
    for task in plan.tasks:
        if isinstance(task, MetricsTask):
            digest = done[task.name].result.outputs[OBSERVED if observed else MEASUREMENTS]
            for data in json.loads(store.path(digest.sha256).read_bytes()):
                yield Measurement.model_validate({**data, "run": task.run_name})


def corpora_of(plan: Plan, done: Mapping[str, Done], store: Store) -> dict[str, Corpus]:
    """The prepared corpora, by name."""
    found: dict[str, Corpus] = {}
    for task in plan.tasks:
        if isinstance(task, CorpusTask):
            digest = done[task.name].result.outputs[INDEX]
            found[task.name.removeprefix("corpora/")] = Corpus.model_validate_json(
                store.path(digest.sha256).read_bytes()
            )
    return found


def _source_record(plan: Plan, name: str) -> SourceRecord:
    locked = plan.lock.sources[name]
    used = {ref.path for task in plan.tasks for _, ref in task.inputs if ref.origin == name}
    used |= {published.ref.path for published in plan.published if published.ref.origin == name}
    return SourceRecord(
        kind=locked.kind,
        name=locked.name,
        revision=locked.revision,
        filename=locked.filename,
        archive=Digest(sha256=locked.archive.sha256, size=locked.archive.size) if locked.archive else None,
        license=plan.loaded.recipe.sources[name].license,
        files={path: Digest(sha256=pin.sha256, size=pin.size) for path, pin in locked.files.items() if path in used},
    )


def _step_record(each: Done) -> StepRecord:
    task: Task = each.task
    identity: dict[str, Any] = task.identity()
    return StepRecord(
        kind=task.kind,
        key=each.key,
        identity=identity,
        libraries=task.tool_versions(),
        inputs={name: digest.sha256 for name, digest in sorted(each.digests.items())},
        outputs={
            name: Digest(sha256=digest.sha256, size=digest.size)
            for name, digest in sorted(each.result.outputs.items())
            if name not in _OBSERVED_OUTPUTS
        },
        facts=each.result.facts,
    )


def _observed(each: Done) -> dict[str, Any]:
    """With the key of a metrics step, by which its figures are known again."""
    return {**each.result.observed, **({"key": each.key} if isinstance(each.task, MetricsTask) else {})}


_OBSERVED_OUTPUTS = frozenset({TIMINGS, RUN})


def _digest(store: Store, path: Path) -> Digest:
    digest = store.digest(path)
    return Digest(sha256=digest.sha256, size=digest.size)


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, removed at the end (by the next build if this one is killed)."""
    with storage_errors("make the release folder"):
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def publish_folder(staged: Path, folder: Path) -> None:
    """Put the staged release in the place of ``folder`` in one step."""
    with storage_errors("put the release in place"):
        for inner in (path for path in staged.rglob("*") if path.is_dir()):
            sync_folder(inner)
        sync_folder(staged)
        exchange(staged, folder)
        sync_folder(folder.parent)


def verify_release(folder: Path, digest_of: Callable[[Path], FileDigest] = sha256_of) -> Manifest:
    """Check every file of the release in ``folder`` against its manifest; nothing may be missing, changed or added.

    Args:
        folder: the release.
        digest_of: gives the digest of a file; default: read every byte.

    Raises:
        ReleaseError: all that is wrong, in one line.
        GateError: all is whole, but it missed a budget and was rejected.
    """
    manifest = read_manifest(folder)
    listed = manifest.listed_files()
    with storage_errors("read the release"):
        found = _files_in(folder)
        wrong = [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
        wrong += [f"{name} is not in the manifest" for name in sorted(found.keys() - listed.keys() - {MANIFEST})]
        for name in sorted(listed.keys() & found.keys()):
            path, want = found[name], listed[name]
            if path.is_symlink() or not path.is_file():
                wrong.append(f"{name} is not a regular file")
            elif path.stat().st_size != want.size:
                wrong.append(f"{name} has {path.stat().st_size} bytes, {want.size} are recorded")
            elif digest_of(path).sha256 != want.sha256:
                wrong.append(f"{name} has other bytes than recorded")
    if wrong:
        raise ReleaseError("; ".join(wrong), where=str(folder), fix="build it again")
    if missed := manifest.missed():
        raise GateError("\n".join(missed), where=str(folder))
    return manifest
