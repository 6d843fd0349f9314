"""A Ray cluster as a run finds it: how it is reached, what its nodes have, and how its loss is told."""

import errno
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kdbench.errors import UserError
from kdbench.grid.signals import STOPPING

NAMES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # a task's needs as nodes tell them


def resources(nodes: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Of each node that lives."""
    return [node["Resources"] for node in nodes if node["Alive"]]


def capacity(nodes: Sequence[dict[str, Any]], needs: dict[str, float]) -> int:
    """How many tasks have room in a cluster at a time; one at least, which then waits for a node."""
    return max(1, sum(fitting(there, needs) for there in resources(nodes)))


def fitting(there: dict[str, float], needs: dict[str, float]) -> int:
    return min(int(there.get(NAMES[name], 0) // amount) for name, amount in needs.items() if amount)


def lacking(nodes: Sequence[dict[str, Any]], needs: dict[str, float]) -> str:
    """What a task asks for and the largest node has, where no node has room for it; else nothing."""
    there = resources(nodes)
    if any(fitting(node, needs) for node in there):
        return ""
    largest = {name: max((node.get(NAMES[name], 0.0) for node in there), default=0.0) for name in needs}
    return f"no node has what a task asks for, {amounts(needs)} (the most that one has: {amounts(largest)})"


def amounts(needs: dict[str, float]) -> str:
    return ", ".join(f"{x / 1e9:.1f} GB" if name == "memory" else f"{x:g} {NAMES[name]}" for name, x in needs.items())


def here(ray: Any) -> Any:
    """Where the driver is: what dies with that node had nobody to speak to any more."""
    node = ray.get_runtime_context().get_node_id()
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)


@contextmanager
def told_of_loss(ray: Any) -> Iterator[None]:
    """One line where the cluster itself is gone."""
    try:
        yield
    except ray.exceptions.RayError as error:
        why = f"the Ray cluster is lost ({first_words(error)}); the same command goes on from what came back"
        raise ConnectionError(errno.ECONNRESET, why) from error


def first_words(error: Exception) -> str:
    """Of Ray's errors, which say much."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected. Raises UserError where it is not installed, or nobody answers at the address.

    One that is started here listens on the loopback interface alone, has no dashboard and asks for a token, as Ray
    does by itself.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # its workers are of this environment as it is
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's word for: loopback alone
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray needs Ray: pip install 'kdbench[ray]'") from error
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    try:
        if address is None:
            ray.init(address="local", object_store_memory=200_000_000, _node_ip_address="127.0.0.1", **quiet)
        else:
            del quiet["include_dashboard"]
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f"--executor ray: {first_words(error)} (address {address or 'local'})") from error
    with suppress(ValueError):  # not in the main thread: there Ray took none
        for number, handler in handlers.items():  # Ray's own for SIGTERM ends the process without a word
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()
