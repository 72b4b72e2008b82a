"""Matrix products on one thread, so that they are the same on any machine's number of cores and do not fight for them.

NumPy's BLAS starts as many threads as there are cores for every product, whoever else runs.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def product(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[M, K]`` by ``[K, N]``; may be called from several threads at once."""
    result: NDArray[np.float32] = _session().run(None, {"left": left, "right": right})[0]
    return result


@cache
def _session() -> Any:
    import onnxruntime
    from onnx import TensorProto, helper

    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("left", "right")]
    out = [helper.make_tensor_value_info("product", TensorProto.FLOAT, [None, None])]
    graph = helper.make_graph([helper.make_node("MatMul", ["left", "right"], ["product"])], "product", given, out)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
