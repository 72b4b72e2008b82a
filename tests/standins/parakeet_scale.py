"""How large a stand-in is."""

from __future__ import annotations

from dataclasses import dataclass

MELS = 128
TOKENS = 8192
"""Of the vocabulary, the blank not counted; its index."""
DURATIONS = 5
"""Of the token-and-duration transducer: 0 to 4 encoder frames."""


@dataclass(frozen=True)
class Scale:
    """Dimensions of the model; what is not here (kernels, vocabulary, depth of the decoder) is as upstream.

    Attributes:
        layers: FastConformer layers.
        width: d_model, a multiple of ``heads`` and of 4.
        heads: attention heads.
        subsampling: channels of the convolutions in front.
        prediction: width of the prediction network and of the joint.
        frames: longest input in encoder frames of 80 ms; more is an error, as upstream.
    """

    layers: int
    width: int
    heads: int
    subsampling: int
    prediction: int
    frames: int = 5000

    @property
    def inner(self) -> int:
        """Width inside a feed-forward module."""
        return 4 * self.width


SCALES = {
    "tiny": Scale(layers=2, width=64, heads=2, subsampling=16, prediction=64, frames=2500),
    "small": Scale(layers=4, width=256, heads=4, subsampling=64, prediction=128),
    "medium": Scale(layers=12, width=512, heads=8, subsampling=256, prediction=320),
    "full": Scale(layers=24, width=1024, heads=8, subsampling=256, prediction=640),
}
"""From 10 MB to the size of upstream."""
