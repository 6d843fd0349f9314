"""The invariants that every number rests on: pairing, cohort equals alone, resume equals uninterrupted."""

import copy
import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from conftest import batches_of

from kdbench.batching import steps_per_epoch
from kdbench.data import Splits, load_splits
from kdbench.grid.outcome import scores_of
from kdbench.nets import build_net
from kdbench.suite.cells import cells_of
from kdbench.suite.cohorts import cohorts_of
from kdbench.suite.load import ModelSpec, Train, load_suite, objective
from kdbench.train.loop import Cohort, Hooks, OutOfMemory, train_cohort
from kdbench.train.objective import built_objective
from kdbench.train.optim import learning_rate
from kdbench.train.start import training_task
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial
from kdbench.vision.batches import Images

CPU = torch.device("cpu")
TEACHER = ModelSpec(model="cifar_resnet14", widths=[4, 4, 8, 8])
STUDENT = ModelSpec(model="cifar_resnet8", widths=[2, 2, 4, 4])
SMALL = {"channels": [4, 8, 8, 8], "stem_width": 4}
DROPPING = ModelSpec(model="resnet10t", drop_rate=0.3, drop_path_rate=0.2, **SMALL)
RECIPE = Train(epochs=2, batch_size=128, lr=0.05, augment="crop_flip", schedule={"kind": "cosine"})
ROWS = {
    "ce": {"ce": 1},
    "kd": {"ce": 0.1, "kd": 0.9},
    "fitnet": {"ce": 1, "fitnet": 10},
    "crd": {"ce": 1, "crd": {"weight": 0.8, "negatives": 64, "dim": 8}},
    "at+sp+rkd": {"ce": 1, "at": 10, "sp": 10, "rkd": 1},
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Splits:
    return load_splits("digits", {"size": 8}, tmp_path_factory.mktemp("none"), 0.1)


@pytest.fixture(scope="module")
def teacher(splits):
    return freeze(build_net(TEACHER, splits.task, "teacher", 0), CPU)


def trial(row, splits, teacher, student=STUDENT, seed=0, train=RECIPE):
    net = build_net(student, splits.task, "student", seed)
    phases = objective(ROWS.get(row, row) if isinstance(row, str) else row)
    task = training_task(splits.task, train, splits.train.targets)
    built = built_objective(phases, net, teacher, task, CPU, seed)
    return Trial(net, built, train, CPU, seed)


def bits(trial):
    """Everything a trial ends with, as one comparable table."""
    state = trial.state()
    tensors = {f"net.{k}": v for k, v in state["net"].items()} | {f"obj.{k}": v for k, v in state["objective"].items()}
    tensors |= state.get("average", {}).get("weights", {})
    return tensors, trial.curves


def assert_same(one, other):
    (tensors, curves), (other_tensors, other_curves) = bits(one), bits(other)
    assert tensors.keys() == other_tensors.keys()
    different = [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])]
    assert not different
    assert curves == other_curves
    assert one.digests == other.digests
    assert len(one.digests) == one.evaluated + 1


def alone(row, splits, teacher, **changes):
    one = trial(row, splits, teacher, **changes)
    train_cohort(Cohort(teacher, splits, RECIPE, 0), [one])
    assert one.status == "done"
    return one


# --- pairing ---------------------------------------------------------------------------------------------------------


def test_all_objectives_start_from_the_same_student(splits, teacher):
    starts = [trial(row, splits, teacher).net.state_dict() for row in ROWS]
    for start in starts[1:]:
        assert all(torch.equal(start[name], starts[0][name]) for name in start)
    other = trial("ce", splits, teacher, seed=1).net.state_dict()
    assert not torch.equal(other["model.conv1.weight"], starts[0]["model.conv1.weight"])


def test_an_adapter_does_not_depend_on_its_neighbours(splits, teacher):
    one = trial("fitnet", splits, teacher).objective
    two = trial({"ce": 1, "fitnet": 10, "at": 5, "kd": 1}, splits, teacher).objective
    names = [name for name, _ in one.named_parameters()]
    assert names
    assert all(torch.equal(one.get_parameter(name), two.get_parameter(name)) for name in names)


