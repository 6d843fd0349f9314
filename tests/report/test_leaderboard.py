"""From records to tables: numbers by hand, and what is not there is shown as not there."""

import json
import math
import re
import time

import pandas as pd
import pytest
import torch
from boards import write_leaderboard
from grids import drawn, grid, record

from kdbench.api import leaderboard
from kdbench.errors import UserError
from kdbench.files import write_json
from kdbench.report.frame import MADE_BY, OWN, sources_of, with_missing
from kdbench.report.table import make_board
from kdbench.results import merge as gather
from kdbench.results.schema import judged


def row_of(table, objective):
    return table[table["objective"] == objective].iloc[0]


def test_means_and_gains_by_hand(tmp_path):
    """Of two rows the model knows no more than the paired t test, which can be worked by hand."""
    _, cells = grid(tmp_path, ["student", "kd"])
    top1 = {("student", 0): 70, ("student", 1): 71, ("student", 2): 69, ("kd", 0): 71, ("kd", 1): 73, ("kd", 2): 72}
    records = [record(cell, top1[cell.label, cell.seed]) for cell in cells]
    table, text = write_leaderboard(cells, records, tmp_path / "out")
    kd = row_of(table, "kd")
    assert (kd["test_top1"], kd["std"], kd["gain_n"]) == (72, 1, 3)
    assert (kd["gain"], kd["own_t_gain"]) == (pytest.approx(2), 2)
    assert kd["own_t_gain_low"] == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert kd["gain_low"] == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=0.05)
    assert kd["own_t_gain_p"] == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(14))
    assert kd["gain_p"] == pytest.approx(kd["own_t_gain_p"], rel=0.05)
    assert kd["gain_p_corrected"] == pytest.approx(kd["gain_p"], rel=0.05)  # the only test of the table
    assert "not distinguishable from the student alone at n = 3; about 5 seeds would be needed" in kd["gain_says"]
    assert re.search(r"\+2\.00 \[-0\.[45]\d, \+4\.[45]\d\] ≈", text)
    assert math.isnan(row_of(table, "student").get("gain", math.nan))


def test_the_correction_is_over_all_tests_of_a_pair(tmp_path):
    _, cells = grid(tmp_path, seeds=8)
    table, _ = write_leaderboard(cells, drawn(cells, {"kd": 1.0, "rkd": 0.1}), tmp_path / "out", plots=False)
    kd, rkd, sp = row_of(table, "kd"), row_of(table, "rkd"), row_of(table, "sp")
    for row in (rkd, sp):
        assert row["gain_p"] <= row["gain_p_corrected"] <= 5 * row["gain_p"]
        assert row["gain_joint_low"] < row["gain_low"] < row["gain_high"] < row["gain_joint_high"]
    assert max(row["gain_p_corrected"] / row["gain_p"] for row in (rkd, sp)) > 1.2
    assert kd["gain_joint_low"] > 0
    assert kd["gain_says"] == "better than the student alone"
    assert rkd["reference_gain_says"] == "worse than kd"
    assert math.isnan(kd["reference_gain"])


def test_one_seed_invents_no_interval(tmp_path):
    _, cells = grid(tmp_path, ["student", "kd"], seeds=1)
    table, text = write_leaderboard(cells, drawn(cells, {"kd": 5}), tmp_path / "out", plots=False)
    assert math.isnan(row_of(table, "kd")["gain_low"])
    assert "One seed only, so no interval" in text
    assert not re.search(r"[+-]\d+\.\d+ \[", text)
    assert "one seed: no interval, nothing can be said" in text.splitlines()[2]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_headline_names_no_winner_below_the_student_alone(tmp_path, seeds):
    _, cells = grid(tmp_path, ["student", "kd"], seeds=seeds)
    _, text = write_leaderboard(cells, drawn(cells, {"kd": -5}), tmp_path / "out", plots=False)
    assert "Nothing beats the student alone (7" in text
    assert "highest mean" not in text


