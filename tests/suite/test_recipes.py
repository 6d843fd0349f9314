"""Named recipes: each has its source's settings, stands in a suite that plans, and says everything."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY

from kdbench.errors import UserError
from kdbench.results.records import Records
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite, read_with_bases
from kdbench.suite.recipes import recipes
from kdbench.suite.shipped import shipped
from kdbench.suite.training import TimmSchedule, Train
from kdbench.vision.sizing import middle

# What the sources' own tables and configurations say, in their words; each is translated by one line of `settings`.
RAND = {"num_ops": 2, "std": 0.5, "probability": 0.5}
SPARED = "norms_and_biases"
TIMM = {"min_lr": 1e-6, "warmup_lr": 1e-4, "no_decay": SPARED, "interpolation": "bicubic"}
SOURCES: dict[str, dict[str, Any]] = {
    # RepDistiller, train_student.py: its defaults
    "crd": {"epochs": 240, "batch": 64, "opt": "sgd", "lr": 0.05, "wd": 5e-4, "momentum": 0.9,
            "decay": [150, 180, 210], "gamma": 0.1},
    # pytorch/examples, imagenet/main.py: StepLR(30, 0.1)
    "imagenet-90": {"epochs": 90, "batch": 256, "opt": "sgd", "lr": 0.1, "wd": 1e-4, "momentum": 0.9, "decay": [30, 60],
                    "gamma": 0.1,
                    "crop": (0.08, 1), "flip": 0.5, "test_crop": (224 / 256, "bilinear")},
    "imagenet-100": {"epochs": 100, "batch": 256, "opt": "sgd", "lr": 0.1, "wd": 1e-4, "momentum": 0.9,
                     "decay": [30, 60, 90], "gamma": 0.1, "crop": (0.08, 1), "flip": 0.5,
                     "test_crop": (224 / 256, "bilinear")},
    # arXiv 2110.00476, table 2, columns A1 to A3; the rates' ends, what decay spares and crops: timm's train.py
    "rsb-a1": {"epochs": 600, "batch": 2048, "opt": "lamb", "lr": 5e-3, "wd": 0.01, "warmup": 5, "sched": "cosine",
               "smoothing": 0.1, "drop_path": 0.05, "repeated": 3, "rand": 7, "mixup": 0.2, "cutmix": 1.0,
               "crop": (0.08, 1), "flip": 0.5, "test_crop": (0.95, "bicubic"), **TIMM},
    "rsb-a2": {"epochs": 300, "batch": 2048, "opt": "lamb", "lr": 5e-3, "wd": 0.02, "warmup": 5, "sched": "cosine",
               "drop_path": 0.05, "repeated": 3, "rand": 7, "mixup": 0.1, "cutmix": 1.0,
               "crop": (0.08, 1), "flip": 0.5, "test_crop": (0.95, "bicubic"), **TIMM},
    "rsb-a3": {"epochs": 100, "batch": 2048, "opt": "lamb", "lr": 8e-3, "wd": 0.02, "warmup": 5, "sched": "cosine",
               "rand": 6, "mixup": 0.1, "cutmix": 1.0, "crop": (0.08, 1), "flip": 0.5,
               "test_crop": (0.95, "bicubic"), **TIMM},
    # arXiv 2012.12877, table 9 (lr = 0.0005 x batch / 512), and main.py for the rate's ends
    "deit": {"epochs": 300, "batch": 1024, "opt": "adamw", "lr": 0.0005 * 1024 / 512, "wd": 0.05, "warmup": 5,
             "sched": "cosine", "smoothing": 0.1, "drop_path": 0.1, "repeated": 3, "rand": 9, "mixup": 0.8,
             "cutmix": 1.0, "erase": 0.25, "min_lr": 1e-5, "warmup_lr": 1e-6, "crop": (0.08, 1), "flip": 0.5,
             "test_crop": (0.875, "bicubic"),  # main.py: --eval-crop-ratio; datasets.py: interpolation=3
             "no_decay": SPARED, "interpolation": "bicubic"},
    # OFAKD, configs/cifar/vit_mlp.yaml and cnn.yaml, on 8 GPUs; timm 0.6.5's `sgd` is Nesterov's
    "ofa": {"epochs": 300, "batch": 8 * 128, "opt": "adamw", "lr": 5e-4, "wd": 0.05, "warmup": 20, "sched": "cosine",
            "min_lr": 1e-5, "warmup_lr": 5e-7, "clip": 5.0, "smoothing": 0.1, "erase": 0.25, "rand": 9, "mixup": 0.8,
            "cutmix": 1.0, "crop": (0.08, 1), "flip": 0.5, "no_decay": SPARED, "interpolation": "bicubic"},
    "ofa-cnn": {"epochs": 300, "batch": 8 * 128, "opt": "sgd", "nesterov": True, "momentum": 0.9, "lr": 0.05,
                "wd": 2e-3, "warmup": 3, "sched": "cosine", "min_lr": 1e-3, "warmup_lr": 1e-4, "smoothing": 0.1,
                "crop": (0.08, 1), "flip": 0.5, "no_decay": SPARED, "interpolation": "bicubic"},
}  # fmt: skip
OWN = {"pictures-few": 16, "pictures-some": 32, "pictures-many": 64}  # kdbench's: named by `init`; the batch size
TABLE = {"repeated": "repeats", "mixup": "mixup", "cutmix": "cutmix", "erase": "erase", "flip": "flip"}


def settings(train: Train) -> dict[str, Any]:
    """A recipe in the sources' words; what is off is left out."""
    augment = train.augment if isinstance(train.augment, dict) else {}
    found: dict[str, Any] = {
        "epochs": train.epochs, "batch": train.batch_size, "opt": train.optimizer, "lr": train.lr,
        "wd": train.weight_decay, "smoothing": train.label_smoothing, "drop_path": train.drop_path,
        "clip": train.clip_grad, "warmup": train.warmup_epochs or None, "nesterov": train.nesterov or None,
        "momentum": train.momentum if train.optimizer == "sgd" else None, "decay": list(train.schedule.step) or None,
        "crop": tuple(augment["resized_crop"]) if "resized_crop" in augment else None,
        **{theirs: augment.get(ours) for theirs, ours in TABLE.items()},
    }  # fmt: skip
    if train.test_crop is not None:
        cut = middle(train.test_crop)
        found["test_crop"] = cut.share, cut.interpolation
    if train.schedule.timm is not None:
        found |= {"sched": train.schedule.timm.name}
        found |= {name: getattr(train.schedule.timm, name) for name in ("min_lr", "warmup_lr")}
    # What a source's table leaves to its code: all else that a recipe may say, so that nothing goes unread.
    found |= {name: getattr(train, name) for name in ("no_decay", "ema", "betas", "eps", "layer_decay", "accumulate")}
    found |= {"jitter": augment.get("color_jitter"), "interpolation": augment.get("interpolation")}
    found["gamma"] = train.schedule.gamma if train.schedule.step else None
    if train.schedule.timm is not None:
        rate = train.schedule.timm.model_dump(exclude={"name", "min_lr", "warmup_lr"})
        assert rate == TimmSchedule(name="cosine").model_dump(exclude={"name", "min_lr", "warmup_lr"})
    if "rand_augment" in augment:
        found["rand"] = augment["rand_augment"]["magnitude"]
        assert {**RAND, **augment["rand_augment"]} == {**RAND, "magnitude": found["rand"]}
    return {name: value for name, value in found.items() if value is not None}


