"""ML programs executed without a Mac: translated to ONNX, operation by operation, and run in onnxruntime."""

from hubpub.coremlfile.mil.execute import Model, Program
from hubpub.coremlfile.mil.graph import Precision, Read
from hubpub.coremlfile.mil.translate import mean_name
from hubpub.coremlfile.mil.types import TensorType, tensor_type

__all__ = ["Model", "Precision", "Program", "Read", "TensorType", "mean_name", "tensor_type"]
