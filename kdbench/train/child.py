"""Operations are tried out in child processes: what is wrong may end its process, or damage its memory."""

import faulthandler
import json
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kdbench.train.proof import Operation, trouble

Task = tuple[Operation, str]  # and the name of a way
DIES = "ends its process"
# A Python of its own: it needs no `if __name__ == "__main__":` of the user's, and imports nothing from where it is.
PROGRAM = "import sys; sys.path[:] = {path!r}; from kdbench.train.child import answer; answer()"


class Unstarted(Exception):
    """No child process comes to its end here, not even with what can't be wrong."""


def troubles(tasks: Sequence[Task], threads: int) -> list[str]:
    """What is wrong with each. One that ends its process is told apart from its neighbours. Raises Unstarted."""
    found = in_child(tasks, threads) if tasks else []
    if found is None and not can_start(threads):
        raise Unstarted
    return _halved(tasks, threads) if found is None else found


def _halved(tasks: Sequence[Task], threads: int) -> list[str]:
    """Of tasks one of which, at least, ends its process."""
    if len(tasks) == 1:
        return [DIES]
    middle = len(tasks) // 2
    found: list[str] = []
    for half in (tasks[:middle], tasks[middle:]):
        known = in_child(half, threads)
        found += _halved(half, threads) if known is None else known
    return found


def can_start(threads: int) -> bool:
    known = Operation("nothing that could be wrong", nn.ReLU(), (4,), "contiguous", "fp32")
    return in_child([(known, "as it is")], threads) is not None


def in_child(tasks: Sequence[Task], threads: int) -> list[str] | None:
    """None when the child died, or used more time than any such tasks need."""
    # A fork shares what is imported, so it costs milliseconds. With a GPU autograd does not survive one, other systems
    # have none that is safe, and a daemon may not make one.
    together = dist.is_available() and dist.is_initialized()  # beside its threads a fork may hang
    forks = sys.platform == "linux" and not torch.cuda.is_available() and not multiprocessing.current_process().daemon
    return (in_fork if forks and not together else in_python)(tasks, threads, 120 + 10 * len(tasks))


def in_fork(tasks: Sequence[Task], threads: int, seconds: float) -> list[str] | None:
    context: Any = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(list(tasks), threads, theirs), daemon=True)
    # From a thread without OpenMP workers of its own: the child of any other one would wait for workers it has not.
    _in_thread(child.start)
    theirs.close()
    try:
        return list(ours.recv()) if ours.poll(seconds) else None
    except EOFError:
        return None
    finally:
        if child.pid is not None:
            child.kill()
            child.join()
        ours.close()


def _in_thread(start: Callable[[], None]) -> None:
    def quietly() -> None:
        with warnings.catch_warnings(), suppress(OSError):  # no process to be had: nothing answers
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            start()

    starter = threading.Thread(target=quietly)
    starter.start()
    starter.join()


def _work(tasks: Sequence[Task], threads: int, to: Connection) -> None:
    """In the fork."""
    try:
        _quiet(len(tasks))
        to.send(_found(tasks, threads))
    finally:
        os._exit(0)


def in_python(tasks: Sequence[Task], threads: int, seconds: float) -> list[str] | None:
    program = [sys.executable, "-P", "-c", PROGRAM.format(path=sys.path)]
    given = pickle.dumps((threads, [_packed(task) for task in tasks]))
    there = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with suppress(OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        done = subprocess.run(program, input=given, capture_output=True, timeout=seconds, env=there, check=False)
        return [str(words) for words in json.loads(done.stdout.splitlines()[-1])]
    return None


def _packed(task: Task) -> bytes:
    """Empty for what can't be sent: it holds a lambda, say."""
    try:
        return pickle.dumps(task)
    except Exception:
        return b""


def answer() -> None:
    """In the Python of its own: tasks come in by its input, and what is wrong goes out as a line of JSON."""
    threads, packed = pickle.load(sys.stdin.buffer)
    _quiet(len(packed))
    found = [""] * len(packed)
    tasks: dict[int, Task] = {}
    for place, one in enumerate(packed):
        with suppress(Exception):  # of a class that this Python can't import: the user's script alone has it
            tasks[place] = pickle.loads(one)
    for place, words in zip(tasks, _found(list(tasks.values()), threads), strict=True):
        found[place] = words
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _found(tasks: Sequence[Task], threads: int) -> list[str]:
    # The known fault gives wrong values with two threads, and damages the heap with one; each shape shows in one of the
    # two at least. So neither is trusted without the other.
    found = [""] * len(tasks)
    for number in sorted({1, 2, threads}):
        torch.set_num_threads(number)
        with torch.enable_grad(), torch.inference_mode(False):
            found = [known or trouble(*task) for known, task in zip(found, tasks, strict=True)]
    return found


def _quiet(num_tasks: int) -> None:
    """What dies here dies without a word, without a core file, and does not spin for ever."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    seconds = int(time.process_time()) + 20 + 5 * num_tasks
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
