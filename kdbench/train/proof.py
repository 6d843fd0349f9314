"""Is an operation's arithmetic right on this machine? Tried out in a child process, against double precision.

A kernel may be off, may give another value at each call, or may end its process (oneDNN's weight gradient of a 1x1
convolution of stride 2 in channels_last does all three on AVX2, docs/onednn-report.md). So forward and gradients are
made several times and compared with those of the same operation in float64 and contiguous memory; and whatever ends the
child counts as off.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.train.calls import is_mask, made, returned, turned
from kdbench.train.heap import Neighbours

CALLS = 4  # with two threads the known fault shows in every second call
NARROW_CALLS = 24  # of those where it is: on maps of 4 x 4 it shows more rarely
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}  # of the L2 norm; rounding gives 1e-6 and 1e-2 at most
ROUGH = 1e-1  # the same for norms and attention in bf16: these subtract what is nearly equal
# Of the largest norm among what is compared: a gradient that is zero has only rounding. A norm over a single value
# multiplies that by 300.
FLOOR, FLOOR_OF_NORMS = 1e-2, 1.0
SLOPE, MANY = 5e-3, 64  # finds 1% in bf16 too; of fewer numbers than these rounding may leave as much
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MOST_SUMMED = 2048  # torch adds up gradients of norms in bf16 itself: after 16384 numbers, 13% of them is rounding
MOST_NORMED = 2**17  # numbers: a norm's work is to read them, not to multiply
# Multiply-adds: batches grow up to the first; beyond the second they are of 2; maps shrink only beyond the third
SMALL, MIDDLE, LARGE = 4e6, 2e7, 8e7


@dataclass(frozen=True)
class Operation:
    """A module on inputs of one shape and layout. `name` holds all that tells it from another."""

    name: str
    module: nn.Module = field(compare=False, repr=False)
    shape: tuple[int, ...] = field(compare=False)  # of one sample
    layout: str = field(compare=False)  # "channels_last" or "contiguous"
    precision: str = field(compare=False)  # "fp32" or "bf16"
    dtype: torch.dtype = field(compare=False, default=torch.float32)  # of the input; under autocast it may be either
    call: dict[str, Any] = field(compare=False, default_factory=dict)  # what `described` says of one with more inputs


Forward = Callable[..., Any]
Beside = dict[str, Any]  # further arguments, by name
Way = Callable[[nn.Module, Forward, Tensor, Beside], Any]


def as_it_is(module: nn.Module, forward: Forward, x: Tensor, beside: Beside) -> Any:
    return forward(x, **beside)


def contiguous(module: nn.Module, forward: Forward, x: Tensor, beside: Beside) -> Any:
    """In contiguous layout; what comes out is in the layout of what came in."""
    first, others = turned(plain, x, beside)
    with changed(module, plain):
        out = forward(first, **others)
    last = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return returned(lambda y: y.contiguous(memory_format=last) if y.ndim == 4 else y, out)


def in_float64(module: nn.Module, forward: Forward, x: Tensor, beside: Beside) -> Any:
    """By the algorithms for double precision, which oneDNN has no part in. Autocast leaves float64 as it is."""
    first, others = turned(double, x, beside)
    with changed(module, torch.Tensor.double):
        out = forward(first, **others)
    return returned(lambda y: y.to(x.dtype) if y.is_floating_point() else y, out)


WAYS: dict[str, Way] = {"as it is": as_it_is, "contiguous": contiguous, "float64": in_float64}


@contextmanager
def changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the module's parameters and buffers are replaced by what `change` makes of them (with gradient)."""
    tables: list[dict[str, Any]] = [t for m in module.modules() for t in (m._parameters, m._buffers)]
    before = [dict(table) for table in tables]
    for table in tables:
        table.update({name: change(x) for name, x in table.items() if x is not None and x.is_floating_point()})
    try:
        yield
    finally:
        for table, old in zip(tables, before, strict=True):
            for name, x in old.items():
                if x is not None and not isinstance(x, nn.Parameter) and x is not table[name]:
                    x.copy_(table[name].detach())  # running statistics
            table.update(old)


