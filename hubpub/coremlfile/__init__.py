"""Core ML packages (``.mlpackage``) of ML programs: read, and written the same from every process.

`Package.open` loads the model and leaves the weights in their files; a pipeline is a package of several parts.
"""

from hubpub.coremlfile.alias import Alias, find_aliases, split_alias
from hubpub.coremlfile.blob import BlobFile, BlobRef, BlobWriter
from hubpub.coremlfile.dtypes import BY_CODE, BY_NAME, ElementType
from hubpub.coremlfile.package import Package, Part
from hubpub.coremlfile.program import check_program, label, main_blocks, operations, prefix, values
from hubpub.coremlfile.proto import messages, mil_messages
from hubpub.coremlfile.write import Edit, Payload

__all__ = [
    "BY_CODE",
    "BY_NAME",
    "Alias",
    "BlobFile",
    "BlobRef",
    "BlobWriter",
    "Edit",
    "ElementType",
    "Package",
    "Part",
    "Payload",
    "check_program",
    "find_aliases",
    "label",
    "main_blocks",
    "messages",
    "mil_messages",
    "operations",
    "prefix",
    "split_alias",
    "values",
]
