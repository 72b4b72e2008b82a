"""The protobuf messages of Core ML's model format, without the rest of coremltools.

Importing coremltools takes two seconds and writes to stderr; its generated messages alone take a tenth of one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType

from hubpub.errors import CoremlFileError

_NAME = f"{__name__}_messages"


@cache
def messages() -> ModuleType:
    """The module of `Model`, the message that ``model.mlmodel`` holds.

    Raises:
        CoremlFileError: coremltools is not installed.
    """
    return _module("Model_pb2")


@cache
def mil_messages() -> ModuleType:
    """The module of the messages of an ML program: `Program`, `Block`, `Operation`, `Value`."""
    return _module("MIL_pb2")


def _module(name: str) -> ModuleType:
    spec = importlib.util.find_spec("coremltools")
    if spec is None or not spec.submodule_search_locations:
        raise CoremlFileError("coremltools is not installed", fix="pip install 'hubpub[coreml]'")
    if _NAME not in sys.modules:
        package = ModuleType(_NAME)
        package.__path__ = [f"{folder}/proto" for folder in spec.submodule_search_locations]
        sys.modules[_NAME] = package
    return importlib.import_module(f"{_NAME}.{name}")