def double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def plain(x: Tensor) -> Tensor:
    """In contiguous memory also by its strides, which are ambiguous where a side is 1: they choose the kernel."""
    return x.clone(memory_format=torch.contiguous_format)


def is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def sample(operation: Operation) -> tuple[nn.Module, Tensor, Beside]:
    """The module with random weights, and a random batch; every number of few enough digits for the precision."""
    module = with_tensors(operation.module, lambda x: torch.zeros(x.shape, dtype=x.dtype))
    module = module.requires_grad_().eval().to(memory_format=torch.channels_last)  # eval: no drop-out
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            part.train().reset_running_stats()
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_((torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)).bfloat16())
    shape = (
        operation.call[""].shape
        if operation.call
        else batch_shape(operation.module, operation.shape, operation.precision)
    )
    x = torch.randn(shape, generator=generator).bfloat16().float()
    if operation.layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    x = x.to(operation.dtype)
    return module, x, made(operation.call, x, generator)


def tolerance(operation: Operation) -> float:
    narrow = is_plain_map(operation.module) or operation.precision == "fp32"
    return TOLERANCE[operation.precision] if narrow else ROUGH


def is_plain_map(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear)


def slope(got: Tensor, want: Tensor) -> float:
    """By how much it is larger on the whole. Rounding goes both ways, so that little of it is left of many numbers."""
    many = want.numel() >= MANY
    return float((got.double() - want).flatten() @ want.flatten() / want.square().sum()) if many else 0.0


def is_narrow(module: nn.Module) -> bool:
    """A 1x1 convolution of few channels: where oneDNN's known fault is, which comes and goes."""
    one = set(getattr(module, "kernel_size", ())) == {1}
    return one and int(getattr(module, "in_channels", 16)) < 16


