"""What long recipes ask for: timm's optimizers and schedules, accumulated gradients, averaged weights, dropped paths,
augmentation by a table, mixed and smoothed labels.

The invariants hold for all of it: a cohort equals its members alone, a resumed run an uninterrupted one, to the bit.
"""

import math

import pytest
import torch
from conftest import TINY, batches_of, few_digits
from test_invariants import assert_same, trial

from kdbench.data import Splits, load_splits
from kdbench.method.contract import Inapplicable
from kdbench.nets import Net, build_net
from kdbench.results.checkpoints import Checkpoints
from kdbench.suite.cells import cells_of
from kdbench.suite.load import ModelSpec, load_suite
from kdbench.suite.training import Train
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.optim import learning_rate, make_optimizer, set_rate
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial
from kdbench.train.updates import update_of
from kdbench.vision.batches import picture_task

CPU = torch.device("cpu")
TEACHER = ModelSpec(model="cifar_resnet14", widths=[4, 4, 8, 8])
DROPPING = ModelSpec(model="resnet10t", channels=[4, 8, 8, 8], stem_width=4, drop_path_rate=0.2)
VIT = ModelSpec(model="vit_tiny_patch16_224", img_size=8, patch_size=4, depth=2, embed_dim=12, num_heads=2)
SHARED = {"epochs": 2, "batch_size": 64, "augment": "crop"}
TABLE = {"resized_crop": [0.5, 1], "flip": 0.5, "rand_augment": {"magnitude": 9}, "mixup": 0.8, "cutmix": 1}
LONG = Train(
    epochs=2,
    batch_size=64,
    augment=TABLE,
    optimizer="lamb",
    lr=0.005,
    weight_decay=0.02,
    no_decay="norms_and_biases",
    schedule={"timm": "cosine", "min_lr": 1e-4, "step_on_epochs": False},
    warmup_epochs=0.5,
    accumulate=3,  # of 8 batches: the last update of an epoch has two
    ema=0.9,
    label_smoothing=0.1,
)
ROWS = ("ce", "kd", "fitnet")


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few_digits(tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def teacher(splits: Splits) -> Net:
    return freeze(build_net(TEACHER, splits.task, "teacher", 0), CPU)


def members(splits: Splits, teacher: Net, rows: tuple[str, ...] = ROWS) -> dict[str, Trial]:
    return {row: trial(row, splits, teacher, student=DROPPING, train=LONG) for row in rows}


@pytest.fixture(scope="module")
def alone(splits: Splits, teacher: Net) -> dict[str, Trial]:
    """Each member without the others."""
    made = members(splits, teacher)
    for one in made.values():
        assert train_cohort(Cohort(teacher, splits, LONG.batches, 0), [one])
        assert one.status == "done"
    return made


def test_cohort_equals_alone(splits: Splits, teacher: Net, alone: dict[str, Trial]) -> None:
    together = members(splits, teacher)
    train_cohort(Cohort(teacher, splits, LONG.batches, 0), list(together.values()))
    for row, one in together.items():
        assert_same(one, alone[row])


@pytest.mark.parametrize("stop_after", [1, 5, 8, 12])
def test_resume_equals_uninterrupted(
    splits: Splits, teacher: Net, alone: dict[str, Trial], tmp_path: object, stop_after: int
) -> None:
    """Amidst an update, after an epoch's last one, amidst the second epoch: gradients and averages go on."""
    saved, left = Checkpoints(tmp_path), stop_after
    first = members(splits, teacher, ("fitnet",))

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    hooks = Hooks(checkpoint=lambda _: saved.save("fitnet", first["fitnet"].state()), stop=stop)
    assert not train_cohort(Cohort(teacher, splits, LONG.batches, 0, hooks), list(first.values()))
    second = members(splits, teacher, ("fitnet",))["fitnet"]
    state = saved.load("fitnet")
    assert state is not None
    second.load_state(state)
    train_cohort(Cohort(teacher, splits, LONG.batches, 0), [second])
    assert_same(second, alone["fitnet"])


# --- gradients that add up -------------------------------------------------------------------------------------------


def test_updates_of_an_epoch_of_eight_batches_by_threes() -> None:
    found = [update_of(step, 8, 3) for step in range(8, 16)]  # the second epoch
    assert [u.batches for u in found] == [3, 3, 3, 3, 3, 3, 2, 2]
    assert [u.begins for u in found] == [True, False, False, True, False, False, True, False]
    assert [u.ends for u in found] == [False, False, True, False, False, True, False, True]
    assert update_of(5, 8, None) == update_of(0, 1, 4)


def test_gradients_of_two_batches_are_those_of_both_in_one(splits: Splits, teacher: Net) -> None:
    """In a net without batch norms, whose statistics are each batch's own."""
    changes = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    once, twice = (Train(**SHARED, **changes, accumulate=n) for n in (None, 2))
    one, two = (trial("ce", splits, teacher, student=VIT, train=recipe) for recipe in (once, twice))
    halves, whole = batches_of(splits.train, 32)[:2], batches_of(splits.train, 64)[0]
    two.steps_per_epoch = 2
    start = [p.detach().clone() for p in two.params]
    rate = torch.tensor(0.1)
    two.step(halves[0], teacher(halves[0].inputs), rate)
    assert all(torch.equal(a, b) for a, b in zip(start, two.params, strict=True))  # not yet
    two.step(halves[1], teacher(halves[1].inputs), rate)
    one.step(whole, teacher(whole.inputs), rate)
    moved = [((p - s).detach(), (q - s).detach()) for p, q, s in zip(one.params, two.params, start, strict=True)]
    assert max(float(a.abs().max()) for a, _ in moved) > 1e-3
    for a, b in moved:
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_rule_on_gradients_needs_each_batch(splits: Splits, teacher: Net) -> None:
    row = {"ce": 1, "kd": 1, "dot": {}}
    with pytest.raises(Inapplicable, match="dot needs an optimizer step for each batch"):
        trial(row, splits, teacher, train=Train(**SHARED, accumulate=2))


# --- the weights' average --------------------------------------------------------------------------------------------


def test_the_average_by_hand_is_what_is_delivered(splits: Splits, teacher: Net) -> None:
    one = trial("kd", splits, teacher, train=Train(**SHARED, ema=0.75))
    seen, by_hand = [], {}
    for batch in batches_of(splits.train, 64)[:3]:
        one.step(batch, teacher(batch.inputs), torch.tensor(0.1))
        seen.append({k: v.detach().clone() for k, v in one.net.model.state_dict().items()})
    for name, value in seen[0].items():
        by_hand[name] = 0.75 * (0.75 * value + 0.25 * seen[1][name]) + 0.25 * seen[2][name]
    weights = one.deliver().weights()
    assert weights.keys() == by_hand.keys()
    floating = [name for name, value in weights.items() if value.is_floating_point()]
    assert all(torch.allclose(weights[name], by_hand[name], atol=1e-6) for name in floating)
    assert not torch.allclose(weights["conv1.weight"], seen[2]["conv1.weight"], atol=1e-4)
    assert int(weights["bn1.num_batches_tracked"]) == 3
    own = one.deliver()(next(splits.test.in_order(8)).inputs).logits
    one.net.load_state_dict(one.deliver().net.state_dict())
    one.net.eval()
    assert torch.equal(own, one.net(next(splits.test.in_order(8)).inputs).logits)  # taps and all: a net of its own


def test_an_average_that_warms_up_follows_faster(splits: Splits, teacher: Net) -> None:
    slow, warm = (Train(**SHARED, ema=0.999, **extra) for extra in ({}, {"ema_warmup": True}))
    found = []
    for recipe in (slow, warm):
        one = trial("ce", splits, teacher, train=recipe)
        for batch in batches_of(splits.train, 64)[:4]:
            one.step(batch, teacher(batch.inputs), torch.tensor(0.1))
        found.append((one.deliver().net.model.conv1.weight - one.net.model.conv1.weight).abs().sum())
    assert found[1] < found[0]


def test_layers_that_a_method_leaves_are_averaged_too(splits: Splits, teacher: Net) -> None:
    one = trial({"simkd": 1}, splits, teacher, train=Train(**SHARED, ema=0.5))
    batch = batches_of(splits.train, 64)[0]
    needs = tuple(one.needs)
    for _ in range(2):
        one.step(batch, teacher(batch.inputs, needs), torch.tensor(0.1))
    now, average = one.delivered.weights(), one.deliver().weights()
    names = [name for name in now if name.startswith("method.") and now[name].is_floating_point()]
    assert any(not torch.equal(now[name], average[name]) for name in names)
    assert one.deliver()(batch.inputs).logits.shape == (64, 10)


def test_what_is_scored_saved_and_loaded_is_the_average(kdbench: object, suite_file: object, tmp_path: object) -> None:
    """Through the commands: the teacher too is its average, and the exported student is what was scored."""
    from kdbench.results.records import Records
    from kdbench.train.evaluation import evaluate_one
    from kdbench.train.load import load_deployed

    path = suite_file(train={**TINY["train"], "ema": 0.9, "ema_warmup": True}, methods={"student": {"ce": 1}})
    code, _, err = kdbench("run", path)
    assert code == 0, err
    [record] = Records(tmp_path / "results", "tiny").read_all()
    student = load_deployed(record["key"], tmp_path / "results")
    data = load_splits("digits", {"size": 8}, tmp_path)
    judged = evaluate_one(student.delivered, data.test, "fp32")
    assert judged.scores["top1"] == record["scores"]["test_top1"]


# --- rates -----------------------------------------------------------------------------------------------------------


def test_timm_s_cosine_by_hand() -> None:
    """Per epoch, warmed up from 1e-6 over the first of its epochs, down to 1e-5: DeiT's."""
    recipe = Train(epochs=10, lr=1e-3, warmup_epochs=2, schedule={"timm": "cosine", "min_lr": 1e-5, "warmup_lr": 1e-6})
    rates = [learning_rate(recipe, step, 4) for step in range(40)]
    assert rates[:8] == pytest.approx([1e-6] * 4 + [(1e-6 + 1e-3) / 2] * 4)
    for epoch in range(2, 10):
        value = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 10))
        assert rates[4 * epoch : 4 * epoch + 4] == pytest.approx([value] * 4)
    assert rates[8] == learning_rate(recipe, 8, 4)  # of the step alone, whatever was asked before


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"timm": "step", "decay_epochs": 2, "decay_rate": 0.5}, [1, 1, 0.5, 0.5]),
        ({"timm": "multistep", "decay_milestones": [1, 3], "decay_rate": 0.1}, [0.1, 0.1, 0.01, 0.01]),
        ({"timm": "poly", "decay_rate": 1.0}, [1, 0.75, 0.5, 0.25]),
        ({"timm": "poly", "decay_rate": 2.0, "min_lr": 0.2}, [1, 0.65, 0.4, 0.25]),
    ],
)
def test_timm_s_other_schedules_by_hand(schedule: dict[str, object], rates: list[float]) -> None:
    recipe = Train(epochs=4, lr=1.0, schedule=schedule)
    assert [learning_rate(recipe, 3 * epoch, 3) for epoch in range(4)] == pytest.approx(rates)


