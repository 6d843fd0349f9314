"""`kdbench plan --hours` and `--as`: what a plan takes, from steps measured now or from a rate that is said."""

import io
import re

import pytest
import torch
from rich.console import Console

from kdbench.api import plan
from kdbench.commands.plan import roughly
from kdbench.errors import UserError
from kdbench.grid.executors import Here
from kdbench.grid.expect import expected
from kdbench.grid.forecast import (
    Fleet,
    Forecast,
    Piece,
    Stated,
    check,
    done_after,
    fleet_of,
    forecast,
    seconds_of,
    teachers_of,
)
from kdbench.grid.probe import LONGEST, Probe, count_for, kept, known, name_of, note_row, probe, time_of_row
from kdbench.grid.progress import Bar, clock
from kdbench.grid.speeds import Speeds, conditions, measured
from kdbench.layout import Layout


def test_hours_are_those_of_the_work(suite_file, tmp_path):
    """At a stated rate: 3 forwards for a step, 1 for teacher and evaluation; twice the epochs take twice as long."""
    suites = [suite_file(f"{epochs}.yaml", train={"epochs": epochs, "batch_size": 64}) for epochs in (2, 4)]
    short, long = (plan(path, results=tmp_path, device="cpu") for path in suites)
    speed, [cohort] = Stated(short, 1e12), short.cohorts
    task, macs = short.shapes.task(cohort[0].dataset), short.shapes.macs
    student, teacher = macs(cohort[0].student, cohort[0].dataset), macs(cohort[0].teacher, cohort[0].dataset)
    work = 2 * task.num_train * (teacher + 2 * 3 * student) + 2 * task.num_test * 2 * student
    assert seconds_of(cohort, short, speed) == pytest.approx(2 * work / 1e12)
    assert seconds_of(long.cohorts[0], long, speed) == pytest.approx(4 * work / 1e12)
    [trained] = teachers_of(short, speed, tmp_path).values()
    assert trained == pytest.approx(2 * task.num_train * 2 * 3 * teacher / 1e12)


def test_a_probe_measures_nets_and_rows(suite_file, tmp_path, one_thread):
    made = plan(suite_file(), results=tmp_path, device="cpu")
    found = probe(made, torch.device("cpu"), seconds=300)
    assert found.about == "steps of 2 of 2 nets and 2 of 2 rows, measured just now"
    cell = made.todo[0]
    assert 0 < found.forward(cell.student, cell) < found.step(cell.student, cell) < 0.1
    assert all(0.2 < found.row(cell) < 20 for cell in made.todo)
    hurried = probe(made, torch.device("cpu"), seconds=1e-9)  # a teacher and a student at least
    assert len(hurried.speeds.nets) == 2
    assert hurried.speeds.rows == {}
    assert hurried.row(cell) == 1
    del hurried.speeds.nets[name_of(cell.teacher_net, cell)]  # then by its multiply-adds
    assert hurried.step(cell.teacher, cell) > hurried.step(cell.student, cell) > 0


def test_rows_are_compared_by_an_example(suite_file, tmp_path, monkeypatch):
    """A row that costs more is measured on fewer examples, so that its step takes as long as the student's alone."""
    made = plan(suite_file(), results=tmp_path, device="cpu")
    student, kd = made.todo
    counts = {"student": 8, "kd": 2}
    monkeypatch.setattr("kdbench.grid.probe.time_of", lambda call, device, rounds=3: LONGEST)
    found = Probe(made, torch.device("cpu"), 300)
    for cell in (student, kd):
        monkeypatch.setattr("kdbench.grid.probe.count_for", lambda took, most, count=counts[cell.label]: count)
        if cell is student:
            alone = time_of_row(cell, found, cell.phases)
        note_row(found, cell, alone)
    assert list(found.speeds.rows.values()) == [1.0, 4.0]


def test_a_step_is_as_large_as_half_a_second_allows():
    """Also where a step of four examples takes as long as one of a hundred."""
    for most, took, count in (
        (256, lambda n: 0.1 * n, 5),
        (256, lambda n: 0.02 + 0.001 * n, 256),
        (4096, lambda n: 0.02 + 0.001 * n, 480),
        (2, lambda n: 9.0, 2),
        (64, lambda n: 9.0, 2),
    ):
        assert count_for(took, most) == pytest.approx(count, rel=0.05)