def expanded(suite_file: Any, **train: Any) -> Train:
    return load_suite(suite_file(train=train)).pairs[0][2]


@pytest.mark.parametrize("name", [name for name in recipes() if name not in OWN])
def test_it_has_its_source_s_settings(suite_file: Any, name: str) -> None:
    found = settings(expanded(suite_file, recipe=name))
    stated = SOURCES[name]
    beyond = set(found) - set(stated)
    assert {entry: found.get(entry) for entry in stated} == stated
    assert beyond == set()


@pytest.mark.parametrize("name", [name for name in recipes() if name not in OWN])
def test_it_names_its_source_and_stands_in_a_suite(name: str) -> None:
    text = recipes()[name].read_text()
    assert text.startswith("# ")
    assert "# Source: " in text
    using = [path for path in shipped().values() if f"recipe: {name}," in path.read_text().replace("}", ",")]
    assert using


def test_all_recipes_are_asserted() -> None:
    assert set(SOURCES) | set(OWN) == set(recipes())


@pytest.mark.parametrize("name", OWN)
def test_recipes_of_our_own(suite_file: Any, name: str) -> None:
    """What `init` wrote before they had names."""
    spelt = {"batch_size": OWN[name], "lr": 0.05, "schedule": "cosine", "warmup_epochs": 3, "augment": "crop_flip"}
    assert expanded(suite_file, recipe=name, epochs=30, warmup_epochs=3) == expanded(suite_file, epochs=30, **spelt)
    assert "# Source: kdbench's own" in recipes()[name].read_text()


def test_what_stands_beside_it_goes_before_it(suite_file: Any) -> None:
    short = expanded(suite_file, recipe="deit", epochs=100, augment="flip", drop_path=None)
    assert (short.epochs, short.augment, short.drop_path, short.batch_size) == (100, "flip", None, 1024)


