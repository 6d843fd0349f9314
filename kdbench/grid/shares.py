"""How a machine is shared out among processes: a rule, so that a suite has the same number of threads each time.

Digits depend on the number of threads. So the rule looks at the machine and at all cohorts of the suite, not at what
is left to do or at how busy the machine is. A small net's step gains little from a second thread and a large one's
does not lose by running beside another: as many processes as there are cohorts and cores, as far as memory goes.
"""

import math
import os
from collections.abc import Sequence

import psutil
import torch

from kdbench.errors import UserError
from kdbench.grid.executors import Executor, Here
from kdbench.grid.on_ray import OnRay
from kdbench.grid.plan import Plan
from kdbench.grid.processes import Processes, Share
from kdbench.grid.together import Together, by_torchrun, has_joined
from kdbench.method.contract import Task
from kdbench.suite.cohorts import cohorts_of

OWN = 1.5e9  # bytes that a process takes with torch, a small teacher and a cohort of small students
SHARE = 0.5  # of the machine's memory that processes may take by this reckoning


def executor_of(
    plan: Plan,
    device: torch.device,
    jobs: int | None,
    devices: int = 1,
    executor: str | None = None,
    address: str | None = None,
) -> Executor:
    """`jobs`: how many processes; None: by the rule. `devices`: how many train each cohort together.

    `executor`: here, processes or ray; None: processes where there are several. `address`: of a Ray cluster.
    """
    if by_torchrun() or devices > 1:
        if executor is not None:
            raise UserError(f"--executor {executor} gives each cohort one device: leave --devices and torchrun out")
        return together(device, devices)
    if executor == "ray":
        return OnRay(shares_of(plan, device, jobs)[0].threads, OWN + largest(plan), device, address)
    if executor == "here":
        return Here()
    shares = shares_of(plan, device, jobs)
    return Processes(shares) if len(shares) > 1 else Here()


def together(device: torch.device, devices: int) -> Together:
    """`devices`: of this machine, but where torchrun says how many there are."""
    if not by_torchrun():
        return Together(devices, device, max(1, torch.get_num_threads() // devices))
    if not has_joined():  # else each of them would be a first one
        raise UserError("a script under torchrun can't run a suite: start `torchrun ... -m kdbench run SUITE`")
    return Together(int(os.environ["WORLD_SIZE"]), device, torch.get_num_threads())


def shares_of(plan: Plan, device: torch.device, jobs: int | None) -> Sequence[Share]:
    devices, cores = devices_like(device), torch.get_num_threads()
    most = fitting(plan, cores) if device.type == "cpu" else len(devices)
    count = max(1, min(most if jobs is None else jobs, len(cohorts_of(plan.cells))))
    return [Share(max(1, cores // count), devices[place % len(devices)], count) for place in range(count)]


def devices_like(device: torch.device) -> list[str]:
    """Every GPU, where none was named by its number."""
    if device.type == "cuda" and device.index is None:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(device)]


def fitting(plan: Plan, cores: int) -> int:
    """How many processes have room: each has its data in memory, at most four bytes a number."""
    return min(cores, int(SHARE * psutil.virtual_memory().total / (OWN + largest(plan))))


def largest(plan: Plan) -> float:
    """Bytes of the largest data set, of four bytes a number."""
    sets = {cell.dataset.model_dump_json(): cell.dataset for cell in plan.todo}.values()
    tasks = [plan.shapes.task(dataset) for dataset in sets]
    return max((4.0 * (task.num_train + task.num_test) * numbers(task) for task in tasks), default=0.0)


def numbers(task: Task) -> int:
    """Of one example."""
    return sum(math.prod(field.shape) for field in task.inputs.fields)