def test_plan_tells_hours(kdbench, suite_file):
    code, out, err = kdbench("plan", suite_file(seeds=[0, 1]), "--as", "4 x 8 gpus at 50 tflops")
    assert code == 0, err
    assert len(re.findall(r" \d\S*e-\d+\n", out)) == 2  # a column with the hours of each cohort
    assert "on 32 gpus; the work is" in out
    assert "at 50 TFLOPS, as you say" in out
    code, out, _ = kdbench("plan", suite_file(), "--hours")
    assert code == 0
    assert "an estimate: " in out
    assert "measured just now" in out


def test_what_can_not_be_told(kdbench, suite_file):
    assert fleet_of("4 X 8 GPUs at 12.5 tflops") == Fleet(32, "gpu", 12.5e12)
    assert fleet_of("1 cpu") == Fleet(1, "cpu")
    for text in ("gpus", "0 gpus", "8 gpus at fast", "8"):
        with pytest.raises(UserError, match="say it like '8 gpus'"):
            fleet_of(text)
    with pytest.raises(UserError, match="say how fast one is, like '8 gpus at 50 tflops'"):
        check(Fleet(8, "gpu"), torch.device("cpu"))
    check(Fleet(8, "cpu"), torch.device("cpu"))
    code, _, err = kdbench("plan", suite_file(), "--as", "8 gpus")
    assert (code, "no gpu is here to be measured" in err) == (2, True)


def test_the_longest_comes_first():
    assert done_after([3, 3, 2, 2, 2], 2) == 7
    assert done_after([5.0], 8) == 5
    assert done_after([], 8) == 0


def test_what_was_measured_is_told_again(suite_file, tmp_path, one_thread):
    """By `plan`, and by the bar of the run, from the results folder; not under other conditions."""
    made, cpu = plan(suite_file(), results=tmp_path, device="cpu"), torch.device("cpu")
    assert known(made, cpu, measured(tmp_path, conditions(cpu))) is None
    first = kept(probe(made, cpu, seconds=300), tmp_path)
    again = known(made, cpu, measured(tmp_path, conditions(cpu)))
    assert forecast(made, again, 1, tmp_path).seconds == pytest.approx(forecast(made, first, 1, tmp_path).seconds)
    assert again.about.startswith("steps of 2 of 2 nets and 2 of 2 rows, measured on 20")
    assert f"roughly {clock(forecast(made, first, 1, tmp_path).seconds)} on cpu" in roughly(made, tmp_path, cpu)
    told = expected(made, cpu, Here(), tmp_path, print)
    assert told.sure
    assert told.seconds == pytest.approx(forecast(made, first, 1, tmp_path).seconds)
    assert measured(tmp_path, "another device") == Speeds()
    Layout(tmp_path).speeds.write_text("{")  # damaged: as if nothing had been measured
    assert not expected(made, cpu, Here(), tmp_path, print).sure


def test_a_teacher_costs_what_it_costs():
    """A tenth of the steps may be half of the time; what an earlier run made says nothing of the pace of this one."""
    whole = Forecast({"t": Piece(100.0, 10)}, {"a": Piece(50.0, 45), "b": Piece(50.0, 45)}, count=2)
    assert whole.seconds == 150
    assert whole.left({"t": 5}) == 100
    assert whole.left({"t": 10, "b": 45}) == 50
    three = Forecast(cohorts={name: Piece(60.0, 6) for name in "abc"}, count=2)
    assert three.left({"a": 3, "b": 3}) == 90  # both are begun, and the third waits for one of them


def test_the_bar_goes_by_the_forecast(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("kdbench.grid.progress.time.monotonic", lambda: now[0])
    bar = Bar(1, Console(file=io.StringIO()))
    bar.expect(Forecast({"t": Piece(100.0, 10)}, {"a": Piece(50.0, 50)}, sure=True))
    bar.advance(1, 64, "t")
    assert bar.left() == "2:20 left"  # measured before, and nothing else is known yet
    for _ in range(9):  # twice as slow as it was measured: 90 predicted seconds took 180
        now[0] += 20.0
        bar.advance(1, 64, "t")
    assert bar.left() == "1:34 left"  # 50 s at a pace of (160 + 10) / (80 + 10): the first 20 s were its warm-up
    bar.passed(25, "a")
    assert bar.left() == "0:25 left"
    bar.expect(Forecast({}, {"a": Piece(50.0, 50, after=6.0)}, start=12.0, sure=True))
    bar.advance(50, 64, "a")
    assert bar.left() == "0:12 left"  # no step is left, but latencies, records, tables and MLflow are
