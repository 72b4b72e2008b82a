"""``hubpub eval``: the measurements of a recipe, made on what was built or published before."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from hubpub.build.at_hand import notes
from hubpub.build.evaluation import EVALUATION, Evaluation
from hubpub.build.layout import RELEASE
from hubpub.build.pins import obey_lock
from hubpub.build.plan import Plan, evaluated_files, evaluation_plan, forecast
from hubpub.build.rebuild import release_source
from hubpub.build.records import audio_kept, lines_kept
from hubpub.build.release import corpora_of, figures_of
from hubpub.build.run import Done, run_tasks, source_files
from hubpub.build.tasks import ClientTask
from hubpub.errors import ReleaseError, SourceError
from hubpub.gate import judge
from hubpub.manifest import MANIFEST, Digest, read_manifest
from hubpub.recipe import LoadedRecipe, load_recipe, unsafe_path
from hubpub.report import Reporter
from hubpub.source import SourceContext
from hubpub.store import FileDigest, Store, copy_file, write_atomic
from hubpub.store.files import storage_errors


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, where it was written, and what ran for it."""

    folder: Path
    evaluation: Evaluation
    ran: tuple[str, ...]


def evaluate(
    where: str,
    recipe: Path,
    store: Store,
    reporter: Reporter,
    *,
    output: Path,
    locked: bool = False,
    jobs: int | None = None,
) -> Evaluated:
    """Run the measurements of ``recipe`` on the files of ``where`` and write the evaluation into ``output``.

    Args:
        where: a folder of published files (of a release or not), or ``hf://OWNER/REPO[@REVISION]``.
        recipe: whose runs, corpora and gates count; its own files are not built.
        store: where results are kept; what was measured before with the same key is not measured again.
        reporter: hears of what goes on.
        output: a folder of earlier evaluations, or a new one; only the files of this evaluation are replaced.
        locked: resolve nothing.
        jobs: workers that share the clips of a run that is not timed.

    Raises:
        HubpubError: something is wrong; no evaluation is written.
    """
    loaded = load_recipe(recipe)
    lock = obey_lock(loaded, store, reporter, locked=locked)
    bring = _from_hub if where.startswith("hf://") else _from_folder
    of, files = bring(where, loaded, store, reporter)
    plan, left_out = evaluation_plan(loaded, lock, files)
    for note in notes(plan.missing):
        reporter.note(note)
    if not plan.runs:
        reason = next(iter(left_out.values()), "it has none")
        raise ReleaseError(f"no run of {recipe} can be made: {reason}", where=where)
    _fetch(plan, store, reporter)
    origins = {**plan.sources, RELEASE: files}
    done = run_tasks(plan.preparation, origins, store, reporter)
    results = {name: each.result.outputs for name, each in done.items()}
    done |= run_tasks(plan.work, {**origins, **results}, store, reporter, jobs=jobs)
    records = _write_records(plan, done, store, output)
    measurements = tuple(each for observed in (False, True) for each in figures_of(plan, done, store, observed))
    gates = [gate for gate in loaded.recipe.gates if gate.measure.partition("/")[0] in plan.runs]
    gates = [gate for gate in gates if "@" not in (gate.against or "")]  # there are no candidates here
    evaluation = Evaluation(
        name=loaded.recipe.name,
        of=of,
        files={path: _digest(files[path]) for path in sorted(files)},
        corpora=corpora_of(plan, done, store),
        metrics={
            run: [metric.model_dump(mode="json") for metric in loaded.recipe.measure[run].metric_specs()]
            for run in plan.runs
        },
        left_out=left_out,
        measurements=measurements,
        verdicts=judge(gates, measurements, {path: digest.sha256 for path, digest in files.items()}),
        records=records,
    )
    with storage_errors("write the evaluation"):
        write_atomic(output / EVALUATION, evaluation.text().encode())
    return Evaluated(output, evaluation, tuple(name for name, each in done.items() if not each.cached))