def test_batches_depend_on_seed_and_epoch_only(splits):
    first, again = (batches_of(splits.train, 64, "crop_flip", 3, 5) for _ in range(2))
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, again, strict=True))
    seconds = [batches_of(splits.train, 64, "crop_flip", 3, 5, ["second"])[7] for _ in range(2)]
    assert torch.equal(seconds[0].images, first[7].images)
    assert torch.equal(seconds[0].views["second"], seconds[1].views["second"])
    for seed, epoch in ((3, 6), (4, 5)):
        assert not torch.equal(batches_of(splits.train, 64, "crop_flip", seed, epoch)[0].index, first[0].index)


def test_an_epoch_goes_on_where_it_was_left(splits):
    how = SimpleNamespace(batch_size=64, augment="crop_flip")
    whole, rest = (list(splits.train.epoch(how, 3, 5, start, ["second", "mixed"])) for start in (0, 9))
    assert len(rest) == len(whole) - 9
    for one, other in zip(whole[9:], rest, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.images, other.images)
        assert all(torch.equal(one.views[view], other.views[view]) for view in ("second", "mixed"))


def test_every_picture_once_an_epoch_and_cropped_on_its_own():
    pixels = torch.arange(70 * 8 * 8, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(70, 8, 8, 1)
    images = Images(pixels, torch.arange(70) % 10)
    draws, batches = images.draw("crop_flip", 0, 0), batches_of(images, 16, "crop_flip")
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(70))
    assert len({tuple(row) for row in draws.shift.tolist()}) > 1
    assert 10 < int(draws.flip.sum()) < 60
    for batch in batches:
        for place, index in enumerate(batch.index.tolist()):
            assert torch.equal(batch.images[place], by_hand(images, draws, index))


def by_hand(images, draws, index):
    """One picture's augmentation with PIL-like steps: pad, cut, mirror."""
    position = int((draws.order == index).nonzero())
    top, left = draws.shift[position].tolist()
    padded = torch.zeros(10, 10, dtype=torch.uint8)
    padded[1:9, 1:9] = images.pixels[index, :, :, 0]
    cut = padded[top : top + 8, left : left + 8]
    cut = cut.flip(1) if draws.flip[position] else cut
    return (cut.float() / 255).expand(3, 8, 8)


def test_a_last_picture_alone_is_left_out():
    images = Images(torch.zeros(65, 8, 8, 3, dtype=torch.uint8), torch.zeros(65, dtype=torch.int64))
    for size, steps in ((64, 1), (32, 2), (63, 2)):
        assert steps_per_epoch(65, size) == len(batches_of(images, size)) == steps


# --- a cohort changes nothing ----------------------------------------------------------------------------------------


def test_cohort_equals_alone(splits, teacher):
    """Bit for bit: weights, adapters, memory banks, curves; also for a student that drops, and one of another kind."""
    members = {row: trial(row, splits, teacher) for row in ROWS}
    members["dropping"] = trial("kd", splits, teacher, student=DROPPING)
    train_cohort(Cohort(teacher, splits, RECIPE, 0), list(members.values()))
    for row, member in members.items():
        if row == "dropping":
            assert_same(member, alone("kd", splits, teacher, student=DROPPING))
        else:
            assert_same(member, alone(row, splits, teacher))


def test_a_method_that_draws_leaves_the_students_masks_alone(splits, teacher):
    """Drop-out's masks are the same in every objective of a pair: ce beside a term of weight 0+ that draws."""
    plain = trial("ce", splits, teacher, student=DROPPING)
    drawing = trial({"ce": 1, "crd": {"weight": 1e-30, "negatives": 64}}, splits, teacher, student=DROPPING)
    batch = batches_of(splits.train, 64)[0]
    teacher_out = teacher(batch.images, ("logits", "embedding"))
    for _ in range(2):
        plain.step(batch, teacher_out, torch.tensor(0.01))
        drawing.step(batch, teacher_out, torch.tensor(0.01))
    assert torch.equal(plain.net.model.fc.weight, drawing.net.model.fc.weight)


def test_the_rest_go_on_when_one_diverges_or_raises(splits, teacher):
    good = trial("kd", splits, teacher)
    diverging = trial("ce", splits, teacher, train=RECIPE.model_copy(update={"lr": 1e30}))
    raising = trial("fitnet", splits, teacher)
    raising.objective.forward = lambda *_: 1 / 0  # type: ignore[method-assign]
    train_cohort(Cohort(teacher, splits, RECIPE, 0), [diverging, good, raising])
    assert (diverging.status, raising.status, good.status) == ("diverged", "failed", "done")
    assert "epoch 1" in diverging.reason
    assert raising.reason == "ZeroDivisionError: division by zero"
    assert_same(good, alone("kd", splits, teacher))


