"""Is an operation's arithmetic right on this machine? Tried out in a child process, against double precision.

A kernel may be off, may give another value at each call, or may end its process (oneDNN's weight gradient of a 1x1
convolution of stride 2 in channels_last does all three on AVX2, docs/onednn-report.md). So forward and gradients are
made several times and compared with those of the same operation in float64 and contiguous memory; and whatever ends the
child counts as off.
"""

import copy
import ctypes
import faulthandler
import math
import multiprocessing
import os
import resource
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

CALLS = 4  # with two threads the known fault shows in every second call
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}  # of the L2 norm; rounding gives 1e-6 and 1e-2 at most
ROUGH = 1e-1  # the same for norms and attention in bf16: these subtract what is nearly equal
# Of the largest norm among what is compared: a gradient that is zero has only rounding. A norm over a single value
# multiplies that by 300.
FLOOR, FLOOR_OF_NORMS = 1e-2, 1.0
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
SMALL, LARGE = 4e6, 2e7  # multiply-adds: batches grow up to the one, maps shrink down to the other
DIES = "ends its process"


@dataclass(frozen=True)
class Operation:
    """A module on inputs of one shape and layout. `name` holds all that tells it from another."""

    name: str
    module: nn.Module = field(compare=False, repr=False)
    shape: tuple[int, ...] = field(compare=False)  # of one sample
    layout: str = field(compare=False)  # "channels_last" or "contiguous"
    precision: str = field(compare=False)  # "fp32" or "bf16"
    dtype: torch.dtype = field(compare=False, default=torch.float32)  # of the input; under autocast it may be either


Forward = Callable[..., Any]
Way = Callable[[nn.Module, Forward, Tensor], Tensor]
Task = tuple[Operation, str]  # and the name of a way


def as_it_is(module: nn.Module, forward: Forward, x: Tensor) -> Tensor:
    return forward(x)


def contiguous(module: nn.Module, forward: Forward, x: Tensor) -> Tensor:
    """In contiguous layout; what comes out is in the layout of what came in."""
    with changed(module, plain):
        out = forward(plain(x))
    return out.contiguous(memory_format=torch.channels_last) if is_channels_last(x) and out.ndim == 4 else out


def in_float64(module: nn.Module, forward: Forward, x: Tensor) -> Tensor:
    """By the algorithms for double precision, which oneDNN has no part in. Autocast leaves float64 as it is."""
    with changed(module, torch.Tensor.double):
        out = forward(x.double())
    return out.to(x.dtype)


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


def plain(x: Tensor) -> Tensor:
    """In contiguous memory also by its strides, which are ambiguous where a side is 1: they choose the kernel."""
    return x.clone(memory_format=torch.contiguous_format)


def is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def sample(operation: Operation) -> tuple[nn.Module, Tensor]:
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
    x = torch.randn(batch_shape(operation), generator=generator).bfloat16().float()
    if operation.layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    return module, x.to(operation.dtype)


def tolerance(operation: Operation) -> float:
    plain_map = isinstance(operation.module, nn.modules.conv._ConvNd | nn.Linear)
    return TOLERANCE[operation.precision] if plain_map or operation.precision == "fp32" else ROUGH