def test_a_recipe_says_everything_but_the_precision(suite_file: Any) -> None:
    """A pair's recipe takes nothing from the suite's, nor a suite's from the one that it extends."""
    other = {**TINY["pairs"][0], "train": {"recipe": "crd", "lr": 0.01}}
    long = {"recipe": "ofa", "precision": "bf16"}
    path = suite_file(pairs=[{**TINY["pairs"][0], "student": "cifar_resnet8"}, other], train=long)
    suite = load_suite(path)
    crd = Train(epochs=240, lr=0.01, schedule={"step": [150, 180, 210]}, precision="bf16")
    assert suite.pairs[1][2] == crd
    assert suite.pairs[0][2].clip_grad == 5
    child = path.with_name("child.yaml")
    child.write_text(yaml.safe_dump({"extends": path.name, "name": "child", "train": {"recipe": "crd"}}))
    assert load_suite(child).pairs[0][2] == crd.model_copy(update={"lr": 0.05})
    child.write_text(yaml.safe_dump({"extends": path.name, "name": "child", "train": {"lr": 0.5}}))
    assert load_suite(child).pairs[0][2].lr == 0.5
    assert load_suite(child).pairs[0][2].clip_grad == 5


def test_cifar100_has_the_keys_that_it_had_before_its_recipe_had_a_name(tmp_path: Path) -> None:
    path = shipped()["cifar100"]
    written = tmp_path / "cifar100.yaml"
    whole = read_with_bases(path).data
    spelt = {"epochs": 240, "batch_size": 64, "optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4,
             "schedule": {"step": [150, 180, 210], "gamma": 0.1}, "augment": "crop_flip",
             "precision": "fp32"}  # fmt: skip
    few = {name: whole["methods"][name] for name in ("student", "kd", "crd")}
    written.write_text(yaml.safe_dump({**whole, "methods": few, "train": spelt}))
    before = {cell.title: cell.key for cell in cells_of(load_suite(written))}
    now = {cell.title: cell.key for cell in cells_of(load_suite(path))}
    assert before.items() <= now.items()


def test_a_recipe_of_one_s_own(suite_file: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("epochs: 7\nlr: 0.3\n")
    assert expanded(suite_file, recipe="mine.yaml", lr=0.2).epochs == 7
    (tmp_path / "mine.yaml").write_text("epochs: 7\nlr: -1\n")
    with pytest.raises(UserError, match=r"mine\.yaml:2: train\.lr: should be greater than 0"):
        expanded(suite_file, recipe="mine.yaml")


VIT = {"img_size": 8, "patch_size": 4, "depth": 2, "embed_dim": 12, "num_heads": 2}
TINY_VITS = {
    "teacher": {"model": "vit_tiny_patch16_224", **VIT, "depth": 3},
    "student": {"model": "deit_tiny_distilled_patch16_224", **VIT},
}


def test_a_long_recipe_trains_through_the_commands(kdbench: Any, suite_file: Any, tmp_path: Path) -> None:
    """DeiT's, with a moving average: the rows that need one label of each picture are skipped with their reason."""
    rows = {"student": {"ce": 1}, "deit": {"deit": 0.5}, "crd": {"ce": 1, "crd": 0.8}, "kd": {"ce": 0.5, "kd": 0.5}}
    train = {"recipe": "deit", "epochs": 2, "batch_size": 64, "warmup_epochs": 1, "accumulate": 2, "ema": 0.9}
    path = suite_file(pairs=[TINY_VITS], methods=rows, train=train)
    code, _, err = kdbench("run", path)
    assert code == 0, err
    found = {record["label"]: record for record in Records(tmp_path / "results", "tiny").read_all()}
    assert {label: record["status"] for label, record in found.items()} == {
        **dict.fromkeys(("student", "deit", "kd"), "done"),
        "crd": "skipped",
    }
    assert "pictures that are mixed (mixup, cutmix) have two labels" in found["crd"]["reason"]
    assert found["kd"]["settings"]["train"]["drop_path"] == 0.1
    assert found["kd"]["settings"]["train"]["augment"]["repeats"] == 3


def test_names_that_there_are_not(suite_file: Any) -> None:
    for given, words in (("diet", "unknown recipe 'diet'; did you mean 'deit'?"), (3, "should be one of crd, deit")):
        with pytest.raises(UserError, match=r"train\.recipe: ") as found:
            expanded(suite_file, recipe=given)
        assert words in str(found.value)
    with pytest.raises(UserError, match=r"unknown recipe 'nowhere\.yaml'"):
        expanded(suite_file, recipe="nowhere.yaml")
