"""Tensors that models of a pipeline hand on under one name, parted: the pipeline says what it said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.coremlfile import Package, find_aliases
from hubpub.coremlfile.mil import Model
from hubpub.transform.split_aliases import SplitAliases

RNG = np.random.default_rng(0)
WEIGHTS = [RNG.normal(size=(4, 4)).astype(np.float32) for _ in range(4)]


def stage(weight: np.ndarray, takes: str, gives: str, hands_on: bool) -> Any:
    """A model of one layer, which may give what it takes too."""
    import coremltools
    from coremltools.converters.mil import Builder as mb  # noqa: N813

    def layer(x: Any) -> Any:
        return mb.linear(x=x, weight=weight, name=gives)

    source = f"lambda {takes}: layer({takes})"
    target = coremltools.target.iOS16
    program = mb.program(input_specs=[mb.TensorSpec(shape=(1, 4))], opset_version=target)(
        eval(source, {"layer": layer})
    )
    model = coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    if not hands_on:
        return model
    spec = model.get_spec()
    spec.description.output.add().CopyFrom(spec.description.input[0])
    for function in spec.mlProgram.functions.values():
        function.block_specializations[function.opset].outputs.append(takes)
    return coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


@pytest.mark.parametrize("hands_on", [(False, True), (True, False), (True, True), (False, False, True)])
def test_whoever_reads_it_between_reads_it_still(hands_on: tuple[bool, ...], tmp_path: Path) -> None:
    import coremltools

    models = [stage(WEIGHTS[0], "x", "emb", False)]
    models += [stage(WEIGHTS[at], "emb", f"said{at}", each) for at, each in enumerate(hands_on, 1)]
    source, target = tmp_path / "x.mlpackage", tmp_path / "made.mlpackage"
    pipeline = coremltools.utils.make_pipeline(*models).get_spec()
    for model in models[1:-1]:  # what lies between says something too
        output = model.get_spec().description.output[0]
        if output.name not in {each.name for each in pipeline.description.output}:
            pipeline.description.output.add().CopyFrom(output)
    weights = coremltools.utils.make_pipeline(*models).weights_dir
    coremltools.models.MLModel(pipeline, weights_dir=weights, skip_model_load=True).save(str(source))
    facts = SplitAliases().apply(source, target, lambda _: None)
    assert len(facts["split"]) == sum(hands_on)
    assert not find_aliases(Package.open(target))
    x = RNG.normal(size=(1, 4)).astype(np.float32)
    before, after = (Model(Package.open(path)).run({"x": x}) for path in (source, target))
    assert before.keys() == after.keys() >= {f"said{at}" for at in range(1, len(models))}
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
