"""What needs more than a loss: phases, ramps, peers, rules on gradients, other views, preparation."""

from collections import Counter

import pytest
import torch
from conftest import STUDENT, TEACHER, batches_of, few_digits

from kdbench.data import Splits
from kdbench.method.contract import Batch, Outputs
from kdbench.method.functional import soft_kl
from kdbench.nets import build_net
from kdbench.results.checkpoints import Checkpoints
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.objectives import fill
from kdbench.suite.spec import ModelSpec
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.objective import Objective, Term, ramp_at
from kdbench.train.start import start_trial, teacher_epoch
from kdbench.train.teacher import freeze
from kdbench.train.trial import forward_teacher
from kdbench.vision.batches import to_float

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
DROPPING = {"model": "resnet10t", "drop_rate": 0.3, "channels": [4, 8, 8, 8], "stem_width": 4}
RECIPE = {"epochs": 2, "batch_size": 128, "lr": 0.05, "augment": "crop_flip"}
KD = {"weight": 0.9, "temperature": 4}
ROWS = {
    "ce": {"ce": 1},
    "kd": {"ce": 0.1, "kd": KD},
    "dml": {"ce": 1, "dml": 1},
    "dml+kd": {"ce": 1, "dml": 1, "kd": 1},
    "dot": {"ce": 0.1, "kd": KD, "dot": {"delta": 0.075}},
    "function matching": {"function_matching": 1},
    "fixed teacher": {"fixed_teacher": {"temperature": 2}},
    "phases": {"phases": [{"epochs": 1, "fitnet": 10}, {"ce": 0.1, "kd": KD, "dot": {}}]},
    "ramps": {"ce": {"weight": {"from": 1, "to": 0.1}}, "kd": {"temperature": {"from": 8, "to": 2, "curve": "cosine"}}},
    "prepared": {"ce": 1, "ft": {"form": "paper", "paraphraser_epochs": 1}},
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Splits:
    return few_digits(tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def teacher(splits):
    return freeze(build_net(ModelSpec(**TEACHER), splits.task, "teacher", 0), CPU)


@pytest.fixture
def begin(suite_file, splits, teacher):
    """`begin("dml")`: a trial of that row, as the engine starts it; changes go to the suite."""

    def start(row, state=None, student=STUDENT, **train):
        pairs = [{"teacher": TEACHER, "student": student}]
        path = suite_file(
            methods={"row": ROWS[row] if isinstance(row, str) else row}, pairs=pairs, train={**RECIPE, **train}
        )
        [cell] = cells_of(load_suite(path))
        net = build_net(cell.student, splits.task, "student", cell.seed)
        return start_trial(cell, net, splits, teacher, CPU, state)

    return start


@pytest.fixture
def train(splits, teacher):
    def run(*trials, hooks=None):
        return train_cohort(Cohort(teacher, splits, trials[0].train_spec, 0, hooks or Hooks()), trials)

    return run


def assert_same(one, other):
    for a, b in ((one.net, other.net), (one.objective, other.objective)):
        ours, theirs = a.state_dict(), b.state_dict()
        assert ours.keys() == theirs.keys()
        assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert one.curves == other.curves


# --- the invariants --------------------------------------------------------------------------------------------------


def test_cohort_equals_alone(begin, train):
    members = {row: begin(row) for row in ROWS}
    train(*members.values())
    for row, member in members.items():
        alone = begin(row)
        train(alone)
        assert alone.status == member.status == "done"
        assert_same(member, alone)


@pytest.mark.parametrize("stop_after", [2, 6])  # of 8 steps
def test_resume_equals_uninterrupted(begin, train, tmp_path, stop_after):
    """Stopped within an epoch (once in each phase), gone on from a file: the same bits."""
    rows = [row for row in ROWS if row not in ("ce", "kd")]
    first, saved, left = {row: begin(row) for row in rows}, Checkpoints(tmp_path / "saved"), [stop_after]

    def stop():
        left[0] -= 1
        return left[0] <= 0

    def save(members):
        for row, member in first.items():
            if member in members:
                saved.save(row, member.state())

    assert not train(*first.values(), hooks=Hooks(checkpoint=save, stop=stop))
    second = {row: begin(row, saved.load(row)) for row in rows}
    assert {member.done for member in second.values()} == {stop_after}
    train(*second.values())
    for row, member in second.items():
        whole = begin(row)
        train(whole)
        assert_same(member, whole)


def test_every_row_starts_from_the_same_student(begin):
    starts = [begin(row).net.state_dict() for row in ROWS]
    assert all(torch.equal(start[name], starts[0][name]) for start in starts for name in start)


# --- phases and ramps ------------------------------------------------------------------------------------------------


def test_phases_switch_at_the_right_epoch(begin, train):
    phased = begin({"phases": [{"epochs": 1, "fitnet": 10}, {"epochs": 2, "at": 10}, {"kd": 1}]}, epochs=4)
    hints = begin({"fitnet": 10}, epochs=4)
    after_first = []

    def note(trial):
        if trial.evaluated == 1:
            after_first.append({name: value.clone() for name, value in trial.net.state_dict().items()})

    train(phased, hints, hooks=Hooks(epoch=note))
    one, other = after_first
    assert all(torch.equal(one[name], other[name]) for name in one)  # the first epoch was hints alone
    losses = {name: len(curve) for name, curve in phased.curves.items() if name.startswith("loss/")}
    assert losses == {"loss/total": 4, "loss/fitnet": 1, "loss/at": 2, "loss/kd": 1}


def test_only_the_present_phase_asks(begin):
    objective = begin("phases").objective
    assert (objective.needs, objective.rule()) == (frozenset({"features"}), None)
    objective.enter(1)
    assert objective.needs == frozenset({"logits"})
    assert objective.rule() is not None


def test_a_ramp_by_hand():
    linear = {"from": 8.0, "to": 2.0, "curve": "linear", "until": 0.5}

    def at(ramp, *progress):
        return [float(ramp_at(ramp, torch.tensor(x))) for x in progress]

    assert at(linear, 0.0, 0.25, 0.5, 0.9) == pytest.approx([8, 5, 2, 2])
    cosine = {"from": 0.0, "to": 1.0, "curve": "cosine", "until": 1.0}
    assert [float(ramp_at(cosine, torch.tensor(x))) for x in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [0, (1 - 0.5**0.5) / 2, 0.5, 1]
    )


def test_weight_and_temperature_follow_their_ramps():
    given = {"weight": {"from": 1, "to": 0.5}, "temperature": {"from": 8, "to": 2}}
    term = Term("kd", fill("kd", given)[0])
    student, teacher = (Outputs(torch.randn(4, 10)) for _ in range(2))
    for progress, weight, temperature in ((0.0, 1.0, 8.0), (0.5, 0.75, 5.0), (1.0, 0.5, 2.0)):
        batch = Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4).long(), torch.zeros(4).long(), torch.tensor(progress))
        found, losses = term.losses(student, teacher, batch)
        expected = temperature**2 * soft_kl(student.logits, teacher.logits, temperature).mean()
        assert (float(found), losses["kd"].item()) == pytest.approx((weight, expected.item()))


