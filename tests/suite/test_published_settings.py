"""The literature's suites have, pair by pair, the settings that the methods' authors print."""

import re
from pathlib import Path

import pytest

from kdbench.method.register import METHODS
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite

SUITES = sorted((Path(__file__).parents[2] / "suites").glob("*.yaml"))
KINDS = "wrn_16_2 wrn_40_1 resnet20 resnet20' resnet32 resnet8x4 vgg8 mobilenetv2 mobilenetv2' vgg8' shufflenetv1 "
KINDS += "shufflenetv2 shufflenetv1'"
OF = [name.rstrip("'") for name in KINDS.split()]

# Method -> setting -> one value for each pair, in the CRD benchmark's order; None where the authors print none.
PRINTED = {
    # CAT-KD configs/cifar100/CAT_KD
    ("catkd", "weight"): [12, 1.5, 0.7, None, 1.8, 15, 4.5, 15, 40, None, 600, 600, 80],
    ("catkd", "grid"): [2, 2, 2, None, 2, 2, 2, 2, 2, None, 4, 4, 4],
    ("catkd", "normalise"): [False] * 3 + [None] + [False] * 3 + [True] * 2 + [None] + [True] * 3,
    # SDD configs/cifar100/sdd_dkd, and DKD's in mdistiller configs/cifar100/dkd
    ("sdd", "beta"): [6, 6, 2, None, 2, 8, 6, 6, 8, 8, 8, 8, 8],
    ("dkd", "beta"): [6, 6, 2, None, 2, 8, 6, 6, 8, None, 8, 8, 8],
    # LSKD README, names of the logs
    ("kd, standardised", "temperature"): [2, 2, 2, 4, 2, 2, 3, 3, 3, None, None, 2, None],
    ("kd, standardised", "weight"): [9, 9, 9, 12, 9, 9, 9, 9, 1, None, None, 9, None],
    # ITRD README
    ("itrd", "alpha"): [1.01] * 7 + [1.5] * 6,
    ("itrd", "mutual"): [1.0] * 13,
    # ReviewKD script/reviewKD.sh
    ("reviewkd", "weight"): [5, 5, 0.6, None, 1, 5, None, None, None, None, 5, 8, 5],
}
# Stages of the four pairs of five-stage nets: RepDistiller train_student.py, mdistiller OFD.py, ReviewKD reviewkd.py.
FOUR = (-4, -3, -2, -1)
FIVE_STAGES = {"at": FOUR, "vid": FOUR, "nst": FOUR, "ab": FOUR, "kdsvd": FOUR, "ofd": FOUR, "reviewkd": FOUR,
               "fsp": (-5, *FOUR)}  # fmt: skip
BESIDE_KD = ("irg", "semckd", "srrl", "crd+kd")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Cell]]:
    cells = [cell for cell in cells_of(load_suite(SUITES[0].parent / "cifar100.yaml")) if cell.seed == 0]
    return {label: [cell for cell in cells if cell.label == label] for label in {cell.label for cell in cells}}


def term(cell: Cell, method: str) -> dict:
    return next(terms[method] for _, terms in cell.phases if method in terms)


@pytest.mark.parametrize(("label", "setting"), PRINTED, ids=lambda x: x)
def test_each_pair_has_its_authors_setting(rows: dict[str, list[Cell]], label: str, setting: str) -> None:
    method = "kd" if label.startswith("kd,") else label
    assert [cell.student.model.removeprefix("cifar_") for cell in rows[label]] == OF
    for cell, printed in zip(rows[label], PRINTED[label, setting], strict=True):
        value = term(cell, method)[setting]
        value = value["to"] if isinstance(value, dict) else value
        assert printed is None or value == printed, cell.pair


@pytest.mark.parametrize("label", FIVE_STAGES)
def test_nets_of_five_stages_compare_what_the_sources_do(rows: dict[str, list[Cell]], label: str) -> None:
    for cell in rows[label]:
        five = cell.teacher.model in ("cifar_vgg13", "cifar_resnet50")
        others = FOUR if label == "fsp" else FOUR[1:]
        assert tuple(term(cell, label)["stages"]) == (FIVE_STAGES[label] if five else others), cell.pair


@pytest.mark.parametrize("label", BESIDE_KD)
def test_rows_that_were_published_beside_kd_have_it(rows: dict[str, list[Cell]], label: str) -> None:
    assert all(term(cell, "kd")["weight"] == 1 and term(cell, "kd")["temperature"] == 4 for cell in rows[label])


def test_imagenet_s_weights_are_by_pair() -> None:
    cells = cells_of(load_suite(SUITES[0].parent / "imagenet.yaml"))
    found = {(c.label, c.student.model): term(c, c.label) for c in cells if c.label in ("dkd", "ofd", "reviewkd")}
    assert [found["dkd", net]["beta"] for net in ("resnet18", "mobilenetv1_100")] == [0.5, 2]
    assert found["ofd", "mobilenetv1_100"]["weight"] == 0.0001
    assert [found["reviewkd", net]["weight"]["to"] for net in ("resnet18", "mobilenetv1_100")] == [1, 8]
    assert {found["dkd", net]["warmup"] for net in ("resnet18", "mobilenetv1_100")} == {0.01}


def test_the_header_counts_its_rows_and_names_the_methods_that_it_leaves_out() -> None:
    path = SUITES[0].parent / "cifar100.yaml"
    suite = load_suite(path)
    header = path.read_text().partition("\nname:")[0]
    assert {int(count) for pair in re.findall(r"(\d+) rows|cohort of (\d+)", header) for count in pair if count} == {
        len(suite.objectives)
    }
    told = set(re.findall(r"\w+", header.partition("Not every method is here")[2].partition("Known differences")[0]))
    ours = {
        name
        for name in METHODS
        if METHODS[name].__module__.startswith("kdbench.methods") and METHODS[name].kinds != ("numbers",)
    }  # not what other tests brought in
    assert ours - {name for cell in cells_of(suite) for name in cell.methods} <= told


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_nothing_is_warmed_up_twice(path: Path) -> None:
    for cell in cells_of(load_suite(path)):
        for _, terms in cell.phases:
            twice = [n for n, given in terms.items() if isinstance(given["weight"], dict) and given.get("warmup")]
            assert not twice, (cell.title, twice)
