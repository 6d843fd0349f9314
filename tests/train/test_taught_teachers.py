"""Teachers that are distilled students, and what a whole run keeps of them, of adapters that stay and of peers."""

import json

import pytest
import torch
import yaml
from conftest import STUDENT, TEACHER, TINY, few_digits, without_measures
from safetensors.torch import load_file

import kdbench
from kdbench.data import Splits, load_splits
from kdbench.nets import build_net
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.spec import TeacherSpec
from kdbench.train.evaluation import evaluate_one
from kdbench.train.loop import Hooks, Stopped
from kdbench.train.profiling import count_macs
from kdbench.train.start import start_trial
from kdbench.train.teacher import obtain

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
RECIPE = {"epochs": 2, "batch_size": 128, "lr": 0.05, "augment": "crop_flip"}
KD = {"weight": 0.9, "temperature": 4}
ASSISTANT = {**STUDENT, "widths": [4, 4, 4, 8], "taught_by": TEACHER, "objective": {"ce": 0.1, "kd": KD}}
PAIRS = [{"teacher": TEACHER, "student": STUDENT}, {"teacher": ASSISTANT, "student": STUDENT}]


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Splits:
    return few_digits(tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A suite with and without a teacher assistant, after `kdbench.run`: its table, cells, records, results folder."""
    folder = tmp_path_factory.mktemp("run")
    rows = {"ce": {"ce": 1}, "kd": {"kd": 1}, "simkd": {"simkd": 1}, "dml": {"ce": 1, "dml": 1}}
    changes = {"pairs": PAIRS, "methods": rows, "train": {**RECIPE, "epochs": 1}}
    (folder / "suite.yaml").write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        table = kdbench.run(folder / "suite.yaml", results=folder, device="cpu")
    cells = cells_of(load_suite(folder / "suite.yaml"))
    records = [json.loads((folder / "tiny" / "records" / f"{cell.key}.json").read_text()) for cell in cells]
    return table, cells, records, folder


def no_hooks(*_):
    return Hooks()


def test_a_teacher_assistant(ran):
    """Trained once and kept; the pair without it keeps its key and shares its teacher."""
    table, cells, records, folder = ran
    assert len(table) == len(cells) == 8
    assert set(table["n"]) == {1}
    plain, taught = cells[0], cells[4]
    kept = {file.stem: json.loads(file.read_text()) for file in (folder / "teachers").glob("*.json")}
    assert kept.keys() == {plain.teacher_key, taught.teacher_key}
    assert "loss/kd" in kept[taught.teacher_key]["curves"]
    assert "loss/kd" not in kept[plain.teacher_key]["curves"]
    assert kept[taught.teacher_key]["seconds"] > kept[plain.teacher_key]["seconds"] > 0
    assert kept[taught.teacher_key]["settings"]["taught_by"] == plain.teacher_identity
    assert taught.teacher.short == (
        "cifar_resnet8(widths=[4, 4, 4, 8]) "
        "(taught by cifar_resnet14(widths=[4, 4, 8, 8]): 0.1 ce + 0.9 kd(temperature=4))"
    )
    assert records[4]["settings"]["teacher"] == taught.teacher_identity
    assert records[4]["versions"]["method_files"].keys() == {"ce", "kd"}  # the row's and its teacher's
    assert records[4]["teacher_train_seconds"] == kept[taught.teacher_key]["seconds"]


def test_keys_of_taught_teachers(suite_file):
    def cells(objective, pairs=PAIRS):
        changed = [pairs[0], {**pairs[1], "teacher": {**pairs[1]["teacher"], "objective": objective}}]
        return cells_of(load_suite(suite_file(pairs=changed, methods={"ce": {"ce": 1}})))

    plain, taught = cells(ASSISTANT["objective"])
    [before] = cells_of(load_suite(suite_file(pairs=PAIRS[:1], methods={"ce": {"ce": 1}})))
    assert before.key == plain.key
    assert taught.teacher_cell.teacher_key == plain.teacher_key
    assert cells({"kd": {"temperature": 4.0, "weight": 0.9}, "ce": {"weight": 0.1}})[1].key == taught.key
    wider = {**ASSISTANT, "taught_by": {**TEACHER, "widths": [4, 4, 8, 16]}}
    others = [
        cells({"ce": 0.1, "kd": {"weight": 0.9, "temperature": 5}}),
        cells(ASSISTANT["objective"], [PAIRS[0], {"teacher": wider, "student": STUDENT}]),
    ]
    assert len({plain.key, taught.key, *(c[1].key for c in others)}) == 4
    assert {c[0].key for c in others} == {plain.key}
    assert all(c[1].cohort != taught.cohort for c in others)


def test_born_again_generations_start_from_other_weights(suite_file, splits, tmp_path):
    """A chain of three nets of one kind, in which each is taught by the one before."""
    second = {**TEACHER, "taught_by": TEACHER, "objective": {"ce": 1, "kd": 1}}
    third = {**TEACHER, "taught_by": second, "objective": {"kd": 1}}
    pairs = [{"teacher": third, "student": STUDENT}]
    [cell] = cells_of(load_suite(suite_file(pairs=pairs, methods={"ce": {"ce": 1}}, train={**RECIPE, "epochs": 1})))
    assert len({link.teacher_key for link in cell.lineage}) == len(cell.lineage) == 3
    starts = []

    def hooks(_, trial, __):
        starts.append(trial.net.model.conv1.weight.detach().clone())
        return Hooks()

    obtain(cell, splits, tmp_path, CPU, hooks)
    assert len(starts) == 3
    assert not any(torch.equal(starts[i], starts[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert len(list((tmp_path / "teachers").glob("*.safetensors"))) == 3
    obtain(cell, splits, tmp_path, CPU, hooks)
    assert len(starts) == 3  # loaded


def test_a_resumed_assistant_ends_with_the_same_bits(suite_file, splits, tmp_path):
    cell = cells_of(load_suite(suite_file(pairs=PAIRS, methods={"ce": {"ce": 1}}, train=RECIPE)))[1]
    whole = obtain(cell, splits, tmp_path / "whole", CPU, no_hooks).net.state_dict()
    left = [6]  # steps of the assistant's own training

    def hooks(being, trial, checkpoints):
        if being is not cell:
            return Hooks()

        def stop():
            left[0] -= 1
            return left[0] <= 0

        return Hooks(checkpoint=lambda _: checkpoints.save(being.teacher_key, trial.state()), stop=stop)

    with pytest.raises(Stopped):
        obtain(cell, splits, tmp_path / "cut", CPU, hooks)
    assert len(list((tmp_path / "cut" / "teachers").glob("*.safetensors"))) == 1  # the assistant's teacher
    left[0] = 10**6
    resumed = obtain(cell, splits, tmp_path / "cut", CPU, hooks).net.state_dict()
    assert left[0] == 10**6 - 2  # of 8 steps
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_teacher_that_cannot_be_taught_is_told_beforehand(kdbench, suite_file):
    pairs = [{"teacher": {**ASSISTANT, "objective": {"attn": 1}}, "student": STUDENT}]
    code, out, _ = kdbench("plan", suite_file(pairs=pairs))
    assert code == 0
    assert out.count("its teacher cifar_resnet8 can't be taught: needs attention maps") == 2
    assert ", 0 to train" in out


def test_short_names_tell_teachers_apart():
    hints = {"phases": [{"epochs": 1, "at": 9}, {"ce": 1}]}
    shorts = []
    for row in ({"ce": 1}, {"kd": {"weight": 2, "temperature": 3}}, hints):
        shorts.append(TeacherSpec.model_validate({"model": "a", "taught_by": "b", "objective": row}).short)
    texts = ["1 ce", "2 kd(temperature=3)", "9 at for 1 epochs, then 1 ce"]
    assert shorts == [f"a (taught by b: {text})" for text in texts]


# --- what a run keeps ------------------------------------------------------------------------------------------------


def test_simkd_is_counted_and_kept_as_it_is_deployed(ran, tmp_path):
    _, cells, records, folder = ran
    cell, plain, simkd = cells[2], records[0], records[2]
    # Student: 4 channels on a 2 x 2 grid; teacher: 8 channels, 10 classes; adapter: 4 -> 4 -> 4 -> 8 with BN.
    convolutions = 4 * 4 + 9 * 4 * 4 + 4 * 8
    extra = convolutions + 2 * (4 + 4 + 8) + 8 * 10 + 10
    ours, base = simkd["profile"]["student"], plain["profile"]["student"]
    assert (ours["params"] - base["params"], simkd["cost"]["adapter_params"]) == (extra, extra)
    assert ours["macs"] - base["macs"] == convolutions * 2 * 2 + 8 * 10
    weights = load_file(folder / "tiny" / "students" / f"{cell.key}.safetensors")
    splits = load_splits("digits", {"size": 8}, tmp_path)
    teacher = obtain(cell, splits, folder, CPU, no_hooks).net
    trial = start_trial(cell, build_net(cell.student, splits.task, "elsewhere"), splits, teacher, CPU, None)
    trial.net.model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("method.")})
    assert trial.delivered.method is not None
    trial.delivered.method.load_state_dict({k[7:]: v for k, v in weights.items() if k.startswith("method.")})
    scores = evaluate_one(trial.deliver(), splits.test, "fp32").scores
    assert scores["top1"] == simkd["scores"]["test_top1"]
    assert count_macs(trial.deliver(), splits.train.inputs) == ours["macs"]


def test_the_peers_cost_is_training_cost(ran):
    plain, dml = ran[2][0], ran[2][3]
    assert dml["cost"]["adapter_params"] == plain["profile"]["student"]["params"] > 0
    assert plain["cost"]["adapter_params"] == 0
    assert dml["profile"]["student"]["params"] == plain["profile"]["student"]["params"]
