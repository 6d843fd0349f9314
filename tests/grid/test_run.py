"""A suite from file to leaderboard, as a user runs it."""

import json
import shutil
import textwrap

import mlflow
import pandas as pd
import pytest
import torch
from conftest import TINY

import kdbench as package

MINE = """
import torch
from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Positive


@register_method("mine", needs="logits", paper="https://example.org", year=2026, family="logits")
class Mine(Method):
    \"\"\"Mean absolute difference of the logits.\"\"\"

    def __init__(self, power: Positive = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, torch.Tensor]:
        return {"mine": (student.logits - teacher.logits).abs().pow(self.power).mean()}
"""


@pytest.fixture
def records(tmp_path):
    def read(suite="tiny", results="results"):
        paths = (tmp_path / results / suite / "records").glob("*.json")
        return {(r["label"], r["seed"]): r for r in map(json.loads, (path.read_bytes() for path in paths))}

    return read


def numbers(record):
    return {k: record[k] for k in ("key", "scores", "curves", "status")}


def test_from_suite_to_leaderboard(kdbench, suite_file, records, tmp_path):
    suite = suite_file(validation=0.1, seeds=[0, 1])
    code, out, err = kdbench("run", suite)
    assert code == 0, err
    assert "| student" in out
    assert "| kd" in out
    found = records()
    assert set(found) == {("student", 0), ("student", 1), ("kd", 0), ("kd", 1)}
    for record in found.values():
        check_record(record)
    folder = tmp_path / "results" / "tiny"
    assert "kd" in (folder / "leaderboard.md").read_text()
    assert len(pd.read_csv(folder / "leaderboard.csv")) == 2
    assert len(list((folder / "students").glob("*.safetensors"))) == 4
    assert not (folder / "checkpoints").exists()
    before = {path: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}
    code, out, err = kdbench("run", suite)
    assert code == 0
    assert "4 done; nothing to train" in err
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}


def check_record(record):
    top = "key suite dataset teacher student label seed status reason scores profile cost settings versions"
    assert set(top.split()) <= set(record)
    scores = "test_top1 test_top1_best test_top1_chosen test_top5 test_nll test_ece teacher_agreement teacher_top1"
    assert set(scores.split()) <= set(record["scores"])
    assert all(isinstance(value, int | float) for value in record["scores"].values())
    assert 1 < record["scores"]["test_top1"] <= 100
    assert record["scores"]["test_top1"] <= record["scores"]["test_top1_best"] <= record["scores"]["test_top5"] + 100
    assert record["profile"]["student"]["params"] < record["profile"]["teacher"]["params"]
    assert record["profile"]["student"]["flops"] == 2 * record["profile"]["student"]["macs"]
    assert record["profile"]["student"]["cpu_ms_b1"] > 0
    assert record["cost"]["step_ms"] > 0
    assert len(record["curves"]["test_top1"]) == 2
    assert record["curves"]["test_top1"][-1] == record["scores"]["test_top1"]
    assert record["versions"]["torch"]
    assert record["settings"]["objective"]


def test_two_fresh_runs_give_the_same_digits(kdbench, suite_file, records, tmp_path):
    suite = suite_file()
    for folder in ("one", "two"):
        assert kdbench("run", suite, results=tmp_path / folder)[0] == 0
    one, two = records(results="one"), records(results="two")
    assert {k: numbers(r) for k, r in one.items()} == {k: numbers(r) for k, r in two.items()}


def test_only_what_is_new_is_trained(kdbench, suite_file):
    def todo(**changes):
        code, _, err = kdbench("run", suite_file(**changes))
        assert code == 0
        head = err.splitlines()[0]
        return int(head.split(" to train")[0].split()[-1]) if "to train" in head and "nothing" not in head else 0

    assert todo() == 2
    renamed = {"plain": {"ce": 1}, "kd": TINY["methods"]["kd"]}
    assert todo(methods=renamed) == 0
    assert todo(methods={**renamed, "kd": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 2}}}) == 1
    assert todo(methods=renamed, seeds=[0, 1]) == 2
    assert todo(methods={**renamed, "at": {"ce": 1, "at": 1}}) == 1


def test_a_renamed_row_stands_under_its_new_name(kdbench, suite_file):
    kdbench("run", suite_file())
    out = kdbench("leaderboard", suite_file(methods={"plain": {"ce": 1}, "hinton": TINY["methods"]["kd"]}))[1]
    assert "plain" in out
    assert "hinton" in out


