"""Sealed corpora are for the final evaluation: no other step may read them, nor their recordings under any name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hubpub.build.run import Origins
from hubpub.build.task import Task
from hubpub.build.tasks import CorpusTask
from hubpub.corpus.spec import CorpusSpec
from hubpub.errors import StepError


def check_seals(tasks: Collection[Task], corpora: Mapping[str, CorpusSpec], sources: Origins) -> None:
    """Refuse a plan in which a step that is not the final evaluation reads a sealed corpus.

    Args:
        tasks: all tasks of the plan.
        corpora: what the recipe says, by name.
        sources: files of each source with their digests, so that a copy under another name counts too.

    Raises:
        StepError: names the step, the file and the corpus.
    """
    sealed = {f"corpora/{name}": spec for name, spec in corpora.items() if spec.sealed}
    recordings: dict[str, str] = {}
    for name, spec in sealed.items():
        for reference in spec.references():
            origin, path = reference.split("/", 1)
            if path in sources.get(origin, {}):
                recordings[sources[origin][path].sha256] = name
    for task in tasks:
        if task.reads_sealed or task.name in sealed:
            continue
        for _, ref in task.inputs:
            digest = sources.get(ref.origin, {}).get(ref.path)
            owner = ref.origin if ref.origin in sealed else recordings.get(digest.sha256) if digest else None
            if owner is not None:
                what = f"reads {ref}, which belongs to the sealed corpus {owner.removeprefix('corpora/')!r}"
                evaluates = isinstance(task, CorpusTask) and task.spec.role == "evaluation"
                fix = "seal this corpus too" if evaluates else "give it other audio, or take the seal off"
                raise StepError(what, where=task.where, fix=fix)
