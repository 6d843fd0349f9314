"""Nets that learn numbers: what data sets and methods say, what the loop does, what records, tables and files tell."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import pearsonr, spearmanr

from kdbench import load_deployed, load_student
from kdbench.data import DATASETS, InMemory, Splits, hold_out, load_splits, task_of
from kdbench.errors import UserError
from kdbench.grid.plan import make_plan
from kdbench.method.contract import Batch, Inapplicable, Method, Outputs
from kdbench.method.metric import METRICS, metric_for, metric_of
from kdbench.method.register import METHODS, register_method
from kdbench.nets import Net, PlainNet, build_net
from kdbench.results.card import card
from kdbench.results.numbers import Numbers, packed_numbers, unpacked_numbers
from kdbench.suite.cells import cells_of
from kdbench.suite.load import Train, load_suite, objective
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.suite.steps import steps_of
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.objective import built_objective
from kdbench.train.start import training_task
from kdbench.train.teacher import freeze
from kdbench.train.transforms import examples, stand_ins, transformed
from kdbench.train.trial import Trial
from kdbench.train.unread import Unknown, hidden, labelled_rows, lacks_some
from kdbench.verify.claims import contradictions

load_methods()
pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")
TEACHER = {"model": "bert", "layers": 2, "width": 16, "heads": 2}
STUDENT = {**TEACHER, "width": 8}
RECIPE = {"epochs": 6, "batch_size": 16, "optimizer": "adamw", "lr": 0.01, "augment": "none"}
WORDS = ("bright warm kind good", "dark cold rude bad")
ROWS: dict[str, Any] = {
    "student": {"mse": 1},
    "taught": {"mse": 0.5, "teacher_mse": 0.5},
    "features": {"mse": 1, "hidden_cosine": 1, "crd": {"negatives": 8}},
}


def table(count: int, seed: int) -> pd.DataFrame:
    """Eight words each; the number is how many more of them are good than bad, a quarter each."""
    draw = np.random.default_rng(seed)
    choices = [words.split() for words in WORDS]
    good = [draw.random(8) < draw.random() for _ in range(count)]
    texts = [" ".join(draw.choice(choices[int(not g)]) for g in one) for one in good]
    return pd.DataFrame({"text": texts, "score": [(2 * one.sum() - 8) / 4 for one in good]})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "texts").mkdir()
    table(160, 0).to_csv(folder / "texts" / "train.csv", index=False)
    table(60, 1).to_csv(folder / "texts" / "val.csv", index=False)
    return folder


DATA = {"path": "texts", "label": "score", "targets": "numbers", "vocabulary": 300, "length": 16}


def settings(**changes: Any) -> dict[str, Any]:
    found, wrong = DATASETS.settings("text_folder", {**DATA, **changes})
    assert not wrong
    return found


@pytest.fixture(scope="module")
def splits(root: Path) -> Splits:
    return load_splits("text_folder", settings(), root, 0.1)


@pytest.fixture(scope="module")
def teacher(splits: Splits) -> Net:
    return freeze(build_net(ModelSpec(**TEACHER), splits.task, "teacher", 0), CPU)


# --- data ---


def test_a_table_s_numbers_are_its_targets(root: Path, splits: Splits) -> None:
    assert splits.test.targets.dtype == torch.float32
    assert splits.test.targets.tolist() == table(60, 1)["score"].tolist()
    assert (splits.num_classes, splits.classes, splits.metric, splits.task.kind) == (1, (), "pearson", "numbers")
    whole = load_splits("text_folder", settings(), root)
    assert task_of("text_folder", settings(), root) == whole.task
    unread = task_of("text_folder", settings(path="elsewhere", metric="spearman"), root)
    assert (unread.kind, unread.num_classes, unread.metric) == ("numbers", 1, "spearman")
    assert build_net(ModelSpec(**TEACHER), splits.task)(splits.task.inputs.random(3, CPU)).logits.shape == (3, 1)


def test_some_are_held_out_without_classes(root: Path) -> None:
    whole = load_splits("text_folder", settings(), root)
    first, again = hold_out(whole, 0.25), hold_out(whole, 0.25)
    assert (len(first.train), len(first.validation)) == (120, 40)
    assert first.validation.targets.equal(again.validation.targets)
    both = torch.cat([first.train.targets, first.validation.targets])
    assert sorted(both.tolist()) == sorted(whole.train.targets.tolist())


@pytest.mark.parametrize(
    ("numbers", "changes", "text"),
    [
        ([1, 2, "many"], {}, r"train.csv: row 3: 'score' says 'many', no number \(`targets: numbers`\)"),
        ([1, 2, "inf"], {}, "row 3: 'score' says 'inf'"),
        ([1, "1e400", 3], {}, "train.csv: row 2: 'score' says '1e400', no number"),
        ([2, 2, 2], {}, "column 'score' has one value, 2: nothing to learn"),
        ([90000, 250000, 140000], {}, "mean of 160000 and a deviation of .*bring both below 100"),
        ([1, 2, 3], {"classes": ("1", "2", "3")}, "`targets: numbers` have no `classes`"),
        ([1, 2, 3], {"metric": "top1"}, "top1 is of classes; these data have numbers, .* pearson, r2, spearman"),
    ],
)
def test_numbers_that_can_t_be_learnt_are_told(
    tmp_path: Path, numbers: list[Any], changes: dict[str, Any], text: str
) -> None:
    (tmp_path / "texts").mkdir()
    for part in ("train", "val"):
        rows = {"text": ["good", "bad", "fine"], "score": numbers}
        pd.DataFrame(rows).to_csv(tmp_path / "texts" / f"{part}.csv", index=False)
    with pytest.raises(UserError, match=text):
        load_splits("text_folder", settings(**changes), tmp_path)
    with pytest.raises(UserError, match=text):
        task_of("text_folder", settings(**changes), tmp_path)


def test_any_data_set_may_have_numbers() -> None:
    part = InMemory(torch.rand(20, 3), torch.rand(20))
    made = Splits(part, part, 1, metric="r2")
    assert (made.task.kind, made.judged_by.words) == ("numbers", "explained variance of numbers times 100")
    with pytest.raises(UserError, match="metric top1 is of classes"):
        Splits(part, part, 1)
    with pytest.raises(UserError, match="num_classes must be 1"):
        Splits(part, part, 2, metric="r2")
    for wrong in (part.targets.double(), part.targets[:, None], torch.arange(20)):
        with pytest.raises(UserError, match=r"must be float32 of shape \[N\]; those of training are not"):
            Splits(replace(part, targets=wrong), part, 1, metric="r2")
    lacking = replace(part, targets=torch.where(torch.arange(20) < 4, torch.nan, part.targets))
    held = hold_out(Splits(lacking, part, 1, metric="r2"), 0.25)
    assert int(held.train.targets.isnan().sum()) == 4, "those without a number stay"
    assert labelled_rows(next(lacking.in_order(6))).tolist() == [4, 5]
    assert lacks_some(lacking.targets)
    assert not lacks_some(part.targets - 1), "a number may be below 0"


def test_r2_worked_by_hand() -> None:
    of = METRICS["r2"].of
    assert of is not None
    true = torch.tensor([0.0, 1.0, 2.0, 5.0])  # mean 2, squares 4 + 1 + 0 + 9
    assert of(torch.tensor([0.0, 2.0, 2.0, 3.0]), true) == pytest.approx(100 * (1 - 5 / 14))
    assert of(torch.full((4,), 2.0), true) == pytest.approx(0)
    assert of(true.flip(0), true) < 0
    assert of(true, torch.ones(4)) == 0
    assert metric_for("pearson", (), 1, "numbers").words == "Pearson's correlation of numbers times 100"
    assert metric_of({"metric": "pearson", "kind": "numbers", "num_classes": 1}).of is METRICS["pearson"].of


def test_packed_numbers_come_back_to_the_bit() -> None:
    parts = [np.random.default_rng(k).standard_normal(50).astype(np.float32) for k in range(3)]
    back = unpacked_numbers(json.loads(json.dumps(packed_numbers(Numbers(*parts)))))
    assert back is not None
    for name, part in zip(("predicted", "teacher", "target"), parts, strict=True):
        assert np.array_equal(getattr(back, name), part)
    assert unpacked_numbers({"predicted": "x"}) is None
    assert unpacked_numbers(packed_numbers(Numbers(parts[0], parts[1], parts[2][:-1]))) is None


def test_a_head_of_one_output_is_taken_as_it_is(tmp_path: Path, splits: Splits) -> None:
    """A teacher that was fine-tuned elsewhere; one of several classes begins with a new head."""
    task = replace(splits.task, inputs=replace(splits.task.inputs, made_by=()))  # no tokenizer to compare
    for count in (1, 3):
        made = build_net(ModelSpec(**TEACHER), replace(task, num_classes=count), "elsewhere")
        made.model.save_pretrained(tmp_path / str(count))
    one, three = ({"model": "bert", "weights": str(tmp_path / str(count))} for count in (1, 3))
    theirs = build_net(ModelSpec(**TEACHER), task, "elsewhere").model.classifier.weight
    assert build_net(ModelSpec(**one), task, 0).model.classifier.weight.equal(theirs)
    assert not build_net(ModelSpec(**one, labels="new"), task, 0).model.classifier.weight.equal(theirs)
    assert build_net(ModelSpec(**three), task, 0).model.classifier.weight.shape == (1, 16)
    with pytest.raises(UserError, match="these data have numbers, which have no `labels`"):
        build_net(ModelSpec(**one, labels=("a",)), task, 0)


# --- methods ---


def verdict(name: str, splits: Splits, teacher: Net, **changes: Any) -> str:
    student = build_net(ModelSpec(**STUDENT), splits.task, "student", 0)
    task = training_task(splits.task, Train(**RECIPE), splits.train.targets)
    try:
        built_objective(objective({name: {"weight": 1.0, **changes}}), student, teacher, task, CPU, 0)
    except Inapplicable as reason:
        return str(reason)
    return ""


APPLY = {
    *("mse", "teacher_mse", "bounded"),
    *("rkd", "pkt", "cc", "crd", "srd", "itrd"),  # embeddings and their relations
    *("sp", "hidden", "hidden_cosine", "embedding_layer", "attn", "attention_scores", "value_relations", "patient"),
}


def test_which_methods_apply(splits: Splits, teacher: Net) -> None:
    found = {name: verdict(name, splits, teacher) for name in METHODS}
    assert {name for name, why in found.items() if not why} == APPLY
    assert found["kd"] == "kd needs logits of classes; these data have numbers"
    assert found["ce"] == "ce needs labels of classes; these data have numbers"
    assert found["nd"] == "nd needs classes to count; these data have numbers"
    assert found["dml"] == "dml needs logits of classes; these data have numbers"
    assert found["at"].startswith("at needs feature maps [B, C, H, W]")
    why = verdict("teacher_mse", splits, teacher, standardise="sample")
    assert why == "teacher_mse can't be standardised: that needs logits of classes; these data have numbers"


def test_of_classes_the_losses_of_numbers_say_so() -> None:
    part = InMemory(torch.rand(20, 3), torch.arange(20) % 2)
    splits = Splits(part, part, 2)
    nets = [PlainNet(torch.nn.Linear(3, 2)) for _ in range(2)]
    with pytest.raises(Inapplicable, match="mse needs targets that are numbers; these data have classes"):
        built_objective(objective({"mse": 1.0}), *nets, splits.task, CPU, 0)


def test_a_newcomer_s_method_needs_no_word_about_numbers(splits: Splits, teacher: Net) -> None:
    """On embeddings it applies; if it reads labels after all it is told, and not given a number for a class."""

    @register_method("newcomer", needs="embedding")
    class Newcomer(Method):
        def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, torch.Tensor]:
            return {"newcomer": student.embedding.square().mean() * batch.target.float().mean()}

    assert not verdict("newcomer", splits, teacher)
    student = build_net(ModelSpec(**STUDENT), splits.task, "student", 0)
    task = training_task(splits.task, Train(**RECIPE), splits.train.targets)
    built = built_objective(objective({"mse": 1.0, "newcomer": 1.0}), student, teacher, task, CPU, 0)
    batch = next(splits.test.in_order(4))
    said = student(batch.inputs, ("logits", "embedding"))
    with pytest.raises(Inapplicable, match="reads labels; these data have numbers, and it does not say that it is for"):
        built(said, said, batch)
    with pytest.raises(UserError, match="unknown kind 'number'; did you mean 'numbers'"):
        register_method("other", kinds="number")
    assert hidden(batch.target, Unknown).shape == (4,)


@pytest.mark.parametrize("change", [{"label_smoothing": 0.1}])
def test_labels_of_classes_are_refused_in_words(splits: Splits, change: dict[str, Any]) -> None:
    train = Train(**{**RECIPE, **change})
    with pytest.raises(Inapplicable, match="label_smoothing needs classes; these data have numbers"):
        training_task(splits.task, train, splits.train.targets)


def test_a_teacher_that_can_t_learn_so_is_told_by_plan(tmp_path: Path, root: Path, suite: dict[str, Any]) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({**suite, "teacher_train": {"label_smoothing": 0.1}}), encoding="utf-8")
    plan = make_plan(cells_of(load_suite(path), data_dir=root), tmp_path / "results", root)
    assert not plan.todo
    told = "teacher_train.label_smoothing needs classes; these data have numbers"
    assert {plan.inapplicable[cell.key] for cell in plan.cells if cell.label != "kd"} == {told}


def test_a_number_far_too_large_to_judge_by_is_told(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for part, last in (("train", "3"), ("val", "1e39")):  # beyond float32
        rows = {"text": ["good", "bad", "fine"], "score": ["1", "2", last]}
        pd.DataFrame(rows).to_csv(tmp_path / "texts" / f"{part}.csv", index=False)
    with pytest.raises(UserError, match=r"val.csv: row 3: 'score' says '1e39', no number"):
        load_splits("text_folder", settings(), tmp_path)


def test_a_transform_that_reads_labels_is_given_no_numbers() -> None:
    """Cross-entropy of one logit is 0 whatever the net: of its gradients nothing could be told."""
    part = InMemory(torch.rand(20, 3), torch.rand(20))
    for batches in (examples(part, 0), stand_ins(part.inputs, 1, "numbers")):
        model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        steps = steps_of([{"prune": {"importance": "taylor"}}])
        with pytest.raises(Inapplicable, match="prune reads labels; these data have numbers"):
            transformed(PlainNet(model), steps, part.inputs, batches)


# --- the loop ---


def trial(row: str, splits: Splits, teacher: Net) -> Trial:
    net, train = build_net(ModelSpec(**STUDENT), splits.task, "student", 0), Train(**{**RECIPE, "epochs": 2})
    task = training_task(splits.task, train, splits.train.targets)
    return Trial(net, built_objective(objective(ROWS[row]), net, teacher, task, CPU, 0), train, CPU, 0)


def test_neither_a_cohort_nor_an_interruption_changes_anything(splits: Splits, teacher: Net) -> None:
    batches = Train(**{**RECIPE, "epochs": 2}).batches
    members = {row: trial(row, splits, teacher) for row in ROWS}
    train_cohort(Cohort(teacher, splits, batches, 0), list(members.values()))
    steps, first = iter(range(100)), trial("features", splits, teacher)
    assert not train_cohort(Cohort(teacher, splits, batches, 0, Hooks(stop=lambda: next(steps) == 12)), [first])
    again = trial("features", splits, teacher)
    again.load_state(first.state())
    train_cohort(Cohort(teacher, splits, batches, 0), [again])
    mine, theirs = again.state()["net"], members["features"].state()["net"]
    assert again.status == members["features"].status == "done", again.reason
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert again.curves == members["features"].curves
    assert {"test_pearson", "test_spearman", "test_r2", "test_rmse", "validation_pearson"} < again.curves.keys()
    assert "test_top1" not in again.curves


# --- a run ---


@pytest.fixture(scope="module")
def suite() -> dict[str, Any]:
    return {
        "name": "numbers",
        "datasets": [{"name": "text_folder", **DATA}],
        "pairs": [{"teacher": TEACHER, "student": STUDENT}],
        "methods": {**ROWS, "kd": {"mse": 1, "kd": 1}},
        "seeds": [0],
        "validation": 0.1,
        "train": RECIPE,
    }


@pytest.mark.long
def test_a_run_as_a_whole(tmp_path: Path, root: Path, suite: dict[str, Any], kdbench: Run) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    code, out, err = kdbench("run", path, "--data", root)
    assert code == 0, out + err
    place = tmp_path / "results" / "numbers"
    found = {r["label"]: r for r in (json.loads(p.read_bytes()) for p in (place / "records").glob("*.json"))}
    assert (found["kd"]["status"], found["kd"]["reason"]) == (
        "skipped",
        "kd needs logits of classes; these data have numbers",
    )
    splits = load_splits("text_folder", settings(), root)
    true = splits.test.targets.numpy()
    for label in ROWS:
        record = found[label]
        assert record["status"] == "done", record["reason"]
        student = load_deployed(record["key"], tmp_path / "results")
        with torch.no_grad():
            said = torch.cat([student(batch.inputs) for batch in splits.test.in_order(500)])[:, 0].numpy()
        scores = record["scores"]
        assert scores["test_pearson"] == pytest.approx(100 * pearsonr(said, true).statistic, abs=1e-3)
        assert scores["test_spearman"] == pytest.approx(100 * spearmanr(said, true).statistic, abs=1e-3)
        assert scores["test_rmse"] == pytest.approx(np.sqrt(np.mean((said - true) ** 2)), rel=1e-4)
        assert scores["test_pearson"] > 60, "it has learnt something"
        assert scores["test_pearson_chosen"] is not None
        assert (record["kind"], record["num_classes"], record["metric"]) == ("numbers", 1, "pearson")
        numbers = unpacked_numbers(record["numbers"])
        assert numbers is not None
        np.testing.assert_allclose(numbers.predicted, said, rtol=1e-4, atol=1e-5)
        assert scores["teacher_pearson"] == pytest.approx(100 * pearsonr(numbers.teacher, true).statistic, abs=1e-3)
        assert not contradictions(record)
        for name in ("test_pearson", "test_rmse", "teacher_pearson"):
            wrong = contradictions({**record, "scores": {**scores, name: 99.0}})
            assert [text for text in wrong if text.startswith(f"{name} is 99, but") and "by its numbers" in text]
        assert "outcomes" not in record
    bare = load_student(found["taught"]["key"], tmp_path / "results")
    assert bare.config.num_labels == 1

    board = (place / "leaderboard.md").read_text(encoding="utf-8")
    assert "Pearson's correlation of numbers times 100" in board
    assert "student *(alone)*" in board
    assert "top-1" not in board
    assert "taught" in board
    code, out, err = kdbench("recommend", path, "--data", root)
    assert code == 0, err
    assert "Pearson" in out
    code, out, err = kdbench("verify", path, "--data", root, "--sample", 1)
    assert code == 0, out + err
    assert "weights re-evaluated: 3 students give what is claimed" in out
    assert "teachers: 1 evaluated again give what is claimed" in out
    wrong = place / "records" / f"{found['taught']['key']}.json"
    changed = unpacked_numbers(found["taught"]["numbers"])
    assert changed is not None
    other = packed_numbers(replace(changed, predicted=changed.predicted.copy() + (np.arange(60) == 7)))
    wrong.write_text(json.dumps({**found["taught"], "numbers": other}), encoding="utf-8")
    code, out, err = kdbench("verify", path, "--data", root, "--sample", 0)
    assert code != 0
    assert "by its numbers" in " ".join(out.split())
    assert "its student gives 1 test examples another number than its record says" in " ".join(out.split())
    wrong.write_text(json.dumps(found["taught"]), encoding="utf-8")

    output = tmp_path / "net.onnx"
    code, out, err = kdbench("export", found["taught"]["key"], "--output", output, "--data", root)
    assert code == 0, err
    about = card(found["taught"])
    assert (about["classes"], about["answer"]) == ([], "one number for each example")
    assert json.loads((tmp_path / "net.json").read_text())["answer"] == about["answer"]
