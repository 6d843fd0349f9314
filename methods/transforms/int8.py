"""int8 after training: ONNX Runtime's quantiser, weights by channel, activations by tensor."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from torch import nn

from kdbench import Conversion, Inapplicable, register_transform
from kdbench.method.contract import Count
from kdbench.method.onnx_tools import onnx_package, quantization

INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul",
           "MatMulIntegerToFloat", "QAttention")  # fmt: skip


@register_transform("int8", paper="https://arxiv.org/abs/1712.05877", year=2018)
class Int8(Conversion):
    """Convolutions and dense layers in 8-bit integers: q = round(x / s) + z, with s and z of a tensor's range.

    `ranges`: of activations, `static` (found beforehand on `examples` training examples by `calibrate`) or `dynamic`
    (of each input, at inference). Weights are symmetric, with a scale for each channel (static) or tensor (dynamic);
    activations lie in 0..255, which x86 processors multiply with signed weights fastest. Processors without VNNI may
    saturate where they add two such products: there accuracy can be lower, and is what was measured there.
    """

    operators = INTEGER
    not_after = ("int8",)

    def __init__(
        self,
        ranges: Literal["static", "dynamic"] = "static",
        calibrate: Literal["minmax", "entropy", "percentile"] = "minmax",
        examples: Count = 512,
    ) -> None:
        if ranges == "dynamic" and (calibrate, examples) != ("minmax", 512):
            raise ValueError("dynamic ranges are found at inference: leave calibrate and examples out")
        self.ranges, self.calibrate, self.examples = ranges, calibrate, examples

    def check(self, model: nn.Module) -> None:
        if not any(isinstance(part, nn.Conv2d | nn.Linear) for part in model.modules()):
            raise Inapplicable(f"finds no convolution or dense layer in {type(model).__name__}")

    def apply(self, file: bytes, batches: Callable[[int], Iterator[dict[str, Any]]]) -> bytes:
        tools = quantization()
        if any(node.op_type in QUANTISED for node in onnx_package().load_from_string(file).graph.node):
            raise Inapplicable("finds the file in integers already")
        with tempfile.TemporaryDirectory() as folder:
            before, after = (Path(folder) / name for name in ("before.onnx", "after.onnx"))
            before.write_bytes(file)
            if self.ranges == "dynamic":
                tools.quantize_dynamic(before, after, weight_type=tools.QuantType.QUInt8)
            else:
                tools.quantize_static(
                    before,
                    after,
                    reader(tools, batches(self.examples)),
                    quant_format=tools.QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=tools.QuantType.QUInt8,
                    weight_type=tools.QuantType.QInt8,
                    calibrate_method=getattr(tools.CalibrationMethod, NAMES[self.calibrate]),
                )
            return after.read_bytes()


QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
NAMES = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def reader(tools: Any, arrays: Iterator[dict[str, Any]]) -> Any:
    """The examples as ONNX Runtime's calibrator asks for them."""

    class Reader(tools.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            return next(arrays, None)

    return Reader()
