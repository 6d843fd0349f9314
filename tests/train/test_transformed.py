"""Students that are transformed before they train, and those that begin with another row's: the invariants hold."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TEACHER, TINY, without_measures
from safetensors.torch import load_file

import kdbench
from kdbench.api import Options, run_suite
from kdbench.commands.export import export
from kdbench.data import load_splits
from kdbench.errors import UserError
from kdbench.grid.executors import Here, Queue
from kdbench.grid.filed import Files
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.cohorts import cohorts_of
from kdbench.suite.load import load_suite
from kdbench.suite.starts import with_starts
from kdbench.train.evaluation import evaluate_one
from kdbench.train.load import load_deployed
from kdbench.verify.claims import contradictions

STUDENT: dict[str, Any] = {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}
PRUNED = STUDENT | {"from": {"label": "student"}, "transforms": [{"prune": {"share": 0.5}}]}
THIN = STUDENT | {
    "from": {"label": "fitnet", "transforms": PRUNED["transforms"]},
    "transforms": [{"low_rank": {"share": 0.5}}],
}
NEW = STUDENT | {"transforms": [{"prune": {"share": 0.25, "importance": "taylor", "examples": 64}}]}
PAIRS = [{"teacher": TEACHER, "student": student} for student in (STUDENT, PRUNED, THIN, NEW)]
ROWS = {"student": {"ce": 1}, "fitnet": {"ce": 1, "fitnet": 10}}


def suite_in(folder: Path, **changes: Any) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({**TINY, "pairs": PAIRS, "methods": ROWS, **changes}, sort_keys=False))
    return path


def run_in(
    folder: Path, executor: Any = None, only: str | None = None, filed: str = "", **changes: Any
) -> dict[str, Record]:
    """By student and label. Students of the row `filed` are also measured as files, which takes seconds each."""
    suite, results, whole = suite_in(folder, **changes), folder / "results", Files.of
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        patch.setattr(
            Files, "of", lambda files, cell, *given: whole(files, cell, *given) if cell.label == filed else None
        )
        run_suite(suite, Options(results=results, device="cpu", only=only), executor=executor)
    records = [json.loads(path.read_bytes()) for path in (results / "tiny" / "records").glob("*.json")]
    return {f"{record['student']} {record['label']}": record for record in records}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Record]:
    torch.set_num_threads(1)
    return run_in(folder, filed="student")


def params(record: Record) -> int:
    return record["profile"]["student"]["params"]


def student(record: Record, folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "results" / "tiny" / "students" / f"{record['key']}.safetensors")


def outcome(record: Record, folder: Path) -> tuple[Any, ...]:
    bits = {name: value.tolist() for name, value in student(record, folder).items()}
    return record["scores"], record["curves"], record.get("structure"), bits


def test_all_are_done_and_have_the_shapes_that_they_say(whole: dict[str, Record]) -> None:
    assert {record["status"] for record in whole.values()} == {"done"}
    assert len(whole) == 8
    assert sum("file" in record["profile"] for record in whole.values()) == 4
    sizes = {
        name.removesuffix(" student"): params(record) for name, record in whole.items() if name.endswith(" student")
    }
    plain, pruned, thin, new = (next(n for n in sizes if n.endswith(end)) for end in (
        "8])", "(from student)", "(from fitnet + prune(share=0.5))", "examples=64)"))  # fmt: skip
    assert sizes[thin] < sizes[pruned] < 0.35 * sizes[plain]
    assert sizes[pruned] < sizes[new] < sizes[plain]


def test_every_objective_of_a_pair_begins_with_the_same_pruned_net(folder: Path, whole: dict[str, Record]) -> None:
    pruned = [record for name, record in whole.items() if "(from student)" in name]
    assert len({json.dumps(record["structure"]) for record in pruned}) == 1
    assert len({json.dumps(record["scores"]) for record in pruned}) > 1


def test_what_is_loaded_and_exported_is_what_was_measured(
    folder: Path, tmp_path: Path, whole: dict[str, Record]
) -> None:
    test = load_splits("digits", {"size": 8}, Path()).test
    for name, record in whole.items():
        net = load_deployed(record["key"], folder / "results").delivered
        top1 = evaluate_one(net, test, "fp32").scores["top1"]
        assert top1 == pytest.approx(record["scores"]["test_top1"], abs=1e-9), name
    thin = next(record for name, record in whole.items() if "low_rank" in name)
    for form in ("onnx", "safetensors"):
        path, _ = export(thin["key"], form, tmp_path / form / f"thin.{form}", folder / "results")
        assert path.is_file()


def test_what_pruning_alone_costs(tmp_path: Path, one_thread: None) -> None:
    """`epochs: 0`: a pruned net as it was cut; only students that begin with trained ones may be such."""
    pairs = [PAIRS[0], PAIRS[1] | {"train": {"epochs": 0}}]
    found = run_in(tmp_path, pairs=pairs, methods={"student": {"ce": 1}}, validation=0.2)
    cut = next(record for name, record in found.items() if "prune" in name)
    assert (cut["status"], cut["reason"]) == ("done", "")
    assert cut["cost"]["steps"] == 0
    assert contradictions(cut) == []
    assert cut["scores"]["test_top1_best"] is None
    assert cut["scores"]["validation_top1_delivered"] is not None
    net = load_deployed(cut["key"], tmp_path / "results").delivered
    assert params(cut) < 0.35 * max(map(params, found.values()))
    test = load_splits("digits", {"size": 8}, Path()).test
    assert evaluate_one(net, test, "fp32").scores["top1"] == cut["scores"]["test_top1"]
    weights = [student(record, tmp_path)["fc.weight"] for record in found.values()]
    assert weights[0].shape != weights[1].shape
    with pytest.raises(UserError, match=r"pairs\[0\].train.epochs: should be greater"):
        cells(tmp_path, pairs=[PAIRS[0] | {"train": {"epochs": 0}}])


class StopsAfter:
    """An executor whose run is stopped again and again, as by Ctrl-C."""

    threads, about = None, ""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def run(self, queues: Sequence[Queue], events: Any, stop: Any) -> None:
        asked = iter(range(self.steps))
        Here().run(queues, events, lambda: next(asked, None) is None)


@pytest.mark.long
def test_interrupted_runs_end_with_the_same_bits(
    folder: Path, tmp_path: Path, whole: dict[str, Record], one_thread: None
) -> None:
    for _ in range(60):
        found = run_in(tmp_path, StopsAfter(9))
        if len(found) == len(whole):
            break
    assert {name: outcome(r, tmp_path) for name, r in found.items()} == {
        name: outcome(r, folder) for name, r in whole.items()
    }


def test_a_row_alone_ends_with_the_same_bits(
    folder: Path, tmp_path: Path, whole: dict[str, Record], one_thread: None
) -> None:
    """Without the row that they begin with: that is trained too, though it is no row of the suite's choice."""
    found = run_in(tmp_path, only="fitnet")
    assert {name for name in whole if name.endswith(" fitnet")} < found.keys()
    for name, record in found.items():
        assert outcome(record, tmp_path) == outcome(whole[name], folder)


