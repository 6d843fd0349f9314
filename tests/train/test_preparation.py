"""What a method learns from the teacher before the first step (FT's paraphraser): counted, stoppable, and kept."""

from pathlib import Path

import pytest
import torch

from kdbench.data import Splits, load_splits
from kdbench.grid.outcome import Measure
from kdbench.nets import build_net
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite
from kdbench.train.loop import Stopped
from kdbench.train.start import start_trial
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial

CPU = torch.device("cpu")
SUITE = """\
name: preparation
datasets: [digits]
pairs: [{teacher: {model: cifar_resnet8, widths: [4, 4, 8, 8]}, student: {model: cifar_resnet8, widths: [2, 2, 4, 4]}}]
methods: {ft: {ce: 1, ft: {weight: 200, paraphraser_epochs: 2}}, kd: {ce: 1, kd: 1}}
seeds: [0]
train: {epochs: 1, batch_size: 256}
"""


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits("digits", {"size": 8}, Path())


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    (tmp_path / "preparation.yaml").write_text(SUITE)
    return cells_of(load_suite(tmp_path / "preparation.yaml"))


def start(cell: Cell, splits: Splits, **more: object) -> Trial:
    teacher = freeze(build_net(cell.teacher, splits.task, "teacher"), CPU)
    return start_trial(
        cell, build_net(cell.student, splits.task, "student"), splits, teacher, CPU, **{"state": None, **more}
    )


def test_its_time_is_part_of_the_cost(cells: list[Cell], splits: Splits) -> None:
    ft, kd = (start(cell, splits) for cell in cells)
    assert ft.seconds["prepare"] > 0
    assert kd.seconds["prepare"] == 0
    cost = Measure(CPU).cost(ft, 1)
    assert cost["prepare_seconds"] == ft.seconds["prepare"]
    assert cost["alone_seconds"] == pytest.approx(sum(ft.seconds.values()))


def test_it_can_be_stopped_after_any_batch(cells: list[Cell], splits: Splits) -> None:
    calls = []

    def third() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        start(cells[0], splits, between=third)
    assert len(calls) == 3


def test_what_it_learnt_is_part_of_the_state_and_not_learnt_again(cells: list[Cell], splits: Splits) -> None:
    first = start(cells[0], splits)
    state = first.state()
    again = start(cells[0], splits, state=state, between=lambda: pytest.fail("it was prepared again"))
    assert again.seconds["prepare"] == first.seconds["prepare"]
    one, other = (trial.objective.state_dict() for trial in (first, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
