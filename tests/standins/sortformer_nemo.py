"""A stand-in for NVIDIA's two checkpoints of Streaming Sortformer: their config and names, small random weights.

    python tests/standins/sortformer_nemo.py --out DIR

Writes ``v2/`` and ``v2.1/``, each with the one ``.nemo`` of its repo. The network is of NeMo's kind, so nothing takes a
mean off what it says: what layers add to their input is small, as in trained models, and the last layer is sharp and
blind to what all hidden values have in common. That is enough for some speakers to come and go with what is heard.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nemo_archive import write_nemo
from standin_weights import normal

REPOS = {
    "v2": "nvidia/diar_streaming_sortformer_4spk-v2",
    "v2.1": "nvidia/diar_streaming_sortformer_4spk-v2.1",
}
BANDS, CHANNELS, WIDTH, HEAD_WIDTH, HEAD_INNER, SPEAKERS, KERNEL, HEADS = 128, 8, 32, 16, 64, 4, 9, 4
_MEAN = -13.0  # of log-mel features of speech, roughly
_BRANCH = 0.15  # what a layer adds to what goes past it
_SHARPNESS = 6.0

Floats = npt.NDArray[np.float32]
Tensors = dict[str, npt.NDArray[Any]]


def config() -> dict[str, Any]:
    """What ``model_config.yaml`` says, as far as it bears on the network."""
    package = "nemo.collections.asr.modules"
    return {
        "sample_rate": 16000,
        "max_num_of_spks": SPEAKERS,
        "streaming_mode": True,
        "model_defaults": {"fc_d_model": WIDTH, "tf_d_model": HEAD_WIDTH},
        "preprocessor": {
            "_target_": f"{package}.AudioToMelSpectrogramPreprocessor",
            "normalize": "NA",
            "window_size": 0.025,
            "sample_rate": 16000,
            "window_stride": 0.01,
            "window": "hann",
            "features": BANDS,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-05,
        },
        "sortformer_modules": {
            "_target_": f"{package}.sortformer_modules.SortformerModules",
            "num_spks": SPEAKERS,
            "fc_d_model": WIDTH,
            "tf_d_model": HEAD_WIDTH,
            "spkcache_len": 188,
            "fifo_len": 0,
            "chunk_len": 188,
        },
        "encoder": {
            "_target_": f"{package}.ConformerEncoder",
            "feat_in": BANDS,
            "feat_out": -1,
            "n_layers": 1,
            "d_model": WIDTH,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": CHANNELS,
            "causal_downsampling": False,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": HEADS,
            "att_context_size": [-1, -1],
            "xscaling": True,
            "conv_kernel_size": KERNEL,
            "conv_norm_type": "batch_norm",
        },
        "transformer_encoder": {
            "_target_": f"{package}.transformer.transformer_encoders.TransformerEncoder",
            "num_layers": 1,
            "hidden_size": HEAD_WIDTH,
            "inner_size": HEAD_INNER,
            "num_attention_heads": HEADS,
            "hidden_act": "relu",
            "pre_ln": False,
        },
        "target": "nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel",
        "hubpub.synthetic": "random weights",
    }


class _Weights(Tensors):
    """Random tensors, named as NeMo names them."""

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def draw(self, name: str, *shape: int) -> Floats:
        count = int(np.prod(shape))
        return normal(f"sortformer-nemo/{self._checkpoint}/{name}", count).reshape(shape)

    def linear(self, path: str, *shape: int, std: float = 1.0) -> None:
        """A weight of the given spread, before the division by the square root of the inputs, and a small bias."""
        spread = np.float32(std / np.sqrt(np.prod(shape[1:])))
        self[f"{path}.weight"] = self.draw(f"{path}.weight", *shape) * spread
        self[f"{path}.bias"] = self.draw(f"{path}.bias", shape[0]) * np.float32(0.02)

    def norm(self, path: str, width: int) -> None:
        self[f"{path}.weight"] = 1 + self.draw(f"{path}.weight", width) * np.float32(0.1)
        self[f"{path}.bias"] = self.draw(f"{path}.bias", width) * np.float32(0.02)


def tensors(checkpoint: str) -> Tensors:
    """The state dict of a checkpoint; the two differ in every weight."""
    found = _Weights(checkpoint)
    found["preprocessor.featurizer.window"] = np.hanning(400).astype(np.float32)
    _pre_encoder(found)
    _conformer(found, "encoder.layers.0")
    _transformer(found, "transformer_encoder.layers.0")
    modules = "sortformer_modules"
    found.linear(f"{modules}.encoder_proj", HEAD_WIDTH, WIDTH)
    found.linear(f"{modules}.hidden_to_spks", SPEAKERS, 2 * HEAD_WIDTH)
    found.linear(f"{modules}.first_hidden_to_hidden", HEAD_WIDTH, HEAD_WIDTH, std=1.4)
    found.linear(f"{modules}.single_hidden_to_spks", SPEAKERS, HEAD_WIDTH, std=_SHARPNESS)
    last = found[f"{modules}.single_hidden_to_spks.weight"]
    last -= last.mean(axis=1, keepdims=True)
    return found


def _pre_encoder(found: _Weights) -> None:
    path = "encoder.pre_encode"
    found.linear(f"{path}.conv.0", CHANNELS, 1, 3, 3)
    found[f"{path}.conv.0.bias"] = np.float32(-_MEAN) * found[f"{path}.conv.0.weight"].sum(axis=(1, 2, 3))
    for index in (2, 5):
        found.linear(f"{path}.conv.{index}", CHANNELS, 1, 3, 3, std=0.3)
        found[f"{path}.conv.{index}.weight"] += np.float32(0.2)  # a mean, roughly
    for index in (3, 6):
        found.linear(f"{path}.conv.{index}", CHANNELS, CHANNELS, 1, 1, std=1.4)
    found.linear(f"{path}.out", WIDTH, CHANNELS * BANDS // 8)


def _conformer(found: _Weights, path: str) -> None:
    for name in ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out"):
        found.norm(f"{path}.{name}", WIDTH)
    for name in ("feed_forward1", "feed_forward2"):
        found.linear(f"{path}.{name}.linear1", 4 * WIDTH, WIDTH)
        found.linear(f"{path}.{name}.linear2", WIDTH, 4 * WIDTH, std=_BRANCH)
    for name in ("linear_q", "linear_k", "linear_v"):
        found.linear(f"{path}.self_attn.{name}", WIDTH, WIDTH)
    found.linear(f"{path}.self_attn.linear_out", WIDTH, WIDTH, std=_BRANCH)
    found[f"{path}.self_attn.linear_pos.weight"] = found.draw(f"{path}.linear_pos", WIDTH, WIDTH) / np.float32(WIDTH)
    for name in ("pos_bias_u", "pos_bias_v"):
        found[f"{path}.self_attn.{name}"] = found.draw(f"{path}.{name}", HEADS, WIDTH // HEADS)
    found.linear(f"{path}.conv.pointwise_conv1", 2 * WIDTH, WIDTH, 1)
    found.linear(f"{path}.conv.depthwise_conv", WIDTH, 1, KERNEL)
    found.linear(f"{path}.conv.pointwise_conv2", WIDTH, WIDTH, 1, std=_BRANCH)
    found.norm(f"{path}.conv.batch_norm", WIDTH)
    found[f"{path}.conv.batch_norm.running_mean"] = found.draw(f"{path}.mean", WIDTH) * np.float32(0.1)
    found[f"{path}.conv.batch_norm.running_var"] = 1 + found.draw(f"{path}.variance", WIDTH) ** 2
    found[f"{path}.conv.batch_norm.num_batches_tracked"] = np.array(1000, np.int64)


def _transformer(found: _Weights, path: str) -> None:
    for name in ("query_net", "key_net", "value_net"):
        found.linear(f"{path}.first_sub_layer.{name}", HEAD_WIDTH, HEAD_WIDTH)
    found.linear(f"{path}.first_sub_layer.out_projection", HEAD_WIDTH, HEAD_WIDTH, std=_BRANCH)
    found.linear(f"{path}.second_sub_layer.dense_in", HEAD_INNER, HEAD_WIDTH)
    found.linear(f"{path}.second_sub_layer.dense_out", HEAD_WIDTH, HEAD_INNER, std=_BRANCH)
    found.norm(f"{path}.layer_norm_1", HEAD_WIDTH)
    found.norm(f"{path}.layer_norm_2", HEAD_WIDTH)


def write(out: Path) -> None:
    """Both repos, as folders below ``out``."""
    for checkpoint, repo in REPOS.items():
        folder = out / checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        write_nemo(folder / f"{repo.split('/')[1]}.nemo", config(), tensors(checkpoint))
        card = (
            "---\nlicense: cc-by-4.0\nlibrary_name: nemo\n---\n\nRandom weights in the form of the real checkpoint.\n"
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    """Write them from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
