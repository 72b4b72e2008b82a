"""onnx-asr's speaker embeddings: one vector for each clip, for verification trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hubpub.measure.clients.base import PROVIDERS, Client, Loaded, Output
from hubpub.measure.result import Kind

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

RATE = 16_000


class OnnxAsrEmbeddings(Client):
    """The embedding of each clip in one pass, through onnx-asr's own loader of WeSpeaker models.

    The loader takes the one ``*.onnx`` of the folder, whose input is ``feats`` and whose output is ``embs``.
    """

    client: Literal["onnx-asr-embeddings"]
    quantization: str | None = Field(
        default=None, pattern=r"^\w[\w.-]*$", description="Suffix of the file, such as int8; default: none."
    )
    libraries: ClassVar[tuple[str, ...]] = ("onnx-asr", "onnxruntime", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("onnx_asr.loader", "onnxruntime")
    makes: ClassVar[tuple[Kind, ...]] = ("arrays",)

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        suffix = f"{self.quantization or 'no'} suffix"
        return f"onnx-asr speaker embeddings, {suffix}, clips in one pass, {self.threads} threads"

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Load the model as a user would; onnx-asr's own errors come through."""
        from onnx_asr.loader import Manager

        manager = Manager(sess_options=self.session_options(), providers=list(PROVIDERS))
        return _Embeddings(manager.create_se(None, folder, quantization=self.quantization))


class _Embeddings:
    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, samples: Samples) -> Output:
        return Output(segments=1, arrays=(self._model.embedding(samples, sample_rate=RATE),))