# --- keys and plans ---


def cells(folder: Path, **changes: Any) -> list[Cell]:
    return cells_of(load_suite(suite_in(folder, **changes)))


def keys(folder: Path, student: dict[str, Any]) -> dict[str, str]:
    pairs = [PAIRS[0], {"teacher": TEACHER, "student": student}]
    return {cell.label: cell.key for cell in cells(folder, pairs=pairs)[2:]}


def test_keys_change_with_a_transforms_settings_alone(tmp_path: Path) -> None:
    base = keys(tmp_path, PRUNED)
    short = keys(tmp_path, PRUNED | {"transforms": [{"prune": {"share": 0.5, "importance": "magnitude", "steps": 1}}]})
    assert short == base  # defaults are filled in
    others = [
        keys(tmp_path, PRUNED | {"transforms": [{"prune": {"share": 0.25}}]}),
        keys(tmp_path, PRUNED | {"transforms": ["low_rank"]}),
        keys(tmp_path, PRUNED | {"from": {"label": "fitnet"}}),
        keys(tmp_path, NEW | {"transforms": PRUNED["transforms"]}),
    ]
    assert len({json.dumps(found) for found in [base, *others]}) == 5


def test_what_others_begin_with_runs_first(tmp_path: Path) -> None:
    made = cells(tmp_path)
    depths = [cohort[0].depth for cohort in cohorts_of(made)]
    assert depths == [0, 1, 2]
    only = [cell for cell in made if cell.label == "fitnet" and cell.depth == 2]
    assert [(cell.label, cell.depth) for cell in with_starts(only)] == [("student", 0), ("fitnet", 1), ("fitnet", 2)]


def test_a_failed_start_is_the_reason_of_those_that_begin_with_it(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from kdbench import Reshape, register_transform\n"
        "@register_transform('bad')\n"
        "class Bad(Reshape):\n"
        "    def __init__(self) -> None: ...\n"
        "    def apply(self, model, given):\n"
        "        if not next(iter(given.batches(1)))[0].ne(0.5).any(): return\n"
        "        raise RuntimeError('no luck')\n"
    )
    broken = STUDENT | {"transforms": ["bad"]}
    after = STUDENT | {"from": {"label": "student", "transforms": ["bad"]}, "transforms": ["prune"]}
    pairs = [{"teacher": TEACHER, "student": student} for student in (STUDENT, broken, after)]
    found = run_in(tmp_path, pairs=pairs, plugins=["bad.py"])
    reasons = {name: (record["status"], record["reason"]) for name, record in found.items() if record["reason"]}
    assert len(reasons) == 4
    assert all(status == "failed" and "no luck" in reason for status, reason in reasons.values())


