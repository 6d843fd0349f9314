"""`kdbench verify`: an honest folder passes, and every forgery is found where evidence of that kind exists.

Forgers here seal their records anew and make the tables anew, unless the test is about seals and tables.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import STUDENT, TEACHER, TINY, without_measures
from pydantic import create_model
from safetensors.torch import load_file, save_file

from kdbench.cli import main
from kdbench.data import load_splits
from kdbench.gathered import gather
from kdbench.grid.cohort import Place, Worker
from kdbench.layout import SuiteFolder
from kdbench.method.register import METHODS
from kdbench.nets import build_net
from kdbench.options import Options
from kdbench.results.seal import sealed
from kdbench.suite.models import ModelSpec
from kdbench.train.digests import digest_of
from kdbench.verify.claims import is_trained
from kdbench.verify.folder import judge_folder, suite_of_folder
from kdbench.verify.judge import DECIDE, Asked, Judge
from kdbench.verify.quiet import Quiet
from kdbench.verify.tables import links_of

ROOT = Path(__file__).parents[2]

Record = dict[str, Any]


@dataclass
class Folder:
    """A copy of a finished suite."""

    suite: Path
    results: Path

    @property
    def place(self) -> Path:
        return self.results / "tiny"

    def record(self, label: str = "kd") -> Record:
        found = map(json.loads, (path.read_bytes() for path in (self.place / "records").glob("*.json")))
        return next(record for record in found if record["label"] == label)

    def write(self, record: Record) -> None:
        (self.place / "records" / f"{record['key']}.json").write_text(json.dumps(record))

    def student(self, record: Record) -> Path:
        return self.place / "students" / f"{record['key']}.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("finished")
    suite = folder / "suite.yaml"
    suite.write_text(yaml.safe_dump({**TINY, "validation": 0.1}))
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        assert main(["run", str(suite), "--results", str(folder / "results"), "--device", "cpu", "--jobs", "1"]) == 0
    return Folder(suite, folder / "results")


@pytest.fixture
def folder(finished: Folder, tmp_path: Path) -> Folder:
    shutil.copytree(finished.results, tmp_path / "results")
    return Folder(finished.suite, tmp_path / "results")


def test_an_honest_folder_passes(kdbench: Any, finished: Folder) -> None:
    code, out, err = kdbench("verify", finished.place, "--sample", 2, "--draw", 1)
    assert code == 0, out + err
    assert "claimed: 2 of 2 records fit together" in out
    assert "weights re-evaluated: 2 students give what is claimed" in out
    assert "teachers: 1 evaluated again give what is claimed; no teacher's training is replayed" in out
    assert "epoch replayed: 2 cells" in out
    assert all(name in out for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.html", "cells.csv"))
    assert "WRONG" not in out


def test_what_was_found_can_be_noted_and_the_table_shows_it(kdbench: Any, folder: Folder) -> None:
    words = ("verify", folder.suite, "--sample", 1, "--draw", 1)
    assert kdbench(*words, "--note", results=folder.results)[0] == 0
    table = (folder.place / "leaderboard.md").read_text()
    assert table.count("weights 1/1, epoch 1/1") == 1
    assert table.count("weights 1/1") == 2
    assert ",checked," in (folder.place / "leaderboard.csv").read_text().splitlines()[0]
    assert kdbench(*words, results=folder.results)[0] == 0, "the table with its notes is what its records say"
    record = folder.record()
    folder.write(sealed({**record, "cost": {**record["cost"], "step_ms": 1.0}}))
    kdbench("leaderboard", folder.suite, results=folder.results)
    table = (folder.place / "leaderboard.md").read_text()
    assert table.count("weights 1/1") == 1, "what was noted of another record counts no more"


def test_runs_that_were_not_known_when_the_page_was_written_are_no_fault(kdbench: Any, folder: Folder) -> None:
    page = folder.place / "leaderboard.html"
    links = links_of(page)
    assert len(links) == 2
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(links[folder.record()["key"]], ""), encoding="utf-8")
    assert sorted(map(bool, links_of(page).values())) == [False, True]
    words = ("verify", folder.suite, "--sample", 1)
    assert kdbench(*words, results=folder.results)[0] == 0
    page.write_text(text.replace('"n":1', '"n":2', 1), encoding="utf-8")
    code, out, _ = kdbench(*words, results=folder.results)
    assert code == 1
    assert "leaderboard.html:" in out


def changed_score(folder: Folder) -> Record:
    """As a careful liar would: the curve ends in it, and the outcomes are gone."""
    record = folder.record()
    record["scores"]["test_top1"] += 1
    record["scores"]["test_top1_best"] = record["curves"]["test_top1"][-1] = record["scores"]["test_top1"]
    record["scores"]["test_top1_chosen"] = None
    record["curves"] = {name: curve for name, curve in record["curves"].items() if "validation" not in name}
    del record["outcomes"]
    return record


def score_against_its_outcomes(folder: Folder) -> Record:
    record = changed_score(folder)
    return {**record, "outcomes": folder.record()["outcomes"]}


def swapped_student(folder: Folder) -> Record:
    record = folder.record()
    other = load_file(folder.student(folder.record("student")))
    save_file(other, folder.student(record), metadata={"kdbench.key": record["key"]})
    return record


def swapped_student_and_digest(folder: Folder) -> Record:
    record = swapped_student(folder)
    record["digests"]["student"] = digest_of(load_file(folder.student(record)))
    return record


def edited_curve(folder: Folder) -> Record:
    record = folder.record()
    record["curves"]["loss/kd"][0] *= 0.9
    return record


def replaced_digest(folder: Folder) -> Record:
    record = folder.record()
    record["digests"]["states"][1] = folder.record("student")["digests"]["states"][1]
    return record


def another_teacher(folder: Folder) -> Record:
    record = folder.record()
    record["digests"]["teacher"] = "0" * 20
    return record


def another_method_file(folder: Folder) -> Record:
    record = folder.record()
    record["versions"]["method_files"]["kd"] = "0" * 12
    return record


def another_class(folder: Folder) -> Record:
    record = folder.record()
    record["test_top1_per_class"][3] += 1
    return record


def fewer_examples(folder: Folder) -> Record:
    record = folder.record()
    record["num_test"] = 5
    return record


FORGERIES: list[tuple[Callable[[Folder], Record], str]] = [
    (changed_score, "test_top1 is claimed to be"),
    (score_against_its_outcomes, "by its outcomes"),
    (swapped_student, "holds another student"),
    (swapped_student_and_digest, "another class than its outcomes say"),
    (edited_curve, "epoch 1: loss/kd is recorded as"),
    (replaced_digest, "its state after epoch 1 has another digest"),
    (another_teacher, "it learnt from another teacher"),
    (another_method_file, "the code of method kd is another one here"),
    (another_class, "its accuracy on class 3 is"),
    (fewer_examples, "test examples, and says 5"),
]


@pytest.mark.parametrize(("forge", "says"), FORGERIES, ids=[forge.__name__ for forge, _ in FORGERIES])
def test_a_forgery_is_found_and_its_cell_named(
    kdbench: Any, folder: Folder, forge: Callable[[Folder], Record], says: str
) -> None:
    record = forge(folder)
    folder.write(sealed(record))
    assert kdbench("leaderboard", folder.suite, results=folder.results)[0] == 0
    code, out, _ = kdbench("verify", folder.suite, "--sample", 2, results=folder.results)
    wrong = [line for line in out.splitlines() if line.startswith("WRONG")]
    assert code == 1, out
    assert all(f"kd · seed 0 ({record['key']})" in line for line in wrong), wrong
    assert any(says in line for line in wrong), wrong
    assert "claimed: 1 of 2" in out
    assert "It does not hold." in out


def better_scores(about: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    about["scores"]["top1"] += 1


def other_weights(about: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    next(weight for name, weight in weights.items() if name.startswith("fc")).mul_(-1)


@pytest.mark.parametrize(
    ("forge", "says"),
    [(better_scores, "its own file says otherwise"), (other_weights, "top1 is claimed to be")],
    ids=["scores", "weights"],
)
def test_a_forged_teacher_is_found(kdbench: Any, folder: Folder, forge: Callable[..., None], says: str) -> None:
    [file] = (folder.results / "teachers").glob("*.json")
    about, weights = json.loads(file.read_bytes()), load_file(file.with_suffix(".safetensors"))
    forge(about, weights)
    save_file(weights, file.with_suffix(".safetensors"))
    about["sha256"] = hashlib.sha256(file.with_suffix(".safetensors").read_bytes()).hexdigest()
    file.write_text(json.dumps(about))
    code, out, _ = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)
    assert code == 1, out
    assert any(line.startswith(f"WRONG: teacher {file.stem}: ") and says in line for line in out.splitlines()), out


def test_what_was_changed_without_sealing_anew_is_found_by_the_seal_alone(kdbench: Any, folder: Folder) -> None:
    record = folder.record()
    record["cost"]["step_ms"] /= 2  # nothing else tells of it
    folder.write(record)
    assert kdbench("leaderboard", folder.suite, results=folder.results)[0] == 0
    code, out, _ = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)
    assert code == 1
    assert f"({record['key']}): its seal is broken" in out


@pytest.mark.parametrize(
    "name", ["leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.html", "cells.csv"]
)
def test_an_edited_table_is_found(kdbench: Any, folder: Folder, name: str) -> None:
    text, score = (folder.place / name).read_text(), folder.record()["scores"]["test_top1"]
    shown = str(score) if str(score) in text else f"{score:.2f}"
    assert shown in text
    (folder.place / name).write_text(text.replace(shown, str(score + 0.1)[: len(shown)]))
    code, out, _ = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)
    assert code == 1
    assert f"the table is not what its records say: {name}:" in out


def test_on_another_kind_of_processor_scores_are_compared_within_a_tolerance(
    kdbench: Any, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {**folder.record()["versions"], "kind": "another"}
    monkeypatch.setattr("kdbench.verify.judge.versions", lambda *a: here)
    code, out, _ = kdbench("verify", folder.suite, results=folder.results)
    assert code == 0, out
    assert "compared within 0.1 points" in out
    assert "no epoch was replayed, for digests hold on one kind of machine" in out
    assert "weights re-evaluated: 2 students" in out
    record = changed_score(folder)
    record["scores"]["test_top1"] += 1
    folder.write(sealed(record))
    out = kdbench("verify", folder.suite, results=folder.results)[1]
    assert f"({record['key']}): test_top1 is claimed to be" in out


def test_without_weights_it_is_claimed_and_replayed(kdbench: Any, folder: Folder) -> None:
    shutil.rmtree(folder.place / "students")
    code, out, _ = kdbench("verify", folder.suite, "--sample", 1, results=folder.results)
    assert code == 0, out
    assert "weights re-evaluated: 0 students" in out
    assert "not judged, 2 cells: its student's weights are not there" in out
    assert "epoch replayed: 1 cell:" in out


def test_a_record_of_before_is_read_and_only_claimed(kdbench: Any, folder: Folder) -> None:
    record = folder.record()
    for name in ("digests", "seal"):
        del record[name]
    folder.write(record)
    code, out, _ = kdbench("verify", folder.suite, "--sample", 2, results=folder.results)
    assert code == 0, out
    assert "not judged, 1 cell: no epoch can be replayed: its record has no digests" in out


def test_the_score_of_a_converted_file_is_only_claimed(kdbench: Any, folder: Folder) -> None:
    """It is that of the file, not of the last epoch's student."""
    record, other = changed_score(folder), folder.record("student")
    folder.write(sealed({**record, "scores": {**record["scores"], "test_top1": 1.0}, "delivered": {}}))
    folder.write(sealed({name: part for name, part in other.items() if name != "outcomes"}))  # else they are missed
    assert kdbench("leaderboard", folder.suite, results=folder.results)[0] == 0
    code, out, _ = kdbench("verify", folder.suite, "--sample", 2, results=folder.results)
    assert code == 0, out
    assert "weights re-evaluated: 1 student" in out
    assert "not judged, 1 cell: its scores are not its training's own" in out


