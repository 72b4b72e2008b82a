"""A stand-in for ``FluidInference/diar-streaming-sortformer-coreml`` at any size: its packages, random weights.

    python tests/standins/sortformer.py --out DIR --scale small|full

Seven pipelines of a pre-encoder (fp32) and a head (fp16), with the names, shapes and metadata of the upstream export:
variants of one checkpoint have the same weights, the two checkpoints have different ones. `Sortformer_v2` has the fault
of early exports: a tensor that is both input and output of the head. What they say means nothing, but it depends on
what is heard, and every speaker is on and off. Needs coremltools.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sortformer_layers import HEAD_WIDTH, SPEAKERS, WIDTH, Scale, head, pre_encoder

REPO = "FluidInference/diar-streaming-sortformer-coreml"
ALIASED = "Sortformer_v2"
SCALES = {
    "small": Scale(conformers=1, conformer_inner=256, transformers=1, transformer_inner=192, channels=32),
    "full": Scale(conformers=18, conformer_inner=2048, transformers=18, transformer_inner=768, channels=256),
}


@dataclass(frozen=True)
class Variant:
    """A package: the checkpoint that its weights are of, and how it cuts its input, in frames of 80 ms."""

    name: str
    checkpoint: str
    chunk_len: int
    chunk_right_context: int
    fifo_len: int
    spkcache_update_period: int
    chunk_left_context: int = 1
    spkcache_len: int = 188

    @property
    def embeddings(self) -> int:
        """Frames of a chunk with its contexts."""
        return self.chunk_left_context + self.chunk_len + self.chunk_right_context

    @property
    def frames(self) -> int:
        """Frames that the head takes."""
        return self.spkcache_len + self.fifo_len + self.embeddings


VARIANTS = (
    Variant("Sortformer_v2.1", "v2.1", 6, 7, 40, 31),
    Variant("Sortformer_v2", "v2", 6, 7, 40, 31),
    Variant("SortformerNvidiaLow_v2.1", "v2.1", 6, 7, 188, 144),
    Variant("SortformerNvidiaLow_v2", "v2", 6, 7, 188, 144),
    Variant("SortformerNvidiaHigh_v2.1", "v2.1", 340, 40, 40, 300),
    Variant("SortformerNvidiaHigh_v2", "v2", 340, 40, 40, 300),
    Variant("SortformerEfficient_v2.1", "v2.1", 25, 7, 40, 31),
)


def write_repo(out: Path, scale: Scale, variants: tuple[Variant, ...] = VARIANTS) -> None:
    """Write ``v3/fp16/NAME.mlpackage`` of each variant, a card and a config into the folder ``out``."""
    for variant in variants:
        write_package(out / "v3" / "fp16" / f"{variant.name}.mlpackage", scale, variant)
    card = (
        "---\nlicense: cc-by-4.0\nlibrary_name: coreml\ntags:\n- speaker-diarization\n---\n\n"
        "Random weights in the form of the real packages.\n"
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    (out / "config.json").write_text(json.dumps({"synthetic": True}) + "\n", encoding="utf-8")


def write_package(path: Path, scale: Scale, variant: Variant) -> None:
    """One pipeline as ``.mlpackage``; an earlier one at ``path`` is replaced."""
    import coremltools as ct

    first = _converted(pre_encoder(scale, variant.checkpoint, variant))
    second = _converted(head(scale, variant.checkpoint, variant))
    if variant.name == ALIASED:
        second = _aliased(second)
    pipeline = ct.utils.make_pipeline(first, second)
    spec = pipeline.get_spec()
    spec.description.metadata.userDefined.update(
        {
            "chunk_len": str(variant.chunk_len),
            "chunk_left_context": str(variant.chunk_left_context),
            "chunk_right_context": str(variant.chunk_right_context),
            "fifo_len": str(variant.fifo_len),
            "spkcache_len": str(variant.spkcache_len),
            "spkcache_update_period": str(variant.spkcache_update_period),
            "subsampling_factor": "8",
            "frame_duration": "0.08",
            "mel_feature_frames": str(8 * variant.chunk_len),
            "hubpub.synthetic": "random weights",
        }
    )
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ct.models.MLModel(spec, weights_dir=pipeline.weights_dir, skip_model_load=True).save(str(path))


def _converted(program: Any) -> Any:
    import coremltools as ct

    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        pass_pipeline=ct.PassPipeline.EMPTY,  # the program is what it shall be, and nothing is folded
        skip_model_load=True,
    )


def _aliased(model: Any) -> Any:
    """The head with ``chunk_pre_encoder_embs`` handed through: an output that is its own input."""
    import coremltools as ct

    spec = model.get_spec()
    name = "chunk_pre_encoder_embs"
    description = next(each for each in spec.description.input if each.name == name)
    spec.description.output.add().CopyFrom(description)
    function = spec.mlProgram.functions["main"]
    for block in function.block_specializations.values():
        block.outputs.append(name)
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def main() -> None:
    """Write one from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scale", choices=SCALES, default="small")
    options = parser.parse_args()
    write_repo(options.out, SCALES[options.scale])
    assert (WIDTH, HEAD_WIDTH, SPEAKERS) == (512, 192, 4)


if __name__ == "__main__":
    main()
