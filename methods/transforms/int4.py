"""Weight-only int4 for dense layers: ONNX Runtime's MatMulNBits, blocks of 4-bit weights with a scale each."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch import nn

from kdbench import Conversion, Inapplicable, register_transform
from kdbench.method.onnx_tools import onnx_package, quantization


@register_transform("int4", paper="https://arxiv.org/abs/2306.00978", year=2023)
class Int4(Conversion):
    """Each block of `block` weights of a dense layer becomes 4-bit numbers and a scale; activations stay fp32.

    Rounding to nearest, without the search of AWQ (the paper). Convolutions stay as they are.
    """

    operators = ("MatMulNBits",)
    not_after = ("int4", "int8", "fp16", "bf16")

    def __init__(self, block: Literal[16, 32, 64, 128] = 32) -> None:
        self.block = block

    def check(self, model: nn.Module) -> None:
        linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
        if not any(part.in_features >= self.block for part in linear):
            raise Inapplicable(f"finds no dense layer of {self.block} inputs or more in {type(model).__name__}")

    def apply(self, file: bytes, batches: Callable[[int], Iterator[dict[str, Any]]]) -> bytes:
        onnx, _ = onnx_package(), quantization()
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        model = onnx.load_from_string(file)
        products(onnx, model.graph)
        quantizer = MatMulNBitsQuantizer(model, block_size=self.block, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        return bytes(quantizer.model.model.SerializeToString())


def products(onnx: Any, graph: Any) -> None:
    """Dense layers are written as Gemm where inputs are [B, D]; here as MatMul and Add, which the quantiser knows."""
    weights = {weight.name: weight for weight in graph.initializer}
    for place, node in reversed(list(enumerate(graph.node))):
        turned = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}.get("transB", 0)
        if node.op_type != "Gemm" or node.input[1] not in weights:
            continue
        values = onnx.numpy_helper.to_array(weights[node.input[1]])
        name = f"{node.input[1]}_product"
        graph.initializer.append(onnx.numpy_helper.from_array((values.T if turned else values).copy(), name))
        ends = [f"{name}_out"] if len(node.input) > 2 else list(node.output)
        made = [onnx.helper.make_node("MatMul", [node.input[0], name], ends, name=f"{name}_node")]
        if len(node.input) > 2:
            made.append(onnx.helper.make_node("Add", [ends[0], node.input[2]], list(node.output)))
        graph.node.remove(node)
        for number, one in enumerate(made):
            graph.node.insert(place + number, one)
    used = {name for node in graph.node for name in node.input}
    for weight in [w for w in graph.initializer if w.name not in used]:
        graph.initializer.remove(weight)
