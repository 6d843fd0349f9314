"""Can every batch of an epoch be cut as `norm_parts` asks, the last one too? Asked before anything is trained."""

import math
from collections.abc import Callable, Iterator

from kdbench.errors import UserError
from kdbench.method.contract import Task
from kdbench.suite.cells import Cell
from kdbench.suite.spec import DatasetSpec, Train
from kdbench.train.whole_batch import parts_of


def parts_problems(cell: Cell, task_of: Callable[[DatasetSpec], Task]) -> Iterator[str]:
    """A line for each recipe that asks for too many parts; none where the data can't be had (the run tells that)."""
    asked = [("student", cell.train)]
    asked += [("teacher", link.teacher_train) for link in cell.lineage if link.teacher_is_trained]
    for role, recipe in asked:
        if recipe.norm_parts and recipe.epochs:
            try:
                num_train = task_of(cell.dataset).num_train
                parts_of(last_batch(num_train, cell.validation, recipe), recipe.norm_parts)
            except ValueError as error:
                yield f"{role}: {error}, and the last batch of an epoch is of so many; choose another batch_size"
            except UserError:
                raise
            except Exception:
                return


def last_batch(num_train: int, validation: float, recipe: Train) -> int:
    """Of how many examples it is; one by itself is left out, as `steps_per_epoch` has it."""
    left = (num_train - math.ceil(validation * num_train)) % recipe.batch_size
    return left if left > 1 else recipe.batch_size
