"""From a folder of pictures to an exported student in three commands; and what is said on the way."""

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from documents import readme_block
from grids import drawn, grid, record
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from kdbench.api import Options, plan
from kdbench.commands.budget import Price, Proposal, fit
from kdbench.commands.given import seconds_of
from kdbench.commands.init_pictures import Start, Text, Wanted, proposed_rows
from kdbench.commands.measure import affordable
from kdbench.commands.recommend import recommendation
from kdbench.errors import UserError
from kdbench.files import write_json
from kdbench.grid import forecast as model
from kdbench.grid.estimate import by_convolution
from kdbench.grid.forecast import Stated, epoch_of, forecast
from kdbench.layout import Layout
from kdbench.nets import build_net
from kdbench.results.outcomes import Outcomes, packed
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite, objective
from kdbench.suite.shipped import recipes
from kdbench.suite.spec import ModelSpec
from kdbench.train.load import load_deployed
from kdbench.vision import holding
from kdbench.vision.batches import picture_task
from kdbench.vision.decode import decode
from kdbench.vision.inspect import Folder, about, inspect, suspects

pytestmark = pytest.mark.usefixtures("one_thread")


def photos(root: Path, count: int = 240, side: int = 64) -> Path:
    """Digits as small photographs, a folder per class."""
    digits = load_digits()
    for number in range(count):
        part = "val" if number % 4 == 0 else "train"
        path = root / part / f"digit_{digits.target[number]}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).resize((side, side)).save(path)
    return root


@pytest.fixture
def _few_rows(monkeypatch):
    """Two of the proposed rows: measuring all takes most of a minute."""
    rows = {name: proposed_rows()[name] for name in ("student", "kd")}
    monkeypatch.setattr("kdbench.commands.init_pictures.proposed_rows", lambda: rows)


def suite_text(folder: Folder, rows: dict) -> str:
    text = Text(folder, Wanted("t", ("s",)), {"t": None, "s": None})
    return text.suite(rows, Proposal(32, list(rows), 1, 1, 0.0))


def test_proposed_rows_are_a_suite():
    folder = Folder(Path("p"), {"a": (9, 1), "b": (9, 1)}, (32, 32, 32), 1, ())
    text = suite_text(folder, proposed_rows())
    made = {label: objective(row) for label, row in yaml.safe_load(text)["methods"].items()}
    assert list(made)[:2] == ["student", "kd"]
    assert len(made) >= 6


@pytest.mark.usefixtures("_few_rows")
def test_three_commands_from_photographs_to_onnx(kdbench, tmp_path, monkeypatch):
    """Init's answer names the second and third command, recommend's the line that exports."""
    root = photos(tmp_path / "my photos", 120, 32)
    suite = tmp_path / "mine.yaml"
    monkeypatch.setattr("kdbench.commands.init_pictures.EPOCHS", (1, 15))
    models = ("--teacher", "cifar_resnet14", "--student", "cifar_resnet8")
    code, out, err = kdbench("init", root, *models, "--budget", "1d", "--output", suite, "--size", 32)
    assert code == 0, err
    assert "10 classes, 90 pictures to train on, 30 to test" in err
    assert "cifar_resnet14 starts from random weights: there are no pretrained weights of cifar_resnet14" in out
    assert f"kdbench run {suite}" in out
    text = suite.read_text()
    assert text.startswith("# Which student to ship")
    made = load_suite(suite)
    assert list(made.objectives) == ["student", "kd"]
    assert made.datasets[0].settings["size"] == 32
    suite.write_text(yaml.safe_dump({**yaml.safe_load(text), "seeds": [0]}))
    code, out, err = kdbench("run", suite)
    assert code == 0, err
    code, out, _ = kdbench("recommend", suite)
    assert code == 0
    key = re.search(r"kdbench export (\w+) --format onnx", out)[1]
    pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
    file = tmp_path / "student.onnx"
    assert kdbench("export", key, "--format", "onnx", "--output", file)[0] == 0
    assert file.stat().st_size > 1000
    student, picture = load_deployed(key, tmp_path / "results"), root / "val" / "digit_0" / "0.png"
    pixels = torch.tensor(decode(picture, 32)).permute(2, 0, 1)[None] / 255
    about = json.loads((tmp_path / "student.json").read_text())
    assert about["classes"] == [f"digit_{number}" for number in range(10)]
    assert about["score"]["interval_95"][0] <= about["score"]["test"] <= about["score"]["interval_95"][1]
    assert (about["kdbench.key"], about["teacher"], about["suite"]) == (key, "cifar_resnet14", "my-photos")
    assert "ce" in about["losses"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "use.py").write_text(readme_block("Ship a student", "python"))
    monkeypatch.setattr("sys.argv", ["use.py", str(picture)])
    left = runpy.run_path("use.py")
    np.testing.assert_allclose(left["logits"], student(pixels).numpy(), atol=1e-4)
    assert left["classes"] == about["classes"]


