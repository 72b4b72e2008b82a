"""6-bit palettization beside coremltools': one package of Sortformer's weights, and seven variants of two checkpoints.

The packages have the shapes of Sortformer's head (18 FastConformer layers of 512, 18 Transformer layers of 192, 121 M
weights, 243 MB) with random weights, and as graph a chain of the same operations. coremltools palettizes each package
anew; it is run once, hubpub ``--rounds`` times.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Run, compare, report

PEERS = ("hubpub", "coremltools")
BITS = 6
ABOVE = 512
CHECKPOINTS = (0, 1, 0, 1, 0, 1, 0)
"""Of each of the seven variants, as v2.1 and v2 are among Sortformer's."""


def write_package(path: Path, *, checkpoint: int, frames: int, layers: int) -> None:
    """A package with ``layers`` layers of each kind; ``frames`` make the variant."""
    import coremltools
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    random = np.random.default_rng(checkpoint)

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        columns = np.exp(0.5 * random.standard_normal((1, shape[1], *(1 for _ in shape[2:])), np.float32))
        drawn = random.standard_normal(shape, np.float32)
        return (drawn * columns * 0.5 / np.sqrt(np.prod(shape[1:]))).astype(np.float16)

    def linear(x: Any, out: int, width: int) -> Any:
        return mb.linear(x=x, weight=weight(out, width), bias=np.full(out, 0.01, np.float16))

    def feed_forward(x: Any, width: int, inner: int) -> Any:
        return mb.add(x=x, y=linear(mb.silu(x=linear(x, inner, width)), width, inner))

    def attention(x: Any, width: int, products: int) -> Any:
        for _ in range(products):
            x = mb.add(x=x, y=mb.silu(x=linear(x, width, width)))
        return x

    def convolution(x: Any, width: int) -> Any:
        y = mb.transpose(x=x, perm=[0, 2, 1])
        y = mb.conv(x=y, weight=weight(2 * width, width, 1))
        gates, values = mb.split(x=y, num_splits=2, axis=1)
        y = mb.mul(x=mb.sigmoid(x=gates), y=values)
        y = mb.conv(x=y, weight=weight(width, 1, 9), groups=width, pad_type="same")
        y = mb.conv(x=mb.silu(x=y), weight=weight(width, width, 1))
        return mb.add(x=x, y=mb.transpose(x=y, perm=[0, 2, 1]))

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, frames, 512), dtype=types.fp16)], opset_version=coremltools.target.iOS17
    )
    def program(x: Any) -> Any:
        for _ in range(layers):
            x = feed_forward(x, 512, 2048)
            x = attention(x, 512, 5)
            x = convolution(x, 512)
            x = feed_forward(x, 512, 2048)
        x = linear(x, 192, 512)
        for _ in range(layers):
            x = attention(x, 192, 4)
            x = feed_forward(x, 192, 768)
        return mb.sigmoid(x=linear(x, 4, 192), name="speaker_preds")

    model = coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS17,
        compute_precision=coremltools.precision.FLOAT16,
    )
    model.save(str(path))


def family(folder: Path, layers: int) -> list[Path]:
    """Seven packages of two checkpoints."""
    folder.mkdir()
    paths = [folder / f"variant{number}.mlpackage" for number in range(len(CHECKPOINTS))]
    for number, (path, checkpoint) in enumerate(zip(paths, CHECKPOINTS, strict=True)):
        write_package(path, checkpoint=checkpoint, frames=16 + 8 * number, layers=layers)
    return paths


def run(peer: str, out: Path, sources: list[Path]) -> None:
    """Time one peer once over all packages; what it imports is imported before."""
    targets = [out / f"{peer}-{source.name}" for source in sources]
    if peer == "hubpub":
        from hubpub.transform import _palettes  # noqa: F401
        from hubpub.transform.palettize import Palettize

        palettize = Palettize(bits=BITS, min_elements=ABOVE + 1)
        report(lambda: [palettize.apply(*pair, lambda _: None) for pair in zip(sources, targets, strict=True)])
    else:
        import coremltools
        from coremltools.optimize import coreml

        config = coreml.OptimizationConfig(
            global_config=coreml.OpPalettizerConfig(nbits=BITS, weight_threshold=ABOVE, mode="kmeans")
        )

        def one(source: Path, target: Path) -> None:
            model = coremltools.models.MLModel(str(source), skip_model_load=True)
            coreml.palettize_weights(model, config).save(str(target))

        report(lambda: [one(*pair) for pair in zip(sources, targets, strict=True)])