@pytest.mark.parametrize("door", ["plugins", "--plugin"])
def test_a_method_of_the_users_own(kdbench, suite_file, records, tmp_path, door):
    plugin = tmp_path / f"my_method_{door.strip('-')}.py"
    plugin.write_text(MINE.replace('"mine"', f'"mine_{door.strip("-")}"'))
    name = f"mine_{door.strip('-')}"
    rows = {"student": {"ce": 1}, "mine": {"ce": 1, name: {"weight": 0.5, "power": 2}}}
    if door == "plugins":
        suite = suite_file(methods=rows, plugins=[plugin.name])
        code, out, _ = kdbench("run", suite)
    else:
        suite = suite_file(methods=rows)
        assert name in kdbench("list", "methods", "--plugin", plugin)[1]
        code, out, _ = kdbench("run", suite, "--plugin", plugin)
    assert code == 0
    assert "| mine" in out
    assert records()["mine", 0]["versions"]["method_files"][name] != "unknown"
    assert f"loss/{name}" in records()["mine", 0]["curves"]


def test_a_broken_plugin_is_one_line(kdbench, suite_file, tmp_path):
    plugin = tmp_path / "broken_plugin.py"
    plugin.write_text("import nowhere_to_be_found")
    code, _, err = kdbench("run", suite_file(), "--plugin", plugin)
    assert code == 2
    assert err.strip() == f"plugin {plugin}: ModuleNotFoundError: No module named 'nowhere_to_be_found'"


def test_what_does_not_apply_is_skipped_and_said(kdbench, suite_file, records):
    rows = {"student": {"ce": 1}, "plain-fitnet": {"ce": 1, "fitnet": {"weight": 1, "adapter": "none"}}}
    suite = suite_file(methods=rows)
    assert "does not apply" in kdbench("plan", suite)[1]
    code, out, _ = kdbench("run", suite)
    assert code == 0
    assert "skipped: fitnet needs equal channels; student has 4, teacher 8" in out
    record = records()["plain-fitnet", 0]
    assert (record["status"], record["reason"]) == ("skipped", "fitnet needs equal channels; student has 4, teacher 8")


def test_a_diverged_cell_is_a_result(kdbench, suite_file, records):
    rows = {"student": {"ce": 1}, "wild": {"ce": {"weight": 1e30}}}
    code, out, _ = kdbench("run", suite_file(methods=rows))
    assert code == 1
    assert "wild: 1 of 1 cell diverged" in out
    assert records()["wild", 0]["status"] == "diverged"
    assert records()["wild", 0]["reason"].startswith("loss/ce was ")
    assert records()["wild", 0]["reason"].endswith(" in epoch 1")
    assert records()["student", 0]["status"] == "done"
    assert "nan" not in out.lower().replace("was nan in epoch", "")  # the reason may say so, no number of the table
    assert kdbench("run", suite_file(methods=rows))[0] == 1  # not tried again, but not forgotten


def test_a_damaged_record_is_done_again(kdbench, suite_file, records, tmp_path):
    suite = suite_file()
    kdbench("run", suite)
    whole = records()
    path = tmp_path / "results" / "tiny" / "records" / f"{whole['kd', 0]['key']}.json"
    path.write_text(path.read_text()[:100])
    code, _, err = kdbench("run", suite)
    assert code == 0
    assert "can't be read" in err
    assert numbers(records()["kd", 0]) == numbers(whole["kd", 0])


def test_a_damaged_teacher_is_made_again(kdbench, suite_file, records, tmp_path):
    kdbench("run", suite_file())
    [weights] = (tmp_path / "results" / "teachers").glob("*.safetensors")
    before = weights.read_bytes()
    weights.write_bytes(before[:1000])
    assert kdbench("run", suite_file(seeds=[0, 1]))[0] == 0
    assert weights.read_bytes() == before


def test_only_some_cells(kdbench, suite_file, records):
    assert kdbench("run", suite_file(seeds=[0, 1]), "--only", "kd")[0] == 0
    assert set(records()) == {("kd", 0), ("kd", 1)}
    code, _, err = kdbench("run", suite_file(), "--only", "nothing")
    assert code == 2
    assert "rows are: student, kd" in err


def test_extends(kdbench, suite_file, tmp_path, records):
    suite_file()
    child = tmp_path / "child.yaml"
    child.write_text("extends: suite.yaml\nname: child\nmethods: {kd: null, at: {ce: 1, at: 1}}\ntrain: {epochs: 1}\n")
    assert kdbench("run", child)[0] == 0
    assert set(records("child")) == {("student", 0), ("at", 0)}
    assert len(records("child")["at", 0]["curves"]["test_top1"]) == 1
    child.write_text(
        textwrap.dedent("""\
        extends: suite.yaml
        name: child
        train: {epochs: -1}
    """)
    )
    assert kdbench("plan", child)[2].strip() == f"{child}:3: train.epochs: should be greater than or equal to 1, not -1"


def test_from_python(suite_file, tmp_path, quick_profile):
    table = package.run(suite_file(), results=tmp_path / "results", device="cpu")
    assert list(table["objective"]) == ["student", "kd"]
    assert package.plan(suite_file(), results=tmp_path / "results").num_done == 2
    with pytest.raises(package.UserError, match="unknown method"):
        package.run(suite_file(methods={"x": {"nope": 1}}), results=tmp_path / "results")


