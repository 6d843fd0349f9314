"""The evaluation crop of a pair: a suite's `train.test_crop`, which becomes a setting of the pair's data set.

One decode serves teacher and students, so all of a pair are judged with one crop: a recipe's own, that of the teacher
(`teacher`: what its published accuracy rests on), or that of the student. A data set that says its own keeps it; one
whose examples have one size has no such setting, and takes them whole. A key has the crop as part of the data.
"""

import json
from typing import Any, TypeVar

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.nets import own_crop
from kdbench.suite.models import ModelSpec, TeacherSpec
from kdbench.suite.spec import DatasetSpec
from kdbench.suite.training import Train

Recipe = TypeVar("Recipe", bound=Train)

Judged = tuple[DatasetSpec, TeacherSpec, ModelSpec, Train]

SETTING = "test_crop"


def takes(dataset: str) -> bool:
    """Has the data set such a setting?"""
    return SETTING in DATASETS.form(dataset).model_fields


def cropped(dataset: DatasetSpec, train: Train, teacher: ModelSpec, student: ModelSpec) -> DatasetSpec:
    """The data set as the pair is judged by it. Raises UserError where a net has no crop of its own."""
    if train.test_crop is None or not takes(dataset.name) or dataset.settings[SETTING] is not None:
        return dataset
    how: Any = train.test_crop
    if isinstance(how, str):
        model = (teacher if how == "teacher" else student).model
        how = own_crop(model, dataset.settings["size"])
        if how is None:
            raise UserError(f"test_crop: {model} says no crop of its own; give one, such as {{share: 0.875}}")
    whole = {"name": dataset.name, **(dataset.model_extra or {}), SETTING: how}
    return DatasetSpec.model_validate_json(json.dumps(whole))


def without(train: Recipe) -> Recipe:
    """What is left of it once the data set has it."""
    return train.model_copy(update={SETTING: None}) if train.test_crop is not None else train


def judged(dataset: DatasetSpec, pair: tuple[TeacherSpec, ModelSpec, Train], place: str) -> Judged:
    """Data set, teacher, student and training of a pair. Raises UserError, which names its `place`."""
    teacher, student, train = pair
    try:
        return cropped(dataset, train, teacher, student), teacher, student, without(train)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
