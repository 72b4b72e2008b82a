"""Palettization that has seen what the program computes: errors that cancel, and means that stay."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "coremlfile"))

from ml_packages import Packages, packages

from hubpub.coremlfile import Package
from hubpub.coremlfile.mil import Model, Program, mean_name
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec
from hubpub.errors import MeasureError, StepError
from hubpub.transform._compensated import assign_compensated, damped
from hubpub.transform.calibration.windows import Calibration, CorpusWindows
from hubpub.transform.palettize import Palettize

__all__ = ["packages"]

Array = np.ndarray[Any, np.dtype[Any]]
BATCH, CHANNELS, FRAMES = 4, 12, 60
CALIBRATE = {"corpus": "c", "features": "campplus", "segment": {"by": "length", "seconds": 0.5}}


class Speech:
    """Windows whose channels go together and have means of their own, as features of speech do."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        rng = np.random.default_rng(self._seed)
        mixing = np.random.default_rng(5).normal(size=(CHANNELS, 3))
        for _ in range(self._count):
            found = mixing @ rng.normal(size=(3, FRAMES)) + 0.2 * rng.normal(size=(CHANNELS, FRAMES))
            yield {"x": (np.linspace(-1, 3, CHANNELS)[:, None] + found).astype(np.float32)[None]}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions with and without a bias, one of them dilated, one of groups, and two linears."""
    import coremltools
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(3)

    def normal(*shape: int) -> Array:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(BATCH, CHANNELS, FRAMES), dtype=types.fp32)],
        opset_version=coremltools.target.iOS17,
    )
    def program(x: Any) -> Any:
        options: dict[str, Any] = {"pad_type": "custom", "pad": [2, 2]}
        y = mb.conv(x=x, weight=normal(32, CHANNELS, 5), bias=normal(32), name="first", **options)
        y = mb.relu(x=y)
        y = mb.conv(x=y, weight=normal(32, 32, 3), dilations=[2], name="dilated", **options)
        y = mb.relu(x=y)
        y = mb.conv(x=y, weight=normal(32, 8, 3), bias=normal(32), groups=4, name="grouped")
        y = mb.reduce_mean(x=mb.relu(x=y), axes=[2])
        y = mb.relu(x=mb.linear(x=y, weight=normal(48, 32), bias=normal(48), name="wide"))
        return mb.linear(x=y, weight=normal(6, 48), bias=normal(6), name="out")

    path = tmp_path_factory.mktemp("seen") / "net.mlpackage"
    half = coremltools.precision.FLOAT16
    target = coremltools.target.iOS17
    coremltools.convert(program, convert_to="mlprogram", minimum_deployment_target=target, compute_precision=half).save(
        str(path)
    )
    return path


def palettized(source: Path, target: Path, windows: Any, **params: Any) -> dict[str, Any]:
    step = Palettize.model_validate({"bits": 4, "min_elements": 100, "calibrate": CALIBRATE} | params)
    return step.apply_calibrated(source, target, windows, None, lambda _: None)


def outputs(path: Path) -> Array:
    """For windows that nothing was calibrated on."""
    model, rows = Model(Package.open(path)), [window["x"] for window in Speech(64, 9)]
    batches = [np.concatenate(rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)]
    return np.concatenate([model.run({"x": batch})[model.outputs[0]] for batch in batches]).astype(np.float64)


def digest(path: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest()


def test_errors_cancel_and_means_stay(package: Path, tmp_path: Path) -> None:
    plain, seen, again = (tmp_path / f"{name}.mlpackage" for name in ("plain", "seen", "again"))
    Palettize(bits=4, min_elements=100).apply(package, plain, lambda _: None)
    facts = palettized(package, seen, Speech(50, 1))
    wanted = outputs(package)
    errors = {path: outputs(path) - wanted for path in (plain, seen)}
    power = {path: float(np.square(each).mean()) for path, each in errors.items()}
    bias = {path: float(np.square(each.mean(axis=0)).mean()) for path, each in errors.items()}
    assert power[seen] < 0.3 * power[plain]
    assert bias[seen] < 0.1 * bias[plain]
    assert facts["calibration"] == {"windows": 50, "layers": 5, "biases": 4}
    # What a convolution of groups is multiplied with differs from group to group: its tables are the plain ones.
    assert [row.get("compensated", False) for row in facts["layers"]] == [True, True, False, True, True]
    assert facts["bytes_out"] == sum(file.stat().st_size for file in seen.rglob("weight.bin"))
    palettized(package, again, Speech(50, 1))
    assert digest(again) == digest(seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(each.name for each in (plain, seen, again))


def test_the_second_of_two_steps_goes_on_from_the_first(package: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.mlpackage", tmp_path / "second.mlpackage"
    names = [row["weight"] for row in palettized(package, tmp_path / "all.mlpackage", Speech(8, 1))["layers"]]
    palettized(package, first, Speech(8, 1), bits=8, include=names[:2])
    facts = palettized(first, second, Speech(8, 1))
    assert [row["weight"] for row in facts["layers"]] == names[2:]
    assert facts["calibration"] == {"windows": 8, "layers": 5, "biases": 4}


def test_parameters_without_calibration_are_those_of_before() -> None:
    # Part of the keys of steps: a parameter more, and every build and release would palettize again.
    assert Palettize().model_dump(mode="json") == {
        "transform": "palettize",
        "bits": 6,
        "mixed": None,
        "granularity": "per_tensor",
        "group_size": 32,
        "per_channel_scale": False,
        "min_elements": 513,
        "include": [],
        "exclude": [],
        "models": [],
        "split_aliases": False,
    }
    said = Palettize.model_validate({"calibrate": CALIBRATE}).model_dump(mode="json")
    assert said["calibrate"]["corpus"] == "c"


def test_refusals(package: Path, packages: Packages, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no single ML program of one function") as error:
        palettized(packages.pipeline, tmp_path / "a.mlpackage", Speech(1, 1), split_aliases=True)
    assert error.value.fix == "leave out calibrate"
    with pytest.raises(StepError, match="no windows"):
        palettized(package, tmp_path / "b.mlpackage", Speech(0, 1))
    with pytest.raises(StepError, match="NaN or infinite on a calibration window"):
        palettized(package, tmp_path / "c.mlpackage", [{"x": np.full((1, CHANNELS, FRAMES), np.nan, np.float32)}])


def test_means_are_observed_and_moved(package: Path) -> None:
    opened = Package.open(package)
    program = opened.programs[0].program
    batch = {"x": np.concatenate([window["x"] for window in Speech(BATCH, 4)])}
    (block,) = (function.block_specializations[function.opset] for function in program.functions.values())
    name = next(op.outputs[0].name for op in block.operations if op.type == "conv")
    seen = Program(program, opened.array, also=[name], means={name: 1}).run(batch)
    mean = seen[mean_name(name)]
    assert mean.shape == (1, 32, 1)
    np.testing.assert_allclose(mean[0, :, 0], seen[name].astype(np.float64).mean(axis=(0, 2)), atol=1e-3)
    moved = Program(program, opened.array, also=[name], means={name: 1}, centre=True)
    found = moved.run({**batch, mean_name(name): mean + 1})
    np.testing.assert_array_equal(found[mean_name(name)], mean)
    np.testing.assert_allclose(found[name].astype(np.float64), seen[name].astype(np.float64) + 1, atol=1e-2)


def test_compensated_indices_err_less_where_it_counts() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 24))
    matrix, table = rng.normal(size=(24, 8)), np.linspace(-3, 3, 16)
    found = table[assign_compensated(matrix, table, damped(inputs.T @ inputs / len(inputs)))]
    nearest = table[np.abs(matrix[..., None] - table).argmin(axis=-1)]
    assert np.square(inputs @ (found - matrix)).sum() < 0.3 * np.square(inputs @ (nearest - matrix)).sum()


def test_windows_of_a_corpus_are_as_long_as_the_program_takes(tmp_path: Path) -> None:
    import coremltools
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    spec = mb.TensorSpec(shape=(2, 60, 80), dtype=types.fp32)
    program = mb.program(input_specs=[spec], opset_version=coremltools.target.iOS17)(lambda x: mb.relu(x=x))
    path = tmp_path / "takes.mlpackage"
    coremltools.convert(program, convert_to="mlprogram", minimum_deployment_target=coremltools.target.iOS17).save(
        str(path)
    )
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=16_000) * 0.1, 16_000)
    clips = [{"audio": "a/a.wav"}]
    corpus = {"role": "calibration", "defaults": {"source": "made up", "license": "CC0-1.0"}, "clips": clips}
    prepare(CorpusSpec.model_validate(corpus), {"a/a.wav": tmp_path / "a.wav"}, tmp_path / "corpus")
    found = list(CorpusWindows(tmp_path / "corpus", Calibration.model_validate(CALIBRATE), path))
    assert [window["x"].shape for window in found] == [(1, 60, 80)] * 2
    assert all(window["x"][0, :48].any() and not window["x"][0, 48:].any() for window in found)
    long = Calibration.model_validate(CALIBRATE | {"segment": {"by": "none"}})
    with pytest.raises(MeasureError, match="takes 60 frames, and a window has 98") as error:
        list(CorpusWindows(tmp_path / "corpus", long, path))
    assert error.value.fix == "cut the audio: segment: {by: length, seconds: …}"
