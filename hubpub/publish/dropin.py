"""What loaders need: graphs that can be read, names that no loader confuses, and all that the replaced repo promised.

Rules for names of a source that a release replaces. A Hub repo and a folder have the layout of the repo: every locked
file must be published under its own name. A package holds the repo somewhere inside: names count from the deepest
folder that holds all its locked files. Files that say something of the repo itself (its card, ``.gitattributes``, what
an earlier hubpub release brought along) are no part of the promise.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from hubpub.errors import OnnxFileError, nearest
from hubpub.manifest import MANIFEST, DropInRecord, Manifest
from hubpub.measure.clients.onnx_asr import OnnxAsr
from hubpub.onnxfile import OnnxFile
from hubpub.onnxfile.interface import Interface, Port, interface_of
from hubpub.recipe import Recipe
from hubpub.recipe.model import PublishSpec

MAX_PROTOBUF = (1 << 31) - 1
"""Bytes of a single protobuf file; no reader takes more (protobuf.dev, limits)."""

_PROTOBUF = (".onnx", ".mlmodel", ".pb")
_NO_PROMISE = ("readme.md", ".gitattributes", ".gitignore", MANIFEST)
_OF_HUBPUB = ("recipe", "measurements", ".eval_results")
_ANY_DEPTH = {"whisper": ("encoder_model", "decoder_model_merged")}
"""Models of onnx-asr whose files are looked for in every folder (``**/encoder_model?int8.onnx``)."""


def loader_refusals(folder: Path, manifest: Manifest, recipe: Recipe) -> list[str]:
    """What would keep loaders from reading the files, whatever they replace."""
    lines = []
    for path in manifest.files:
        file = folder / path
        if not file.is_file():
            continue
        size = file.stat().st_size
        if path.endswith(_PROTOBUF) and size > MAX_PROTOBUF:
            lines.append(
                f"{path}: has {size} bytes, and no reader takes a protobuf of more than {MAX_PROTOBUF}; "
                "move its tensors to external data (transform: shard)"
            )
        elif path.endswith(".onnx"):
            try:
                OnnxFile.open(file)
            except OnnxFileError as error:
                lines.append(f"{str(error).replace(f'{folder}/', '')}")
    lines += [
        f"{one} and {other}: onnx-asr takes either for the other, as one character stands between name and suffix, and "
        "loads none; publish one of them"
        for one, other in _confused(manifest.files, _anywhere(recipe))
    ]
    lines += [
        f"run {name}: `publish.load` names it, and it cannot load anything back here: {reason}; publish where it can"
        for name in (recipe.publish.load if recipe.publish else ())
        if (reason := recipe.measure[name].via.not_here())
    ]
    return lines


def _anywhere(recipe: Recipe) -> tuple[str, ...]:
    """Beginnings of the names that a client of the recipe looks for in every folder."""
    models = {run.via.model for run in recipe.measure.values() if isinstance(run.via, OnnxAsr)}
    return tuple(name for model, names in _ANY_DEPTH.items() if model in models for name in names)


def _confused(paths: Mapping[str, object], anywhere: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Files that match one pattern of onnx-asr, such as ``encoder-model?int8.onnx``, where ``?`` is any character."""
    alike: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for path in paths:
        name = PurePosixPath(path)
        if name.suffix != ".onnx":
            continue
        deep = any(name.stem == each or name.stem[: len(each) + 1].rstrip("._-") == each for each in anywhere)
        where = "" if deep else str(name.parent)
        for index, char in enumerate(name.stem):
            if not char.isalnum():
                alike[where, f"{name.stem[:index]}?{name.stem[index + 1 :]}"][path] = None
        alike[where, name.stem][path] = None
    told = set()
    for group in alike.values():
        first, *others = group
        for other in others:
            if (first, other) not in told:
                told.add((first, other))
                yield first, other


