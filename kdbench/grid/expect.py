"""What a run shows the time left by."""

from pathlib import Path

import torch

from kdbench.errors import UserError
from kdbench.grid.estimate import guess
from kdbench.grid.executors import Executor
from kdbench.grid.forecast import Forecast, Piece, forecast, steps_of
from kdbench.grid.on_ray import OnRay
from kdbench.grid.plan import Plan
from kdbench.grid.probe import Say, kept, known, probe
from kdbench.grid.run import using
from kdbench.grid.speeds import conditions, measured

WORTH = 120.0  # seconds of a run (by a guess) from which on it is worth to measure first
MEASURING = (20.0, 0.03)  # seconds, and the share of the run, that measuring may take: the smaller of both


def expected(plan: Plan, device: torch.device, executor: Executor, results: Path, say: Say) -> Forecast:
    """By what was measured earlier of all that it trains; else by steps now, where the run is long; else by a guess."""
    if not plan.todo:
        return Forecast()
    try:
        return weighed(plan, device, executor, results, say)
    except Exception:  # of a net of the user's own, say, whose operations nobody can count: the run is not ended by it
        steps = {
            cohort[0].cohort: sum(c.train.epochs * steps_of(c, plan, c.train.batch_size) for c in cohort)
            for cohort in plan.cohorts
        }
        return Forecast(cohorts={key: Piece(float(count), count) for key, count in steps.items()})


def weighed(plan: Plan, device: torch.device, executor: Executor, results: Path, say: Say) -> Forecast:
    """As `expected`; raises whatever counting and measuring do."""
    with using(executor.threads):
        speed = known(plan, device, measured(results, conditions(device)))
        if speed is None:
            rough = guess(plan, device, executor.count, results)
            if rough.seconds < WORTH or is_elsewhere(executor, device):
                return rough
            allowed = min(MEASURING[0], MEASURING[1] * rough.seconds)
            try:
                speed = kept(probe(plan, device, allowed, executor.count - 1, say), results)
            except UserError:
                return rough
    return forecast(plan, speed, executor.count, results, sure=True)


def is_elsewhere(executor: Executor, device: torch.device) -> bool:
    """Do others train, on devices that this process must not touch?"""
    return isinstance(executor, OnRay) or (device.type != "cpu" and executor.count > 1)
