"""ONNX models that may be larger than memory.

`OnnxFile.open` loads a graph and leaves the tensors in their files, `pack` lays them out anew, `write` writes
them as external data or inline, streamed. Nothing here holds more than one tensor, and copying holds less.
"""

from hubpub.onnxfile.file import LAZY_BYTES, OnnxFile
from hubpub.onnxfile.payload import CHUNK, FileBytes, Payload
from hubpub.onnxfile.tensors import Located, raw_nbytes
from hubpub.onnxfile.wire import Steps
from hubpub.onnxfile.write import MAX_FILE_BYTES, Slot, pack, write

__all__ = [
    "CHUNK",
    "LAZY_BYTES",
    "MAX_FILE_BYTES",
    "FileBytes",
    "Located",
    "OnnxFile",
    "Payload",
    "Slot",
    "Steps",
    "pack",
    "raw_nbytes",
    "write",
]