def test_a_folder_with_flaws(tmp_path):
    root = photos(tmp_path / "p", 60, 40)
    (root / "train" / "digit_3" / "bad.jpg").write_bytes(b"no picture")
    for number in range(60):
        Image.new("RGB", (50, 90)).save(root / "train" / "digit_1" / f"more{number}.png")
    found = inspect(root)
    assert [path.name for path in found.broken] == ["bad.jpg"]
    assert found.sides == (40, 50, 50)
    assert found.size == 48
    text = "\n".join(about(found))
    assert "1 of these can't be decoded; the suite leaves such pictures out" in text
    assert "far from equal" in text
    assert yaml.safe_load(suite_text(found, {"student": {"ce": 1}}))["datasets"][0]["broken"] == "skip"


@pytest.mark.usefixtures("_few_rows")
def test_plan_tells_the_time_that_init_told(kdbench, tmp_path, monkeypatch):
    """Where the proposed size is another one than was measured: by the area, as the proposal was priced."""
    root, suite = photos(tmp_path / "p", 120, 48), tmp_path / "suite.yaml"
    monkeypatch.setattr("kdbench.commands.init_pictures.EPOCHS", (1, 15))
    monkeypatch.setattr("kdbench.commands.init_pictures.affordable", lambda *a: 32)
    models = ("--teacher", "cifar_resnet14", "--student", "cifar_resnet8", "--budget", "1d", "--output", suite)
    assert kdbench("init", root, *models)[0] == 0
    assert "size: 48" in suite.read_text()
    [entry] = json.loads(Layout(tmp_path / "results").speeds.read_text()).values()
    small = {name: took for name, took in entry["nets"].items() if '"size":32' in name}
    assert len(small) == 2
    for name, took in small.items():
        assert entry["nets"][name.replace('"size":32', '"size":48')] == pytest.approx([2.25 * t for t in took])
    assert "by steps of 2 of 2 nets and 2 of 2 rows, measured" in kdbench("plan", suite)[1]


@pytest.mark.parametrize(("made", "message"), [("", "is not a folder"), ("train val", "needs two class folders")])
def test_no_pictures(tmp_path, made, message):
    for part in made.split():
        (tmp_path / part).mkdir()
    with pytest.raises(UserError, match=message):
        inspect(tmp_path)


@pytest.mark.usefixtures("_few_rows")
def test_mistakes_write_nothing(kdbench, tmp_path, monkeypatch):
    root, suite = photos(tmp_path / "p", 60, 32), tmp_path / "suite.yaml"
    options = ("--data", root, "--student", "cifar_resnet8", "--output", suite)
    assert "did you mean" in kdbench("init", "--teacher", "cifar_resnet66", *options)[2].lower()
    assert "say it like" in kdbench("init", "--teacher", "cifar_resnet14", *options, "--budget", "soon")[2]
    code, _, err = kdbench("init", "--teacher", "cifar_resnet14", *options, "--budget", "0.1s")
    assert code == 2
    assert "the budget is too small: one epoch" in err
    assert not suite.exists()
    suite.write_text("mine")
    assert "is there already" in kdbench("init", "--teacher", "cifar_resnet14", *options)[2]
    assert suite.read_text() == "mine"


