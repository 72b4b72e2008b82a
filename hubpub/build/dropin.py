"""What the source that a release replaces promises its users; recorded when it is at hand, checked by publish."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from hubpub.errors import OnnxFileError
from hubpub.manifest import DropInRecord
from hubpub.onnxfile.interface import interface_of
from hubpub.store import Store

if TYPE_CHECKING:
    from hubpub.build.plan import Plan

CONFIG = "config.json"
_MAX_CONFIG_BYTES = 16 << 20


def promised_files(plan: Plan) -> tuple[str | None, tuple[str, ...]]:
    """The source that the whole recipe replaces, and those of its files whose content is part of the promise."""
    publish = plan.loaded.recipe.publish
    name = publish.drop_in_for if publish and not plan.partial else None
    files = plan.lock.sources[name].files if name else {}
    return name, tuple(path for path in files if path.endswith(".onnx") or PurePosixPath(path).name == CONFIG)


def drop_in_record(plan: Plan, store: Store) -> DropInRecord | None:
    """The promise, read from the store; None where nothing is replaced.

    Raises:
        OnnxFileError: a graph of the source cannot be read.
    """
    name, paths = promised_files(plan)
    if name is None:
        return None
    files = plan.lock.sources[name].files
    graphs = {}
    for path in paths:
        if path.endswith(".onnx"):
            try:
                graphs[path] = interface_of(store.path(files[path].sha256))
            except OnnxFileError as error:
                where = plan.loaded.where("sources", name)
                raise OnnxFileError(f"{path}: {error.what}", where=where, fix=error.fix) from error
    keys = {path: _keys(store, files[path].sha256) for path in paths if path not in graphs}
    return DropInRecord(source=name, files=tuple(sorted(files)), graphs=graphs, keys=keys)


def _keys(store: Store, sha256: str) -> tuple[str, ...]:
    """Top-level keys of a JSON file; of anything else there are none to keep."""
    path = store.path(sha256)
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        return ()
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return ()
    return tuple(sorted(data)) if isinstance(data, dict) else ()
