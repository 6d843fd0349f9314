"""What a record says of itself must fit together; what does not is told in words. Nothing is computed anew."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from kdbench.method.metric import OF_NUMBERS, metric_named, metric_of
from kdbench.results.numbers import NUMBERS_OF, unpacked_numbers
from kdbench.results.outcomes import OUTCOMES, Outcomes, unpacked
from kdbench.results.schema import DIGESTS, Record
from kdbench.results.seal import is_intact

CLOSE = 1e-6  # points: sums in another order
CLOSE_CLASS = 0.01  # points: those of single classes are rounded


def contradictions(record: Record) -> list[str]:
    """What is wrong with a record that is done; empty when all fits."""
    found = ["its seal is broken: it was changed after it was written"] if is_intact(record) is False else []
    return [*found, *(_curves(record) if has_curve(record) else []), *_outcomes(record)]


def is_trained(record: Record) -> bool:
    """Is its student as its training left it, not converted, and not one that learnt other data before?"""
    return "delivered" not in record and not {"then", "adapts"} & record["settings"].keys()


def has_curve(record: Record) -> bool:
    """Is its score that of its training's last epoch? One that a probe gives is of the end alone."""
    return is_trained(record) and not (record["settings"].get("evaluate") or {}).get("probe")


def is_evaluated(record: Record) -> bool:
    """Can its scores be found again from what lies beside it, a student's weights or a delivered file, and the data?"""
    return is_trained(record) or ("adapts" not in record["settings"] and bool(record.get("delivered")))


def _curves(record: Record) -> Iterator[str]:
    """The scores are ends and extremes of curves, one value for each epoch."""
    untrained = record["settings"].get("train", {}).get("epochs") == 0
    if untrained or record.get("delivered"):  # then its scores are of the file that became of the student
        return
    metric, scores, curves = metric_of(record), record["scores"], record.get("curves") or {}
    epochs = record["settings"].get("train", {}).get("epochs")
    lengths = {name: len(curve) for name, curve in curves.items() if name.startswith(("test_", "validation_"))}
    yield from (f"{name} has {n} values for {epochs} epochs" for name, n in lengths.items() if n != epochs)
    curve, held_out = curves.get(metric.test) or [], curves.get(metric.validation) or []
    if not curve or None in curve or None in held_out:
        yield f"it has no whole curve of {metric.test}"
        return
    told = {metric.test: curve[-1], metric.best: max(curve)}
    if len(held_out) == len(curve):
        epoch = held_out.index(max(held_out))
        told |= {metric.chosen: curve[epoch], metric.validation: held_out[epoch], "chosen_epoch": epoch + 1}
    yield from _differences(scores, told, "by its curves")


def _outcomes(record: Record) -> Iterator[str]:
    """The scores are shares of the classes that it gave the test examples."""
    states = (record.get(DIGESTS) or {}).get("states") or []
    if states and len(states) != record["settings"].get("train", {}).get("epochs", 0) + 1:
        yield f"it has {len(states)} digests of states, one more than epochs are needed"
    if NUMBERS_OF in record:
        yield from _numbers(record)
    if OUTCOMES not in record:
        return
    outcomes = unpacked(record[OUTCOMES])
    if outcomes is None:
        yield "its outcomes are damaged"
        return
    told = {"test_top1": 100 * outcomes.right.mean()}
    told |= {"teacher_agreement": 100 * (outcomes.predicted == outcomes.teacher).mean()}
    told |= {"teacher_top1": 100 * (outcomes.teacher == outcomes.target).mean()}
    metric = metric_of(record)
    if metric.of is not None:
        told[metric.test] = metric.of(torch.from_numpy(outcomes.predicted), torch.from_numpy(outcomes.target))
    known = {name: value for name, value in told.items() if record["scores"].get(name) is not None}
    yield from _differences(record["scores"], known, "by its outcomes")
    if record.get("num_test") not in (None, count := len(outcomes.target)):
        yield f"it has outcomes of {count} test examples, and says {record.get('num_test')}"
    yield from _classes(record, outcomes)


def _classes(record: Record, outcomes: Outcomes) -> Iterator[str]:
    """The accuracy on each class is the share of its examples that were right."""
    for number, said in enumerate(record.get("test_top1_per_class") or ()):
        if said is not None and (own := outcomes.target == number).any():
            found = 100 * float(outcomes.right[own].mean())
            if not math.isclose(said, found, rel_tol=0, abs_tol=CLOSE_CLASS):
                yield f"its accuracy on class {number} is {_shown(said)}, but {_shown(found)} by its outcomes"
                return


def _numbers(record: Record) -> Iterator[str]:
    """The scores are those of the numbers that it gave the test examples, its teacher's of the teacher's."""
    numbers = unpacked_numbers(record[NUMBERS_OF])
    if numbers is None:
        yield "its numbers are damaged"
        return
    predicted, teacher, target = map(torch.from_numpy, (numbers.predicted, numbers.teacher, numbers.target))
    metric = metric_of(record)
    told = {f"test_{one.name}": one.of(predicted, target) for one in (*map(metric_named, OF_NUMBERS), metric) if one.of}
    told |= {metric.teacher: metric.of(teacher, target)} if metric.of else {}
    told["test_rmse"] = float((predicted.double() - target.double()).square().mean().sqrt())
    yield from _differences(record["scores"], told, "by its numbers")


def _differences(scores: dict[str, Any], told: dict[str, float], where: str) -> Iterator[str]:
    for name, value in told.items():
        said = scores.get(name)
        if said is None or not math.isclose(said, value, rel_tol=0, abs_tol=CLOSE):
            yield f"{name} is {_shown(said)}, but {_shown(value)} {where}"


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:.6g}"
