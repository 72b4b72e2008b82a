"""Run a client over a corpus, in a process of its own with its threads pinned."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import hubpub
from hubpub.corpus.corpus import Clip, Corpus, Prompt
from hubpub.errors import KilledError, MeasureError
from hubpub.measure.clients.base import Client
from hubpub.measure.journal import join_parts, prepare_folder, recover, recover_all, write_atomically
from hubpub.measure.machine import machine
from hubpub.measure.result import PARTS, RUN, Job, Observed, RunResult, Timing, canonical_json

Progress = Callable[[float], None]
"""Called with the work just dealt with: seconds of audio, or characters of prompts."""

_NO_FILES: Mapping[str, Path] = MappingProxyType({})


def run_client(
    client: Client,
    folder: Path,
    corpus_dir: Path,
    out_dir: Path,
    progress: Progress,
    *,
    run: str,
    artifacts: Mapping[str, str],
    files: Mapping[str, Path] = _NO_FILES,
    synthetic: bool = False,
    timed: bool = True,
    jobs: int | None = None,
) -> RunResult:
    """Run ``client`` over a prepared corpus and keep what came out, clip by clip.

    What comes out does not depend on the number of workers; what it takes does, so a run that is timed has one.

    ``out_dir`` may hold the beginning of the same run, which then goes on; what another job left there is dropped.

    Args:
        client: which client, and how.
        folder: the model files under their published names.
        corpus_dir: what ``hubpub.corpus.prepare`` wrote.
        out_dir: where the result goes; nobody else may write there meanwhile.
        progress: called for each clip.
        run: name of the run in the recipe.
        artifacts: sha256 of the files in ``folder`` that are measured, by published name.
        files: where ``client.references()`` lie.
        synthetic: whether the weights or the audio are made up.
        timed: whether its timings are wanted: then it runs alone, with all its threads.
        jobs: else so many workers share the clips, and the client's threads; default: `usual_jobs`.

    Raises:
        MeasureError: one line that names the run, the clip and the cause.
        AudioError: the prepared corpus is damaged.
    """
    corpus = Corpus.load(corpus_dir)
    job = _job(client, folder, corpus, run, artifacts, files, synthetic, timed)
    prepare_folder(out_dir, job)
    clip_ids = [clip.id for clip in corpus.clips]
    before = recover_all(out_dir, clip_ids)
    weights = {clip.id: clip.work for clip in corpus.clips}
    progress(sum(weights[name] for name in before))
    if not (out_dir / PARTS).exists() and len(before) == len(clip_ids) and (out_dir / RUN).is_file():
        return RunResult.load(out_dir)
    work = _work(client, folder, files, run) | {"corpus": str(corpus_dir.resolve()), "out": str(out_dir.resolve())}
    left = [clip for clip in corpus.clips if clip.id not in before]
    workers = 1 if timed else min(len(left), jobs or usual_jobs(client, sum(job.sizes.values())))
    if workers > 1 or (out_dir / PARTS).exists():
        works = [_share(work, number, clips) for number, clips in enumerate(share_out(left, max(1, workers))) if clips]
    else:
        works = [work]
    # The last bit of audio depends on the threads of one worker, so these must not depend on the number of workers.
    threads = 1 if "audio" in client.makes and not timed else max(1, client.threads // max(1, workers))
    for each in works:
        each["client"] = {**each["client"], "threads": threads}
    loaded: dict[str, Any] = {"load_s": 0.0, "peak_rss_bytes": 0}
    with closing(_all_events(works, threads, run)) as events:
        for event in events:
            if event["event"] == "clip":
                progress(weights[event["id"]])
            elif event["event"] == "loaded":
                loaded = {name: max(loaded[name], event[name]) for name in loaded}
    if (out_dir / PARTS).exists() and len(recover_all(out_dir, clip_ids)) == len(clip_ids):
        join_parts(out_dir, clip_ids)
    done, timings = recover(out_dir, clip_ids)
    if len(done) != len(clip_ids):
        raise MeasureError(f"only {len(done)} of {len(clip_ids)} clips were written", where=f"run {run}")
    # Peaks of the workers that were killed on the way count too.
    peak = max([loaded["peak_rss_bytes"], *(timing.peak_rss_bytes for timing in timings)])
    here = machine()
    others = _others_share(timings, here.cores) if timed else None
    observed = Observed(machine=here, load_s=loaded["load_s"], peak_rss_bytes=peak, others_share=others)
    write_atomically(out_dir / RUN, canonical_json(observed).encode())
    return RunResult.load(out_dir)


def _others_share(timings: Sequence[Timing], cores: int) -> float | None:
    """What other programs took of the cores' time; None where one clip does not tell."""
    known = [timing.others_cpu_s for timing in timings if timing.others_cpu_s is not None]
    wall_s = sum(timing.wall_s for timing in timings)
    return round(min(1.0, sum(known) / (wall_s * cores)), 3) if wall_s and len(known) == len(timings) else None