# --- a trainable peer ------------------------------------------------------------------------------------------------


def test_peers_teach_each_other(begin, train):
    one = begin("dml")
    peer = one.objective.peer
    before = {name: value.clone() for name, value in peer.state_dict().items()}
    assert before.keys() == one.net.state_dict().keys()
    assert not torch.equal(before["model.conv1.weight"], one.net.state_dict()["model.conv1.weight"])
    owned = {id(p) for p in one.optimizer.param_groups[0]["params"]}
    assert all(id(p) in owned for p in peer.parameters())
    train(one)
    assert all(not torch.equal(before[name], p) for name, p in peer.named_parameters())
    assert {"loss/dml", "loss/dml_peer", "loss/dml_peer_ce"} < one.curves.keys()
    assert not any(name.startswith("peer") for name in one.deliver().weights())  # it is left behind


def test_each_takes_the_other_as_it_stands(begin, splits):
    """The student's term moves no weight of the peer, and the peer's terms none of the student's."""
    one = begin("dml")
    batch = batches_of(splits.train, 16)[0]
    student_out = one.forward_student(batch)
    _, _, losses = one.objective(student_out, Outputs(batch.images.new_zeros(16, 0)), batch)
    for name, reached, spared in (
        ("dml", student_out.logits, student_out.views["peer"].logits),
        ("dml_peer", student_out.views["peer"].logits, student_out.logits),
        ("dml_peer_ce", student_out.views["peer"].logits, student_out.logits),
    ):
        gradients = torch.autograd.grad(losses[name], (reached, spared), retain_graph=True, allow_unused=True)
        assert gradients[0].abs().max() > 0
        assert gradients[1] is None
    p, q = student_out.views["peer"].logits.softmax(-1), student_out.logits.softmax(-1)
    assert losses["dml"].item() == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)
    assert losses["dml_peer"].item() == pytest.approx((q * (q / p).log()).sum(-1).mean().item(), rel=1e-4)


