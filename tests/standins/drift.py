"""A stand-in in which some activations grow with the position in the audio, as if the model counted frames.

    python tests/standins/drift.py --out MODEL --scale tiny|small|medium

One large channel of the residual stream, steady in the other stand-ins, rises with the frame to `RISE` times its size
after `SECONDS`. In every feed-forward module `UNITS` hidden units begin to read it after `ONSET_S`, so that what enters
the second matrix grows from about 4, where all other units stay, to ``reach``. Their rows of that matrix are as much
smaller: in exact arithmetic they say no more than the other units do. Very large inputs of just that matrix are what
Sun et al. 2024 (Massive Activations) report of trained models; that they grow with the position is put in by hand, and
shows what a growing range does to int8, not that any given model has one.

Attention is taken out (its last matrix is zero), so that float32 gives the same for a section of the audio however long
the pass is that holds it, and a longer pass changes nothing but ranges.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from parakeet_encoder import encoder
from parakeet_scale import MELS, SCALES, Scale
from standin_weights import Stream

from hubpub.onnxfile import write

Array = npt.NDArray[Any]
SECONDS, SECTIONS = 120, 6
ONSET_S = 20
REACH = 400.0
RISE = 1.5
UNITS = 2
FRAME_S = 0.08


def drifting(target: Path, scale: Scale, reach: float = REACH) -> Path:
    """Write the encoder, one file, all in memory: for scales below 2 GB."""
    with tempfile.TemporaryDirectory() as name:
        write(encoder(scale), Path(name) / "m.onnx")
        model = onnx.load(Path(name) / "m.onnx")
    stream, onset = Stream(scale.width), ONSET_S / SECONDS
    rising, steady = stream.outliers[:2]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def change(name: str, values: Array) -> None:
        tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    def array(name: str) -> Array:
        return np.array(numpy_helper.to_array(tensors[name]))

    slope = np.zeros(scale.width, np.float32)
    slope[rising] = stream.offsets[rising] * (RISE - 1) / (SECONDS / FRAME_S)
    _rise(model.graph, slope)
    _alone(tensors, [rising, steady], array, change)
    for at in (f"layers.{n}.feed_forward{half}" for n in range(scale.layers) for half in (1, 2)):
        norm = at.replace(".feed_forward", ".norm_feed_forward")
        gain, bias = array(f"{norm}.weight") / stream.rms, array(f"{norm}.bias")
        start, level = (gain[c] * stream.offsets[c] + bias[c] for c in (rising, steady))
        whole = gain[rising] * stream.offsets[rising] * (RISE - 1)  # what the norm gives over all the way, about
        first, second = array(f"{at}.linear1.weight"), array(f"{at}.linear2.weight")
        factor = reach / (1 - onset) / whole
        first[:, :UNITS] = 0
        first[rising, :UNITS] = factor
        first[steady, :UNITS] = -factor * (start + whole * onset) / level
        second[:UNITS] *= 4 / reach
        change(f"{at}.linear1.weight", first)
        change(f"{at}.linear2.weight", second)
    onnx.save_model(model, target)
    return target


def _alone(tensors: Any, channels: list[int], array: Any, change: Any) -> None:
    """Nothing but their constants writes to the channels, and attention writes to none."""
    for name in tensors:
        if name.endswith((".linear_out.weight", ".linear2.weight", "pre_encode.out.weight", ".pointwise_conv2.weight")):
            values = array(name)
            np.moveaxis(values, 0 if "conv2" in name else 1, 0)[channels] = 0
            change(name, values * (not name.endswith(".linear_out.weight")))


def _rise(graph: onnx.GraphProto, slope: Array) -> None:
    """Add ``slope`` times the frame's number to the stream."""
    names = [node.op_type == "Add" and "pre_encode/out" in node.name for node in graph.node]
    index = names.index(True)
    value, graph.node[index].output[0] = graph.node[index].output[0], "drift/stream"
    constants = {"slope": slope, "zero": np.int64(0), "one": np.int64(1), "last": np.array([1], np.int64)}
    for name, array in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"drift/{name}"))
    nodes = [
        helper.make_node("Shape", ["drift/stream"], ["drift/shape"]),
        helper.make_node("Gather", ["drift/shape", "drift/one"], ["drift/frames"]),
        helper.make_node("Range", ["drift/zero", "drift/frames", "drift/one"], ["drift/numbers"]),
        helper.make_node("Cast", ["drift/numbers"], ["drift/floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["drift/floats", "drift/last"], ["drift/column"]),
        helper.make_node("Mul", ["drift/column", "drift/slope"], ["drift/ramp"]),
        helper.make_node("Add", ["drift/stream", "drift/ramp"], [value]),
    ]
    for number, node in enumerate(nodes, 1):
        node.name = f"/drift/{node.op_type}_{number}"
        graph.node.insert(index + number, node)


# ---------------------------------------------------------------------------------------------------- what it shows


class Recordings:
    """``count`` recordings of `SECONDS`: noise in the shape of features, those of ``seed``."""

    def __init__(self, seed: int, count: int = 4) -> None:
        self._seed, self._count = seed, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for number in range(self._count):
            rng = np.random.default_rng((self._seed, number))
            yield window(rng.standard_normal((1, MELS, 100 * SECONDS), dtype=np.float32))


def window(features: Array) -> dict[str, Array]:
    """A pass over ``features``."""
    return {"audio_signal": features, "length": np.array([features.shape[2]], np.int64)}


def snr_by_section(source: Path, made: Path, recordings: Recordings) -> tuple[list[float], list[float]]:
    """Signal-to-noise ratio of the output, dB, section by section, pooled over recordings; means over time taken off.

    Returns:
        Of each section in the pass that ends with it, as when audio is as long as that; and of each section in one pass
        over all.
    """
    import onnxruntime

    before, after = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (source, made))
    powers = np.zeros((2, 2, SECTIONS))
    for recording in recordings:
        features = recording["audio_signal"]
        for number in range(SECTIONS):
            given = window(features[:, :, : features.shape[2] * (number + 1) // SECTIONS])
            expected, found = (session.run(["outputs"], given)[0][0].astype(np.float64) for session in (before, after))
            signal = np.square(expected - expected.mean(1, keepdims=True))
            noise = np.square(found - expected)
            for kind, power in enumerate((signal, noise)):
                parts = [part.sum() for part in np.array_split(power, number + 1, axis=1)]
                powers[0, kind, number] += parts[-1]
                if number == SECTIONS - 1:
                    powers[1, kind] += parts
    ending, whole = 10 * np.log10(powers[:, 0] / powers[:, 1])
    return ending.tolist(), whole.tolist()


def main() -> None:
    """Write one from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--scale", choices=SCALES, default="small")
    options = parser.parse_args()
    drifting(options.out, SCALES[options.scale])


if __name__ == "__main__":
    main()