def test_mlflow_mirrors_the_records(kdbench, suite_file, records, tmp_path):
    kdbench("run", suite_file())
    uri = f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}"
    check_mirror(uri, records())
    code, out, _ = kdbench("sync", suite_file())
    assert code == 0
    assert "2 cells, 0 written, 2 were there" in out


def check_mirror(uri, records):
    client = mlflow.MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = {r.data.tags["kdbench.key"]: r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {r["key"] for r in records.values()} | {"summary:tiny"}
    for record in records.values():
        run = runs[record["key"]]
        assert run.info.status == "FINISHED"
        curve = client.get_metric_history(run.info.run_id, "curves/test_top1")
        assert [m.value for m in sorted(curve, key=lambda m: m.step)] == record["curves"]["test_top1"]
        assert run.data.metrics["final/test_top1"] == record["scores"]["test_top1"]
        names = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"record.json", f"{record['key']}.safetensors"} <= names
    summary = runs["summary:tiny"].info.run_id
    assert "leaderboard.md" in {item.path for item in client.list_artifacts(summary)}


def test_without_mlflow_the_run_goes_on_and_sync_completes_it(kdbench, suite_file, records, tmp_path):
    nowhere = "http://127.0.0.1:9"
    code, _, err = kdbench("run", suite_file(), "--tracking-uri", nowhere)
    assert code == 0
    assert "training goes on" in err
    assert len(records()) == 2
    uri = f"sqlite:///{tmp_path / 'later.db'}"
    code, out, _ = kdbench("sync", suite_file(), "--tracking-uri", uri)
    assert "2 written" in out
    assert "0 written" in kdbench("sync", suite_file(), "--tracking-uri", uri)[1]
    check_mirror(uri, records())


@pytest.mark.long
def test_a_cohort_that_does_not_fit_goes_on_in_parts(kdbench, suite_file, records, tmp_path, monkeypatch):
    """Same numbers, whether memory is ample, short from the second member on, or runs out in a step."""
    rows = {"student": {"ce": 1}, "kd": {"ce": 0.1, "kd": 0.9}, "sp": {"ce": 1, "sp": 100}}
    assert kdbench("run", suite_file(methods=rows))[0] == 0
    ample = {place: numbers(record) for place, record in records().items()}
    sizes = {record["cost"]["cohort_size"] for record in records().values()}
    assert sizes == {3}
    for case in ("short", "runs out"):
        monkeypatch.undo()
        monkeypatch.setattr("kdbench.grid.outcome.Measure.profile_seconds", 0.0)
        monkeypatch.setattr("kdbench.report.plots.write_plots", lambda *a: [])
        if case == "short":
            monkeypatch.setattr("kdbench.grid.cohort.free_memory", lambda device: 0.1)
        else:
            runs_out_with_several(monkeypatch)
        shutil.rmtree(tmp_path / "results" / "tiny")
        code, _, err = kdbench("run", suite_file(methods=rows))
        assert code == 0
        assert "memory" in err
        assert {place: numbers(record) for place, record in records().items()} == ample
        assert {record["cost"]["cohort_size"] for record in records().values()} == {1}


def runs_out_with_several(monkeypatch):
    from kdbench.train import loop as training

    step = training.lock_step

    def short(cohort, members, *arguments):
        if len(members) > 1:
            raise training.OutOfMemory
        step(cohort, members, *arguments)

    monkeypatch.setattr(training, "lock_step", short)


def test_weights_that_do_not_fit_are_found_before_anything_starts(kdbench, suite_file, tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "small.pth")
    pair = {"teacher": {**TINY["pairs"][0]["teacher"], "checkpoint": "small.pth"}, "student": "cifar_resnet8"}
    path = suite_file(pairs=[pair])
    code, _, err = kdbench("run", path)
    assert code == 2
    assert err.startswith(f"{path}:5: pairs[0]: teacher of ")
    assert "small.pth lacks bn1.bias, bn1.num_batches_tracked" not in err
    assert "small.pth lacks bn1.bias" in err
    assert "of the model's" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_machine_that_does_not_repeat_itself_is_told(kdbench, suite_file, tmp_path, monkeypatch):
    """Once a cohort, and in every record."""
    from kdbench.train import repeat

    monkeypatch.setattr(repeat, "same_bits", lambda one, other: False)
    _, _, err = kdbench("run", suite_file())
    assert " ".join(err.split()).count(repeat.UNREPEATABLE) == 1
    found = [json.loads(path.read_text()) for path in (tmp_path / "results" / "tiny" / "records").glob("*.json")]
    assert found
    assert not any(record["repeatable"] for record in found)