def test_what_did_not_end_well_is_shown_and_never_averaged(tmp_path):
    _, cells = grid(tmp_path, seeds=3)
    records = []
    for cell, made in zip(cells, drawn(cells, {}), strict=True):
        if (cell.label, cell.seed) == ("kd", 1):
            made |= {"status": "diverged", "reason": "loss is nan", "scores": {"test_top1": 1.0}, "curves": {}}
        if cell.label == "sp":
            made |= {"status": "skipped", "reason": "needs <maps> | of it", "scores": {}, "profile": {}, "cost": {}}
        if (cell.label, cell.seed) == ("rkd", 2):
            continue
        if (cell.label, cell.seed) == ("rkd", 0):
            made |= {"status": "failed", "reason": "RuntimeError: no", "scores": {}, "curves": {}}
        records.append(made)
    table, text = write_leaderboard(cells, records, tmp_path / "out")
    assert row_of(table, "kd")["n"] == 2
    assert row_of(table, "kd")["test_top1"] > 60
    for line in ("kd: 1 of 3 cells diverged: loss is nan", "rkd: 1 of 3 cells missing", "rkd: 1 of 3 cells failed",
                 "sp: 3 of 3 cells skipped: needs &lt;maps> \\| of it"):  # fmt: skip
        assert line in text
    assert "2 of 3" in text
    assert "(6 of 12 cells are done)" in text


@pytest.mark.parametrize("kept", [0, 1])
def test_almost_nothing_there(tmp_path, kept):
    _, cells = grid(tmp_path)
    records = drawn(cells, {})[:kept]
    table, text = write_leaderboard(cells, records, tmp_path / "out")
    assert table["n"].sum() == kept
    assert ("No cell is done yet." in text) == (kept == 0)


def test_no_student_alone_no_gain(tmp_path):
    _, cells = grid(tmp_path, ["kd", "rkd"])
    _, text = write_leaderboard(cells, drawn(cells, {}), tmp_path / "out")
    assert "the student alone was not run" in text


def test_ties(tmp_path):
    _, cells = grid(tmp_path, pairs=2)
    records = [record(cell, 70.0) for cell in cells]
    table, text = write_leaderboard(cells, records, tmp_path / "out")
    assert set(table.loc[table["objective"] != "student", "gain"]) == {0.0}
    assert "0 wins, 2 ties (within 0.2 points), 0 losses" in text


def test_across_pairs(tmp_path):
    _, cells = grid(tmp_path, pairs=4, seeds=3)
    _, text = write_leaderboard(cells, drawn(cells, {"kd": 2, "rkd": 1, "sp": -1}, 0.05), tmp_path / "out")
    assert re.search(r"\| kd +\| +1.00 ± 0.00 \| +\+2.\d\d \| +4/0/0 \|", text)
    assert "kd does best over the pairs" in text
    assert "4 wins, 0 ties" in text
    assert "Two average ranks closer than 2.35 (Nemenyi, 5%)" in text  # 2.569 sqrt(4 * 5 / (6 * 4))
    assert (tmp_path / "out/plots/critical-difference.svg").is_file()


def test_mixed_versions_are_warned_of(tmp_path):
    _, cells = grid(tmp_path, ["student", "kd"])
    records = drawn(cells, {})
    records[0]["versions"] = {**records[0]["versions"], "torch": "3", "commit": "def-dirty"}
    found = sources_of(with_missing(records, cells))
    assert found.made_by["torch"] == ["2", "3"]
    assert any("differ in torch: 2, 3" in line for line in found.warnings)
    assert any("uncommitted" in line for line in found.warnings)
    assert not sources_of(with_missing(records[1:], cells)).warnings


def test_what_was_led_around_in_some_cells_alone_is_warned_of(tmp_path):
    _, cells = grid(tmp_path, ["student", "kd"])
    records = [{**one, "led_around": ""} for one in drawn(cells, {})]
    assert not sources_of(with_missing(records, cells)).warnings
    records[0]["led_around"] = "Conv2d(4, 8) contiguous"
    found = sources_of(with_missing(records, cells))
    assert found.made_by["led_around"] == ["Conv2d(4, 8) contiguous"]
    assert any("differ in led_around: Conv2d(4, 8) contiguous, nothing" in line for line in found.warnings)


