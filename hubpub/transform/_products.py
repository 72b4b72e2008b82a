"""Matrix products on one thread, so that they are the same on any machine's number of cores and do not fight for them.

NumPy's BLAS starts as many threads as there are cores for every product, whoever else runs.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """``[M, K]`` by ``[K, N]``, both float32 or both float64; may be called from several threads at once."""
    result: NDArray[Any] = _session(left.dtype.itemsize == 8).run(None, {"left": left, "right": right})[0]
    return result


@cache
def _session(double: bool) -> Any:
    import onnxruntime
    from onnx import TensorProto, helper

    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    given = [helper.make_tensor_value_info(name, kind, [None, None]) for name in ("left", "right")]
    out = [helper.make_tensor_value_info("product", kind, [None, None])]
    graph = helper.make_graph([helper.make_node("MatMul", ["left", "right"], ["product"])], "product", given, out)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
