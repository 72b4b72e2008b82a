"""A stand-in for ``Wespeaker/wespeaker-voxceleb-resnet34`` at any width: its file, its graph, random weights.

    python tests/standins/wespeaker_resnet34.py --out DIR [--channels 8]

ResNet34 (He et al. 2016) as WeSpeaker exports it: batch norms folded into the convolutions, mean and standard deviation
over time, a linear layer, and a constant mean taken off. What comes out depends on who is heard as any random
projection of a spectrum does, and means nothing. The file says that it is synthetic. The same width gives the same
bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from onnx import TensorProto
from standin_graph import GraphBuilder
from standin_weights import Weights, normal

from hubpub.onnxfile import OnnxFile, write

REPO = "Wespeaker/wespeaker-voxceleb-resnet34"
FILE = "voxceleb_resnet34.onnx"
MELS, EMBEDDING = 80, 256
BLOCKS = (3, 4, 6, 3)  # of ResNet34
UPSTREAM_CHANNELS = 32


def write_repo(out: Path, channels: int = 8) -> Path:
    """Write the repo's file into ``out``, which is made; ``channels`` of the first layer, of which upstream has 32."""
    out.mkdir(parents=True, exist_ok=True)
    write(resnet34(channels), out / FILE, None)
    return out / FILE


def resnet34(channels: int) -> OnnxFile:
    """``feats`` [batch, frames, 80] to ``embs`` [batch, 256]."""
    graph = GraphBuilder("wespeaker_resnet34")
    x = graph.input("feats", TensorProto.FLOAT, ["B", "T", MELS])
    x = graph.node("Unsqueeze", graph.node("Transpose", x, at="input", perm=[0, 2, 1]), graph.constant([1]), at="input")
    x = graph.node("Relu", _conv(graph, x, "conv1", 1, channels), at="conv1")
    width = channels
    for layer, blocks in enumerate(BLOCKS, 1):
        wide = channels << (layer - 1)
        for block in range(blocks):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and not block else 1
            y = graph.node("Relu", _conv(graph, x, f"{at}.conv1", width, wide, stride=stride), at=at)
            y = _conv(graph, y, f"{at}.conv2", wide, wide, gain=0.5)
            if width != wide:
                x = _conv(graph, x, f"{at}.shortcut.0", width, wide, stride=stride, size=1)
            x, width = graph.node("Relu", graph.node("Add", y, x, at=at), at=f"{at}.out"), wide
    mean = graph.node("ReduceMean", x, at="pool", axes=[-1], keepdims=1)
    off = graph.node("Sub", x, mean, at="pool")
    variance = graph.node("ReduceMean", graph.node("Mul", off, off, at="pool"), at="pool", axes=[-1], keepdims=0)
    deviation = graph.node("Sqrt", graph.node("Add", variance, graph.constant(1e-7, "f4"), at="pool"), at="pool")
    flat = [
        graph.node("Flatten", part, at="pool", axis=1)
        for part in (graph.node("Squeeze", mean, graph.constant([-1]), at="pool"), deviation)
    ]
    pooled = graph.node("Concat", *flat, at="pool", axis=1)
    size = 2 * width * MELS // 8
    weight = graph.tensor("seg_1.weight", Weights("seg_1.weight", (EMBEDDING, size), size**-0.5), (EMBEDDING, size))
    bias = graph.tensor("seg_1.bias", normal("seg_1.bias", EMBEDDING) * 0.1)
    embedding = graph.node("Gemm", pooled, weight, bias, at="seg_1", transB=1)
    centred = graph.node("Sub", embedding, graph.tensor("mean_vec", normal("mean_vec", EMBEDDING) * 0.1), at="seg_1")
    graph.output(centred, "embs", TensorProto.FLOAT, ["B", EMBEDDING])
    return graph.finish()


def _conv(
    graph: GraphBuilder, x: str, at: str, inputs: int, outputs: int, *, stride: int = 1, size: int = 3, gain: float = 1
) -> str:
    """A convolution whose output is about as large as its input after a Relu (He et al. 2015).

    Weights are centered over the inputs, so that clips do not all sound the same after 34 layers.
    """
    std = gain * (2 / (inputs * size * size)) ** 0.5
    weights = Weights(f"{at}.weight", (outputs, inputs, size, size), std, centered=1 if inputs > 1 else None)
    bias = normal(f"{at}.bias", outputs) * 0.1
    return graph.conv(x, at, weights, bias, pads=[size // 2] * 4, strides=[stride, stride])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--channels", type=int, default=UPSTREAM_CHANNELS)
    options = parser.parse_args()
    path = write_repo(options.out, options.channels)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
