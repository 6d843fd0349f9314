"""A group of real processes, by torch.distributed: gloo between CPUs, NCCL between GPUs.

Every process computes all losses, on outputs gathered from all. Its loss is that of the others to the bit, so a part's
share of the gradient need not be sent back: it lies in every process. Each is taken `size` times, and then the mean of
the parameters' gradients over the processes is the gradient of one loss, for nets and for adapters alike.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from kdbench.batching import shares
from kdbench.errors import first_line
from kdbench.method.contract import Batch, Outputs
from kdbench.method.inputs import Inputs, map_inputs
from kdbench.train.gradients import Gradients
from kdbench.train.group import Compute
from kdbench.train.whole_batch import BatchNorms, PartNorms, WholeBatchNorms, parts_of

WAIT = timedelta(days=30)  # for the others: the first process may wait for another run's lock
PATIENCE = 30.0  # seconds for the others to raise where this one did
NEWS = 2.0  # seconds for whoever saw the other one die to tell how
LOST, APART = 70, 71  # exit codes: another process is gone; this one raised what the others did not


class Devices:
    """`rank` of `size` processes on `device`. `store`: through which they find each other. `say`: the last word."""

    def __init__(self, rank: int, size: int, store: dist.Store, device: torch.device) -> None:
        self.rank, self.size, self.device, self.store = rank, size, device, store
        self.say: Callable[[str], None] = partial(print, file=sys.stderr, flush=True)
        self.errors = 0
        self.busy = False  # of the first: do the others train, and don't wait for what it shares?
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WAIT)

    def close(self) -> None:
        dist.destroy_process_group()

    def forward(self, compute: Compute, batch: Batch, norm_parts: int | None = None) -> Outputs:
        sizes, norms = self.divide(len(batch.target), norm_parts)
        start, own = sum(sizes[: self.rank]), sizes[self.rank]
        first = start if own else 0  # where there are fewer examples than processes: one that stands for nothing
        with norms:
            outputs = compute(part_of(batch, slice(first, first + max(own, 1))))
        return outputs.map(partial(self.gather, sizes=sizes), per_sample=True)

    def divide(self, count: int, norm_parts: int | None) -> tuple[list[int], BatchNorms]:
        """How many of `count` examples each process has, and how its batch norms see them."""
        if norm_parts is None:
            sizes = shares(count, self.size)
            return sizes, WholeBatchNorms(self.rows, empty=sizes[self.rank] == 0)
        each = norm_parts // self.size
        parts = parts_of(count, norm_parts)
        of_ranks = [parts[rank * each : (rank + 1) * each] for rank in range(self.size)]
        return [sum(own) for own in of_ranks], PartNorms(of_ranks[self.rank], self.rows)

    def gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """[n, ...] of each process -> [B, ...] of all, in their order and in the memory layout of `x`."""
        if len(x) != max(sizes[self.rank], 1):
            raise ValueError(f"outputs are of {len(x)} examples, where the net was given {sizes[self.rank]}")
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            return _Gathered.apply(x.permute(0, 2, 3, 1), sizes, self).permute(0, 3, 1, 2)
        return _Gathered.apply(x, sizes, self)

    def rows(self, x: Tensor) -> Tensor:
        """[M] of each process -> [size, M], without gradient."""
        x = x.detach().contiguous()
        found = x.new_empty(self.size, *x.shape)
        self.together(lambda: dist.all_gather(list(found.unbind()), x))
        return found

    def mean(self, gradients: Gradients) -> Gradients:
        there = [gradient for gradient in gradients if gradient is not None]
        if not there:
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in there])
        self.together(lambda: dist.all_reduce(flat))
        flat /= self.size
        meant = iter(flat.split([gradient.numel() for gradient in there]))
        return [g if g is None else torch.empty_like(g).copy_(next(meant).view_as(g)) for g in gradients]

    def agree(self, wish: bool) -> bool:
        wishes = torch.tensor([int(wish)])
        self.together(lambda: dist.all_reduce(wishes, dist.ReduceOp.MAX))
        return bool(wishes.item())

    def share(self, make: Callable[[], bytes | None]) -> bytes | None:
        content = make() if self.rank == 0 else None
        length = torch.tensor([-1 if content is None else len(content)])
        self.together(lambda: dist.broadcast(length, 0))
        if length.item() <= 0:
            return None if length.item() < 0 else b""
        bytes_of = torch.empty(int(length), dtype=torch.uint8)
        if content is not None:
            bytes_of = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self.together(lambda: dist.broadcast(bytes_of, 0))
        return bytes_of.numpy().tobytes()

    def raised(self, error: Exception) -> None:
        self.errors += 1
        name, until = f"raised {self.errors}", time.monotonic() + PATIENCE
        self.store.add(name, 1)
        while self.store.add(name, 0) < self.size:
            if time.monotonic() > until:
                self.leave(
                    f"process {self.rank} of {self.size} raised what the others did not: {first_line(error)}", APART
                )
            time.sleep(0.02)

    def together(self, call: Callable[[], Any]) -> None:
        """A step that needs all processes. If one is gone this one ends, too: what is saved goes on from there."""
        try:
            call()
        except RuntimeError as error:
            time.sleep(NEWS)
            self.leave(f"one of the {self.size} processes that train together is gone ({first_line(error)})", LOST)

    def leave(self, why: str, code: int) -> NoReturn:
        leave(self.say, why, code)


def leave(say: Callable[[str], None], why: str, code: int) -> NoReturn:
    """At once: an exception would be taken for a member's own."""
    say(f"{why}; the same command goes on from what was saved")
    sys.stderr.flush()
    os._exit(code)


class _Gathered(torch.autograd.Function):
    """x [n, ...] -> [B, ...]; the gradient of the part, `size` times (see above)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int], group: Devices) -> Tensor:
        own, most = sizes[group.rank], max(sizes)
        ctx.start, ctx.own, ctx.size, ctx.given = sum(sizes[: group.rank]), own, group.size, len(x)
        padded = x.new_zeros(most, *x.shape[1:])
        padded[:own] = x[:own]
        parts = group.rows(padded)
        return torch.cat([part[:count] for part, count in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = gradient.new_zeros(ctx.given, *gradient.shape[1:])
        found[: ctx.own] = gradient[ctx.start : ctx.start + ctx.own] * ctx.size
        return found, None, None


def part_of(batch: Batch, rows: slice) -> Batch:
    def cut(inputs: Inputs) -> Inputs:
        return map_inputs(lambda x: x[rows], inputs)

    views = {name: cut(view) for name, view in batch.views.items()}
    return Batch(cut(batch.inputs), batch.target[rows], batch.index[rows], batch.progress, views)
