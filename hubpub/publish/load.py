"""Load a published commit as a user would: download with the unmodified client, open with the real loader, run it."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from hubpub.corpus.corpus import INDEX, Clip, Corpus, Prompt
from hubpub.corpus.spec import Provenance
from hubpub.errors import HubpubError, PublishError
from hubpub.manifest import Manifest
from hubpub.measure.run import run_client
from hubpub.publish.client import Hub
from hubpub.publish.trouble import client_errors, diagnose
from hubpub.recipe import Recipe, RunSpec, known_as
from hubpub.report import Reporter, counted
from hubpub.source import LockedSource, SourceContext
from hubpub.source.base import Pinned
from hubpub.store import Store, default_root, sha256_of

RATE = 16_000
LONGEST_CLIP_S = 60.0
"""The generated clip is as long as the shortest of the run's corpus (a graph may want just that length), or this."""


def load_back(repo: str, commit: str, recipe: Recipe, manifest: Manifest, reporter: Reporter) -> list[str]:
    """Download the files of every run that ``publish.load`` names at ``commit``, load them, and run a short clip.

    The download goes into a fresh cache of the client's own layout, which is removed at the end. That layout is made of
    links, behind which onnxruntime refuses external data (microsoft/onnxruntime#27353): what loads only from a plain
    folder is no fault of the release, but is said.

    Returns:
        A line for each run: what was loaded, and what it said.

    Raises:
        PublishError: they cannot be downloaded, are other bytes than the manifest lists, or do not load or run.
    """
    runs = recipe.publish.load if recipe.publish else ()
    if not runs:
        return []
    Hub(repo, reporter, writing=False)  # bounds the client's requests in time
    lines = []
    with Store(default_root()) as store, store.scratch("load-back") as desk:
        for name in dict.fromkeys(runs):
            run, where = recipe.measure[name], f"{repo}@{commit[:12]}, run {name}"
            files = files_of(run, manifest)
            size = sum(manifest.files[path].size for path in files)
            reporter.start(f"load {name}", f"download {counted(len(files), 'files')} and load", size)
            folder = _download(repo, commit, files, where, cache_dir=desk / "cache")
            _compare(folder, manifest, files, where, reporter)
            try:
                said = _run(name, run, folder, manifest, recipe, store, desk / name, where)
            except PublishError as error:
                plain = _download(repo, commit, files, where, local_dir=desk / f"{name}-plain")
                said = _run(name, run, plain, manifest, recipe, store, desk / f"{name}-again", where)
                reporter.note(f"{error.where}: from the client's cache it {error.what.replace(f'{desk}/', '')}")
                said += ", BUT ONLY from a plain folder (snapshot_download with local_dir), not from the client's cache"
            reporter.end(f"load {name}", said)
            lines.append(f"{name}: with {run.via.client}, {counted(len(files), 'files')} loaded and run: {said}")
    return lines


def files_of(run: RunSpec, manifest: Manifest) -> list[str]:
    """The published files that a run is given, with the sidecars that were made together with them."""
    named = {
        path
        for path in manifest.files
        if any(fnmatchcase(name, pattern) for pattern in run.files for name in known_as(path))
    }
    made_by = {manifest.files[path].made_by for path in named}
    steps = {name for name in made_by if name in manifest.steps and manifest.steps[name].kind == "transform"}
    return [path for path, file in manifest.files.items() if path in named or file.made_by in steps]


def _download(
    repo: str,
    commit: str,
    files: Iterable[str],
    where: str,
    *,
    cache_dir: Path | None = None,
    local_dir: Path | None = None,
) -> Path:
    from huggingface_hub import snapshot_download

    try:
        wanted = [glob.escape(path) for path in files]
        return Path(
            snapshot_download(repo, revision=commit, allow_patterns=wanted, cache_dir=cache_dir, local_dir=local_dir)
        )
    except client_errors() as error:
        trouble = diagnose(error)
        raise PublishError(f"cannot be downloaded again: {trouble.what}", where=where, fix=trouble.fix) from error


def _compare(folder: Path, manifest: Manifest, files: Iterable[str], where: str, reporter: Reporter) -> None:
    for path in files:
        if not (folder / path).is_file():
            raise PublishError(f"{path} did not come with the download", where=where, fix="look at the repo's page")
        digest = sha256_of(folder / path)
        if digest.sha256 != manifest.files[path].sha256:
            what = f"{path} came back as other bytes ({digest.size}, sha256 {digest.sha256[:12]}…) than were published"
            raise PublishError(what, where=where, fix="look for a proxy that changes what it passes on")
        reporter.advance(digest.size)


