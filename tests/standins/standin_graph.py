"""Writes ONNX graphs node by node, in float32 or as dynamic quantization would leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from standin_weights import InMemory, Quantized, Weights

from hubpub.onnxfile import OnnxFile, Payload
from hubpub.onnxfile.marks import mark_synthetic

Dims = list[int | str]


class GraphBuilder:
    """An ONNX graph (opset 17) that grows; its tensors stay unwritten.

    With ``int8`` every weight is uint8 and its input is quantized at run time, per tensor, as
    onnxruntime.quantization.quantize_dynamic does: MatMulInteger, ConvInteger, DynamicQuantizeLSTM, Gather.
    """

    def __init__(self, name: str, *, int8: bool = False) -> None:
        self.int8 = int8
        self._file = OnnxFile(Path(name), onnx.ModelProto(ir_version=8, producer_name="hubpub stand-in"))
        self._graph = self._file.model.graph
        self._graph.name = name
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._quantized: dict[str, list[str]] = {}
        self._names: dict[str, int] = {}

    def finish(self) -> OnnxFile:
        """The model, marked as synthetic, its tensors unwritten."""
        domains = {node.domain for node in self._graph.node}
        self._file.model.opset_import.extend(
            helper.make_opsetid(domain, 17 if not domain else 1) for domain in sorted(domains)
        )
        mark_synthetic(self._file.model)
        return self._file

    def input(self, name: str, element: int, dims: Dims) -> str:
        """Declare an input of the graph."""
        self._graph.input.append(helper.make_tensor_value_info(name, element, dims))
        return name

    def output(self, value: str, name: str, element: int, dims: Dims) -> None:
        """Make ``value`` an output of the graph."""
        self._graph.node.add(op_type="Identity", name=f"/{name}/Identity", input=[value], output=[name])
        self._graph.output.append(helper.make_tensor_value_info(name, element, dims))

    def node(self, op: str, *inputs: str, at: str, domain: str = "", **attributes: Any) -> str:
        """Add a node under the path ``at``; returns its output."""
        return self.nodes(op, *inputs, at=at, outputs=1, domain=domain, **attributes)[0]

    def nodes(self, op: str, *inputs: str, at: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """Add a node of several outputs under the path ``at``; returns them."""
        name = self._unique(f"/{at}/{op}")
        results = [f"{name}_output_{n}" for n in range(outputs)]
        self._graph.node.append(helper.make_node(op, inputs, results, name=name, domain=domain, **attributes))
        return results

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """A Constant node, one for equal values."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._unique("/Constant")
            self._graph.node.append(
                helper.make_node("Constant", [], [f"{name}_output_0"], name=name, value=numpy_helper.from_array(array))
            )
            self._constants[key] = f"{name}_output_0"
        return self._constants[key]

    def buffer(self, name: str, payload: Payload, dims: tuple[int, ...]) -> str:
        """A Constant node of float32 that stays in the model, as the exporter leaves registered buffers."""
        node = self._graph.node.add(op_type="Constant", name=name, output=[f"{name}_output_0"])
        attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
        attribute.t.CopyFrom(TensorProto(data_type=TensorProto.FLOAT, dims=dims))
        self._file.attach(attribute.t, payload)
        return f"{name}_output_0"

    def tensor(self, name: str, value: Payload | npt.NDArray[Any], dims: tuple[int, ...] = ()) -> str:
        """An initializer: an array of any type, or the bytes of a float32 or quantized tensor of these dims."""
        name = name.replace("/", ".")
        if isinstance(value, np.ndarray):
            element, dims = helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            payload: Payload = InMemory(value.tobytes())
        else:
            element, payload = TensorProto.UINT8 if isinstance(value, Quantized) else TensorProto.FLOAT, value
        tensor = self._graph.initializer.add(name=name, data_type=element, dims=dims)
        if dims and payload.nbytes:
            self._file.attach(tensor, payload)
        else:  # a scalar stays in the graph
            tensor.raw_data = payload.read()
        return name

    def weight(self, name: str, weights: Weights, *, transposed: bool = False) -> list[str]:
        """A float32 weight, or with ``int8`` a quantized one followed by its scale and zero point."""
        if not self.int8:
            return [self.tensor(name, weights, weights.shape)]
        quantized = Quantized(weights, transposed)
        *outer, rows, columns = weights.shape
        dims = (*outer, columns, rows) if transposed else weights.shape
        of = (1,) if transposed else ()  # one scale per direction of an LSTM
        return [
            self.tensor(f"{name}_quantized", quantized, dims),
            self.tensor(f"{name}_scale", np.full(of, quantized.scale, np.float32)),
            self.tensor(f"{name}_zero_point", np.full(of, Quantized.ZERO_POINT, np.uint8)),
        ]

    def linear(self, x: str, at: str, weights: Weights, bias: npt.NDArray[np.float32] | None = None) -> str:
        """``x @ weights + bias``; weights are [in, out]."""
        weight, *quantization = self.weight(f"{at}.weight", weights)
        if quantization:
            y = self._integer("MatMulInteger", x, at, weight, *quantization)
        else:
            y = self.node("MatMul", x, weight, at=at)
        return y if bias is None else self.node("Add", self.tensor(f"{at}.bias", bias), y, at=at)

    def conv(self, x: str, at: str, weights: Weights, bias: npt.NDArray[np.float32] | None, **attributes: Any) -> str:
        """A convolution; weights are [out, in / group, *kernel]."""
        weight, *quantization = self.weight(f"{at}.weight", weights)
        kernel = list(weights.shape[2:])
        attributes = {"kernel_shape": kernel, "strides": [1] * len(kernel), **attributes}
        if not quantization:
            biases = [] if bias is None else [self.tensor(f"{at}.bias", bias)]
            return self.node("Conv", x, weight, *biases, at=at, **attributes)
        y = self._integer("ConvInteger", x, at, weight, *quantization, **attributes)
        if bias is None:
            return y
        return self.node("Add", y, self.tensor(f"{at}.bias", bias.reshape(1, -1, *[1] * len(kernel))), at=at)

    def silu(self, x: str, at: str) -> str:
        """``x * sigmoid(x)``."""
        return self.node("Mul", x, self.node("Sigmoid", x, at=at), at=at)

    def _integer(self, op: str, x: str, at: str, weight: str, scale: str, zero_point: str, **attributes: Any) -> str:
        if x not in self._quantized:
            self._quantized[x] = self.nodes("DynamicQuantizeLinear", x, at=at, outputs=3)
        steps, x_scale, x_zero_point = self._quantized[x]
        total = self.node(op, steps, weight, x_zero_point, zero_point, at=at, **attributes)
        both = self.node("Mul", x_scale, scale, at=f"{at}/scale")
        return self.node("Mul", self.node("Cast", total, at=at, to=TensorProto.FLOAT), both, at=at)

    def _unique(self, name: str) -> str:
        seen = self._names.get(name, 0)
        self._names[name] = seen + 1
        return f"{name}_{seen}" if seen else name
