"""Arithmetic that is proven on this machine before it is trusted.

`trusted(module)` puts a guard before every operation that can go wrong (convolutions, linear maps, norms, attention).
When it meets a shape for the first time, the guard asks for the verdict of this machine: known ones are kept on disk,
others are found out in a child process. An operation that is right runs as it is; one that is off is led around: in
contiguous layout, else in double precision, each proven in its turn. What can't be mended is an error.

A net on the meta device has no arithmetic: there the guards note what will be needed, for `prove` to see to it before
anything starts. Only the CPU is proven.
"""

import copy
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.files import cache_folder, write_json
from kdbench.results.provenance import has_bf16, kind_of, processor
from kdbench.train.calls import batch_axis, bound, described, is_known, turned, words
from kdbench.train.child import Unstarted, troubles
from kdbench.train.proof import NORMS, WAYS, Operation, batch_shape, is_channels_last, template

FORMAT = 5  # of proofs: raise it when what is tried changes
RIGHT, NONE = "as it is", "none"
# Of oneDNN's known fault: 1x1, stride 2, fewer than 16 channels
NARROW = re.compile(r"Conv2d\((\d|1[0-5]), .*kernel_size=\(1, 1\), stride=\(2, 2\).*channels_last")
KINDS = (nn.modules.conv._ConvNd, nn.Linear, *NORMS)

UNSTARTED = (
    "the proof of this machine's arithmetic can't start here, and training goes on without it: no child process of "
    "Python's comes to its end"
)
DTYPES = (torch.float32, torch.bfloat16)

Case = tuple[Any, ...]  # shape of a sample, input's precision, autocast, device; and what else there is in a call
Verdict = dict[str, str]  # `way`: how it is right; `found`: what is wrong as it is


