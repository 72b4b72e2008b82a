"""A Hub on loopback, for rehearsals and tests: ``with LocalHub(folder) as hub: …``."""

from hubpub.localhub.faults import Request
from hubpub.localhub.server import LocalHub

__all__ = ["LocalHub", "Request"]
