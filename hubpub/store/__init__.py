"""Content-addressed bytes: blobs by sha256 and step results by key, atomic and safe for several builds at once."""

from hubpub.store.files import FileDigest, copy_file, exchange, sha256_of, write_atomic
from hubpub.store.store import Damage, Result, Store, default_root

__all__ = [
    "Damage",
    "FileDigest",
    "Result",
    "Store",
    "copy_file",
    "default_root",
    "exchange",
    "sha256_of",
    "write_atomic",
]