def test_out_of_memory_asks_for_a_split(splits, teacher):
    members = [trial("ce", splits, teacher), trial("kd", splits, teacher)]

    def no_memory(*_):
        raise torch.OutOfMemoryError("too much")

    members[1].objective.forward = no_memory  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory):
        train_cohort(Cohort(teacher, splits, RECIPE, 0), members)
    lonely = trial("ce", splits, teacher)
    lonely.objective.forward = no_memory  # type: ignore[method-assign]
    train_cohort(Cohort(teacher, splits, RECIPE, 0), [lonely])
    assert lonely.status == "failed"


# --- a resumed run changes nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 9, 13])
def test_resume_equals_uninterrupted(splits, teacher, stop_after, tmp_path):
    """Stopped in the middle of an epoch, saved, loaded into fresh trials, gone on: the same bits."""
    from kdbench.results.checkpoints import Checkpoints

    rows = ["kd", "crd", "fitnet"]
    saved, left = Checkpoints(tmp_path), stop_after
    first = {row: trial(row, splits, teacher, student=DROPPING) for row in rows}

    def stop():
        nonlocal left
        left -= 1
        return left <= 0

    def save(members):
        for row, member in first.items():
            if member in members:
                saved.save(row, member.state())

    assert not train_cohort(Cohort(teacher, splits, RECIPE, 0, Hooks(checkpoint=save, stop=stop)), list(first.values()))
    second = {row: trial(row, splits, teacher, student=DROPPING) for row in rows}
    for row, member in second.items():
        member.load_state(saved.load(row))
        assert 0 < member.done < 2 * 9
    train_cohort(Cohort(teacher, splits, RECIPE, 0), list(second.values()))
    for row, member in second.items():
        assert_same(member, alone(row, splits, teacher, student=DROPPING))


def test_members_at_different_places_catch_up(splits, teacher):
    """A cohort may go on with members of which one is an epoch ahead."""
    ahead, behind = trial("kd", splits, teacher), trial("fitnet", splits, teacher)
    one_epoch = RECIPE.model_copy(update={"epochs": 1})
    train_cohort(Cohort(teacher, splits, one_epoch, 0), [ahead])  # its learning rate follows its own recipe
    ahead.status = "running"
    train_cohort(Cohort(teacher, splits, RECIPE, 0), [ahead, behind])
    assert_same(ahead, alone("kd", splits, teacher))
    assert_same(behind, alone("fitnet", splits, teacher))


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    from kdbench.results.checkpoints import Checkpoints

    saved = Checkpoints(tmp_path)
    for done in (1, 2):
        saved.save("key", {"done": done, "evaluated": 0, "weight": torch.ones(3)})
    newest = max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert saved.load("key")["done"] == 1
    saved.save("key", {"done": 3, "evaluated": 0})
    assert saved.load("key")["done"] == 3
    saved.remove("key")
    assert saved.load("key") is None


# --- the teacher is frozen, the adapters are trained, the test set decides nothing ---


def test_the_teacher_does_not_change(splits, teacher):
    before = copy.deepcopy(teacher.state_dict())
    alone("at+sp+rkd", splits, teacher)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_adapters_are_in_the_optimizer_and_change(splits, teacher):
    member = trial("fitnet", splits, teacher)
    adapters = dict(member.objective.named_parameters())
    owned = {id(p) for group in member.optimizer.param_groups for p in group["params"]}
    assert adapters
    assert all(id(p) in owned for p in adapters.values())
    assert all(id(p) in owned for p in member.net.parameters())
    before = {name: p.detach().clone() for name, p in adapters.items()}
    train_cohort(Cohort(teacher, splits, RECIPE, 0), [member])
    assert all(not torch.equal(before[name], p) for name, p in adapters.items())