def test_students_that_a_probe_judges_are_verified_too(
    kdbench: Any, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    """They have no curve of their score, for they are judged at the end alone; all else can be found again."""
    task = load_splits("digits", {}, Path()).task
    torch.save(build_net(ModelSpec(**TEACHER), task, 0).model.state_dict(), tmp_path / "teacher.pth")
    pair = {"teacher": {**TEACHER, "checkpoint": "teacher.pth", "num_classes": 0}, "student": STUDENT}
    rows = {"student": {"ce": 1}, "pkt": {"pkt": 10000, "labels": "none"}}
    path = suite_file(pairs=[pair], methods=rows, evaluate={"probe": "linear", "neighbours": 5})
    assert kdbench("run", path)[0] == 0
    words = ("verify", path, "--sample", 2, "--draw", 1)
    code, out, err = kdbench(*words)
    assert code == 0, out + err
    assert "claimed: 2 of 2 records fit together" in out
    assert "weights re-evaluated: 2 students give what is claimed" in out
    assert "epoch replayed: 2 cells" in out
    liar = Folder(path, tmp_path / "results")
    record = liar.record("pkt")
    record["scores"]["test_top1"] += 1
    del record["outcomes"]
    liar.write(sealed(record))
    assert "test_top1 is claimed to be" in kdbench(*words)[1]


def test_a_cell_that_was_left_out_is_named(kdbench: Any, folder: Folder) -> None:
    gone = folder.record("kd")
    (folder.place / "records" / f"{gone['key']}.json").unlink()
    assert kdbench("leaderboard", folder.suite, results=folder.results)[0] == 0
    code, out, _ = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)
    assert code == 0  # what is there holds
    assert "NOT THERE: 1 cell of the suite without a record: " in out
    assert gone["key"] in out