def batch_shape(operation: Operation) -> tuple[int, ...]:
    """4 to 64 samples, by how much work they are; large maps are cut, but what a linear map reads stays as it is."""
    module, shape = operation.module, operation.shape
    is_map = len(shape) == 3 and isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase)
    width, *grid = shape if is_map else (1, *shape)
    stride = getattr(module, "stride", 1)
    weights = sum(p.numel() for p in module.parameters())
    shrink = math.prod(stride) if isinstance(stride, tuple) else 1

    def work() -> float:
        positions = math.prod(grid) if is_map else math.prod(shape[:-1])
        return weights * positions / shrink + 1

    while is_map and 4 * work() > LARGE and min(grid) >= 16:
        grid = [side // 2 for side in grid]
    count = int(min(64, max(4, SMALL / work())))
    return (count, width, *grid) if is_map else (count, *shape)


def results(module: nn.Module, x: Tensor, way: str, precision: str) -> dict[str, Tensor]:
    """Output and gradients for a random gradient of the output."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        out = WAYS[way](module, module.forward, x)
    coming = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(out.dtype)
    coming = coming.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else coming
    (out * coming).sum().backward()  # a scalar's: any other makes torch import its symbolic shapes, for two seconds
    weights = {f"the gradient of its {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"its output": out.detach(), "the gradient of its input": x.grad, **weights}


def trouble(operation: Operation, way: str) -> str:
    """What is wrong, in words; empty when all is right.

    What raises can't be compared. As it is, it may run in training all the same; as a way around it proves nothing.
    """
    try:
        return differences(operation, way)
    except Exception as error:
        return "" if way == "as it is" else f"raises {type(error).__name__}"


def differences(operation: Operation, way: str) -> str:
    module, x = sample(operation)
    exact = with_tensors(module, lambda x: plain(x.detach().double() if x.is_floating_point() else x))
    want = results(exact, plain(x.double()), "as it is", "fp32")
    norms = {name: float(value.norm()) for name, value in want.items()}
    floor = FLOOR_OF_NORMS if isinstance(module, NORMS) else FLOOR
    least = floor * max(norms.values()) or 1.0
    first: dict[str, Tensor] = {}
    near = Neighbours()
    for _ in range(CALLS):
        got = results(module, x, way, operation.precision)
        for name, value in want.items():
            error = float((got[name].double() - value).norm()) / max(norms[name], least)
            if not error <= tolerance(operation):
                return f"{name} is off by {100 * error:.2g}%"
        if operation.precision == "fp32" and any(not torch.equal(first.get(n, x), x) for n, x in got.items()):
            return "it differs from call to call"
        first = first or got
    if not near.whole():
        return "it writes into memory that is not its own"
    near.free()
    return ""


class Neighbours:
    """Blocks all over the heap with gaps of every size between them: what writes past the end of its memory hits some.

    With one thread the known fault gives right values, and damages the heap of whoever runs it. glibc alone is watched.
    """

    MARK, COPIES, SIZES = 0x5A, 12, range(48, 1200, 16)

    def __init__(self) -> None:
        self.libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
        self.blocks: list[tuple[int, int]] = []
        if self.libc is None or not hasattr(self.libc, "gnu_get_libc_version"):
            return
        self.libc.malloc.restype, self.libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        self.libc.free.argtypes = [ctypes.c_void_p]
        gaps = []
        for size in self.SIZES:
            for _ in range(self.COPIES):
                gaps.append(self.libc.malloc(size))
                self.blocks.append((self.libc.malloc(40), 40))
        for place, size in self.blocks:
            ctypes.memset(place, self.MARK, size)
        self.sizes = [self._header(place) for place, _ in self.blocks]
        for gap in gaps:
            self.libc.free(gap)

    def _header(self, place: int) -> int:
        """The size that the C library keeps before a block, without its flags."""
        return ctypes.c_size_t.from_address(place - ctypes.sizeof(ctypes.c_size_t)).value & ~7

    def whole(self) -> bool:
        if not self.blocks:
            return True
        mark = bytes([self.MARK])
        headers = [self._header(place) for place, _ in self.blocks]
        return headers == self.sizes and all(ctypes.string_at(p, n) == mark * n for p, n in self.blocks)

    def free(self) -> None:
        for place, _ in self.blocks:
            self.libc.free(place)


def can_start(threads: int) -> bool:
    """Does a child process come to its end with what is known to be right?

    Where there is no fork, it runs the user's script once more: without `if __name__ == "__main__":` it dies of that.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)  # such a child: it would run the whole script before it answers
    known = Operation("a linear map", template(nn.Linear(4, 3)), (4,), "contiguous", "fp32")
    return in_child([(known, "as it is")], threads) is not None


def troubles(tasks: Sequence[Task], threads: int) -> list[str]:
    """What is wrong with each, found out in child processes. One that dies is told apart from its neighbours."""
    if not tasks:
        return []
    found = in_child(tasks, threads)
    if found is not None:
        return found
    if len(tasks) == 1:
        return [DIES]
    half = len(tasks) // 2
    return troubles(tasks[:half], threads) + troubles(tasks[half:], threads)


def in_child(tasks: Sequence[Task], threads: int) -> list[str] | None:
    """None when the child died, or used more processor time than any such task needs."""
    # A fork shares what is imported, so it costs milliseconds. With a GPU autograd does not survive one.
    kind = "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"
    context: Any = multiprocessing.get_context(kind)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(list(tasks), threads, theirs), daemon=True)

    def start() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            child.start()

    # From a thread without OpenMP workers of its own: the child of any other one would wait for workers it has not.
    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    theirs.close()
    try:
        return list(ours.recv()) if ours.poll(120 + 10 * len(tasks)) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()
        ours.close()


def _work(tasks: Sequence[Task], threads: int, answer: Connection) -> None:
    """In the child."""
    try:
        _quiet(len(tasks))
        # The known fault gives wrong values with two threads, and damages the heap with one; each shape shows in one
        # of the two at least. So neither is trusted without the other.
        found = [""] * len(tasks)
        for number in sorted({1, 2, threads}):
            torch.set_num_threads(number)
            with torch.enable_grad(), torch.inference_mode(False):
                found = [known or trouble(*task) for known, task in zip(found, tasks, strict=True)]
        answer.send(found)
    finally:
        os._exit(0)


def _quiet(num_tasks: int) -> None:
    """What dies here dies without a word, without a core file, and does not spin for ever."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    seconds = 20 + 5 * num_tasks
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


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
    return made


def with_tensors(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy with what `change` makes of each parameter and buffer, none of which is copied itself."""
    parameters = {id(x): nn.Parameter(change(x), x.requires_grad) for x in module.parameters()}
    return copy.deepcopy(module, {**parameters, **{id(x): change(x) for x in module.buffers()}})
