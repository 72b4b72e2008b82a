"""Where a build gets its work done: source files come when a step reads them, results from the cache first."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hubpub.build.decide import decide
from hubpub.build.plan import Plan, bytes_to_fetch, forecast, wanted_files
from hubpub.build.published import PublishedRelease
from hubpub.build.run import Done, input_digests, run_tasks
from hubpub.build.task import Task
from hubpub.errors import HubpubError
from hubpub.manifest import ChoiceRecord
from hubpub.report import Reporter
from hubpub.source import SourceContext
from hubpub.store import FileDigest, Result, Store

MAX_REASON = 240
"""Characters of what a failed step said that are kept."""


class Work:
    """Runs the tasks of one build; implements `hubpub.build.decide.Shop`.

    Attributes:
        done: what was done, by task.
        ran: names of the tasks that ran in this build, rather than being found.
        bytes_fetched: what the sources had to download.
    """

    def __init__(self, store: Store, reporter: Reporter, known: PublishedRelease | None, jobs: int | None) -> None:
        self.store = store
        self.reporter = reporter
        self.known = known
        self.jobs = jobs
        self.done: dict[str, Done] = {}
        self.ran: set[str] = set()
        self.bytes_fetched = 0

    def run(self, plan: Plan, tasks: Iterable[Task]) -> None:
        """Run ``tasks``, in an order in which each comes after those that it needs; their source files are there."""
        origins = {**plan.sources, **{name: each.result.outputs for name, each in self.done.items()}}
        self.done |= run_tasks(tasks, origins, self.store, self.reporter, self.known, self.ran, self.jobs)

    def has(self, task: Task, key: str, digests: Mapping[str, FileDigest]) -> bool:
        """Whether the task need not run."""
        published = self.known and self.known.result(task, key, digests)
        return bool(published) or self.store.result(key) is not None

    def fetch(self, plan: Plan) -> None:
        """Bring what the tasks without a result need, and what the plan publishes as it is."""
        known, store = self.known, self.store
        states = forecast(plan, store, known).states
        pending = [task for task in plan.tasks if states[task.name] != "cached"]
        if known:  # a file kept from a source: alone, rather than in the archive that it came in
            for name, paths in wanted_files(plan, pending).items():
                known.offer(plan.sources[name][path] for path in paths)
        counts = bytes_to_fetch(plan, store, pending)
        context = SourceContext(store, plan.loaded.folder)
        for name, paths in wanted_files(plan, pending).items():
            spec, locked = plan.loaded.recipe.sources[name], plan.lock.sources[name]
            if spec.missing(locked, paths, store):
                self.reporter.start(name, f"fetch {spec.label}", counts.get(name))
                spec.fetch(locked, sorted(paths), context, self.reporter.advance)
                self.reporter.end(name, f"{len(paths)} files")
        self.bytes_fetched += sum(counts.values())

    def bring(self, outputs: Iterable[tuple[str, FileDigest]]) -> None:
        """Have the bytes of these outputs of tasks in the store, also where a published release gave them."""
        for step, digest in outputs if self.known else ():
            assert self.known is not None
            self.known.bring(step, digest)

    def text(self, step: str, path: str) -> bytes:
        """An output of a task that was done."""
        digest = self.done[step].result.outputs[path]
        self.bring([(step, digest)])
        return self.store.path(digest.sha256).read_bytes()

    def failure(self, key: str) -> str | None:
        """Why the candidate whose step has this key was given up."""
        found = self.store.result(_failure_key(key))
        if found is not None:
            return str(found.facts["reason"])
        return self.known.failure(key) if self.known else None

    def reason(self, error: HubpubError) -> str:
        """What went wrong, without folders that are gone when somebody reads it."""
        roots = "|".join(re.escape(str(root)) for root in {self.store.root, self.store.root.resolve()})
        gone = rf"(?:{roots})/(?:scratch/[^/\s]+/(?:(?:inputs|outputs)/(?:files/)?)?)?"
        return " ".join(re.sub(gone, "", error.what).split())[:MAX_REASON]

    def give_up(self, key: str, reason: str) -> None:
        """Do not try the step with this key again while it is a candidate's."""
        self.store.save(_failure_key(key), Result({}, {"reason": reason}, {}))


class UndecidedError(Exception):
    """What is chosen cannot be told without running a step; never reaches a user."""


class Foresight(Work):
    """Decides by what is in the cache alone."""

    def fetch(self, plan: Plan) -> None:
        """Nothing: what would have to be fetched is not decided."""

    def run(self, plan: Plan, tasks: Iterable[Task]) -> None:
        """Take the results that are there.

        Raises:
            UndecidedError: one is not.
        """
        for task in tasks:
            origins = {**plan.sources, **{name: each.result.outputs for name, each in self.done.items()}}
            digests = input_digests(task, origins)
            result = None if digests is None else self.store.result(task.key(digests))
            if digests is None or result is None:
                raise UndecidedError(task.name)
            self.done[task.name] = Done(task, task.key(digests), digests, result, cached=True)

    def give_up(self, key: str, reason: str) -> None:
        """It is remembered already."""


def foreseen(plan: Plan, store: Store, reporter: Reporter) -> tuple[ChoiceRecord, ...] | None:
    """What a build would choose, as far as the cache can tell; None where it has to run something for it."""
    ahead = Foresight(store, reporter, None, None)
    try:
        ahead.run(plan, plan.preparation)
        return decide(plan, ahead)
    except (UndecidedError, HubpubError):
        return None


def preparing(plan: Plan) -> Plan:
    """What comes before the first candidate is made."""
    return replace(plan, work=(), published=(), runs=())


def _failure_key(key: str) -> str:
    return hashlib.sha256(f"given up {key}".encode()).hexdigest()