def test_outcomes_that_were_taken_out_are_missed(kdbench: Any, folder: Folder) -> None:
    record = folder.record("kd")
    del record["outcomes"]
    folder.write(sealed(record))
    code, out, _ = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)
    assert code == 1
    assert "its outcomes were taken out: other records of its data set have theirs" in out


def test_a_record_that_is_called_otherwise_is_found(kdbench: Any, folder: Folder) -> None:
    record = folder.record("kd")
    folder.write(sealed({**record, "seed": 7}))
    code, out, _ = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)
    assert code == 1
    assert f"kd · seed 0 ({record['key']}): its record is called otherwise: 7 instead of 0" in out


def test_what_is_no_result_is_sealed_too(kdbench: Any, folder: Folder) -> None:
    """Else a seed that displeased could be said to have failed."""
    record = folder.record("kd")
    folder.write({**record, "status": "failed", "reason": "bad luck"})
    code, out, _ = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)
    assert code == 1
    assert f"kd · seed 0 ({record['key']}): its seal is broken" in out
    assert "without a score: kd · seed 0 (failed)" in out


def test_a_record_without_a_seal_is_spoken_of(kdbench: Any, folder: Folder) -> None:
    record = folder.record("kd")
    del record["seal"]
    folder.write(record)
    out = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)[1]
    assert "not judged, 1 cell: its record has no seal" in out