def _run(
    name: str, run: RunSpec, folder: Path, manifest: Manifest, recipe: Recipe, store: Store, desk: Path, where: str
) -> str:
    """What the client makes of a generated clip, or of a prompt."""
    corpus, out = desk / "corpus", desk / "out"
    corpus.mkdir(parents=True)
    out.mkdir()
    try:
        if run.via.takes == "text":
            given = _write_prompt(corpus, manifest, run.corpus)
        else:
            given = f"{_write_clip(corpus, manifest, run.corpus):.1f} s of generated sound"
        options = {reference: _reference(reference, manifest, recipe, store) for reference in run.via.references()}
        artifacts: Mapping[str, str] = {path: manifest.files[path].sha256 for path in files_of(run, manifest)}
        result = run_client(
            run.via, folder, corpus, out, lambda _: None, run=name, artifacts=artifacts, files=options, synthetic=True
        )
    except HubpubError as error:
        what = f"does not work with {run.via.client}: {error.what}"
        raise PublishError(what, where=where, fix=error.fix or "load it yourself to see why") from error
    (utterance,) = result.utterances
    if utterance.text is None and not utterance.outputs:
        raise PublishError(f"{run.via.client} gave no answer to {given}", where=where)
    made = f"{len(utterance.outputs)} arrays" if utterance.rate is None else f"{utterance.audio_s:.1f} s of audio"
    return f"{made if utterance.text is None else repr(utterance.text[:40])} for {given}"


def _write_prompt(corpus: Path, manifest: Manifest, name: str) -> str:
    """A corpus of the shortest text of the run's corpus, in words for the reader."""
    prompts = [clip for clip in manifest.corpora[name].clips if clip.text]
    shortest = min(prompts, key=lambda each: len(each.text or ""))
    prompt = Prompt(id=shortest.id, text=shortest.text or "", provenance=shortest.provenance)
    (corpus / INDEX).write_text(Corpus(role="evaluation", clips=(prompt,)).text(), "utf-8")
    return f"the prompt {shortest.id}"


def _write_clip(corpus: Path, manifest: Manifest, name: str) -> float:
    """A corpus of one clip, a soft tone; its length in seconds."""
    import numpy as np

    known = manifest.corpora.get(name)
    seconds = min([LONGEST_CLIP_S, *(clip.seconds for clip in known.recorded)] if known else [2.0])
    frames = max(1, round(seconds * RATE))
    samples = (0.05 * np.sin(2 * np.pi * 220 * np.arange(frames) / RATE)).astype(np.float32)
    np.save(corpus / "tone.npy", samples)
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    clip = Clip(
        id="tone",
        samples="tone.npy",
        rate=RATE,
        seconds=frames / RATE,
        text=None,
        provenance=Provenance(source="generated"),
        audio="generated/tone",
        crop=None,
        native_rate=RATE,
        start=0,
        stop=frames,
        file_sha256=digest,
        file_samples_sha256=digest,
        samples_sha256=digest,
    )
    (corpus / INDEX).write_text(Corpus(role="evaluation", clips=(clip,)).text(), "utf-8")
    return seconds


def _reference(reference: str, manifest: Manifest, recipe: Recipe, store: Store) -> Path:
    """A file besides the release that the client reads: from the store, or from its source."""
    origin, path = reference.split("/", 1)
    source = manifest.sources.get(origin)
    if source is None:
        return store.path(manifest.steps[origin].outputs[path].sha256)
    pin = source.files[path]
    if not store.has(pin.sha256):
        spec = recipe.sources[origin]
        locked = LockedSource(
            kind=source.kind,
            name=source.name,
            revision=source.revision,
            filename=source.filename,
            archive=Pinned(sha256=source.archive.sha256, size=source.archive.size) if source.archive else None,
            files={name: Pinned(sha256=file.sha256, size=file.size) for name, file in source.files.items()},
            asked=spec.asked(),
        )
        spec.fetch(locked, [path], SourceContext(store, Path()), lambda _: None)
    return store.path(pin.sha256)
