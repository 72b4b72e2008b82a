"""A wheel or sdist from a package index, by name and version. Nothing of the package is ever run.

(`pip download` of an sdist runs its build backend, which is why it is not used.)
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hubpub.errors import DigestMismatch, SourceError, StoreError
from hubpub.source import pipconfig
from hubpub.source.archive import Archive
from hubpub.source.base import LockedSource, Pinned, Progress, Sha256, Sighting, SourceContext, SourceSpec
from hubpub.source.download import Download
from hubpub.source.index import Indexes, Offer
from hubpub.source.names import check_name, matches, nearest, select
from hubpub.store import FileDigest, Store, copy_file
from hubpub.store.files import storage_errors


def _check_version(version: str) -> str:
    from packaging.version import InvalidVersion, Version

    try:
        Version(version)
    except InvalidVersion as error:
        raise ValueError(f"{version!r} is not an exact version such as 1.2.3") from error
    return version


class PypiSource(SourceSpec):
    """``{pypi: silero_vad, version: "6.2.3", include: [silero_vad/data/*.onnx]}``.

    Paths are those inside the archive; the top folder ``name-version/`` of an sdist is left out.
    """

    pypi: str = Field(description="name of the project", pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    version: Annotated[str, AfterValidator(_check_version)] = Field(description="exact version")
    dist: Literal["wheel", "sdist"] = "wheel"
    filename: str | None = Field(default=None, description="exact file, where a version has wheels for many platforms")
    sha256: Sha256 | None = Field(default=None, description="sha256 of the wheel or sdist, to pin it by hand")

    @property
    def label(self) -> str:
        """``name==version``, or the file when one is named."""
        return self.filename or f"{self.pypi}=={self.version}"

    def resolve(self, context: SourceContext) -> LockedSource:
        """Choose the file, download it, and list its included members. See `SourceSpec.resolve`."""
        from packaging.utils import canonicalize_name

        indexes = Indexes(pipconfig.read())
        offers = self._choose(indexes)
        filename = offers[0].filename
        pinned = self._bring(indexes, offers, filename, None, context.store, lambda count: None)
        archive = self._archive(context.store, filename, pinned.sha256)
        scan = archive.scan(lambda name: any(matches(pattern, name) for pattern in self.include))
        chosen = select(scan.names, self.include, filename)
        return LockedSource(
            kind="pypi",
            name=canonicalize_name(self.pypi),
            revision=self.version,
            filename=filename,
            archive=Pinned(sha256=pinned.sha256, size=pinned.size),
            files={name: Pinned(sha256=scan.files[name].sha256, size=scan.files[name].size) for name in chosen},
            asked=self.asked(),
        )

    def fetch(self, locked: LockedSource, wanted: Collection[str], context: SourceContext, progress: Progress) -> None:
        """Unpack the wanted members out of the locked archive. See `SourceSpec.fetch`."""
        missing = self.missing(locked, wanted, context.store)
        if not missing:
            return
        filename, whole = _archive_of(locked)
        if not context.store.has(whole.sha256):
            indexes = Indexes(pipconfig.read())
            offers = [offer for offer in indexes.offers(self.pypi) if offer.filename == filename]
            if not offers:
                raise self._absent(filename, indexes)
            self._bring(indexes, offers, filename, whole.digest, context.store, progress)
        with context.store.scratch(filename) as folder:
            archive = self._archive(context.store, filename, whole.sha256)
            for name, path in archive.extract(missing, folder).items():
                try:
                    context.store.put(path, expected=missing[name].digest)
                except DigestMismatch as error:
                    raise DigestMismatch(f"{filename}: {name}", expected=error.expected, got=error.got) from error

    def watch(self, locked: LockedSource, context: SourceContext) -> Sighting:
        """Read the project's page on each configured index. See `SourceSpec.watch`."""
        filename, whole = _archive_of(locked)
        indexes = Indexes(pipconfig.read())
        everything = indexes.offers(self.pypi)
        offers = [offer for offer in everything if offer.filename == filename]
        if not offers and indexes.problems:
            raise self._absent(filename, indexes)
        if not offers:
            return Sighting(self.version, gone=self._absent(filename, indexes, everything).what)
        listed = {self._listed(offer, context.store) for offer in offers}
        same = bool(listed & {whole.sha256, None})  # an index may list no digests
        yanked = [offer.yanked for offer in offers]
        return Sighting(
            self.version,
            changed=() if same else tuple(locked.files),
            newer=self._newer(everything),
            yanked=yanked[0] if all(yanked) else None,
        )

    def _listed(self, offer: Offer, store: Store) -> str | None:
        try:
            return store.digest(offer.local).sha256 if offer.local else offer.sha256
        except StoreError:
            return None

    def _newer(self, offers: list[Offer]) -> str | None:
        """The latest version that is offered in the same form; early ones only where an early one is pinned."""
        from packaging.version import Version

        pinned = Version(self.version)
        alike = [each for each in offers if each.version and each.is_wheel == (self.dist == "wheel")]
        found = {Version(each.version) for each in alike if not each.yanked}
        later = [each for each in found if each > pinned and (pinned.is_prerelease or not each.is_prerelease)]
        return str(max(later)) if later else None

    def bytes_to_fetch(self, locked: LockedSource, wanted: Collection[str], context: SourceContext) -> int:
        """What is missing of the archive, if any wanted member is; a partial download counts as had."""
        filename, whole = _archive_of(locked)
        if not self.missing(locked, wanted, context.store) or context.store.has(whole.sha256):
            return 0
        part = _part(context.store, filename, whole.sha256)
        return max(0, whole.size - (part.stat().st_size if part.exists() else 0))

    def _archive(self, store: Store, filename: str, sha256: str) -> Archive:
        return Archive(store.path(sha256), filename, strip_root=self.dist == "sdist")

    def _choose(self, indexes: Indexes) -> list[Offer]:
        """Everywhere that the one file we want is offered, best first.

        Raises:
            SourceError: no such version, or several files fit and none is named.
        """
        from packaging.version import Version

        everything = indexes.offers(self.pypi)
        version = Version(self.version)
        offers = [
            offer
            for offer in everything
            if Version(offer.version) == version
            and offer.is_wheel == (self.dist == "wheel")
            and self.filename in (None, offer.filename)
        ]
        if not offers:
            same_dist = [offer for offer in everything if offer.is_wheel == (self.dist == "wheel")]
            raise self._absent(f"{self.dist} of this version", indexes, same_dist or everything)
        filenames = sorted({offer.filename for offer in offers})
        pure = [name for name in filenames if re.search(r"-py3-none-any\.whl$|-py2\.py3-none-any\.whl$", name)]
        preferred = pure or [name for name in filenames if name.endswith(".tar.gz")] or filenames
        if len(preferred) > 1:
            raise SourceError(
                f"has {len(preferred)} files that fit: {', '.join(preferred)}",
                where=self.label,
                fix="set `filename` to one of them",
            )
        check_name(preferred[0], self.label)
        return [offer for offer in offers if offer.filename == preferred[0]]

    def _absent(self, what: str, indexes: Indexes, everything: list[Offer] | None = None) -> SourceError:
        if indexes.problems:
            fix = f"these could not be read: {indexes.problems}"
        elif everything:
            near = nearest(
                self.filename or f"{self.pypi}-{self.version}", sorted({offer.filename for offer in everything})
            )
            fix = f"the nearest files are {', '.join(near)}"
        else:
            fix = "check the name, and the indexes in `pip config list`"
        return SourceError(f"no {what} in any configured index", where=self.label, fix=fix)

    def _bring(
        self,
        indexes: Indexes,
        offers: list[Offer],
        filename: str,
        locked: FileDigest | None,
        store: Store,
        progress: Progress,
    ) -> FileDigest:
        """Get the archive from the first place that has the pinned bytes, and put it into the store."""
        refused: SourceError | None = None
        for offer in offers:
            sha256 = locked.sha256 if locked else self.sha256 or offer.sha256
            if sha256 and offer.sha256 not in (None, sha256):
                listed = DigestMismatch(f"{filename} (as an index lists it)", expected=sha256, got=str(offer.sha256))
                refused = refused or listed
                continue
            part = _part(store, filename, sha256)
            with store.lock(part.name):
                if sha256 and store.has(sha256):
                    return store.digest(store.path(sha256))
                try:
                    self._download(indexes, offer, part, locked.size if locked else None, sha256, progress)
                    got = store.put(part)
                except SourceError as error:
                    refused = refused or error
                    continue
                if sha256 is None or got.sha256 == sha256:
                    return got
                refused = refused or DigestMismatch(filename, expected=sha256, got=got.sha256)
        assert refused is not None  # `offers` is not empty
        raise refused

    def _download(
        self, indexes: Indexes, offer: Offer, part: Path, size: int | None, sha256: str | None, progress: Progress
    ) -> None:
        if offer.local is not None:
            part.unlink(missing_ok=True)
            try:
                with storage_errors(f"copy {offer.filename}"):
                    copy_file(offer.local, part)
            except StoreError:
                if offer.local.is_file():
                    raise
                raise SourceError("is listed but not there", where=str(offer.local)) from None
            progress(part.stat().st_size)
            return
        Download(
            indexes.client,
            offer.url,
            offer.filename,
            size=size,
            sha256=sha256,
            timeout=indexes.config.timeout,
            retries=indexes.config.retries,
        ).to(part, progress)


def _archive_of(locked: LockedSource) -> tuple[str, Pinned]:
    """The lock is a file that anybody may have edited."""
    if locked.filename is None or locked.archive is None:
        raise SourceError("the lock names no archive", where=locked.name, fix="run `hubpub lock`")
    return check_name(locked.filename, locked.name), locked.archive


def _part(store: Store, filename: str, sha256: str | None) -> Path:
    """Where the download lies while it is not complete: by digest, so that another run can go on with it."""
    return store.downloads / (f"{sha256}.part" if sha256 else f"unpinned-{filename}.part")