def test_records_are_judged_by_the_data_that_they_tell_of(
    kdbench: Any, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of a package whose texts are the data, say: the tables are still those of the records."""
    without_measures(monkeypatch)

    def found_to_be(digest: str) -> None:
        for place in ("suite.identity", "grid.cohort", "verify.judge"):
            monkeypatch.setattr(f"kdbench.{place}.digest_of", lambda *_: digest)

    found_to_be("1" * 32)
    code, out, err = kdbench("run", folder.suite, "--jobs", 1, results=tmp_path / "other")
    assert code == 0, out + err
    found_to_be("2" * 32)
    code, out, _ = kdbench("verify", folder.suite, "--sample", 1, results=tmp_path / "other")
    assert code == 0, out
    assert "claimed: 2 of 2 records fit together" in out
    assert "not judged, 2 cells: its student was not evaluated again: the data set digits is not there, or" in out
    assert "not judged, 2 cells: no epoch was replayed: its data are not there, or others" in out


def test_what_begins_with_a_student_that_is_not_there_is_no_fault() -> None:
    place = ROOT / "results" / "published-compression"
    options = Options(results=place.parent, data=Path("nowhere"), device="cpu")
    cells = gather(suite_of_folder(place), options).cells
    judge = Judge(Worker(Place(place.parent, Path("nowhere"), "cpu"), Quiet()), {cell.key: cell for cell in cells},
                  SuiteFolder(place).student, Asked(1, 60.0, 0))  # fmt: skip
    begun = [place / "records" / f"{cell.key}.json" for cell in cells if cell.start]
    record = next(record for path in begun if is_trained(record := json.loads(path.read_bytes())))
    judge.here = {name: record["versions"].get(name) for name in DECIDE}  # as if made here
    assert judge.why_not_replayed(record) == "no epoch was replayed: the student that it begins with is not there"


def test_a_teacher_is_not_trained_beyond_the_budget(kdbench: Any, folder: Folder) -> None:
    """Where it is not there: the teachers of published results are too large for all of them to be."""
    for path in (folder.results / "teachers").glob("*.*"):
        path.unlink()
    for path in (folder.place / "records").glob("*.json"):
        record = json.loads(path.read_bytes())
        record["teacher_train_seconds"] = 3661.0
        folder.write(sealed(record))
    code, out, _ = kdbench("verify", folder.suite, "--sample", 1, "--budget", "10m", results=folder.results)
    assert code == 0
    assert "its teacher is not there, and took 1:01:01 to train (--budget)" in out
    assert list((folder.results / "teachers").glob("*.safetensors")) == []


def test_a_row_whose_key_changed_must_be_made_anew(kdbench: Any, folder: Folder, tmp_path: Path) -> None:
    suite = yaml.safe_load(folder.suite.read_text())
    suite["methods"]["kd"]["kd"]["temperature"] = 3
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    code, out, _ = kdbench("verify", path, "--sample", 0, results=folder.results)
    assert code == 1
    assert "· kd: its key changed (objective.kd.temperature was 4.0, is 3.0), and it was not made anew" in out


def test_a_row_whose_default_changed_must_be_made_anew(
    kdbench: Any, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = create_model("kd", __base__=METHODS.form("kd"), added=(float, 1.0))
    monkeypatch.setitem(METHODS._settings, "kd", form)
    code, out, _ = kdbench("verify", folder.suite, "--sample", 0, results=folder.results)
    assert code == 1
    assert "· kd: its key changed (objective.kd.added was None, is 1.0), and it was not made anew" in out


def test_what_is_committed_holds(finished: Folder) -> None:
    """Tables from their records, keys and code as they now are; no data and no student is needed for that."""
    published = [path.parent for path in sorted((ROOT / "results").glob("published-*/records"))]
    for place in [*published, finished.place]:  # the last one, so that the test never stands empty
        options = Options(results=place.parent, data=Path("nowhere"), device="cpu")
        verdict = judge_folder(suite_of_folder(place), options, Asked(0, 0.0, 0), Quiet())
        assert verdict.good, "\n".join(verdict.lines())
        assert [line for line in verdict.said if "without a record" in line] == []
        assert verdict.findings


def test_what_is_no_folder_of_results_is_said(kdbench: Any, tmp_path: Path) -> None:
    code, _, err = kdbench("verify", tmp_path)
    assert code == 2
    assert "holds no records/" in err
    assert os.listdir(tmp_path) == []