def batch_shape(module: nn.Module, shape: tuple[int, ...], precision: str) -> tuple[int, ...]:
    """2 to 64 samples, by how much work they are; very large maps are cut, but never what a linear map reads."""
    is_map = len(shape) == 3 and isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase)
    width, *grid = shape if is_map else (1, *shape)
    stride = getattr(module, "stride", 1)
    weights = sum(p.numel() for p in module.parameters())
    shrink = math.prod(stride) if isinstance(stride, tuple) else 1

    def work() -> float:
        positions = math.prod(grid) if is_map else math.prod(shape[:-1])
        return weights * positions / shrink + 1

    narrow = is_narrow(module)  # the known fault may need the whole map
    while is_map and not narrow and 2 * work() > LARGE and min(grid) >= 16:
        grid = [side // 2 for side in grid]
    count = int(min(64, max(2 if is_map and 4 * work() > MIDDLE else 4, SMALL / work())))
    if narrow:
        count = int(min(256, max(count, SMALL / work())))  # on the smallest maps it shows in large batches alone
    if isinstance(module, NORMS):
        count = min(count, max(2, MOST_NORMED // math.prod(shape)))
    if precision == "bf16" and isinstance(module, NORMS):
        count = min(count, max(1, MOST_SUMMED // math.prod(grid if is_map else shape[:-1])))
    return (count, width, *grid) if is_map else (count, *shape)


def results(module: nn.Module, x: Tensor, beside: Beside, way: str, precision: str) -> dict[str, Tensor]:
    """Outputs and gradients for random gradients of the outputs; attention's outputs also as an evaluation has them."""
    module.zero_grad()
    statistics = isinstance(module, nn.modules.batchnorm._NormBase) and module.running_var is not None
    if statistics:
        module.reset_running_stats()  # type: ignore[operator]
    x, beside = turned(lambda t: t.detach(), x, beside)
    read = {"input": x, **{name: t for name, t in beside.items() if isinstance(t, Tensor) and t is not x}}
    inputs = {name: t.requires_grad_() for name, t in read.items() if t.is_floating_point() and not is_mask(name)}
    found: dict[str, Tensor] = {}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        outs = outputs(WAYS[way](module, module.forward, x, beside))
        if beside:  # torch has other kernels for attention without gradient
            with torch.no_grad():
                bare = outputs(WAYS[way](module, module.forward, x, beside))
            found = {f"{name} where no gradient is asked for": out for name, out in bare.items()}
        if statistics:
            found = in_evaluation(module, x, way)
    total = torch.zeros(())
    for out in outs.values():
        coming = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(out.dtype)
        coming = coming.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else coming
        total = total + (out * coming).sum()
    total.backward()  # a scalar's: any other makes torch import its symbolic shapes, for two seconds
    reached = {f"its {name}": t for name, t in (*inputs.items(), *module.named_parameters())}
    found |= {name: out.detach() for name, out in outs.items()}
    return found | {f"the gradient of {name}": t.grad for name, t in reached.items() if t.grad is not None}


def in_evaluation(module: nn.Module, x: Tensor, way: str) -> dict[str, Tensor]:
    """What a norm gives by the running statistics that it has, and these."""
    found = {f"its {name}": x.clone() for name, x in module.named_buffers() if x.is_floating_point()}
    with torch.no_grad():
        given = outputs(WAYS[way](module.eval(), module.forward, x, {}))
    module.train()
    return found | {f"{name} in evaluation": out for name, out in given.items()}


def outputs(out: Any) -> dict[str, Tensor]:
    several = [one for one in out if one is not None] if isinstance(out, tuple) else [out]
    return {f"its {'output' if not place else f'output {place + 1}'}": one for place, one in enumerate(several)}


def trouble(operation: Operation, way: str) -> str:
    """What is wrong, in words; empty when all is right.

    What raises can't be compared. As it is, it may run in training all the same; as a way around it proves nothing.
    """
    try:
        return differences(operation, way)
    except Exception as error:
        return "" if way == "as it is" else f"raises {type(error).__name__}"


def differences(operation: Operation, way: str) -> str:
    module, x, beside = sample(operation)
    exact = with_tensors(module, lambda x: plain(double(x.detach())))
    want = results(exact, *turned(lambda t: plain(double(t)), x, beside), "as it is", "fp32")
    if not all(value.isfinite().all() for value in want.values()):
        raise ArithmeticError("no numbers to compare")
    norms = {name: float(value.norm()) for name, value in want.items()}
    floor = FLOOR_OF_NORMS if isinstance(module, NORMS) else FLOOR
    least = floor * max(norms.values()) or 1.0
    first: dict[str, Tensor] = {}
    near = Neighbours()
    for _ in range(NARROW_CALLS if is_narrow(module) else CALLS):
        got = results(module, x, beside, way, operation.precision)
        for name, value in want.items():
            if name not in got:
                return f"{name} is missing"
            error = float((got[name].double() - value).norm()) / max(norms[name], least)
            if not error <= tolerance(operation):
                return f"{name} is off by {100 * error:.2g}%"
            if is_plain_map(module) and abs(larger := slope(got[name], value)) > SLOPE and norms[name] >= least:
                return f"{name} is off by {100 * abs(larger):.2g}%"
        if operation.precision == "fp32" and any(not torch.equal(first.get(n, x), x) for n, x in got.items()):
            return "it differs from call to call"
        first = first or got
    if not near.whole():
        return "it writes into memory that is not its own"
    near.free()
    return ""


def template(module: nn.Module) -> nn.Module:
    """A copy without weights, hooks and what was put around its forward."""
    bare = copy.copy(module)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        setattr(bare, name, OrderedDict())
    for name in ("forward", "_trusted"):
        bare.__dict__.pop(name, None)
    made = with_tensors(bare, lambda x: torch.empty(x.shape, dtype=x.dtype, device="meta"))
    for part in made.modules():
        for name in ("forward", "_trusted"):
            part.__dict__.pop(name, None)
    if isinstance(made, NORMS) and isinstance(getattr(made, "act", None), nn.Module):
        made.act = nn.Identity()  # at the kink of a ReLU rounding chooses the gradient: that is no fault
    return made


def with_tensors(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy with what `change` makes of each parameter and buffer, none of which is copied itself."""
    parameters = {id(x): nn.Parameter(change(x), x.requires_grad) for x in module.parameters()}
    return copy.deepcopy(module, {**parameters, **{id(x): change(x) for x in module.buffers()}})
