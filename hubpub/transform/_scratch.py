"""Tensors that a step makes before it writes its model: on disk beside the target, so that memory stays bounded."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hubpub.errors import StepError
from hubpub.onnxfile import FileBytes, OnnxFile
from hubpub.onnxfile.payload import write_at

if TYPE_CHECKING:
    import numpy as np
    import onnx

_SMALL = 1024  # bytes; what is smaller stays in the graph


class Scratch:
    """A file beside ``target`` that is gone when the block ends; it takes as much disk as what is stored."""

    def __init__(self, target: Path) -> None:
        self._path = target.parent.resolve() / f".{target.name}.scratch"
        self._fd = -1
        self._end = 0

    def __enter__(self) -> Scratch:
        """Make the file."""
        self._path.unlink(missing_ok=True)  # of a process that was killed
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)

    def keep(self, values: np.ndarray[Any, np.dtype[Any]]) -> FileBytes:
        """Write an array's bytes to the end of the file.

        Raises:
            StepError: the disk is full.
        """
        import numpy as np

        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        start = self._end
        try:
            write_at(self._fd, start, data.data)  # type: ignore[arg-type]
        except OSError as error:
            raise StepError(f"cannot be written: {error.strerror}", where=str(self._path.parent)) from None
        self._end = -(-(start + data.size) // 64) * 64
        return FileBytes(self._path, start, data.size)

    def store(self, file: OnnxFile, tensor: onnx.TensorProto, values: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Let ``values`` be the data of a tensor of ``file``, whose type and dims are set already."""
        if values.nbytes < _SMALL:
            tensor.raw_data = values.tobytes()
        else:
            file.attach(tensor, self.keep(values))
