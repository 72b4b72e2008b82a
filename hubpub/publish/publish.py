"""``hubpub publish`` and ``hubpub diff``: from a release folder to a repo on the Hub that is equal to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from hubpub.card.figures import figure
from hubpub.errors import HubpubError, MovedError, PublishError, RefusedError
from hubpub.publish.client import Hub
from hubpub.publish.commit import Landed, Target, commit_directly, moved, verify, way_back
from hubpub.publish.diff import GITATTRIBUTES, Diff
from hubpub.publish.pull import Opened, commit_by_merge, open_pull_request, too_large
from hubpub.publish.release import Release, open_release
from hubpub.publish.remote import Remote, read_commit, read_remote
from hubpub.publish.tag import check_tag, place_tag
from hubpub.recipe import Recipe, load_recipe
from hubpub.recipe.model import PublishSpec
from hubpub.report import Reporter

REDIFFS = 3
"""Times that a moved head is compared anew."""
MOST_FIGURES = 40
"""Figures that a commit's description names."""


@dataclass(frozen=True)
class Options:
    """What the command line says, over the recipe's ``publish`` section; None leaves it to the recipe."""

    repo: str | None = None
    branch: str | None = None
    tag: str | None = None
    pull_request: bool = False
    dry_run: bool = False
    provisional: bool = False
    rediff: bool = False
    message: str | None = None
    bars: bool = False


@dataclass(frozen=True)
class Comparison:
    """A release against a repo."""

    release: Release
    spec: PublishSpec
    remote: Remote
    diff: Diff
    endpoint: str


@dataclass(frozen=True)
class Published:
    """What came of it.

    Attributes:
        comparison: what was compared, before.
        landed: the commit; None when nothing was to be done, or it was a dry run, or a pull request was opened.
        opened: the pull request, if one was asked for.
        verified: files whose hashes were compared after the commit.
        loaded: what was loaded back with the real client, a line each.
        tagged: the tag that is on the release now.
    """

    comparison: Comparison
    landed: Landed | None = None
    opened: Opened | None = None
    verified: int = 0
    loaded: tuple[str, ...] = ()
    tagged: str | None = None


def diff(folder: Path, options: Options, reporter: Reporter) -> Comparison:
    """Compare the release in ``folder`` with its repo; nothing is changed, and no token is needed for a public one."""
    release, _, spec = _read(folder, options)
    hub = Hub(spec.repo, reporter, writing=False)
    remote = read_remote(hub, spec.branch)
    _tell(remote, reporter)
    return Comparison(release, spec, remote, _target(hub, release, spec, options, reporter).diff(remote), hub.endpoint)


def publish(
    folder: Path, options: Options, reporter: Reporter, compared: Callable[[Comparison], None] | None = None
) -> Published:
    """Make the repo equal to the release in ``folder``, or change nothing.

    Args:
        folder: the release.
        options: of the command line.
        reporter: hears what goes on.
        compared: is shown what would change, before anything does.

    Raises:
        RefusedError: the release must not be published; nothing was asked of the Hub.
        MovedError: the head moved meanwhile, and ``options.rediff`` is not set (or did not help).
        PublishError: the Hub refused, could not be reached, or holds something else than it was given.
    """
    from huggingface_hub import constants

    from hubpub.publish.checks import refusals

    release, recipe, spec = _read(folder, options)
    if lines := refusals(
        folder,
        release.manifest,
        recipe,
        spec,
        endpoint=str(constants.ENDPOINT),
        allow_provisional=options.provisional,
        reporter=reporter,
    ):
        raise RefusedError("\n".join(lines))
    hub = Hub(spec.repo, reporter, writing=not options.dry_run, bars=options.bars)
    for left in range(REDIFFS, -1, -1):
        try:
            return _publish(hub, release, recipe, spec, options, reporter, compared)
        except MovedError as error:
            if not options.rediff or not left:
                raise
            reporter.note(f"{error.what}; comparing anew")
    raise AssertionError("unreachable")