def test_plan_tells_which_transform_does_not_apply_and_why(
    kdbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = {"model": "vit_tiny_patch16_224", "patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 1}
    pairs = [{"teacher": TEACHER, "student": {**vit, "transforms": [{"prune": {"importance": "bn_scale"}}]}}]
    code, out, _ = kdbench("plan", suite_in(tmp_path, pairs=pairs))
    assert code == 0
    assert "prune importance bn_scale needs batch norms; VisionTransformer has none" in out


@pytest.mark.parametrize(
    ("student", "text"),
    [
        (STUDENT | {"transforms": []}, "must be a list of transforms"),
        (STUDENT | {"transforms": ["prun"]}, "unknown transform 'prun'; did you mean 'prune'?"),
        (STUDENT | {"transforms": [{"prune": {"share": 1.5}}]}, "share: should be less than 1"),
        (STUDENT | {"transforms": [{"prune": {"shar": 0.5}}]}, "unknown setting 'shar'; did you mean 'share'?"),
        (STUDENT | {"transforms": [{"low_rank": {"share": 0.5, "energy": 0.5}}]}, "a share or an energy, not both"),
        (STUDENT | {"transforms": [{"prune": {}, "low_rank": {}}]}, "must be a transform's name"),
        (STUDENT | {"transforms": [{"prune": {"examples": 9}}]}, "importance magnitude looks at no examples"),
        (PRUNED | {"from": {"label": "studnt"}}, "unknown row 'studnt'; did you mean 'student'?"),
        (PRUNED | {"from": {"label": "student", "transforms": ["low_rank"]}}, "add the pair to begin with"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, student: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=r"suite.yaml:\d+: pairs\[1\].student") as told:
        cells(tmp_path, pairs=[PAIRS[0], {"teacher": TEACHER, "student": student}])
    assert text in str(told.value)


def test_a_start_that_may_be_two_is_refused(tmp_path: Path) -> None:
    third = [{"prune": {"share": 0.3}}]
    chains = [STUDENT | {"from": {"label": label}, "transforms": third} for label in ROWS]
    after = STUDENT | {"from": {"label": "fitnet", "transforms": third}, "transforms": third}
    pairs = [{"teacher": TEACHER, "student": student} for student in (STUDENT, *chains, after)]
    with pytest.raises(UserError, match=r"pairs\[3\].*pairs\[1\] and pairs\[2\] both have this teacher and student"):
        cells(tmp_path, pairs=pairs)
    twice = [PAIRS[0], PAIRS[0] | {"train": {"epochs": 3}}, PAIRS[1]]
    with pytest.raises(UserError, match=r"pairs\[0\] and pairs\[1\] both"):
        cells(tmp_path, pairs=twice)


def test_a_start_is_found_by_what_is_done_and_not_by_how_it_is_written(tmp_path: Path) -> None:
    """`prune` and its defaults are one step; and who says no transforms means the pair that begins with nothing."""
    first = STUDENT | {"from": {"label": "student"}, "transforms": ["prune"]}
    further = STUDENT | {"from": {"label": "fitnet"}}
    after = STUDENT | {"from": {"label": "fitnet", "transforms": [{"prune": {"share": 0.5}}]}}
    pairs = [{"teacher": TEACHER, "student": student} for student in (STUDENT, further, first, after)]
    found = {cell.student.short: cell for cell in cells(tmp_path, pairs=pairs) if cell.label == "fitnet"}
    starts = [cell.start for cell in found.values()]
    assert [start and bool(start.student.transforms) for start in starts] == [None, False, False, True]
    assert [start.start is None for start in starts if start] == [True, True, False]


def test_a_teacher_has_no_transforms(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only a student has transforms"):
        cells(tmp_path, pairs=[{"teacher": TEACHER | {"transforms": ["prune"]}, "student": STUDENT}])


def test_two_pairs_that_begin_with_each_other(tmp_path: Path) -> None:
    other = {"label": "fitnet", "transforms": ["low_rank"]}, {"label": "fitnet", "transforms": ["prune"]}
    students = [
        STUDENT | {"from": start, "transforms": [name]}
        for start, name in zip(other, ("prune", "low_rank"), strict=True)
    ]
    with pytest.raises(UserError, match="begins with itself"):
        cells(tmp_path, pairs=[{"teacher": TEACHER, "student": one} for one in students])
    assert kdbench.Reshape
