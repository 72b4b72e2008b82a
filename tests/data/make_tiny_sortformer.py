# /// script
# requires-python = ">=3.11"
# dependencies = ["nemo_toolkit[asr]==3.0.0", "torch==2.13.0"]
# ///
"""Write `tiny_sortformer.nemo` and what NeMo itself says with it: run by hand, with NeMo and PyTorch installed.

    python tests/data/make_tiny_sortformer.py

The files in the repository were made with stubs in the place of NeMo's telemetry (nv_one_logger, which does not go with
the lightning that was installed) and of one logger of experiments; neither bears on a network.

The model is NeMo's `SortformerEncLabelModel` with the config of its streaming example, small and of sizes that all
differ. Every parameter and statistic is random (NeMo starts some at nought, which would hide them), and so large that
speakers come and go. Weights are float16 numbers, as float32, so that what a float16 package loses is arithmetic alone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nemo
import numpy as np
import torch
from nemo.collections.asr.models.sortformer_diar_models import SortformerEncLabelModel
from omegaconf import OmegaConf

HERE = Path(__file__).parent
BANDS, WIDTH, HEAD_WIDTH, SPEAKERS = 24, 20, 12, 4
STREAMING = {
    "chunk_len": 5,
    "chunk_left_context": 1,
    "chunk_right_context": 2,
    "fifo_len": 9,
    "spkcache_len": 24,
    "spkcache_update_period": 7,
}
FRAMES = 997  # of 10 ms; the last chunk is not whole
CONFIG: dict[str, Any] = {
    "sample_rate": 16000,
    "pil_weight": 0.5,
    "ats_weight": 0.5,
    "max_num_of_spks": SPEAKERS,
    "streaming_mode": True,
    "model_defaults": {"fc_d_model": WIDTH, "tf_d_model": HEAD_WIDTH},
    "preprocessor": {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "normalize": "NA",
        "window_size": 0.025,
        "sample_rate": 16000,
        "window_stride": 0.01,
        "window": "hann",
        "features": BANDS,
        "n_fft": 512,
        "frame_splicing": 1,
        "dither": 0.00001,
    },
    "sortformer_modules": {
        "_target_": "nemo.collections.asr.modules.sortformer_modules.SortformerModules",
        "num_spks": SPEAKERS,
        "dropout_rate": 0.5,
        "fc_d_model": WIDTH,
        "tf_d_model": HEAD_WIDTH,
        **STREAMING,
        "spkcache_sil_frames_per_spk": 3,
        "scores_add_rnd": 0,
        "pred_score_threshold": 0.25,
        "max_index": 99999,
        "scores_boost_latest": 0.05,
        "sil_threshold": 0.2,
        "strong_boost_rate": 0.75,
        "weak_boost_rate": 1.5,
        "min_pos_scores_rate": 0.5,
        "causal_attn_rate": 0.5,
        "causal_attn_rc": 7,
    },
    "encoder": {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": BANDS,
        "feat_out": -1,
        "n_layers": 2,
        "d_model": WIDTH,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 6,
        "causal_downsampling": False,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "n_heads": 4,
        "att_context_size": [-1, -1],
        "att_context_style": "regular",
        "xscaling": True,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": 9,
        "conv_norm_type": "batch_norm",
        "conv_context_size": None,
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
        "stochastic_depth_drop_prob": 0.0,
        "stochastic_depth_mode": "linear",
        "stochastic_depth_start_layer": 1,
    },
    "transformer_encoder": {
        "_target_": "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder",
        "num_layers": 2,
        "hidden_size": HEAD_WIDTH,
        "inner_size": 28,
        "num_attention_heads": 3,
        "attn_score_dropout": 0.5,
        "attn_layer_dropout": 0.5,
        "ffn_dropout": 0.5,
        "hidden_act": "relu",
        "pre_ln": False,
        "pre_ln_final_layer_norm": True,
    },
    "loss": {"_target_": "nemo.collections.asr.losses.bce_loss.BCELoss", "weight": None, "reduction": "mean"},
}


def randomize(model: torch.nn.Module, random: np.random.Generator) -> None:
    """Every tensor that counts, as float16 numbers."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith("preprocessor.") or not tensor.is_floating_point():
                continue
            shape = tuple(tensor.shape)
            values = random.normal(size=shape)
            if name.endswith("running_var"):
                values = np.exp(0.5 * values)
            elif "norm" in name and name.endswith(".weight"):
                values = 1 + 0.2 * values
            elif len(shape) == 1 or name.endswith("running_mean"):
                values = 0.2 * values
            elif "pos_bias" in name:
                values = 0.5 * values
            else:
                values = 1.3 * values / np.sqrt(np.prod(shape[1:]))
            tensor.copy_(torch.from_numpy(values.astype(np.float16).astype(np.float32)))