def client_in_words(client: Client, *, timed: bool) -> str:
    """What a reader of a figure must know; where it is not timed, threads decide nothing."""
    told = client.describe()
    return told if timed else told.removesuffix(f", {client.threads} threads")


SMALL_BYTES = 500_000_000


def usual_jobs(client: Client, model_bytes: int) -> int:
    """Workers where nobody says how many: one for each of the client's threads, one for a model of half a gigabyte."""
    return client.threads if model_bytes <= SMALL_BYTES else 1


def share_out(clips: Sequence[Clip | Prompt], workers: int) -> list[list[Clip | Prompt]]:
    """Each worker's clips, so that all have about as much to do: the longest go first to whoever has least."""
    shares: list[list[Clip | Prompt]] = [[] for _ in range(workers)]
    loads = [0.0] * workers
    for clip in sorted(clips, key=lambda each: -each.work):
        least = loads.index(min(loads))
        shares[least].append(clip)
        loads[least] += clip.work + _CLIP_S
    return shares


_CLIP_S = 5.0
"""What a clip costs besides its length, in seconds of audio: some models take half a minute, however short it is."""


def _share(work: dict[str, Any], number: int, clips: Sequence[Clip | Prompt]) -> dict[str, Any]:
    out = Path(work["out"]) / PARTS / str(number)
    out.mkdir(parents=True, exist_ok=True)
    return {**work, "out": str(out), "clips": [clip.id for clip in clips]}


def check_folder(client: Client, folder: Path, *, run: str, files: Mapping[str, Path] = _NO_FILES) -> None:
    """Load a whole release folder with ``client``, to see that no file in it confuses the loader.

    Raises:
        MeasureError: the client cannot load it.
    """
    for _ in _events(_work(client, folder, files, run), client.threads, run):
        pass


def library_versions(*distributions: str) -> dict[str, str]:
    """Versions of the installed distributions.

    Raises:
        MeasureError: one is not installed.
    """
    try:
        return {name: importlib.metadata.version(name) for name in distributions}
    except importlib.metadata.PackageNotFoundError as error:
        raise MeasureError(f"{error.name} is not installed", fix=f"pip install {_wanted(str(error.name))}") from error


