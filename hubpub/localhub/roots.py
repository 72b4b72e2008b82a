"""The folder that holds a Hub: where it is, who uses it, what a killed server left behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hubpub.errors import LocalHubError
from hubpub.localhub.blobs import Blobs


def default_root() -> Path:
    """``HUBPUB_HUB`` if set, else a folder in the platform's folder for data."""
    if named := os.environ.get("HUBPUB_HUB"):
        return Path(os.path.expanduser(named))  # noqa: PTH111 (the other one raises for an unknown ~user)
    import platformdirs

    return Path(platformdirs.user_data_dir("hubpub")) / "hub"


@contextmanager
def in_use(root: Path, *, serve: bool = False) -> Iterator[Blobs]:
    """Use the folder, which is made when missing, together with others; its blobs.

    Who comes when nobody is there sweeps up what was arriving when the last one was killed.

    Args:
        root: the folder.
        serve: be its server, of which there is at most one, else ``LocalHubError``.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        blobs = Blobs(root)
        server, users = (root / "server.lock").open("a"), (root / "users.lock").open("a")
    except OSError as error:
        raise LocalHubError(f"cannot be used: {error.strerror or error}", where=str(root)) from None
    with server, users:
        if serve:
            try:
                fcntl.flock(server, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                fix = "stop it, or name another folder with --root"
                raise LocalHubError("another server uses this folder", where=str(root), fix=fix) from None
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # somebody is there
        else:
            blobs.clean()
        fcntl.flock(users, fcntl.LOCK_SH)
        yield blobs