def test_the_test_set_decides_nothing(splits, teacher):
    """With the test pictures replaced by noise, every weight and every validation score stays the same."""
    noise = Images(torch.randint_like(splits.test.pixels, 255), splits.test.targets.flip(0))
    changed = Splits(splits.train, noise, splits.num_classes, splits.validation)
    one, other = trial("kd", splits, teacher), trial("kd", splits, teacher)
    train_cohort(Cohort(teacher, splits, RECIPE, 0), [one])
    train_cohort(Cohort(teacher, changed, RECIPE, 0), [other])
    assert all(torch.equal(v, other.net.state_dict()[k]) for k, v in one.net.state_dict().items())
    assert one.curves["validation_top1"] == other.curves["validation_top1"]
    assert one.curves["test_nll"] != other.curves["test_nll"]


def test_scores_are_the_last_the_best_and_the_chosen_epoch():
    curves = {f"test_{name}": [1.0, 2.0, 3.0] for name in ("top5", "nll", "ece", "agreement")}
    curves |= {"test_top1": [50.0, 80.0, 70.0], "validation_top1": [60.0, 50.0, 40.0]}
    last = SimpleNamespace(scores={"top1": 70.0, "top5": 3.0, "nll": 3.0, "ece": 3.0, "agreement": 3.0})
    scores = scores_of(SimpleNamespace(curves=curves), last, SimpleNamespace(scores={"top1": 90.0}))  # type: ignore[arg-type]
    assert (scores["test_top1"], scores["test_top1_best"], scores["test_top1_chosen"]) == (70.0, 80.0, 50.0)
    assert scores["teacher_top1"] == 90.0


def test_held_out_pictures_are_stratified_and_fixed(tmp_path):
    whole, held = (load_splits("digits", {"size": 8}, tmp_path, share) for share in (0.0, 0.2))
    assert held.validation is not None
    assert len(held.train) + len(held.validation) == len(whole.train)
    assert max(held.validation.targets.bincount()) - min(held.validation.targets.bincount()) <= 2
    again = load_splits("digits", {"size": 8}, tmp_path, 0.2)
    assert torch.equal(held.validation.pixels, again.validation.pixels)
    assert torch.equal(held.test.pixels, whole.test.pixels)


# --- keys and cohorts ------------------------------------------------------------------------------------------------


def keys(path):
    return {(c.label, c.seed): c.key for c in cells_of(load_suite(path))}


def test_keys_hold_what_decides_the_number_and_nothing_else(suite_file):
    before = keys(suite_file())
    assert len(set(before.values())) == len(before)
    rows = {"renamed": {"ce": 1}, "kd": {"kd": {"temperature": 4.0, "weight": 0.9}, "ce": 0.1}}
    after = keys(suite_file(methods=rows, name="other"))
    assert after == {("renamed", 0): before["student", 0], ("kd", 0): before["kd", 0]}
    hotter = {"student": {"ce": 1}, "kd": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 5}}}
    changed = keys(suite_file(methods=hotter))
    assert changed["student", 0] == before["student", 0]
    assert changed["kd", 0] != before["kd", 0]
    seeds = keys(suite_file(seeds=[0, 1]))
    assert {seeds[row, 0] for row in ("student", "kd")} == set(before.values())
    defaults = keys(suite_file(validation=0.0, teacher_train={"seed": 0}))
    assert defaults == before
    assert not set(keys(suite_file(validation=0.1)).values()) & set(before.values())


def test_cells_survive_json(suite_file):
    for cell in cells_of(load_suite(suite_file())):
        assert json.loads(json.dumps(cell.identity)) == cell.identity


def test_students_of_one_teacher_share_a_cohort(suite_file):
    pair = {"teacher": "cifar_resnet14", "student": "cifar_resnet8"}
    other = {**pair, "student": "cifar_resnet20", "train": {"lr": 0.01}}
    cells = cells_of(load_suite(suite_file(pairs=[pair, other], seeds=[0, 1])))
    assert [len(cohort) for cohort in cohorts_of(cells)] == [4, 4]
    faster = {**other, "train": {"batch_size": 64}}
    cells = cells_of(load_suite(suite_file(pairs=[pair, faster])))
    assert [len(cohort) for cohort in cohorts_of(cells)] == [2, 2]


def test_learning_rates():
    step = Train(epochs=10, lr=1.0, schedule={"kind": "step", "step": [5, 8], "gamma": 0.1})
    assert [round(learning_rate(step, s, 2), 6) for s in (0, 9, 10, 15, 16, 19)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    cosine = Train(epochs=10, lr=1.0, warmup_epochs=2)
    rates = [learning_rate(cosine, s, 5) for s in range(50)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[30] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[10:]))