def test_a_peer_leaves_the_students_masks_alone(begin, splits):
    plain, paired = begin("ce", student=DROPPING), begin({"ce": 1, "dml": 1e-30}, student=DROPPING)
    batches = batches_of(splits.train, 32)
    for batch in batches[:2]:
        for trial in (plain, paired):
            trial.step(batch, Outputs(batch.images.new_zeros(32, 0)), torch.tensor(0.01))
    assert torch.equal(plain.net.model.fc.weight, paired.net.model.fc.weight)


# --- a rule on gradients ---------------------------------------------------------------------------------------------


def two_momenta(trial, batches, teacher, lr, delta):
    """DOT as it is written in the paper: two velocities, the weights move by their sum."""
    params, (group,) = trial.params, trial.optimizer.param_groups
    m, decay = group["momentum"], group["weight_decay"]
    v_task, v_kd = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for batch in batches:
        task, distilled, _ = trial.objective(trial.forward_student(batch), teacher(batch.images), batch)
        g_task = torch.autograd.grad(task, params, retain_graph=True)
        g_kd = torch.autograd.grad(distilled, params)
        for p, a, b, g, h in zip(params, v_task, v_kd, g_task, g_kd, strict=True):
            a.mul_(m - delta).add_(g + decay * p.detach())
            b.mul_(m + delta).add_(h)
            p.data.sub_(lr * (a + b))


def test_dot_is_two_momenta(begin, splits, teacher):
    dot, by_hand, plain = begin("dot"), begin("kd"), begin("kd")
    batches = batches_of(splits.train, 64)[:8]
    for batch in batches:
        for trial in (dot, plain):
            trial.step(batch, forward_teacher(teacher, batch, frozenset({"logits"}), "fp32"), torch.tensor(0.05))
    two_momenta(by_hand, batches, teacher, 0.05, 0.075)
    pairs = list(zip(dot.params, by_hand.params, plain.params, strict=True))
    assert all(torch.allclose(ours, theirs, rtol=1e-3, atol=2e-5) for ours, theirs, _ in pairs)
    assert max((ours - other).detach().abs().max().item() for ours, _, other in pairs) > 1e-2


def test_dot_leaves_what_one_loss_reaches(begin, splits, teacher):
    """The adapter of a hint is reached by the distillation alone: it moves as under plain SGD."""
    row = {"ce": 1, "fitnet": 10}
    dot, plain = begin({**row, "dot": {}}), begin(row)
    batch = batches_of(splits.train, 64)[0]
    teacher_out = forward_teacher(teacher, batch, frozenset({"features"}), "fp32")
    for trial in (dot, plain):
        trial.step(batch, teacher_out, torch.tensor(0.05))
    adapters = [dict(trial.objective.named_parameters()) for trial in (dot, plain)]
    assert adapters[0]
    assert all(torch.allclose(p, adapters[1][name], rtol=1e-5, atol=1e-7) for name, p in adapters[0].items())
    kept = [p for p in dot.params if "dot_kd" in dot.optimizer.state[p]]
    assert {id(p) for p in kept} <= {id(p) for p in dot.net.parameters()}


def test_dot_needs_momentum(kdbench, suite_file):
    train = {**RECIPE, "optimizer": "adamw", "lr": 0.001}
    code, out, _ = kdbench("plan", suite_file(methods={"dot": ROWS["dot"]}, train=train))
    assert code == 0
    assert "dot needs an optimizer with momentum (sgd)" in out


# --- other views -----------------------------------------------------------------------------------------------------


