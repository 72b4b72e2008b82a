"""Subtly broken models against the gates of the shipped recipe: each is caught, and the good one never is.

Every mutant is of a kind that conversions and quantizations really produce. What is judged is what a build would judge:
the recipe's own runs, metrics and gates, on the recipe's own audio (of the encoder's, some clips).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from hubpub.corpus.corpus import Corpus
from hubpub.corpus.prepare import prepare
from hubpub.gate import Verdict, judge
from hubpub.measure.measurement import Measurement
from hubpub.measure.result import RunResult
from hubpub.measure.run import run_client
from hubpub.recipe import load_recipe
from hubpub.transform.fp16 import Fp16
from hubpub.transform.shard import Shard

pytestmark = pytest.mark.slow

RECIPE_SPEC = load_recipe(Path(__file__).parents[1] / "recipes" / "whisper-tiny.en.yaml").recipe
Array = npt.NDArray[Any]
Change = Callable[[Array], Array]

ENCODER, DECODER = "encoder_model_fp16.onnx", "decoder_model_merged_fp16.onnx"
SHARDED = "sharded/encoder_model.sharded.onnx"


class Bench:
    """The good files, the recipe's audio, and the reference runs, made once."""

    def __init__(self, folder: Path, good: Path, sources: Path) -> None:
        self.folder, self.good, self._count = folder, good, 0
        self.corpora = {}
        for name, of, clips in (
            ("two-cities", "two-cities", None),
            ("transcribed", "transcribed", 6),
            ("short", "transcribed", 2),
        ):
            spec = RECIPE_SPEC.corpora[of]
            spec = spec.model_copy(update={"clips": spec.clips[:clips]})
            files = {reference: sources / reference for reference in spec.references()}
            self.corpora[name] = (folder / name, prepare(spec, files, folder / name))
        self._references: dict[tuple[str, str], RunResult] = {}

    def copy(self, *changed: str) -> Path:
        """The good files; ``changed`` are copies, and the others links."""
        self._count += 1
        target = self.folder / f"mutant{self._count}"
        for path in (path for path in self.good.rglob("*") if path.is_file()):
            name = path.relative_to(self.good).as_posix()
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if name in changed:
                shutil.copyfile(path, target / name)
            else:
                (target / name).hardlink_to(path)
        return target

    def reference(self, run: str, corpus: str | None) -> RunResult | None:
        """The run on the good files that a run is compared with; made once for each corpus."""
        other = RECIPE_SPEC.measure[run].reference
        if other is None:
            return None
        key = other, corpus or ""
        if key not in self._references:
            self._references[key] = self.measured(other, self.good, corpus)[0]
        return self._references[key]

    def measured(self, run: str, folder: Path, corpus: str | None = None) -> tuple[RunResult, list[Measurement]]:
        """A run of the recipe over ``folder``, and those of its figures that are the same in each build."""
        spec = RECIPE_SPEC.measure[run]
        self._count += 1
        where, index = self.corpora[corpus or spec.corpus]
        named = [name for name in files_of(folder) if any(Path(name).match(pattern) for pattern in spec.files)]
        names = [name for name in files_of(folder) if name.startswith(tuple(f"{each}.data" for each in named))] + named
        digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        given = self.folder / f"given{self._count}"  # what the build gives a client: the run's files alone
        for name in names:
            (given / name).parent.mkdir(parents=True, exist_ok=True)
            (given / name).hardlink_to(folder / name)
        out = self.folder / f"out{self._count}"
        result = run_client(
            *(spec.via, given, where, out, lambda _: None),
            run=run,
            artifacts=digests,
            timed=False,
            jobs=1,
        )
        # Told apart by run: here a file may have other bytes than that of the same name in the reference run.
        artifacts = {f"{run}/{name}": digest for name, digest in digests.items()}
        result = result.model_copy(update={"job": result.job.model_copy(update={"artifacts": artifacts})})
        reference = self.reference(run, corpus)
        metrics = [metric for metric in spec.metric_specs() if not metric.timings]
        return result, [each for metric in metrics for each in metric.measure(result, index, reference)]

    def verdicts(self, run: str, folder: Path, corpus: str | None = None) -> list[Verdict]:
        """What the recipe's gates say of the run."""
        result, figures = self.measured(run, folder, corpus)
        reference = self.reference(run, corpus)
        known = {**(reference.job.artifacts if reference else {}), **result.job.artifacts}
        gates = [gate for gate in RECIPE_SPEC.gates if gate.measure.partition("/")[0] == run]
        assert gates, f"the recipe has no gate on {run}"
        return list(judge(gates, figures, known))

    def catches(self, run: str, folder: Path, corpus: str | None = None) -> None:
        """A gate fails, and because of a figure: not because nothing could be measured."""
        missed = [verdict for verdict in self.verdicts(run, folder, corpus) if not verdict.passed]
        assert missed, "no gate caught it"
        assert all(verdict.value is not None for verdict in missed), missed


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def bench(whisper_tiny_en: Path, source_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("mutants")
    good = folder / "good"
    shutil.copytree(whisper_tiny_en, good)
    fp16 = Fp16.model_validate({"transform": "fp16"})
    for name in ("encoder_model", "decoder_model_merged"):
        fp16.apply(good / f"{name}.onnx", good / f"{name}_fp16.onnx", lambda _: None)
    (good / "sharded").mkdir()
    shard = Shard.model_validate({"transform": "shard", "max_bytes": "16 MB", "naming": "numbered"})
    shard.apply(good / "encoder_model.onnx", good / SHARDED, lambda _: None)
    return Bench(folder, good, source_files)


def change(path: Path, tensors: Mapping[str, Change]) -> None:
    """Change tensors of a model; shapes and types stay."""
    model = onnx.load(path)
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, how in tensors.items():
        old = numpy_helper.to_array(found[name])
        new = np.ascontiguousarray(how(old.copy())).astype(old.dtype)
        assert new.shape == old.shape
        assert not np.array_equal(new, old), "it changes nothing"
        found[name].CopyFrom(numpy_helper.from_array(new, name))
    onnx.save(model, path)


def rows_swapped(first: int, second: int) -> Change:
    def swap(values: Array) -> Array:
        values[[first, second]] = values[[second, first]]
        return values

    return swap


def columns_swapped(first: int, second: int) -> Change:
    def swap(values: Array) -> Array:
        values[:, [first, second]] = values[:, [second, first]]
        return values

    return swap


def last_block_zeroed(values: Array) -> Array:
    values.reshape(-1)[-4096:] = 0
    return values


def rounded_to_four_bits(values: Array) -> Array:
    scale = np.abs(values).max() / 7
    return np.round(values / scale) * scale


def one_channel_off_by_two(values: Array) -> Array:
    """As when a scale per channel is one place off."""
    values[:, 7] *= 2
    return values


def one_head_negated(values: Array) -> Array:
    values[:, 64:128] *= -1
    return values


ENCODER_MUTANTS: dict[str, dict[str, Change]] = {
    "a layer's scale off by 4": {"layers.2.fc1.weight": lambda values: values * 4},
    "a layer's scale off by a quarter": {"layers.0.self_attn.v_proj.weight": lambda values: values / 4},
    "the scale of one channel off by 2": {"layers.1.fc2.weight": one_channel_off_by_two},
    "two channels swapped": {"layers.1.fc1.weight": columns_swapped(3, 900)},
    "two input channels swapped": {"layers.3.self_attn.q_proj.weight": rows_swapped(10, 200)},
    "a bias lost": {"layers.2.self_attn.out_proj.bias": np.zeros_like},
    "a square weight transposed": {"layers.1.self_attn.out_proj.weight": np.transpose},
    "one head negated": {"layers.0.self_attn.q_proj.weight": one_head_negated},
    "a norm without its weight": {"layers.3.final_layer_norm.weight": np.ones_like},
    "one layer at four bits": {"layers.2.fc2.weight": rounded_to_four_bits},
    "activations clipped": {"layers.0.fc1.bias": lambda values: np.clip(values, -0.05, 0.05)},
    "the last block of a weight zeroed": {"layers.3.fc2.weight": last_block_zeroed},
    "positions one frame late": {"embed_positions.weight": lambda values: np.roll(values, 1, axis=0)},
    "wrong fbank: bands one place off": {"conv1.weight": lambda values: np.roll(values, 1, axis=1)},
    "a convolution backwards in time": {"conv2.weight": lambda values: values[:, :, ::-1]},
    "a layer's scale off by 5 %": {"layers.1.self_attn.k_proj.weight": lambda values: values * 1.05},
}


@pytest.mark.parametrize("name", ENCODER_MUTANTS)
def test_a_broken_encoder_is_caught(bench: Bench, name: str) -> None:
    folder = bench.copy(ENCODER)
    change(folder / ENCODER, ENCODER_MUTANTS[name])
    bench.catches("encoder-fp16", folder)


DECODER_MUTANTS: dict[str, dict[str, Change]] = {
    "a layer's scale off by 4": {"layers.1.encoder_attn.out_proj.weight": lambda values: values * 4},
    "keys and queries of other audio": {"layers.0.encoder_attn.k_proj.weight": lambda values: np.roll(values, 1, 1)},
    "two words of the vocabulary swapped": {"embed_tokens.weight": rows_swapped(262, 373)},  # " the" and " was"
    "positions one token late": {"embed_positions.weight": lambda values: np.roll(values, 1, axis=0)},
}


@pytest.mark.parametrize("name", DECODER_MUTANTS)
def test_a_broken_decoder_is_caught(bench: Bench, name: str) -> None:
    folder = bench.copy(DECODER)
    change(folder / DECODER, DECODER_MUTANTS[name])
    bench.catches("fp16-two-cities", folder)


def test_a_broken_vocabulary_is_caught(bench: Bench) -> None:
    folder = bench.copy("vocab.json")
    words = json.loads((folder / "vocab.json").read_text("utf-8"))
    words["Ġthe"], words["Ġof"] = words["Ġof"], words["Ġthe"]
    (folder / "vocab.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(words), "utf-8")
    bench.catches("fp16-two-cities", folder)


def shard_names(folder: Path) -> list[str]:
    return [name for name in files_of(folder) if name.startswith(f"{SHARDED}.data")]


def test_a_shard_whose_last_block_is_zeroed_is_caught(bench: Bench) -> None:
    name = shard_names(bench.good)[-1]
    folder = bench.copy(name)
    data = bytearray((folder / name).read_bytes())
    assert any(data[-4096:])
    data[-4096:] = bytes(4096)
    (folder / name).write_bytes(data)
    bench.catches("encoder-sharded", folder)


def test_a_shard_that_begins_elsewhere_is_caught(bench: Bench) -> None:
    name = shard_names(bench.good)[0]
    folder = bench.copy(name)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[4096:] + data[:4096])
    bench.catches("encoder-sharded", folder)


def test_audio_at_the_wrong_rate_is_caught(bench: Bench) -> None:
    """Read as if it had been taken at 22.05 kHz: a third too slow and too low."""
    import soxr

    folder, corpus = bench.corpora["two-cities"]
    slow = bench.folder / "slow"
    shutil.copytree(folder, slow)
    for clip in corpus.clips:
        samples = soxr.resample(np.load(folder / clip.samples), 16_000, 22_050)
        np.save(slow / clip.samples, samples.astype(np.float32))
    assert Corpus.load(slow) == corpus
    bench.corpora["slow"] = (slow, corpus)
    bench.catches("two-cities", bench.good, "slow")


def test_the_good_files_pass(bench: Bench) -> None:
    for run in ("two-cities", "encoder-fp16", "fp16-two-cities", "encoder-sharded"):
        verdicts = bench.verdicts(run, bench.good)
        assert all(verdict.passed for verdict in verdicts), verdicts


def test_twenty_rebuilds_of_the_good_one_pass_with_the_same_figures(bench: Bench) -> None:
    seen = set()
    for _ in range(20):
        folder = bench.copy()
        (folder / ENCODER).unlink()
        Fp16.model_validate({"transform": "fp16"}).apply(
            bench.good / "encoder_model.onnx", folder / ENCODER, lambda _: None
        )
        verdicts = bench.verdicts("encoder-fp16", folder, "short")
        assert all(verdict.passed for verdict in verdicts), verdicts
        seen.add((hashlib.sha256((folder / ENCODER).read_bytes()).hexdigest(), *(each.value for each in verdicts)))
    assert len(seen) == 1