def test_a_machine_that_does_not_repeat_itself_is_told_below_the_table(tmp_path):
    _, cells = grid(tmp_path, ["student", "kd"])
    records = [{**one, "repeatable": True} for one in drawn(cells, {})]
    assert "does not repeat itself" not in write_leaderboard(cells, records, tmp_path / "out")[1]
    records[0]["repeatable"] = False
    assert "made on a machine that does not repeat itself" in write_leaderboard(cells, records, tmp_path / "out")[1]


@pytest.mark.parametrize("name", MADE_BY)
def test_whatever_may_change_a_number_is_warned_of(tmp_path, name):
    _, cells = grid(tmp_path, ["student", "kd"])
    records = drawn(cells, {})
    for number, made in enumerate(records):
        where = made if name in OWN else made.setdefault("versions", {})
        where[name] = number // 3 + 1 if name.startswith(("num_", "threads")) else f"v{number // 3 + 1}"
    [warning] = sources_of(with_missing(records, cells)).warnings
    assert f"cells are compared that differ in {name}: " in warning
    assert judged(json.dumps(records[0]).encode())["key"] == records[0]["key"]  # such a record is believed


def test_two_folders_of_pictures_are_two_comparisons(tmp_path):
    datasets = [{"name": "folder", "path": "a"}, {"name": "folder", "path": "b"}]
    _, cells = grid(tmp_path, ["student"], datasets=datasets, seeds=1)
    table, _ = write_leaderboard(cells, drawn(cells, {}), tmp_path / "out", plots=False)
    assert list(table["dataset"]) == ["folder", "folder (2)"]


def test_teachers_that_differ_in_their_checkpoint_are_two_comparisons(tmp_path):
    teachers = []
    for number, name in enumerate(("a/one.pt", "a/two.pt", "b/two.pt")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save({"weight": torch.tensor(number)}, tmp_path / name)
        teachers.append({"model": "cifar_resnet56", "checkpoint": name})
    pairs = [{"teacher": teacher, "student": "cifar_resnet8"} for teacher in ["cifar_resnet56", *teachers]]
    _, cells = grid(tmp_path, ["student"], pairs=1, seeds=1)
    _, cells = grid(tmp_path, ["student"], pairs, seeds=1)
    assert len({cell.key for cell in cells}) == 4
    table = make_board("grid", cells, drawn(cells, {})).table
    names = ["", " [one.pt]", " [two.pt]", " [two.pt] (2)"]
    assert list(table["teacher"]) == [f"cifar_resnet56{name}" for name in names]


def test_outputs(tmp_path):
    _, cells = grid(tmp_path, pairs=2)
    records = drawn(cells, {"kd": 3, "rkd": 1})
    out = tmp_path / "out"
    table, _ = write_leaderboard(cells, records, out)
    assert len(pd.read_csv(out / "leaderboard.csv")) == len(table) == 8
    tidy = pd.read_csv(out / "cells.csv")
    assert len(tidy) == len(cells)
    assert tidy["test_top1"].dtype == float
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pd.testing.assert_series_equal(pd.read_parquet(out / "cells.parquet")["test_top1"], tidy["test_top1"])
    for path in out.glob("plots/*.svg"):
        assert "<svg" in path.read_text()
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list(out.glob("plots/*.svg"))) == 4  # two pairs, latency, ranks


def test_names_longer_than_a_plot(tmp_path):
    objective = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4, "standardise": "sample"}, "at": 1000, "sp": 3000}
    taught = {"model": "cifar_resnet20", "taught_by": "cifar_resnet56", "objective": objective}
    methods = {"student": {"ce": 1}, "kd, " * 30: {"ce": 0.1, "kd": 1}}
    _, cells = grid(tmp_path, pairs=[{"teacher": taught, "student": "cifar_resnet8"}], methods=methods)
    write_leaderboard(cells, drawn(cells, {"kd, " * 30: 3}), tmp_path / "out")
    latency = (tmp_path / "out/plots/accuracy-latency.svg").read_text()
    assert "cifar_resnet20 (taught by cifar_resnet5…" in latency