def _from_folder(
    where: str, loaded: LoadedRecipe, store: Store, reporter: Reporter
) -> tuple[str, dict[str, FileDigest]]:
    """Put the files that the recipe measures into the store."""
    folder = Path(where)
    if not folder.is_dir():
        raise ReleaseError("there is no such folder", where=where, fix="write hf://OWNER/REPO for one on the Hub")
    manifest = read_manifest(folder) if (folder / MANIFEST).exists() else None
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files: dict[str, FileDigest] = {}
    for name in evaluated_files(loaded, found):
        path = found[name]
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ReleaseError(f"{name} is a link that leaves the folder", where=where)
        digest = store.digest(path)
        recorded = manifest.files.get(name) if manifest else None
        if recorded is not None and recorded.sha256 != digest.sha256:
            raise ReleaseError(f"{name} has other bytes than recorded", where=where, fix="build it again")
        if not store.has(digest.sha256):
            reporter.start(name, f"take from {where}", digest.size)
            with store.scratch("evaluate") as desk, storage_errors(f"copy {name}"):
                copy_file(path, desk / "file")
                store.put(desk / "file", expected=digest)
            reporter.end(name, "taken")
        files[name] = digest
    digest_of = f" (digest {manifest.digest[:12]})" if manifest else ""
    return f"{folder.resolve().name}{digest_of}", files


def _from_hub(where: str, loaded: LoadedRecipe, store: Store, reporter: Reporter) -> tuple[str, dict[str, FileDigest]]:
    """Download the files that the recipe measures."""
    commit, siblings = release_source(where, MANIFEST).listing()
    names = [each.rfilename for each in siblings if not unsafe_path(each.rfilename)]
    wanted = evaluated_files(loaded, names)
    repo = where.removeprefix("hf://").partition("@")[0]
    of = f"{repo}@{commit}"
    if not wanted:
        return of, {}
    spec = release_source(f"hf://{of}", *wanted)
    context = SourceContext(store, loaded.folder)
    reporter.start(repo, f"fetch {spec.label}", None)
    locked = spec.resolve(context)
    if gone := [name for name in wanted if name not in locked.files]:
        raise SourceError(f"does not give {gone[0]}", where=where)
    spec.fetch(locked, wanted, context, reporter.advance)
    reporter.end(repo, f"{len(wanted)} files")
    return of, {name: locked.files[name].digest for name in wanted}


def _fetch(plan: Plan, store: Store, reporter: Reporter) -> None:
    """Bring what tasks without a result read from the recipe's sources."""
    states = forecast(plan, store).states
    pending = [task for task in plan.tasks if states[task.name] != "cached"]
    context = SourceContext(store, plan.loaded.folder)
    for name, paths in source_files(pending, plan.sources).items():
        spec, locked = plan.loaded.recipe.sources[name], plan.lock.sources[name]
        if spec.missing(locked, paths, store):
            reporter.start(name, f"fetch {spec.label}", spec.bytes_to_fetch(locked, paths, context))
            spec.fetch(locked, sorted(paths), context, reporter.advance)
            reporter.end(name, f"{len(paths)} files")


def _write_records(plan: Plan, done: Mapping[str, Done], store: Store, output: Path) -> dict[str, Digest]:
    """The lines of each run, and the audio that it made."""
    with storage_errors("write the evaluation"):
        _make_room(output)
        records: dict[str, Digest] = {}
        for task in plan.tasks:
            if isinstance(task, ClientTask):
                run, outputs = task.name.removeprefix("runs/"), done[task.name].result.outputs
                kept = {path: outputs[name] for name, path in lines_kept(run).items()}
                kept |= audio_kept(run, plan.loaded.recipe.measure[run], done[task.name], store)
                for path, digest in kept.items():
                    store.place(digest, output / path)
                    records[path] = _digest(digest)
        return records


def _make_room(output: Path) -> None:
    """Drop an earlier evaluation.

    Raises:
        ReleaseError: there is something else.
    """
    if output.exists() and not output.is_dir():
        raise ReleaseError("is not a folder", where=str(output), fix="choose another --output")
    foreign: Collection[str] = {path.name for path in output.iterdir()} if output.exists() else ()
    if set(foreign) - {EVALUATION, "measurements"}:
        name = sorted(set(foreign) - {EVALUATION, "measurements"})[0]
        what = f"holds {name}, which no evaluation wrote, so nothing is written there"
        raise ReleaseError(what, where=str(output), fix="choose another --output")
    (output / EVALUATION).unlink(missing_ok=True)
    shutil.rmtree(output / "measurements", ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)


def _digest(digest: FileDigest) -> Digest:
    return Digest(sha256=digest.sha256, size=digest.size)