def features(random: np.random.Generator) -> np.ndarray[Any, Any]:
    """``[frames, bands]``: stretches of four voices, alone, together and none, float16 numbers."""
    shapes = random.normal(size=(SPEAKERS, BANDS)) * 2
    found = 0.5 * random.normal(size=(FRAMES, BANDS))
    for start in range(0, FRAMES, 70):
        found[start : start + 70] += shapes[random.random(SPEAKERS) < 0.4].sum(axis=0)
    return found.astype(np.float16)


def stretch(model: Any, signal: torch.Tensor) -> None:
    """Sharpen the last layer and move its biases, so that each speaker is on for about a quarter of the time."""
    last = model.sortformer_modules.single_hidden_to_spks
    for _ in range(4):
        said = model.forward_streaming(signal, torch.tensor([FRAMES]))[0].double().clamp(1e-6, 1 - 1e-6)
        scores = torch.log(said / (1 - said)) - last.bias
        gain = 4.0 / scores.std(dim=0)
        last.weight.copy_((last.weight * gain[:, None]).half().float())
        last.bias.copy_((-torch.quantile(scores * gain, 0.75, dim=0)).half().float())


def main() -> None:
    """Write the three files beside this one."""
    torch.set_num_threads(1)
    random = np.random.default_rng(20261121)
    model = SortformerEncLabelModel(cfg=OmegaConf.create(CONFIG), trainer=None)
    randomize(model, random)
    model.eval()
    heard = features(random)
    with torch.no_grad():
        signal = torch.from_numpy(heard.astype(np.float32).T[None].copy())
        stretch(model, signal)
        model.save_to(str(HERE / "tiny_sortformer.nemo"))
        streamed = model.forward_streaming(signal, torch.tensor([FRAMES]))[0].numpy()
        # One step by itself: cache and FIFO partly filled, the chunk not whole.
        chunk_frames = 8 * (STREAMING["chunk_len"] + STREAMING["chunk_left_context"] + STREAMING["chunk_right_context"])
        lengths = {"chunk": chunk_frames - 11, "spkcache": STREAMING["spkcache_len"] - 5, "fifo": 4}
        given = {
            "chunk": heard[:chunk_frames].astype(np.float32),
            "spkcache": random.normal(size=(STREAMING["spkcache_len"], WIDTH)).astype(np.float16).astype(np.float32),
            "fifo": random.normal(size=(STREAMING["fifo_len"], WIDTH)).astype(np.float16).astype(np.float32),
        }
        arguments: list[torch.Tensor] = []
        for name in ("chunk", "spkcache", "fifo"):
            arguments += [torch.from_numpy(given[name][None]), torch.tensor([lengths[name]])]
        embeddings, count = model.encoder.pre_encode(x=arguments[0], lengths=arguments[1])
        parts = [arguments[2], arguments[4], embeddings], [arguments[3], arguments[5], count.long()]
        packed, total = model.sortformer_modules.concat_and_pad(*parts)
        inside, _ = model.frontend_encoder(packed, total, bypass_pre_encode=True)
        predictions, _, _ = model.forward_for_export(*arguments)
    np.savez_compressed(
        HERE / "tiny_sortformer.npz",
        features=heard,
        streamed=streamed,
        step_chunk=given["chunk"].astype(np.float16),
        step_spkcache=given["spkcache"].astype(np.float16),
        step_fifo=given["fifo"].astype(np.float16),
        step_lengths=np.array([lengths[name] for name in ("chunk", "spkcache", "fifo")]),
        step_embeddings=embeddings[0].numpy(),
        step_embeddings_length=count.numpy(),
        step_inside=inside[0].numpy(),
        step_predictions=predictions[0].numpy(),
    )
    about = {
        "made_by": Path(__file__).name,
        "nemo_toolkit": nemo.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "parameters": sum(each.numel() for each in model.parameters()),
        "streaming": STREAMING,
        "share_above_one_half": [round(float(each), 3) for each in (streamed > 0.5).mean(axis=0)],
        "sha256": {
            each: hashlib.sha256((HERE / each).read_bytes()).hexdigest()
            for each in ("tiny_sortformer.nemo", "tiny_sortformer.npz")
        },
    }
    (HERE / "tiny_sortformer.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