def test_the_recipe_goes_by_the_size_of_the_data():
    for count, recipe, batch in ((30, "pictures-few", 16), (600, "pictures-some", 32), (5000, "pictures-many", 64)):
        folder = Folder(Path("p"), {"a": (count // 2, 9), "b": (count // 2, 9)}, (32, 32, 32), 1, ())
        for start, lr in ((None, 0.05), (Start({"pretrained": True}, ""), 0.01)):
            text = Text(folder, Wanted("t", ("s",)), {"t": start, "s": start})
            train = yaml.safe_load(text.suite({"student": {"ce": 1}}, Proposal(32, ["student"], 1, 7, 0.0)))["train"]
            assert (train["recipe"], train["epochs"], train.get("lr", 0.05)) == (recipe, 7, lr)
        assert yaml.safe_load(recipes()[recipe].read_text())["batch_size"] == batch


def test_holds_out_only_where_every_class_can_be():
    for counts, expected in (({"a": (40, 1), "b": (40, 1)}, True), ({"a": (9, 1), "b": (5, 1)}, False),
                             ({"a": (99, 1), "b": (1, 1)}, False)):  # fmt: skip
        folder = Folder(Path("p"), counts, (32, 32, 32), 1, ())
        assert folder.can_hold_out is expected
        text = suite_text(folder, {"x": {"ce": 1}})
        assert yaml.safe_load(text)["validation"] == (0.1 if expected else 0.0)


@pytest.mark.usefixtures("_few_rows")
def test_fewer_pictures_than_a_batch(kdbench, tmp_path, monkeypatch):
    """Twelve to train on, in batches of 16."""
    monkeypatch.setattr("kdbench.commands.init_pictures.EPOCHS", (1, 2))
    suite = tmp_path / "mine.yaml"
    models = ("--teacher", "cifar_resnet14", "--student", "cifar_resnet8", "--size", 32)
    root = photos(tmp_path / "few", 12, 32)
    shutil.copytree(root / "val", root / "train", dirs_exist_ok=True)  # a class that is tested is learnt, too
    code, _, err = kdbench("init", root, *models, "--output", suite)
    assert code == 0, err
    assert {cell.train.batch_size for cell in cells_of(load_suite(suite))} == {16}
    suite.write_text(yaml.safe_dump({**yaml.safe_load(suite.read_text()), "seeds": [0]}))
    code, _, err = kdbench("run", suite)
    assert code == 0, err


def test_a_plugin_that_is_not_there(kdbench, tmp_path):
    code, _, err = kdbench("init", photos(tmp_path / "p", 20, 32), "--plugin", tmp_path / "none.py")
    assert code == 2
    assert "none.py: no such file" in err


def test_words_for_one():
    line = suspects(Folder(Path("p"), {}, (1, 1, 1), 2, (), alike=((Path("p/train/a"), Path("p/train/b")),)))
    assert line == ["1 picture looks like another one of the same part: e.g. train/a and train/b"]
    assert Folder(Path("p"), {"a": (5, 1), "b": (5, 1)}, (1, 1, 1), 2, ()).of_classes("pictures") == [
        "training pictures per class: 5 each"
    ]


def test_budgets():
    assert [seconds_of(text) for text in ("90s", "30m", "1.5h", "1d")] == [90, 1800, 5400, 86400]


def test_pictures_that_are_decoded_as_they_are_needed_cost_time(tmp_path, monkeypatch, suite_file):
    monkeypatch.setattr(holding, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(holding, "OF_FREE_DISK", 0.0)
    data = {"name": "folder", "path": str(photos(tmp_path / "p", 40)), "size": 32}
    made = plan(suite_file(datasets=[data], validation=0), results=tmp_path, device="cpu")
    speed = by_convolution(made, torch.device("cpu"))
    held = made.shapes.held(made.cells[0].dataset)
    assert "decoded whenever they are needed" in held.words
    assert speed.load(made.cells[0]) == 1 / held.rate > 0
    before = Stated(made, speed.flops)
    speed.launch = 0.0
    more = epoch_of(made.cells, made, speed) - epoch_of(made.cells, made, before)
    assert more == pytest.approx(40 / held.rate)  # 30 to train on, 10 to test


class Hand:
    """A speed by hand: seconds per picture of a forward, a step, and how dear rows are."""

    start, cell, about = 12.0, 1.5, ""

    def __init__(self, rows=None):
        self.rows = rows or {}

    def forward(self, spec, cell):
        return 0.001 if spec.model == "cifar_resnet8" else 0.01

    def step(self, spec, cell):
        return 0.004 if spec.model == "cifar_resnet8" else 0.04

    def row(self, cell):
        return self.rows.get(cell.label, 1.0)

    def load(self, cell):
        return 0.0


def price_of(suite_file, tmp_path, rows, count=1, side=32, rates=None):
    """Of the digits."""
    chosen = {row: {"ce": 1, "kd": {"weight": 1, "temperature": 1 + n}} for n, row in enumerate(rows)}
    chosen |= {"student": {"ce": 1}} if "student" in rows else {}
    made = plan(suite_file(methods=chosen, seeds=[0], validation=0), results=tmp_path, device="cpu")
    return Price(made, Hand(rates), side, count, side)


def test_what_a_suite_costs_by_hand(suite_file, tmp_path):
    """2 epochs, 3 seeds, 2 rows of which one is twice as dear; then in two processes, and twice as large."""
    price = price_of(suite_file, tmp_path, ["student", "kd", "other"], rates={"kd": 2.0})
    task = price.plan.shapes.task(price.plan.cells[0].dataset)
    train, test = task.num_train, task.num_test
    teacher, seed = train * 0.04, train * (0.01 + 0.004 + 2 * 0.004) + test * 2 * 0.001
    rows = ["student", "kd"]
    assert price.seconds(rows, 3, 2) == pytest.approx(12 + 2 * teacher + 3 * (2 * seed + 2 * 1.5))
    assert price.seconds(rows, 3, 2, 64) == pytest.approx(12 + 8 * teacher + 3 * (8 * seed + 2 * 1.5))
    two = Price(price.plan, price.speed, 32, 2, 32)
    assert two.seconds(rows, 3, 2) == pytest.approx(12 + 2 * teacher + 2 * (2 * seed + 2 * 1.5))


def test_plan_and_bar_and_init_tell_the_same(suite_file, tmp_path):
    """One model of cost: the price of a suite is the forecast of its run, and the sum of the hours of its cohorts."""
    made = plan(suite_file(seeds=[0, 1, 2]), results=tmp_path, device="cpu")
    speed = Hand()
    whole, epochs = forecast(made, speed, 2, tmp_path), made.cells[0].train.epochs
    price = Price(made, speed, 32, 2, 32).seconds(["student", "kd"], 3, epochs)
    assert whole.seconds == pytest.approx(price)
    cohorts = [model.seconds_of(cohort, made, speed) for cohort in made.cohorts]
    assert sum(piece.seconds for piece in whole.cohorts.values()) == pytest.approx(sum(cohorts))
    steps = {key: piece.steps for key, piece in (whole.cohorts | whole.teachers).items()}
    assert whole.left(steps) == pytest.approx(0, abs=1e-9)


def test_what_fits_the_budget_fits(suite_file, tmp_path):
    """The more time, the larger the pictures, the more rows, seeds and epochs."""
    rows, sizes = [f"row{n}" for n in range(6)], (32, 64, 96, 224)
    price = price_of(suite_file, tmp_path, rows, side=96)
    before = (0, 0, 0)
    for limit in (200, 600, 2000, 6000, 12000, 24000, 50000, 200000, 1e9):
        found = fit(price, rows, limit, sizes, 240)
        again = price.seconds(found.rows, found.seeds, found.epochs, found.size)
        assert found.seconds == pytest.approx(again)
        assert again <= limit
        assert found.rows == rows[: len(found.rows)]
        assert (found.seeds, found.size) >= before[:2]
        before = (found.seeds, found.size, found.epochs)
    assert (found.seeds, found.size, found.epochs, len(found.rows)) == (3, 224, 240, 6)
    assert fit(price, rows, 200, sizes, 240).size == 32
    assert fit(price, rows, 1e9, [64], 60).epochs == 60
    with pytest.raises(UserError, match=r"too small: one epoch of two objectives with one seed, at size 32"):
        fit(price, rows, 1, sizes, 240)


def test_measuring_is_bounded():
    """A teacher that is dear at 64 x 64 is measured at 16 x 16."""
    teacher, cpu = ModelSpec(model="cifar_resnet56"), torch.device("cpu")
    assert affordable(teacher, 10, (16, 64), cpu, 1e-6) == 16
    assert affordable(teacher, 10, (16, 64), cpu, 1e6) == 64


def test_weights_are_proposed_where_there_are_some(kdbench, tmp_path):
    """Fine-tuned gently; a file that is not there, or of no model of the pair, is a mistake."""
    root, task = photos(tmp_path / "p", 60, 32), picture_task(7, 32)
    for name in ("cifar_resnet14", "cifar_resnet8"):
        net = build_net(ModelSpec(model=name), task, "elsewhere", 0)
        save_file({k: v.contiguous() for k, v in net.model.state_dict().items()}, tmp_path / f"{name}.safetensors")
    models = ("--teacher", "cifar_resnet14", "--student", "cifar_resnet8", "--output", tmp_path / "s.yaml")
    given = [f"{name}={tmp_path / name}.safetensors" for name in ("cifar_resnet14", "cifar_resnet8")]
    code, out, err = kdbench("init", root, *models, "--weights", given[0], "--weights", given[1], "--budget", "30m")
    assert code == 0, err
    assert "cifar_resnet8 starts from cifar_resnet8.safetensors, and is fine-tuned" in out
    suite = load_suite(tmp_path / "s.yaml")
    [(teacher, student, train)] = suite.pairs
    assert (teacher.checkpoint, student.checkpoint) == tuple(given[n].split("=")[1] for n in (0, 1))
    assert teacher.head == student.head == "new"
    assert all(cell.teacher_is_trained for cell in cells_of(suite))
    assert (train.lr, train.batch_size) == (0.01, 16)
    assert train.epochs <= 60
    for wrong, message in ((f"x={tmp_path}/no", "no such file"), (given[0].replace("14", "20", 1), "neither teacher")):
        assert message in kdbench("init", root, *models, "--force", "--weights", wrong)[2]


def test_what_a_folder_holds_twice_is_named(tmp_path):
    """A placeholder by its name and by its one colour; a training picture that is also tested by, in another size."""
    root = photos(tmp_path / "p", 40, 40)
    Image.open(root / "train" / "digit_3" / "3.png").resize((64, 64)).save(root / "val" / "digit_4" / "again.png")
    Image.new("RGB", (40, 40), "white").save(root / "train" / "digit_1" / "white.png")
    Image.open(root / "train" / "digit_5" / "5.png").save(root / "train" / "digit_5" / "imageNotFound.gif")
    found = inspect(root)
    assert {path.name for path in found.placeholders} == {"white.png", "imageNotFound.gif"}
    assert [{path.name for path in pair} for pair in found.leaks] == [{"3.png", "again.png"}]
    text = "\n".join(about(found))
    assert "1 test picture looks like training pictures" in text
    assert "a score near 80% is known to ± 24 points" in text  # 1.96 sqrt(0.8 * 0.2 / 11)
    assert "differ by some 26 points" in text  # 1.96 sqrt(0.2 / 11)


def results_of(tmp_path, gains, **changes):
    path, cells = grid(tmp_path, ["student", "kd", "rkd"], pairs=2, seeds=5)
    for cell, made in zip(cells, drawn(cells, gains, 0.1), strict=True):
        big = cell.student.model == "cifar_resnet14"
        made["profile"]["student"] = {"params": 2e5 if big else 1e5, "macs": 1e7, "cpu_ms_b1": 4.0 if big else 2.0}
        made["scores"]["test_top1"] += 3.0 if big else 0.0
        made["scores"] |= changes
        write_json(tmp_path / "grid" / "records" / f"{made['key']}.json", made)
    return path, Options(results=tmp_path)


def test_recommends_what_is_best_within_the_limits(tmp_path):
    path, options = results_of(tmp_path, {"kd": 2.0, "rkd": 0.5})
    text = recommendation(path, options)
    assert "Ship cifar_resnet14 trained with kd" in text
    assert "better than the student alone" in text
    assert "Chosen on the test examples, so its score is a little too good" in text
    assert "Ship cifar_resnet8 trained with kd" in recommendation(path, options, max_latency_ms=3)
    assert "Ship cifar_resnet8 trained with kd" in recommendation(path, options, max_params=1e5)
    text = recommendation(path, options, 1.0)
    assert "no student is within the limits.\nThe fastest, cifar_resnet8" in text


def with_outcomes(tmp_path, score, teacher, share=0.6, count=100):
    """A grid whose test examples are known: `share` of them of class 0."""
    path, cells = grid(tmp_path, ["student", "kd"], seeds=2)
    target = (np.arange(count) >= share * count).astype(int)
    entry = packed(Outcomes(target, target, target), 10)
    for cell in cells:
        made = record(cell, score + (cell.label == "kd"), outcomes=entry, num_test=count)
        made["scores"]["teacher_top1"] = teacher
        write_json(tmp_path / "grid" / "records" / f"{made['key']}.json", made)
    return recommendation(path, Options(results=tmp_path))


def test_guessing_is_not_shipped(tmp_path):
    """60 of 100 test examples are of one class: up to 69.6% (1.96 standard errors) may be guessing."""
    text = with_outcomes(tmp_path, 65.0, 66.0)
    assert "Ship nothing yet: 100 test examples can't tell any student from guessing, nor the teacher." in text
    assert "always naming the largest class 60.00%, the teacher 66.00%" in text
    assert "export" not in text
    assert "from guessing. The best" in with_outcomes(tmp_path, 65.0, 90.0)
    text = with_outcomes(tmp_path, 72.0, 71.0)
    assert "Ship cifar_resnet8 trained with kd" in text
    assert "scores no higher than the student trained plainly: get a better one" in text
    assert "3 epochs and 2 seeds decide little" in text


def test_says_when_a_teacher_is_not_worth_it(tmp_path):
    path, options = results_of(tmp_path, {"kd": -2.0, "rkd": -0.5})
    text = recommendation(path, options)
    assert "nothing to gain from a teacher" in text
    assert "trained plainly, without a teacher" in text
    path, options = results_of(tmp_path, {"kd": 0.05, "rkd": -0.5})
    text = recommendation(path, options)
    assert "nothing is decided" in text
    assert "nothing to gain" not in text


def advice(tmp_path, scores, held_out=None, **changes):
    """`scores`: label -> a score for each seed."""
    path, cells = grid(tmp_path, list(scores), seeds=len(scores["student"]))
    for cell in cells:
        made = record(cell, scores[cell.label][cell.seed], **changes)
        if held_out:
            last = made["scores"]["validation_top1"] = held_out[cell.label][cell.seed]
            made["curves"]["validation_top1"] = [last - 2, last - 1, last]
        write_json(tmp_path / "grid" / "records" / f"{made['key']}.json", made)
    return recommendation(path, Options(results=tmp_path)), cells


def test_of_rows_that_learnt_nothing_the_highest_is_named_and_plain_training_by_its_name(tmp_path):
    target = (np.arange(100) >= 60).astype(int)
    known = {"outcomes": packed(Outcomes(target, target, target), 10), "num_test": 100}
    held_out = {"student": [70.0, 71.0], "kd": [50.0, 52.0]}
    text, _ = advice(tmp_path, {"student": [44.0, 45.0], "kd": [50.0, 51.0]}, held_out, **known)
    assert "The best, cifar_resnet8 (kd), has 50.50%" in text
    text, _ = advice(tmp_path, {"student": [54.0, 55.0], "kd": [50.0, 51.0]}, held_out, **known)
    assert "The best, cifar_resnet8 (trained plainly), has 54.50%" in text


def test_nothing_is_concluded_where_nothing_is_decided(tmp_path):
    text, _ = advice(tmp_path, {"student": [60.0, 85.0], "kd": [70.0, 60.0]})
    assert "Ship cifar_resnet8 trained plainly" in text
    assert "kd comes nearest to plain training, -7.50 points" in text
    assert re.search(r"not distinguishable .* seeds would be needed. *\nSo nothing is decided between them", text)
    assert "nothing to gain" not in text


def test_the_plain_student_is_shipped_where_it_scores_as_well(tmp_path):
    scores = {"student": [98.0, 99.0, 99.1], "kd": [98.5, 98.0, 98.4]}
    text, cells = advice(tmp_path, scores, {"student": [97.0, 98.0, 99.0], "kd": [98.0, 98.5, 98.0]})
    assert "Ship cifar_resnet8 trained plainly, without a teacher: 98.70%" in text
    assert "kd has 98.30%: -0.40 points" in text
    assert any(f"kdbench export {cell.key} " in text for cell in cells if cell.label == "student")


def test_chooses_on_held_out_pictures_where_there_are_some(tmp_path):
    path, cells = grid(tmp_path, ["student", "kd"], seeds=2)
    held_out = {("student", 0): 60, ("student", 1): 60, ("kd", 0): 72, ("kd", 1): 71}
    for cell in cells:
        made = record(cell, 70.0 + (cell.label == "student"))
        made["scores"]["validation_top1"] = held_out[cell.label, cell.seed]
        made["curves"]["validation_top1"] = [50.0, 55.0, held_out[cell.label, cell.seed]]
        write_json(tmp_path / "grid" / "records" / f"{made['key']}.json", made)
    text = recommendation(path, Options(results=tmp_path))
    assert "trained with kd" in text
    best = next(cell for cell in cells if cell.label == "kd" and cell.seed == 0)
    assert f"kdbench export {best.key}" in text


def test_before_the_run(tmp_path):
    path, _ = grid(tmp_path)
    with pytest.raises(UserError, match="first: kdbench run"):
        recommendation(path, Options(results=tmp_path))