def _wanted(distribution: str) -> str:
    """The extra of ours that brings a distribution, else the distribution."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    with suppress(importlib.metadata.PackageNotFoundError):  # a checkout that is not installed has no extras
        for text in importlib.metadata.requires("hubpub") or ():
            requirement = Requirement(text)
            for extra in importlib.metadata.metadata("hubpub").get_all("Provides-Extra") or ():
                named = canonicalize_name(requirement.name) == canonicalize_name(distribution)
                if named and requirement.marker and requirement.marker.evaluate({"extra": extra}):
                    return f"'hubpub[{extra}]'"
    return distribution


def _job(
    client: Client,
    folder: Path,
    corpus: Corpus,
    run: str,
    artifacts: Mapping[str, str],
    files: Mapping[str, Path],
    synthetic: bool,
    timed: bool,
) -> Job:
    try:
        return Job(
            run=run,
            spec=client.model_dump(mode="json"),
            client=client_in_words(client, timed=timed),
            versions=library_versions(*client.libraries),
            corpus=corpus.digest,
            artifacts=dict(artifacts),
            sizes={name: (folder / name).stat().st_size for name in artifacts},
            files={reference: _sha256(_file(reference, files, run)) for reference in client.references()},
            synthetic=synthetic,
            timed=timed,
        )
    except OSError as error:
        raise MeasureError(f"{error.filename} cannot be read", where=f"run {run}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(reference: str, files: Mapping[str, Path], run: str) -> Path:
    if reference not in files:
        raise MeasureError(f"no source holds {reference}", where=f"run {run}", fix="correct the reference")
    return files[reference]


def _work(client: Client, folder: Path, files: Mapping[str, Path], run: str) -> dict[str, Any]:
    if not folder.is_dir():  # onnx-asr would ask the Hub for what it does not find here
        raise MeasureError("there is no such folder of model files", where=str(folder))
    return {
        "client": client.model_dump(mode="json"),
        "folder": str(folder.resolve()),
        "files": {reference: str(_file(reference, files, run).resolve()) for reference in client.references()},
    }


def _all_events(works: Sequence[dict[str, Any]], threads: int, run: str) -> Generator[dict[str, Any], None, None]:
    """What all workers say, until all have ended well; when one fails, the others are ended."""
    if len(works) == 1:
        yield from _events(works[0], threads, run)
        return
    said: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()
    processes: list[subprocess.Popen[bytes]] = []

    def listen(work: dict[str, Any]) -> None:
        try:
            for event in _events(work, threads, run, processes.append):
                said.put(event)
            said.put(None)
        except BaseException as error:  # raised where the events are read
            said.put(error)

    listeners = [threading.Thread(target=listen, args=(work,), daemon=True) for work in works]
    for listener in listeners:
        listener.start()
    try:
        running = len(works)
        while running:
            event = said.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                running -= 1
            else:
                yield event
    finally:
        while any(listener.is_alive() for listener in listeners):
            for process in list(processes):  # one may just have been started
                process.kill()
            for listener in listeners:
                listener.join(0.05)


def _events(
    work: dict[str, Any], threads: int, run: str, started: Callable[[subprocess.Popen[bytes]], object] = id
) -> Generator[dict[str, Any], None, None]:
    """What the worker says, until it has ended well; ``started`` is given its process."""
    with tempfile.TemporaryFile() as stderr, _worker(work, threads, stderr) as process:
        assert process.stdout is not None
        started(process)
        failure: dict[str, Any] | None = None
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break  # it was killed while it wrote
            event = json.loads(line)
            if event["event"] == "error":
                failure = event
            else:
                yield event
        code = process.wait()
        if failure is not None:
            where = f"run {run}, clip {failure['clip']}" if failure["clip"] else f"run {run}"
            what = ": ".join(part for part in (failure["kind"], failure["message"]) if part)
            raise MeasureError(what, where=where, fix=failure["fix"])
        if code != 0:
            raise _crash(code, stderr, run)


def _crash(code: int, stderr: IO[bytes], run: str) -> MeasureError:
    where = f"run {run}"
    if code == -signal.SIGKILL:
        return KilledError(
            "the worker was killed, most likely because memory ran out",
            where=where,
            fix="free memory or cut the audio into shorter segments, then build again: it goes on where it stopped",
        )
    if code < 0:
        return MeasureError(f"the worker crashed ({signal.Signals(-code).name}){_last_line(stderr)}", where=where)
    return MeasureError(f"the worker ended with code {code}{_last_line(stderr)}", where=where)


def _last_line(stderr: IO[bytes]) -> str:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 2000))
    lines = stderr.read().decode("utf-8", errors="replace").split("\n")
    return next((f": {line.strip()[:300]}" for line in reversed(lines) if line.strip()), "")


@contextmanager
def _worker(work: dict[str, Any], threads: int, stderr: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, its work handed over; whatever ends the caller ends it too."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hubpub.measure.worker"],  # -P: the working folder may hold anything
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=_environment(threads),
        start_new_session=True,  # Ctrl-C reaches the parent alone, which then kills the worker
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with suppress(BrokenPipeError):  # it died at once; its exit code says why
            process.stdin.write(json.dumps(work).encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with suppress(BrokenPipeError):  # closing flushes what a dead worker will not read
            process.stdin.close()


def _environment(threads: int) -> dict[str, str]:
    secret = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")
    env = {name: value for name, value in os.environ.items() if name not in secret}
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    env |= dict.fromkeys(pools, str(threads))
    package = str(Path(hubpub.__file__).resolve().parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [package, env.get("PYTHONPATH")]))
    env["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime 1.31 reports usage, and leaves a session file in TMPDIR
    env["HF_HUB_OFFLINE"] = "1"  # a client measures what lies in the folder, and fetches nothing
    return env
