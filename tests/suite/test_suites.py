"""Every suite that ships: it is explained, it plans without its data at hand, and it trains on a slice of them."""

import math
from pathlib import Path

import pytest
import timm
import torch
import yaml

from kdbench.data import Splits
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite, read_with_bases
from kdbench.suite.shipped import command_of, shipped
from kdbench.text.corpus import Labelled, Tokens, splits_of
from kdbench.train.arithmetic import NARROW, Verdicts
from kdbench.vision.batches import Images

SUITES = sorted((Path(__file__).parents[2] / "suites").glob("*.yaml"))
NAMES = [path.stem for path in SUITES]
# Whole grids take too long to plan here (fewer rows of the same file are planned and trained below).
LARGE = {"all-methods", "cifar100", "cifar100-fast"}
ON_A_HUB = {"glue", "stsb", "text-classification"}  # their weights and tokenizers: there is no network in tests
PLANNED = [path for path in SUITES if path.stem not in LARGE | ON_A_HUB]
OF_224 = {"heterogeneous", "imagenet", "imagenet-recipes"}  # nets and pictures of real size: seconds each
TRAINED = [path for path in SUITES if path.stem not in {"heterogeneous-224", "ofa", *ON_A_HUB}]


@pytest.mark.parametrize("path", SUITES, ids=NAMES)
def test_it_opens_with_what_it_answers(path):
    assert path.read_text().startswith("# ")
    suite = load_suite(path)
    assert suite.name == path.stem
    cells = cells_of(suite)
    assert any(cell.is_alone for cell in cells)
    assert len({cell.key for cell in cells}) == len(cells)


@pytest.mark.parametrize("path", PLANNED, ids=lambda path: path.stem)
def test_it_plans_without_its_data(kdbench, path, tmp_path):
    code, out, err = kdbench("plan", path, "--data", tmp_path)
    assert code == 0, err
    assert "to train" in out


@pytest.fixture
def slices(monkeypatch):
    """Six examples of every data set, and teachers without their pretrained weights."""

    def few(name, settings, data_dir, validation=0.0):
        if "tokenizer" in settings:
            texts = Labelled(["one text", "another"] * 3, [0, 1] * 3)
            return splits_of(texts, texts, ("a", "b"), Tokens(length=settings["length"]))
        side = settings.get("size") or (8 if name == "digits" else 32)
        draw = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (6, side, side, 3), dtype=torch.uint8, generator=draw)
        images = Images(pixels, torch.arange(6) % 2)
        return Splits(images, images, 2, images if validation else None)

    create = timm.create_model
    monkeypatch.setattr("kdbench.grid.cohort.load_splits", few)
    for place in ("suite.identity", "grid.cohort"):  # as if the data were there
        monkeypatch.setattr(f"kdbench.{place}.digest_of", lambda *data: "few")
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False}))
    monkeypatch.setattr("kdbench.vision.nets.must_be_had", lambda model: None)
    monkeypatch.setattr("kdbench.grid.outcome.profile", lambda *a: {"teacher": {}, "student": {}})  # elsewhere
    monkeypatch.setattr("kdbench.grid.expect.WORTH", math.inf)  # how long a slice takes is not measured
    prove = Verdicts.prove  # of each layer of large nets it takes long; what may end the process is proven nonetheless
    monkeypatch.setattr(Verdicts, "prove", lambda self, all_: prove(self, [o for o in all_ if NARROW.search(o.name)]))


@pytest.mark.parametrize("path", [
    pytest.param(path, marks=pytest.mark.long if path.stem in OF_224 else (), id=path.stem) for path in TRAINED
])  # fmt: skip
def test_it_trains_an_epoch_on_a_slice(kdbench, slices, records_of, path, tmp_path):
    """Its first pair with its plain row, kd and one that reads feature maps."""
    whole = read_with_bases(path).data
    rows = [n for n in ("student", "kd", "fitnet", "at") if whole["methods"].get(n) is not None][:3]
    dropped = {name: None for name in whole["methods"] if name not in rows}
    short = {"epochs": 1, "batch_size": 4, "warmup_epochs": 0, "schedule": "constant"}
    teacher = {"epochs": 0 if whole.get("teacher_train", {}).get("epochs") == 0 else 1}
    child = {"extends": str(path), "name": "child", "pairs": whole["pairs"][:1], "methods": dropped, "seeds": [0]}
    child |= {"train": short, "teacher_train": {**short, **teacher}}
    child |= {"reference_seeds": [0]} if "reference_seeds" in whole else {}
    suite = tmp_path / "child.yaml"
    suite.write_text(yaml.safe_dump(child, sort_keys=False))
    code, _, err = kdbench("run", suite, "--data", tmp_path)
    assert code == 0, err
    found = records_of("child")
    assert len(found) == len(rows) * len(whole["datasets"])
    assert {record["status"] for record in found} == {"done"}


@pytest.fixture
def records_of(tmp_path):
    from kdbench.results.records import Records

    return lambda name: Records(tmp_path / "results", name).read_all()


def test_what_to_type_to_run_a_suite_is_its_name_where_it_is_ours(tmp_path: Path) -> None:
    ours, copy = shipped()["quickstart"], tmp_path / "quickstart.yaml"
    copy.write_bytes(ours.read_bytes())
    assert command_of(ours) == command_of(copy) == "kdbench run quickstart"
    copy.write_text(f"{ours.read_text()}# mine\n")
    assert command_of(copy) == "kdbench run quickstart.yaml"
    assert command_of(tmp_path / "mine.yaml") == "kdbench run mine.yaml"
