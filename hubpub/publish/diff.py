"""What a publication would change: the files of a release against those of a repo, by hash, and the card's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hubpub.manifest import MANIFEST, Manifest
from hubpub.measure.measurement import Measurement
from hubpub.publish.release import Release
from hubpub.publish.remote import Remote
from hubpub.source.names import matches

GITATTRIBUTES = ".gitattributes"
"""Says which files the Hub keeps apart from git; the Hub writes it and it is never removed."""


@dataclass(frozen=True)
class FileChange:
    """A file.

    Attributes:
        path: where it is.
        old: its bytes in the repo, None where it is not there.
        new: its bytes in the release.
        sends: bytes that must be sent.
        source: a file of the repo with the same content, kept apart from git, that is copied instead of being sent.
    """

    path: str
    old: int | None
    new: int | None
    sends: int = 0
    source: str | None = None


@dataclass(frozen=True)
class FigureChange:
    """A figure of the card, before and after; None where it was not, or is no more, measured."""

    key: str
    old: Measurement | None
    new: Measurement | None

    @property
    def observed(self) -> bool:
        """A timing or a memory figure, which differs from run to run."""
        return (self.new or self.old).observed  # type: ignore[union-attr]

    @property
    def partial(self) -> bool:
        """Of a part of the corpus, such as one clip."""
        return (self.new or self.old).subset is not None  # type: ignore[union-attr]


@dataclass(frozen=True)
class Diff:
    """The difference.

    Attributes:
        added: files of the release that the repo lacks.
        changed: files with other bytes.
        removed: files of the repo that the release does not hold.
        same: files that are equal.
        kept: files of the repo that are left alone though the release does not hold them.
        figures: figures of the card that change.
        stands: the repo holds this release, whole; at most timings differ, and these are no reason to publish.
    """

    added: tuple[FileChange, ...]
    changed: tuple[FileChange, ...]
    removed: tuple[FileChange, ...]
    same: tuple[FileChange, ...]
    kept: tuple[FileChange, ...]
    figures: tuple[FigureChange, ...]
    stands: bool

    @property
    def sent(self) -> tuple[FileChange, ...]:
        """Files that a commit adds or replaces."""
        return self.added + self.changed

    @property
    def equal(self) -> bool:
        """Every file of the release is there, byte for byte, and nothing else but what is kept."""
        return not (self.added or self.changed or self.removed)

    @property
    def bytes_to_send(self) -> int:
        """At most; Xet also leaves out parts of files that it has."""
        return sum(each.sends for each in self.sent)


def compare(
    release: Release, remote: Remote, keep: Sequence[str], sha256_of: Callable[[str], str] | None = None
) -> Diff:
    """Compare by hashes: sha256 where the Hub keeps the content apart, git's sha1 where it keeps the file in git.

    Args:
        release: what is to be there.
        remote: what is there.
        keep: globs of files that are left alone.
        sha256_of: gives the sha256 of a file that git keeps; asked for card and timings only, and only where the
            published manifest has the release's digest but these files differ. Without it new timings are a change.
    """
    stored = {file.sha256: path for path, file in remote.files.items() if file.sha256}
    added: list[FileChange] = []
    changed: list[FileChange] = []
    same: list[FileChange] = []
    for path, digest in sorted(release.files.items()):
        there = remote.files.get(path)
        source = stored.get(digest.sha256)
        sends = 0 if source else digest.size
        if there is None:
            added.append(FileChange(path, None, digest.size, sends, source))
        elif _equal(release, remote, path):
            same.append(FileChange(path, there.size, digest.size))
        else:
            changed.append(FileChange(path, there.size, digest.size, sends, source))
    removed: list[FileChange] = []
    kept: list[FileChange] = []
    for path, there in sorted(remote.files.items()):
        if path not in release.files:
            left = path == GITATTRIBUTES or any(matches(pattern, path) for pattern in keep)
            (kept if left else removed).append(FileChange(path, there.size, None))
    differing = {each.path for each in (*added, *changed, *removed)}
    stands = not differing or (sha256_of is not None and _stands(release, remote, differing, sha256_of))
    return Diff(
        added=() if stands else tuple(added),
        changed=() if stands else tuple(changed),
        removed=tuple(removed),
        same=tuple(same),
        kept=tuple(kept),
        figures=() if stands else figures(remote.manifest, release.manifest),
        stands=stands,
    )


def _equal(release: Release, remote: Remote, path: str) -> bool:
    there, digest = remote.files[path], release.files[path]
    if there.sha256 is not None:
        return there.sha256 == digest.sha256
    return there.size == digest.size and there.blob_id == release.git_sha1(path)


def _stands(release: Release, remote: Remote, differing: set[str], sha256_of: Callable[[str], str]) -> bool:
    """Whether all that differs is what each run observes anew, and is there as the published manifest lists it."""
    published = remote.manifest
    if published is None or published.digest != release.manifest.digest:
        return False
    observed = published.observed.files
    if not differing <= {MANIFEST, *observed} or MANIFEST not in remote.files:
        return False
    for path, listed in observed.items():
        there = remote.files.get(path)
        if there is None or there.size != listed.size:
            return False
        known = there.sha256 or (None if path in differing else release.files[path].sha256)
        if (known or sha256_of(path)) != listed.sha256:
            return False
    return True


def figures(old: Manifest | None, new: Manifest) -> tuple[FigureChange, ...]:
    """The figures that differ, in the order of the new manifest, those that fell away last; none without an old one."""
    if old is None:
        return ()
    before = _by_key(old.all_measurements())
    after = _by_key(new.all_measurements())
    changes = [
        FigureChange(key, before.get(key), after.get(key))
        for key in (*after, *(key for key in before if key not in after))
    ]
    return tuple(each for each in changes if _shown(each.old) != _shown(each.new))


def _by_key(measurements: Sequence[Measurement]) -> dict[str, Measurement]:
    return {_key(each): each for each in measurements}


def _key(measured: Measurement) -> str:
    against = f" less {measured.against}" if measured.against else ""
    return measured.key + against + (f" [{measured.subset}]" if measured.subset else "")


def _shown(measured: Measurement | None) -> object:
    return measured and (measured.value, measured.low, measured.high, measured.unit, measured.n)
