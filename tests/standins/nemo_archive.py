"""``.nemo`` archives, without NeMo: a tar of the config and of what ``torch.save`` makes of tensors."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

Tensors = Mapping[str, npt.NDArray[Any]]

_KINDS = {
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "f8": "DoubleStorage",
    "i8": "LongStorage",
    "u2": "BFloat16Storage",
}


def write_nemo(path: Path, config: Any, tensors: Tensors, *, gz: bool = False) -> Path:
    """An archive of ``config`` and ``tensors``; the same ones give the same bytes, but for gzip's date."""
    members = {
        "./model_config.yaml": yaml.safe_dump(config, sort_keys=False).encode(),
        "./model_weights.ckpt": saved(tensors),
    }
    return write_tar(path, members, gz=gz)


def write_tar(path: Path, members: Mapping[str, bytes], *, gz: bool = False) -> Path:
    """A tar archive of files."""
    with tarfile.open(path, "w:gz" if gz else "w:") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def saved(tensors: Tensors) -> bytes:
    """A state dict as ``torch.save`` writes it; uint16 stands for the upper halves of float32, which is bfloat16."""
    return zipped(pickled(tensors), [np.ascontiguousarray(each).tobytes() for each in tensors.values()])


def zipped(pickle: bytes, storages: list[bytes]) -> bytes:
    """The zip archive of a pickle and of the storages that it names by number."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        members = {"data.pkl": pickle, "byteorder": b"little", "version": b"3\n"}
        members |= {f"data/{number}": content for number, content in enumerate(storages)}
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"model_weights/{name}"), content)
    return out.getvalue()


def pickled(tensors: Tensors) -> bytes:
    """The state dict's pickle, of protocol 2: an ordered dict of rebuilt tensors, with an attribute of its own."""
    out = io.BytesIO()
    out.write(b"\x80\x02" + _ORDERED + b"(")
    for number, (name, values) in enumerate(tensors.items()):
        strides = [int(np.prod(values.shape[axis + 1 :])) for axis in range(values.ndim)]
        out.write(_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((")
        out.write(_text("storage") + f"ctorch\n{_KINDS[values.dtype.str[1:]]}\n".encode())
        out.write(_text(str(number)) + _text("cpu") + _whole(values.size) + b"tQ" + _whole(0))
        out.write(_tuple(values.shape) + _tuple(strides) + b"\x89" + _ORDERED + b"tR")
    out.write(b"u}" + _text("_metadata") + _ORDERED + b"sb.")
    return out.getvalue()


_ORDERED = b"ccollections\nOrderedDict\n)R"


def _text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def _whole(number: int) -> bytes:
    return b"\x8a\x08" + int(number).to_bytes(8, "little", signed=True)


def _tuple(numbers: Any) -> bytes:
    return b"(" + b"".join(map(_whole, numbers)) + b"t"
