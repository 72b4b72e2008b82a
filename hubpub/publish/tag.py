"""The tag of a publication: put on last, never moved."""

from __future__ import annotations

from hubpub.errors import PublishError
from hubpub.publish.client import Hub
from hubpub.publish.commit import Target


def tagged(hub: Hub, tag: str) -> str | None:
    """The commit that ``tag`` is on."""
    return next((each.target_commit for each in hub.refs().tags if each.name == tag), None)


def check_tag(target: Target, tag: str) -> bool:
    """Whether ``tag`` is there and on this release, which is what it is to name.

    Raises:
        PublishError: it is there, and on something else.
    """
    there = tagged(target.hub, tag)
    if there is None:
        return False
    if not target.diff_at(there).stands:
        raise _taken(target.hub, tag, there)
    return True


def place_tag(hub: Hub, tag: str, commit: str) -> None:
    """Put ``tag`` on ``commit``; nothing to do when it is there.

    Raises:
        PublishError: it is on another commit, or could not be put.
    """
    try:
        hub.create_tag(tag, commit)
    except PublishError as error:
        there = tagged(hub, tag)
        if there is None:
            fix = "run the same command again: only the tag is missing"
            raise PublishError(f"published, but not tagged {tag}: {error.what}", where=hub.where, fix=fix) from error
        if there != commit:
            raise _taken(hub, tag, there) from error


def _taken(hub: Hub, tag: str, there: str) -> PublishError:
    return PublishError(
        f"the tag {tag} is on {there[:12]}, which is another release, and a tag is never moved",
        where=hub.where,
        fix=f"choose another --tag, or remove it with `hf repos tag delete {hub.repo} {tag}`",
    )
