"""A stand-in for ``istupakov/parakeet-tdt-0.6b-v3-onnx`` at any size: its files, its graphs, random weights.

    python tests/standins/parakeet.py --out DIR --scale tiny|small|medium|full

onnx-asr loads the folder as ``nemo-conformer-tdt`` and gets tokens that depend on what is said, though they mean
nothing. How random weights come to that is told beside the numbers, in `parakeet_encoder` and
`parakeet_decoder`. Every file says that it is synthetic. The same scale gives the same bytes, on any machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nemo_features import nemo_features
from parakeet_decoder import SPECIAL, decoder_joint
from parakeet_encoder import encoder
from parakeet_scale import SCALES, TOKENS, Scale

from hubpub.onnxfile import OnnxFile, pack, write

REPO = "istupakov/parakeet-tdt-0.6b-v3-onnx"
_SPECIAL_TOKENS = ["<unk>", "<|nospeech|>", "<pad>", "<|endoftext|>", "<|startoftranscript|>"]


def write_repo(out: Path, scale: Scale, *, int8: bool = True) -> dict[str, int]:
    """Write the repo's files into the folder ``out``, which is made.

    Args:
        out: an empty folder, or one of an earlier call.
        scale: how large, one of `SCALES` or any other.
        int8: also the two ``.int8.onnx`` files.

    Returns:
        Name and bytes of each file.
    """
    out.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}

    def save(name: str, model: OnnxFile, *, external: bool = False) -> None:
        slots = None
        if external:  # initializers only, and close together, as onnx.save_model leaves them
            tensors = (at for at in model.tensors() if at.steps[-1][0] == "initializer")
            weights = [(at.steps, payload) for at in tensors if (payload := model.payload(at.tensor))]
            slots = pack(weights, name=lambda _: f"{name}.data", max_bytes=2**63 - 1, alignment=64)
        sizes.update(write(model, out / name, slots))

    save("encoder-model.onnx", encoder(scale), external=True)
    save("decoder_joint-model.onnx", decoder_joint(scale))
    if int8:
        save("encoder-model.int8.onnx", encoder(scale, int8=True))
        save("decoder_joint-model.int8.onnx", decoder_joint(scale, int8=True))
    save("nemo128.onnx", nemo_features())
    config = {"model_type": "nemo-conformer-tdt", "features_size": 128, "subsampling_factor": 8, "synthetic": True}
    texts = {
        "vocab.txt": "".join(f"{token} {n}\n" for n, token in enumerate(vocabulary())),
        "config.json": json.dumps(config, indent=4) + "\n",
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
        sizes[name] = len(text.encode())
    return sizes


def vocabulary() -> list[str]:
    """8192 tokens, every third of them the start of a word, and the blank."""
    onsets = ["", *"bcdfghjklmnprstvwz", "ch", "sh", "th", "st", "tr", "pl", "kr", "gl"]
    rimes = [vowel + coda for vowel in ("a", "e", "i", "o", "u", "ai", "ou", "ea") for coda in ("", *"lnrstmkdg")]
    syllables = [onset + rime for onset in onsets for rime in rimes]
    words = [first + second for first in syllables for second in rimes[::9]]
    pieces = list(dict.fromkeys(["▁" + word for word in words] + syllables + words))
    third = [piece for piece in pieces if piece[0] == "▁"]
    rest = [piece for piece in pieces if piece[0] != "▁"]
    count = TOKENS - len(_SPECIAL_TOKENS)
    starts, others = third[: count // 3], rest[: count - count // 3]
    assert len(_SPECIAL_TOKENS) == SPECIAL
    return [*_SPECIAL_TOKENS, *starts, *others, "<blk>"]


def main() -> None:
    """Write one from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--no-int8", action="store_true", help="leave out the .int8.onnx files")
    options = parser.parse_args()
    for name, size in write_repo(options.out, SCALES[options.scale], int8=not options.no_int8).items():
        print(f"{size:>13,} {name}")


if __name__ == "__main__":
    main()