def test_layers_have_their_own_rates_and_adapters_the_whole() -> None:
    model = build_net(VIT, picture_task(10, 8), "student", 0).model
    adapter = torch.nn.Linear(3, 3)
    recipe = Train(optimizer="adamw", lr=0.1, weight_decay=0.05, no_decay="norms_and_biases", layer_decay=0.5)
    optimizer = make_optimizer([*model.parameters(), *adapter.parameters()], recipe, model)
    set_rate(optimizer, torch.tensor(0.1, dtype=torch.float64))
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(of) == len([*model.parameters()]) + 2
    rates = {name: of[id(p)]["lr"] for name, p in model.named_parameters()}
    # the embedding, two blocks, and the last norm with the head: 0.5 to the power of the layers that follow
    assert rates["patch_embed.proj.weight"] == pytest.approx(0.1 * 0.5**3)
    assert rates["blocks.0.attn.qkv.weight"] == pytest.approx(0.1 * 0.5**2)
    assert rates["blocks.1.attn.qkv.weight"] == pytest.approx(0.1 * 0.5)
    assert rates["head.weight"] == of[id(adapter.weight)]["lr"] == pytest.approx(0.1)
    assert of[id(model.blocks[0].norm1.weight)]["weight_decay"] == of[id(adapter.bias)]["weight_decay"] == 0
    assert of[id(model.blocks[0].mlp.fc1.weight)]["weight_decay"] == 0.05