def test_latex_marks_the_tied_and_the_next_group(tmp_path):
    _, cells = grid(tmp_path, seeds=2)
    top1 = {"student": 70, "kd": 73, "rkd": 72, "sp": 73}
    write_leaderboard(cells, [record(c, top1[c.label]) for c in cells], tmp_path / "out", plots=False)
    text = (tmp_path / "out" / "leaderboard.tex").read_text()
    assert "kd & \\textbf{73.00} {\\tiny $\\pm$ 0.00} \\\\" in text
    assert "sp & \\textbf{73.00}" in text
    assert "rkd & \\underline{72.00}" in text
    assert "student & 70.00" in text
    assert "cifar\\_resnet56" in text
    assert text.count("\\toprule") == text.count("\\bottomrule") == 1


def test_latex_does_not_mark_survivors(tmp_path):
    _, cells = grid(tmp_path, seeds=2)
    records = drawn(cells, {"kd": 9, "rkd": 3}, 0.01)
    next(made for made in records if made["label"] == "kd").update(status="diverged", scores={})
    write_leaderboard(cells, records, tmp_path / "out", plots=False)
    lines = (tmp_path / "out" / "leaderboard.tex").read_text().splitlines()
    marked = {line.split(" &")[0] for line in lines if "textbf" in line}
    assert marked == {"rkd"}


def test_records_from_other_folders_are_merged_by_key(tmp_path):
    path, cells = grid(tmp_path, ["student", "kd"])
    records = drawn(cells, {})
    failed = {**records[0], "status": "failed", "scores": {}}
    for folder, part in (("a", [failed, *records[1:4]]), ("b", records[2:])):
        for one in part:
            write_json(tmp_path / folder / "grid" / "records" / f"{one['key']}.json", one)
    write_json(tmp_path / "c" / "grid" / "records" / f"{records[0]['key']}.json", records[0])
    table = leaderboard(path, results=tmp_path / "a", also=[tmp_path / "b", tmp_path / "c"])
    assert list(table["n"]) == [3, 3]
    with pytest.raises(UserError, match="no record of suite 'grid'"):
        leaderboard(path, results=tmp_path / "a", also=[tmp_path / "nowhere"])


def test_ten_thousand_records(tmp_path):
    """A fifth of them here: the time grows in proportion."""
    _, cells = grid(tmp_path, pairs=4, seeds=125)
    records = [gather.slim(r) for r in drawn(cells, {"kd": 0.3})]
    start = time.process_time()
    write_leaderboard(cells, records, tmp_path / "out", plots=False)
    assert time.process_time() - start < 6


def test_published_numbers_stand_beside_ours(tmp_path):
    """The comparable recipe is the CRD benchmark's; this grid trains otherwise, so no difference is formed."""
    _, cells = grid(tmp_path, ["student", "kd"], pairs=3, datasets=["cifar100"])
    table, text = write_leaderboard(cells, drawn(cells, {}), tmp_path / "out", published=True, plots=False)
    kd = row_of(table[table["student"] == "cifar_resnet20"], "kd")
    assert kd["published"] == 70.66  # Tian et al. 2020, table 1
    assert math.isnan(kd["ours - published"])
    assert "70.66" in text
    assert "other training than ours" in text


def test_command(kdbench, tmp_path):
    path, cells = grid(tmp_path, ["student", "kd"])
    for one in drawn(cells, {}):
        write_json(tmp_path / "results" / "grid" / "records" / f"{one['key']}.json", one)
    code, out, _ = kdbench("leaderboard", path)
    assert code == 0
    assert "2 objectives were compared" in out
    assert json.loads(
        re.search(r'id="data">(.*?)</script>', (tmp_path / "results/grid/leaderboard.html").read_text())[1]
    )
    assert kdbench("leaderboard", path, "--also", tmp_path / "none")[0] == 2


def test_the_table_does_not_change_with_the_order_of_records(tmp_path):
    _, cells = grid(tmp_path)
    records = drawn(cells, {"kd": 1})
    one, two = (make_board("grid", cells, r).table for r in (records, records[::-1]))
    pd.testing.assert_frame_equal(one, two)