class Verdicts:
    """What is known of this machine with the present number of threads; shared by all processes on it."""

    def __init__(self) -> None:
        self.machine: dict[str, Any] = {"proof": FORMAT, **processor(), "threads": torch.get_num_threads()}
        name = hashlib.sha256(json.dumps(self.machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder() / f"{name}.json"
        self.starts = True  # can a child process prove anything here? As far as it is known
        self.known: dict[str, Verdict] = {}
        self.cases: dict[str, list[str]] = {}  # what was proven as a whole -> its operations
        self.read()

    def read(self) -> None:
        """What is on the disk, beside what is known here. A file that can't be read, or is not ours, holds nothing."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            read = json.loads(self.path.read_bytes())
            there = {str(n): {"way": str(v["way"]), "found": str(v["found"])} for n, v in read["verdicts"].items()}
            self.known = {n: v for n, v in there.items() if v["way"] in (*WAYS, NONE)} | self.known
            cases = {str(case): [str(name) for name in names] for case, names in read["cases"].items()}
            self.cases = {c: names for c, names in cases.items() if self.known.keys() >= set(names)} | self.cases

    def prove(self, operations: Iterable[Operation]) -> list[str]:
        """Find out what is not known yet. Returns a line for everything that was found to be off.

        Where no proof can start, that is the only line, said once; what is not known stays so, and runs as it is.
        """
        asked = {o.name: o for o in operations}
        if not self.starts or asked.keys() <= self.known.keys():
            return []
        self.read()  # another process may have proven them since
        new = [o for name, o in asked.items() if name not in self.known]
        threads = torch.get_num_threads()
        try:
            for operation, found in zip(new, troubles([(o, RIGHT) for o in new], threads), strict=True):
                self.known[operation.name] = {"way": way_around(operation, threads) if found else RIGHT, "found": found}
        except Unstarted:
            self.starts = False
            return [UNSTARTED]
        self.suspect()
        self.write()
        return [in_words(o.name, self.known[o.name]) for o in new if self.known[o.name]["way"] != RIGHT]

    def suspect(self) -> None:
        """Where one of NARROW is off, all of them are led around: on small maps the fault seldom shows."""
        alike = [name for name in self.known if NARROW.search(name)]
        if any(self.known[name]["way"] == "contiguous" for name in alike):
            for name in alike:
                if self.known[name]["way"] == RIGHT:
                    self.known[name] = {"way": "contiguous", "found": "as others of its kind are, now and then"}

    def note(self, cases: dict[str, list[str]]) -> None:
        """Keep which operations a case has, so that it need not be traced again."""
        self.cases |= cases
        self.write()

    def write(self) -> None:
        self.read()  # another process may have proven something since
        with suppress(OSError):  # a folder that can't be written: the next process proves it again
            write_json(self.path, {"machine": self.machine, "verdicts": self.known, "cases": self.cases})

    def way(self, operation: Operation) -> str:
        """How it is right. Raises UserError when it is not in any way."""
        self.prove([operation])
        verdict = self.known.get(operation.name, {"way": RIGHT, "found": ""})
        if verdict["way"] == NONE:
            raise UserError(in_words(operation.name, verdict))
        return verdict["way"]


def way_around(operation: Operation, threads: int) -> str:
    ways = [way for way in WAYS if way != RIGHT]
    return next((way for way in ways if troubles([(operation, way)], threads) == [""]), NONE)


def in_words(name: str, verdict: Verdict) -> str:
    """What is wrong and what is done about it, in plain words."""
    words = {
        "contiguous": "it runs in contiguous layout, where it is right",
        "float64": "it runs in double precision, where it is right, but slower",
        NONE: "no way around it is right either: use another version of torch, another number of threads or a GPU",
    }
    return f"this machine computes {name} wrongly ({verdict['found']}): {words[verdict['way']]}"


def folder() -> Path:
    """Where verdicts are kept: KDBENCH_CACHE, else the user's cache. Safe to delete."""
    return cache_folder("arithmetic")


_verdicts: dict[tuple[int, Path], Verdicts] = {}
_noted: list[Operation] = []


def verdicts() -> Verdicts:
    """Those for the present number of threads."""
    place = torch.get_num_threads(), folder()
    if place not in _verdicts:
        _verdicts[place] = Verdicts()
    return _verdicts[place]


class Guard:
    """Stands in for `module.forward`; the verdict is one for each shape, precision and kind of call that it meets."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.forward = module, module.forward
        self.own = not is_theirs(type(module)) and plain_class(type(module)) is not None
        self.ways: dict[Case, str] = {}

    def __call__(self, *given: Any, **named: Any) -> Any:
        x: Any = given[0] if given else None
        beside: dict[str, Any] = {}
        if not self.own and (len(given) != 1 or named):
            try:
                x, beside = bound(self.forward, given, named)
            except (TypeError, ValueError):  # its own error, and in its own words
                return self.forward(*given, **named)
        if not is_known(x, beside) or x.dtype not in DTYPES:
            return self.forward(*given, **named)  # not of the kind that is proven
        way = self.note(x, beside) if x.is_meta else self.way(x, beside)
        if way == RIGHT:
            return self.forward(*given, **named)
        if self.own:
            return WAYS[way](self.module, lambda y: self.forward(y, *given[1:], **named), x, beside)
        return WAYS[way](self.module, self.forward, x, beside)

    def way(self, x: Tensor, beside: dict[str, Any]) -> str:
        case: Case = (x.shape[1:], x.dtype, torch.is_autocast_enabled("cpu"), x.device.type, is_channels_last(x))
        if beside:
            of = ((v.shape, v.dtype, v is x) if isinstance(v, Tensor) else v for v in beside.values())
            case = (*case, x.shape[0], *beside, *of)
        if case not in self.ways:
            operation = self.operation(x, beside) if x.device.type == "cpu" else None
            self.ways[case] = verdicts().way(operation) if operation is not None else RIGHT
        return self.ways[case]

    def operation(self, x: Tensor, beside: dict[str, Any]) -> Operation | None:
        """None where a class of one's own holds what can't be copied."""
        try:
            return operation_of(self.module, x, beside)
        except Exception:
            if not self.own:
                raise
            return None

    def note(self, x: Tensor, beside: dict[str, Any]) -> str:
        """Autocast does not reach the meta device: what a norm will read in training is of either precision."""
        cases = (turned(lambda y, t=t: y.to(t) if y is x else y, x, beside) for t in DTYPES)  # type: ignore[misc]
        _noted.extend({o.name: o for case in cases if (o := self.operation(*case)) is not None}.values())
        return RIGHT


def trusted(module: nn.Module) -> None:
    """Guard every operation in `module`. Those that have a guard keep it."""
    for part in module.modules():
        if (is_operation(part) or plain_class(type(part))) and not getattr(part, "_trusted", False):
            part.forward = part._trusted = Guard(part)  # type: ignore[assignment]


def is_operation(module: nn.Module) -> bool:
    """One whose forward is torch's or timm's own: that of any other class may be random, or give something else."""
    attention = type(module).__name__.endswith("Attention") and hasattr(module, "num_heads")
    return is_theirs(type(module)) and (isinstance(module, KINDS) or attention)


def is_theirs(kind: type[nn.Module]) -> bool:
    return getattr(kind.forward, "__module__", "").partition(".")[0] in ("torch", "timm")


def plain_class(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Torch's or timm's class that computes what `kind` does in a forward of its own, most likely with its kernels."""
    return next((c for c in kind.__mro__ if issubclass(c, KINDS) and "forward" in vars(c) and is_theirs(c)), None)


def code_of(kind: type[nn.Module]) -> str:
    """Tells a class that is not torch's or timm's from others of its name, and from what it was before an edit."""
    own = [c for c in kind.__mro__ if c.__module__.partition(".")[0] not in ("torch", "timm", "builtins")]
    text = []
    for one in own:
        text.append(f"{one.__module__}.{one.__qualname__}")
        with suppress(OSError, TypeError):
            text.append(inspect.getsource(one))
    return f" [{hashlib.sha256(' '.join(text).encode()).hexdigest()[:8]}]" if own else ""


def operation_of(module: nn.Module, x: Tensor, beside: dict[str, Any] | None = None) -> Operation:
    """Of what tells kernels apart: type and settings, shape of a sample, layout, precision, a norm's input in fp32.

    `beside`: what it is called with beside `x`, by name.
    """
    if not is_theirs(type(module)) and (kept := plain_class(type(module))):
        module = copy.copy(module)
        module.__class__ = kept
    # A map on the meta device may have lost the layout that all nets here are put into.
    lost = x.is_meta and x.ndim == 4 and x.shape[1] > 1 and x.shape[2:].numel() > 1
    layout = "channels_last" if lost or is_channels_last(x) else "contiguous"
    precision = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
    axis = batch_axis(module) if beside else 0
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    kind = " ".join(repr(module).split()) + code_of(type(module))
    if not isinstance(module, KINDS):
        settings = {k: v for k, v in sorted(vars(module).items()) if isinstance(v, int | float | str) and k[0] != "_"}
        kind += f" { ({k: v for k, v in settings.items() if k != 'training'}) }"
    side = "x".join(map(str, shape))
    # Autocast narrows what maps and attention read, but a norm takes its input as it comes.
    wide = precision == "fp32" or (x.dtype == torch.float32 and is_norm(module))
    name = f"{kind} on {side}, {layout}, {precision}" + (" of an fp32 input" if wide and precision == "bf16" else "")
    dtype, bare = torch.float32 if wide else torch.bfloat16, template(module)
    if not beside:
        return Operation(name, bare, shape, layout, precision, dtype)
    count = 4 if x.ndim == 4 else batch_shape(bare, shape, precision)[0]
    call = described(x, beside, axis, count, dtype)
    return Operation(name + words(call), bare, shape, layout, precision, dtype, call)


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, NORMS)


@contextmanager
def noting() -> Iterator[list[Operation]]:
    """What guards meet on the meta device inside."""
    _noted.clear()
    yield _noted


def led_around(*modules: nn.Module) -> str:
    """Which of their operations do not run as they are, and how instead; empty where all are right."""
    ways: dict[str, None] = {}
    for part in (part for module in modules for part in module.modules()):
        guard = part.__dict__.get("_trusted")  # its forward may be wrapped once more
        for way in set(guard.ways.values()) - {RIGHT} if isinstance(guard, Guard) else ():
            ways[f"{' '.join(repr(part).split())} {way}"] = None
    return "; ".join(sorted(ways))


def repeat_itself(device: torch.device) -> None:
    """On CUDA, choose algorithms that give the same bits at each call where torch has them. Untested on a GPU."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def slow_precision(device: torch.device, precisions: Iterable[str]) -> str | None:
    """A line for who asked for bf16 on a CPU that has none."""
    if device.type != "cpu" or "bf16" not in precisions or has_bf16():
        return None
    kind = kind_of(device)
    return f"this CPU ({kind}) has no bf16 arithmetic and takes about 8 times as long for it: set precision: fp32"