def test_optimizers_of_timm_come_by_name_with_their_settings() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    recipe = Train(optimizer="lion", lr=0.01, weight_decay=0.1, betas=[0.8, 0.95])
    optimizer = make_optimizer([parameter], recipe)
    assert type(optimizer).__name__ == "Lion"
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    parameter.grad = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    optimizer.step()  # decoupled decay, then the sign of the update
    assert torch.allclose(parameter, torch.ones(2, 2) * (1 - 0.001) - 0.01 * parameter.grad.sign())


# --- dropped paths ---------------------------------------------------------------------------------------------------


def test_stochastic_depth_reaches_the_student_and_says_where_it_can_not(suite_file: object, kdbench: object) -> None:
    pair = {"teacher": TINY["pairs"][0]["teacher"], "student": {"model": "resnet10t", "channels": [4, 8, 8, 8]}}
    path = suite_file(pairs=[pair], train={**TINY["train"], "drop_path": 0.2}, teacher_train={"drop_path": None})
    cell = cells_of(load_suite(path))[0]
    net = build_net(cell.student_net, picture_task(10, 8), "student", 0)
    rates = [part.drop_prob for part in net.modules() if type(part).__name__ == "DropPath"]
    assert rates
    assert max(rates) == pytest.approx(0.2)
    assert cell.teacher_net.options == {"widths": [4, 4, 8, 8]}
    code, _, err = kdbench("plan", suite_file(train={**TINY["train"], "drop_path": 0.2}))
    assert code == 2
    assert "drop_path_rate" in err
