"""A Core ML package (``.mlpackage``): the model in memory, its weights in their files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hubpub.coremlfile.blob import BlobFile, BlobRef, open_regular
from hubpub.coremlfile.dtypes import ElementType
from hubpub.coremlfile.manifest import DATA, Manifest, check_inside
from hubpub.coremlfile.proto import messages
from hubpub.coremlfile.values import count_of, shape_of, tensor_type, unpacked
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy as np

MODEL_FOLDER = "@model_path/"
"""How weight references begin: the folder of the model file."""

PROGRAM = "mlProgram"
_PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
_MAX_SPEC_BYTES = (1 << 31) - 1  # what protobuf takes
_CONVERT = "convert it again from the original with coremltools, minimum_deployment_target iOS15 or newer"


@dataclass(frozen=True)
class Part:
    """One model: the package's only one, or one stage of its pipeline.

    Attributes:
        index: its place in the pipeline, from 0.
        name: as the pipeline names it; often empty.
        kind: field of the message that holds it: mlProgram, neuralNetwork, …
        spec: the `Model` message.
    """

    index: int
    name: str
    kind: str
    spec: Any

    @property
    def label(self) -> str:
        """What errors and tables call it."""
        return self.name or f"model {self.index}"

    @property
    def program(self) -> Any:
        """The `Program` message; only of an ML program."""
        return self.spec.mlProgram

    def interface(self) -> tuple[dict[str, str], dict[str, str]]:
        """Inputs and outputs: name → dtype and shape in words."""
        description = self.spec.description
        return _features(description.input), _features(description.output)


@dataclass
class Package:
    """An opened package. ``spec`` may be edited; the files must stay as they are while it is in use."""

    path: Path
    manifest: Manifest
    spec: Any
    parts: tuple[Part, ...]

    @classmethod
    def open(cls, path: Path) -> Package:
        """Read the manifest and the model of the folder ``path``; no weights.

        Raises:
            CoremlFileError: it is no sound ML package, or holds no ML program: compiled, encrypted, a neural network.
        """
        where = path.name
        _check_kind(path)
        manifest = Manifest.read(path)
        file = check_inside(path, PurePosixPath(DATA, manifest.root.path), where)
        spec = _parse(file, f"{where}/{DATA}/{manifest.root.path}")
        package = cls(path, manifest, spec, tuple(parts_of(spec, where)))
        if not package.programs:
            raise CoremlFileError(_what_instead(spec.WhichOneof("Type")), where=where, fix=_CONVERT)
        return package

    @property
    def programs(self) -> tuple[Part, ...]:
        """The parts that are ML programs."""
        return tuple(part for part in self.parts if part.kind == PROGRAM)

    @property
    def is_pipeline(self) -> bool:
        """Whether the package runs several models one after the other."""
        return self.spec.WhichOneof("Type") in _PIPELINES

    def interface(self) -> list[bytes]:
        """What the package takes and gives, in order, to be compared with another's."""
        description = self.spec.description
        features = (*description.input, *description.output, *description.state, *description.functions)
        return [feature.SerializeToString(deterministic=True) for feature in features]

    def part(self, chosen: str | int) -> Part:
        """The part of that name, or at that place of the pipeline.

        Raises:
            CoremlFileError: there is none, or it is not an ML program.
        """
        found = [part for part in self.parts if chosen in (part.index, part.name)]
        if len(found) != 1 or chosen == "":
            known = ", ".join(f"{part.index}" + (f" ({part.name})" if part.name else "") for part in self.parts)
            raise CoremlFileError(f"has no single model {chosen!r}", where=self.path.name, fix=f"there are: {known}")
        if found[0].kind != PROGRAM:
            raise CoremlFileError(
                f"{found[0].label} is not an ML program: {_what_instead(found[0].kind)}",
                where=self.path.name,
                fix=_CONVERT,
            )
        return found[0]

    def weight_file(self, name: str) -> BlobFile:
        """The weight file that a program calls ``name`` (``@model_path/weights/weight.bin``).

        Raises:
            CoremlFileError: the name leaves the package, the manifest does not list it, or it is not sound.
        """
        cached: dict[str, BlobFile] = self.__dict__.setdefault("_weight_files", {})
        if name not in cached:
            where = f"{self.path.name}: {name}"
            if not name.startswith(MODEL_FOLDER):
                raise CoremlFileError(
                    f"a weight file is called {name!r}, which does not begin with {MODEL_FOLDER}", where=self.path.name
                )
            relative = self.manifest.root.path.parent / name.removeprefix(MODEL_FOLDER)
            file = check_inside(self.path, PurePosixPath(DATA, relative), where)
            if not self.manifest.covers(relative):
                raise CoremlFileError(
                    f"Manifest.json has no entry for {relative}", where=where, fix="fetch or convert the package again"
                )
            cached[name] = BlobFile(file, where)
        return cached[name]

    def weight_files(self) -> Iterator[str]:
        """Names by which the programs call their weight files, each once, in order of use."""
        from hubpub.coremlfile.program import values

        seen: dict[str, None] = {}
        for part in self.programs:
            for _, value in values(part.program):
                if value.WhichOneof("value") == "blobFileValue":
                    seen.setdefault(value.blobFileValue.fileName)
        yield from seen

    def blob(self, value: Any, what: str) -> tuple[ElementType, tuple[int, ...], BlobRef]:
        """Element type, shape and place of a `Value` that lies in a weight file; checked, not read.

        Raises:
            CoremlFileError: the type has no place in a weight file, or the file is not sound there.
        """
        kind, shape = tensor_type(value, what, self.path.name), shape_of(value, what, self.path.name)
        if kind is None or kind.blob is None:
            raise CoremlFileError(f"{what} is of a type that weight files cannot hold", where=self.path.name)
        reference = value.blobFileValue
        return kind, shape, self.weight_file(reference.fileName).blob(reference.offset, kind, count_of(shape), what)

    def array(self, value: Any, what: str) -> np.ndarray[Any, np.dtype[Any]]:
        """A tensor `Value`, wherever it lies; types below 8 bits come as one element per byte.

        Args:
            value: the message.
            what: what errors call it.

        Raises:
            CoremlFileError: it is not a tensor of constant shape, or its data are not where and what they must be.
        """
        if value.WhichOneof("value") == "blobFileValue":
            kind, shape, ref = self.blob(value, what)
            return kind.unpack(ref.read(), count_of(shape)).reshape(shape)
        return unpacked(value, what, self.path.name)