def test_views_of_a_batch(splits):
    def batch_at(seed, number, step, *views):
        return batches_of(splits.train, 64, "crop_flip", seed, number, views)[step]

    batch, again = batch_at(3, 5, 7, "second", "mixed", "plain"), batch_at(3, 5, 7, "mixed", "plain")
    assert torch.equal(batch.views["mixed"], again.views["mixed"])
    assert torch.equal(batch.views["plain"], to_float(splits.train.pixels[batch.index]))
    others = [batch_at(*place, "mixed") for place in ((3, 6, 7), (3, 5, 6), (4, 5, 7))]
    shares = [share_of(one) for one in (batch, *others)]
    assert all(0 < share < 1 for share in shares)
    assert len({round(share, 3) for share in shares}) == 4  # drawn anew for every seed, epoch and step
    plain = batch_at(3, 5, 7)
    assert plain.views == {}
    assert torch.equal(plain.images, batch.images)


def share_of(batch):
    """The share of its neighbour that each picture of the mixed view holds: one number for the batch."""
    step = torch.cat([batch.images[-1:], batch.images[:-1]]) - batch.images
    shares = ((batch.views["mixed"] - batch.images) / step)[step.abs() > 0.2]
    assert torch.allclose(shares, shares.mean(), atol=1e-4)
    return float(shares.mean())


def test_function_matching_sees_nothing_but_the_mixed_view(begin, splits, teacher):
    one = begin("function matching")
    batch = batches_of(splits.train, 64, "crop", views=["mixed"])[0]
    seen = Counter()
    for name, net in (("teacher", teacher), ("student", one.net)):
        net.register_forward_pre_hook(
            lambda _, given, name=name: seen.update([(name, torch.equal(given[0], batch.views["mixed"]))])
        )
    teacher_out = forward_teacher(teacher, batch, one.needs, "fp32")
    student_out = one.forward_student(batch)
    teacher._forward_pre_hooks.clear()
    assert seen == {("teacher", True): 1, ("student", True): 1}
    _, _, losses = one.objective(student_out, teacher_out, batch)
    p, q = teacher(batch.views["mixed"]).logits.softmax(-1), student_out.views["mixed"].logits.softmax(-1)
    assert losses["function_matching"].item() == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)


def test_a_fixed_teacher_speaks_of_the_plain_picture(begin, splits, teacher):
    one = begin("fixed teacher")
    batch = batches_of(splits.train, 64, "crop", views=["plain"])[0]
    teacher_out, student_out = forward_teacher(teacher, batch, one.needs, "fp32"), one.forward_student(batch)
    assert torch.equal(teacher_out.views["plain"].logits, teacher(batch.views["plain"]).logits)
    assert not torch.equal(teacher_out.views["plain"].logits, teacher(batch.images).logits)
    _, _, losses = one.objective(student_out, teacher_out, batch)
    expected = 4 * soft_kl(student_out.logits, teacher_out.views["plain"].logits, 2.0).mean()
    assert losses["fixed_teacher"].item() == pytest.approx(expected.item())


# --- preparation, and what stays at inference ------------------------------------------------------------------------


def test_the_paraphraser_is_trained_beforehand_and_then_frozen(begin, train, splits, teacher):
    row = {"ce": 1, "ft": {"form": "paper", "paraphraser_epochs": 3}}
    one, other = begin(row), begin({"ce": 1, "ft": {"form": "paper", "paraphraser_epochs": 1}})
    method = next(term for term in one.objective.terms() if term.name == "ft").method
    start = {name: p.clone() for name, p in method.paraphraser.state_dict().items()}
    shorter = next(term for term in other.objective.terms() if term.name == "ft").method

    def error(method):
        epoch = teacher_epoch(teacher, one.needs, splits, one.train_spec, 0, 0, lambda: None)
        maps = [teacher_out.features[method.t] for teacher_out, _ in epoch]
        with torch.no_grad():
            return sum(float((method.decoder(method.paraphraser(x)) - x).square().mean()) for x in maps)

    assert error(method) < error(shorter)
    train(one)
    assert all(torch.equal(start[name], p) for name, p in method.paraphraser.state_dict().items())


def test_an_objective_alone_is_what_it_was(splits):
    """The sum to be minimised is that of all terms, whichever part they stand in."""
    objective = Objective(((None, {name: fill(name, given)[0] for name, given in ROWS["kd"].items()}),))
    student, teacher = (Outputs(torch.randn(4, 10)) for _ in range(2))
    batch = Batch(torch.zeros(4, 3, 8, 8), torch.arange(4), torch.arange(4))
    task, distilled, losses = objective(student, teacher, batch)
    assert task.item() == pytest.approx(0.1 * losses["ce"].item())
    assert distilled.item() == pytest.approx(0.9 * losses["kd"].item())