def tables(path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every weight behind a lookup table: its name in the source, and its values."""
    from hubpub.coremlfile import BY_NAME, Package, label, main_blocks, operations

    package = Package.open(path)
    for part in package.programs:
        for _, _, block in main_blocks(part.program):
            for operation in operations(block):
                if operation.type == "constexpr_lut_to_dense":
                    shape, indices, lut = (
                        package.array(operation.attributes[key], key) for key in ("shape", "indices", "lut")
                    )
                    flat = BY_NAME[f"uint{BITS}"].unpack(indices.tobytes(), int(np.prod(shape)))
                    yield label(operation).removesuffix("_palettized"), lut[flat]


def squared_error(source: Path, made: Path) -> tuple[float, int]:
    """Over all palettized weights, and how many there are."""
    from hubpub.coremlfile import Package, values

    package = Package.open(source)
    plain = {what.removesuffix(".val"): value for what, value in values(package.parts[0].program)}
    error, count = 0.0, 0
    for name, given in tables(made):
        exact = package.array(plain[name], name).reshape(-1).astype(np.float32)
        error += float(np.square(exact - given.astype(np.float32), dtype=np.float64).sum())
        count += 1
    return error, count


def kernel(rounds: int = 5) -> dict[str, float]:
    """Milliseconds per 512 x 2048 matrix and 64 clusters of the clustering alone, on one thread, histogram included."""
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    from hubpub.coremlfile import BY_NAME
    from hubpub.transform._kmeans import cluster, lower_bound
    from hubpub.transform._luts import Form, _distinct, _make

    random = np.random.default_rng(0)
    drawn = (random.standard_normal, random.laplace, partial(random.standard_t, 4))
    took: dict[str, list[float]] = {"hubpub": [], "coremltools": []}
    gap = 0.0
    _make(np.ones(100, np.float16), (100,), Form(BITS))  # compiled, or read from the disk
    _make(random.standard_normal(20_000).astype(np.float16), (20_000,), Form(BITS))
    for number in range(rounds):
        matrix = (drawn[number % 3](size=(512, 2048)) * 0.02).astype(BY_NAME["fp16"].dtype())
        start = time.perf_counter()
        ours = _make(matrix.reshape(-1), matrix.shape, Form(BITS))
        took["hubpub"].append(time.perf_counter() - start)
        start = time.perf_counter()
        _get_kmeans_lookup_table_and_weight(BITS, matrix)
        took["coremltools"].append(time.perf_counter() - start)
        distinct, counts = _distinct(matrix.reshape(-1))
        best = cluster(distinct, counts, 1 << BITS).error
        gap = max(gap, best / lower_bound(distinct, counts, 1 << BITS) - 1)
        assert ours.error >= best
    return {**{peer: float(np.median(each)) * 1000 for peer, each in took.items()}, "gap": gap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="two layers of each kind, 27 MB a package")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; needs 3 GB")
    parser.add_argument("--run", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.paths[0], options.paths[1:])
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        paths, out = family(Path(name) / "in", 2 if options.small else 18), Path(name) / "out"
        out.mkdir()
        errors: dict[str, float] = {}
        sizes: dict[str, int] = {"fp16": _weights(paths[0])}

        def clear() -> None:
            for made in sorted(out.iterdir()):
                peer, _, source = made.name.partition("-")
                if source == paths[0].name and peer not in errors:
                    errors[peer], count = squared_error(paths[0], made)
                    sizes[peer] = _weights(made)
                    print(f"{peer}: {count} weights palettized, squared error {errors[peer]:.6g}", file=sys.stderr)
                shutil.rmtree(made)

        runs: dict[str, dict[str, Run]] = {}
        for workload, sources in (("one", paths[:1]), ("seven", paths)):
            given = [str(out), *map(str, sources)]
            ours = compare(__file__, PEERS[:1], given, options.rounds, clear)
            runs[workload] = {**ours, **compare(__file__, PEERS[1:], given, 1, clear, warm=False)}
    alone = kernel()
    for workload, found in runs.items():
        for peer, each in found.items():
            print(f"{workload:6} {peer:12} {each.seconds:8.2f} s   peak {each.peak_bytes / 1e6:6.0f} MB")
    print(f"kernel hubpub {alone['hubpub']:.1f} ms, coremltools {alone['coremltools']:.1f} ms, gap {alone['gap']:.2g}")
    faster = {
        workload: round(found["coremltools"].seconds / found["hubpub"].seconds, 1) for workload, found in runs.items()
    }
    print(
        json.dumps(
            {
                "name": "palettize" + (", small" if options.small else ""),
                "ours": {workload: round(found["hubpub"].seconds, 2) for workload, found in runs.items()},
                "peer": {
                    "coremltools": {
                        workload: round(found["coremltools"].seconds, 1) for workload, found in runs.items()
                    }
                },
                "ratio": {
                    "one": round(1 / faster["one"], 4),
                    "seven": round(1 / faster["seven"], 4),
                    "kernel": round(alone["hubpub"] / alone["coremltools"], 4),
                    "squared error": round(errors["hubpub"] / errors["coremltools"], 6),
                },
                "units": "s, ours median, coremltools once, imports not counted; times faster: "
                + ", ".join(f"{workload} {times}" for workload, times in faster.items()),
                "sizes": {
                    "weight_bytes": sizes,
                    "of_fp16": round(sizes["hubpub"] / sizes["fp16"], 3),
                    "above_certified_optimum": alone["gap"],
                    "peak_rss_bytes": {peer: each.peak_bytes for peer, each in runs["seven"].items()},
                    "rounds": options.rounds,
                },
            }
        )
    )


def _weights(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("weight.bin"))


if __name__ == "__main__":
    main()
