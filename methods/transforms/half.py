"""Weights in 16 bits: half the file. They are widened when it is loaded, so the arithmetic stays fp32."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from kdbench import Conversion, Inapplicable, register_transform
from kdbench.method.onnx_tools import onnx_package

FEWEST = 64  # numbers of a tensor; of fewer there is nothing to save


class Half(Conversion):
    """Rounds each weight to the nearest number of `dtype`."""

    dtype: torch.dtype
    not_after = ("int8", "fp16", "bf16")

    def __init__(self) -> None: ...

    def check(self, model: nn.Module) -> None: ...

    def apply(self, file: bytes, batches: Callable[[int], Iterator[dict[str, Any]]]) -> bytes:
        onnx = onnx_package()
        model = onnx.load_from_string(file)
        weights = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
        large = [weight for weight in weights if onnx.numpy_helper.to_array(weight).size >= FEWEST]
        if not large:
            raise Inapplicable(f"finds no weights in fp32, {FEWEST} or more of one layer")
        for weight in large:
            name = weight.name
            narrow(onnx, weight, self.dtype)
            weight.name = f"{name}_narrow"
            cast = onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT)
            model.graph.node.insert(0, cast)
        return bytes(model.SerializeToString())


def narrow(onnx: Any, weight: Any, dtype: torch.dtype) -> None:
    """An initializer of fp32 becomes one of `dtype`."""
    values = torch.from_numpy(onnx.numpy_helper.to_array(weight).copy()).to(dtype)
    if not values.isfinite().all():
        raise Inapplicable(f"finds weights that {str(dtype).removeprefix('torch.')} can't hold")
    weight.ClearField("float_data")
    weight.raw_data = values.view(torch.int16).numpy().astype("<i2").tobytes()
    weight.data_type = onnx.TensorProto.FLOAT16 if dtype == torch.float16 else onnx.TensorProto.BFLOAT16


@register_transform("fp16")
class Fp16(Half):
    """IEEE half precision: 11 bits of precision; weights beyond 65504 would be infinite."""

    dtype = torch.float16


@register_transform("bf16")
class Bf16(Half):
    """bfloat16: 8 bits of precision, the range of fp32."""

    dtype = torch.bfloat16