def _publish(
    hub: Hub,
    release: Release,
    recipe: Recipe,
    spec: PublishSpec,
    options: Options,
    reporter: Reporter,
    compared: Callable[[Comparison], None] | None,
) -> Published:
    remote = read_remote(hub, spec.branch)
    _tell(remote, reporter)
    target = _target(hub, release, spec, options, reporter)
    comparison = Comparison(release, spec, remote, target.diff(remote), hub.endpoint)
    if compared:
        compared(comparison)
    if options.dry_run:
        return Published(comparison)
    has_tag = spec.tag is not None and remote.commit is not None and check_tag(target, spec.tag)
    if comparison.diff.stands and remote.branch_exists:
        return Published(comparison, tagged=_tag(target, remote.commit, has_tag, spec))
    if remote.commit is not None:
        hub.check_access(write=not spec.pull_request)
    base = _prepared(target, remote, spec)
    changes = target.diff(base)
    target = _described(target, base, changes, options)
    if changes.stands:  # a new branch from a main that holds the release
        assert base.commit is not None
        landed = Landed(base.commit, hub.url("commit", base.commit), recognised=True)
    elif spec.pull_request:
        opened = open_pull_request(target, base, changes)
        verified = verify(target, opened.commit, revert_to=None)
        if spec.tag and not has_tag:
            reporter.note(f"{spec.tag} is not put on a pull request; publish again after it was merged")
        return Published(comparison, opened=opened, verified=verified)
    else:
        landed = (commit_by_merge if too_large(changes) else commit_directly)(target, base, changes)
    verified = verify(target, landed.commit, revert_to=base.commit)
    loaded = _load_back(target, landed, recipe, spec, base)
    return Published(comparison, landed, None, verified, loaded, _tag(target, landed.commit, has_tag, spec))


def _tag(target: Target, commit: str | None, has_tag: bool, spec: PublishSpec) -> str | None:
    if spec.tag is not None and not has_tag and commit is not None:
        place_tag(target.hub, spec.tag, commit)
    return spec.tag


def _prepared(target: Target, remote: Remote, spec: PublishSpec) -> Remote:
    """The head to commit on, after repo and branch were made where they were missing."""
    hub, reporter = target.hub, target.reporter
    missing = spec.branch != "main" and not remote.branch_exists
    if remote.commit is None:
        if hub.create_repo(private=spec.private):
            reporter.note(f"made {hub.repo}, {'private' if spec.private else 'public'} and empty as yet")
        if (main := hub.head("main")) is None:
            fix = "use a token that may write to it"
            raise PublishError("exists, but this token may not see it", where=hub.where, fix=fix)
        remote = read_commit(hub, main)
        if set(remote.files) - {GITATTRIBUTES}:
            raise moved(hub, "main", main, None)
    if missing and remote.commit is not None:
        hub.create_branch(spec.branch, remote.commit)
        reporter.note(f"made the branch {spec.branch} from main")
    return remote


def _load_back(target: Target, landed: Landed, recipe: Recipe, spec: PublishSpec, base: Remote) -> tuple[str, ...]:
    if not spec.load:
        return ()
    from hubpub.publish.load import load_back

    hub = target.hub
    try:
        return tuple(load_back(hub.repo, landed.commit, recipe, target.release.manifest, target.reporter))
    except HubpubError as error:
        raise PublishError(
            f"PUBLISHED as {landed.commit[:12]}, BUT IT DOES NOT LOAD: {error.what}",
            where=error.where or hub.where,
            fix=(error.fix or "find out why") + way_back(target, base.commit),
        ) from error


def _read(folder: Path, options: Options) -> tuple[Release, Recipe, PublishSpec]:
    """The release, the recipe that it holds, and where it goes."""
    release = open_release(folder)
    recipe = load_recipe(folder / release.manifest.recipe).recipe
    given = {
        "repo": options.repo,
        "branch": options.branch,
        "tag": options.tag,
        "pull_request": options.pull_request or None,
    }
    said = recipe.publish.model_dump() if recipe.publish else {}
    said |= {key: value for key, value in given.items() if value is not None}
    if "repo" not in said:
        what = "its recipe does not say where it is published"
        raise PublishError(what, where=str(folder), fix="add `publish: {repo: OWNER/NAME}` and build, or use --repo")
    try:
        return release, recipe, PublishSpec.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        raise PublishError(
            f"--{key}: {first['input']!r} cannot be used", fix="give a name that the Hub accepts"
        ) from error


def _target(hub: Hub, release: Release, spec: PublishSpec, options: Options, reporter: Reporter) -> Target:
    title = (options.message or "").strip() or f"{release.manifest.name}: release {release.short}"
    return Target(hub, spec.branch, release, spec.keep, title, "", reporter)


def _described(target: Target, base: Remote, changes: Diff, options: Options) -> Target:
    """With a description of the commit: what it replaces, and the figures that change."""
    lines = [f"Digest: {target.release.manifest.digest}", f"Replaces: {base.commit}"]
    told = [each for each in changes.figures if each.old and each.new and not (each.observed or each.partial)]
    told = told[:MOST_FIGURES]
    if told:
        lines += ["", "| figure | before | now |", "|---|---|---|"]
        lines += [
            f"| {each.key} | {figure(each.old.model_dump())} | {figure(each.new.model_dump())} |"
            for each in told
            if each.old and each.new
        ]
    return replace(target, description="\n".join(lines))


def _tell(remote: Remote, reporter: Reporter) -> None:
    if remote.note:
        reporter.note(remote.note)