def _check_kind(path: Path) -> None:
    """Refuse what is known not to be an ML package, each with what to do instead."""
    where = path.name
    if path.is_symlink() or not path.exists():
        raise CoremlFileError("there is no such folder", where=where, fix="check the path")
    if not path.is_dir():
        if path.suffix == ".mlmodel":
            raise CoremlFileError("is a single file, so not an ML program", where=where, fix=_CONVERT)
        raise CoremlFileError("is a file; an ML package is a folder", where=where, fix="unpack it, if it is an archive")
    held = {entry.name for entry in path.iterdir()}
    if path.suffix == ".mlmodelc" or {"coremldata.bin", "model.mil", "model.espresso.net"} & held:
        encrypted = " and encrypted" if "encryptionInfo" in held else ""
        raise CoremlFileError(
            f"is a compiled{encrypted} model, which cannot be transformed",
            where=where,
            fix="start from the .mlpackage that it was compiled from",
        )


def _parse(file: Path, where: str) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    fd, size = open_regular(file, where)
    try:
        if size > _MAX_SPEC_BYTES:
            raise CoremlFileError(f"has {size} bytes, more than protobuf reads", where=where, fix=_CONVERT)
        if os.pread(fd, 16, 0) == b"version https://":
            raise CoremlFileError("is a Git LFS pointer, not the model", where=where, fix="run `git lfs pull`")
    finally:
        os.close(fd)
    spec = messages().Model()
    try:
        spec.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise CoremlFileError(
            f"is not a sound Core ML model: {error}", where=where, fix="fetch or convert the package again"
        ) from None
    if spec.WhichOneof("Type") is None or spec.specificationVersion < 1:
        raise CoremlFileError(
            "holds no model of a kind that is known", where=where, fix="fetch or convert the package again"
        )
    return spec


def parts_of(spec: Any, where: str) -> Iterator[Part]:
    """The models of a `Model` message; ``where`` is for errors."""
    kind = spec.WhichOneof("Type")
    if kind not in _PIPELINES:
        yield Part(0, "", kind, spec)
        return
    pipeline = spec.pipeline if kind == "pipeline" else getattr(spec, kind).pipeline
    names = list(pipeline.names)
    for index, model in enumerate(pipeline.models):
        inner = model.WhichOneof("Type")
        if inner in _PIPELINES:
            raise CoremlFileError("is a pipeline within a pipeline", where=where, fix="export its models in one level")
        yield Part(index, names[index] if index < len(names) else "", inner or "nothing", model)


def _what_instead(kind: str | None) -> str:
    if kind in ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor"):
        return "is a neural network of before ML programs"
    if kind == "serializedModel":
        return "is serialized or encrypted, its contents cannot be read"
    if kind in _PIPELINES:
        return "is a pipeline without an ML program"
    return f"is a model of the kind {kind}, not an ML program"


def _features(features: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for feature in features:
        kind = feature.type.WhichOneof("Type") or "nothing"
        text = feature.type.SerializeToString(deterministic=True).hex()
        if kind == "multiArrayType":
            array = feature.type.multiArrayType
            dtype = array.DESCRIPTOR.enum_types_by_name["ArrayDataType"].values_by_number[array.dataType].name
            flexible = array.WhichOneof("ShapeFlexibility")
            text = f"{dtype.lower()}{list(array.shape)}" + (f" {text}" if flexible or array.shape == [] else "")
        found[feature.name] = text if kind == "multiArrayType" else f"{kind} {text}"
    return found