def drop_in_refusals(folder: Path, manifest: Manifest, spec: PublishSpec) -> list[str]:
    """Where the release does not keep what the source that it replaces promised."""
    name = spec.drop_in_for
    if name is None:
        return []
    if name not in manifest.sources:
        return [f"publish.drop_in_for: the release has no source {name!r}{nearest(name, manifest.sources)}; correct it"]
    promise = manifest.drop_in
    if promise is None or promise.source != name:
        what = "the release does not record what that source promises its users"
        return [f"publish.drop_in_for: {name}: {what}; build it again with this recipe"]
    names = promised_names(promise, manifest.sources[name].kind)
    label = manifest.sources[name].name
    lines = [
        f"{ours}: {label} has this file, and its users load it by that name; publish it too"
        + nearest(ours, manifest.files)
        for ours in names.values()
        if ours not in manifest.files
    ]
    for path, interface in promise.graphs.items():
        if (ours := names.get(path, "")) in manifest.files:
            with suppress(OnnxFileError):  # `loader_refusals` says it
                lines += [
                    f"{ours}: {why} in {label}; mend it, or do not replace that repo"
                    for why in broken(interface, interface_of(folder / ours))
                ]
    for path, keys in promise.keys.items():
        if (ours := names.get(path, "")) in manifest.files and (gone := _gone(folder / ours, keys)):
            listed = ", ".join(gone[:5]) + (" …" if len(gone) > 5 else "")
            lines.append(f"{ours}: lacks {listed}, which {label} has there; keep these keys")
    return lines


def promised_names(promise: DropInRecord, kind: str) -> dict[str, str]:
    """The name in the release for each locked file of the source that is part of its promise."""
    folder = ""
    if kind == "pypi" and promise.files:
        folder = os.path.commonpath([str(PurePosixPath(path).parent) for path in promise.files]).removeprefix(".")
    prefix = f"{folder}/" if folder else ""
    names = {path: path.removeprefix(prefix) for path in promise.files}
    return {path: ours for path, ours in names.items() if not _of_the_repo(ours)}


def _of_the_repo(path: str) -> bool:
    return path.casefold() in _NO_PROMISE or path.split("/")[0] in _OF_HUBPUB


def broken(theirs: Interface, ours: Interface) -> Iterator[str]:
    """Why a user of the graph ``theirs`` cannot use ``ours`` in its place.

    Inputs: the same names in the same order, and none besides; element types and ranks equal; a size that was fixed is
    the same or free, one that was free stays free. Outputs: the same names in the same order, new ones after them;
    types and ranks equal, and sizes that both fix.
    """
    yield from _named("input", theirs.inputs, ours.inputs)
    yield from _named("output", theirs.outputs, ours.outputs)
    if more := sorted({port.name for port in ours.inputs} - {port.name for port in theirs.inputs}):
        yield f"wants the input {', '.join(more[:3])}, which is not"
    mine = {("input", port.name): port for port in ours.inputs} | {("output", port.name): port for port in ours.outputs}
    for kind, ports in (("input", theirs.inputs), ("output", theirs.outputs)):
        for port in ports:
            if (other := mine.get((kind, port.name))) and (why := _differs(port, other, free=kind == "input")):
                yield f"{kind} {port.name} {why}"


def _named(kind: str, theirs: tuple[Port, ...], ours: tuple[Port, ...]) -> Iterator[str]:
    names, mine = [port.name for port in theirs], [port.name for port in ours]
    known = [name for name in mine if name in names]
    if missing := [name for name in names if name not in mine]:
        yield f"has no {kind} {', '.join(missing[:3])}, which is"
    elif known != names or (kind == "output" and mine[: len(names)] != names):
        yield f"has its {kind}s in another order ({', '.join(mine[:5])}) than"


def _differs(theirs: Port, ours: Port, *, free: bool) -> str | None:
    if theirs.type != ours.type:
        return f"is {ours.type} and was {theirs.type}"
    if theirs.shape is None or ours.shape is None:
        return None
    if len(theirs.shape) != len(ours.shape):
        return f"has {len(ours.shape)} dimensions and had {len(theirs.shape)}"
    for axis, (was, now) in enumerate(zip(theirs.shape, ours.shape, strict=True)):
        if isinstance(now, int) and was != now and (isinstance(was, int) or free):
            return f"has size {now} at axis {axis} and had {was if isinstance(was, int) else 'any size'}"
    return None


def _gone(path: Path, keys: tuple[str, ...]) -> list[str]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        data = None
    return sorted(set(keys) - set(data)) if isinstance(data, dict) else list(keys)
