"""The real loaders that a release must satisfy: one small class and one line of the union for each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hubpub.measure.clients.coreml import CoreMl
from hubpub.measure.clients.coreml_device import CoreMlDevice
from hubpub.measure.clients.onnx_asr import OnnxAsr
from hubpub.measure.clients.onnx_asr_embeddings import OnnxAsrEmbeddings
from hubpub.measure.clients.onnx_asr_vad import OnnxAsrVad
from hubpub.measure.clients.ort import OnnxRuntime
from hubpub.measure.clients.piper import Piper
from hubpub.measure.clients.powerset import Powerset
from hubpub.measure.clients.round_trip import RoundTrip
from hubpub.measure.clients.sortformer import Sortformer
from hubpub.measure.clients.sortformer_device import SortformerDevice

AnyClient = Annotated[
    OnnxAsr
    | OnnxAsrVad
    | OnnxAsrEmbeddings
    | OnnxRuntime
    | Powerset
    | Piper
    | RoundTrip
    | CoreMl
    | CoreMlDevice
    | Sortformer
    | SortformerDevice,
    Field(discriminator="client"),
]
