"""Where bytes come from: package indexes, Hub repos and local folders, each pinned in the lock file."""

from hubpub.source.base import LockedSource, Pinned, Progress, Sighting, SourceContext, SourceSpec
from hubpub.source.hub import HubSource
from hubpub.source.local import LocalSource
from hubpub.source.pypi import PypiSource

__all__ = [
    "HubSource",
    "LocalSource",
    "LockedSource",
    "Pinned",
    "Progress",
    "PypiSource",
    "Sighting",
    "SourceContext",
    "SourceSpec",
]
