"""Students as files: what is measured is what is delivered, and what ONNX Runtime alone makes of it."""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TEACHER, TINY

import kdbench
from kdbench.api import Options, run_suite
from kdbench.commands.export import export
from kdbench.data import load_splits
from kdbench.errors import UserError
from kdbench.grid.outcome import without_epochs
from kdbench.method.contract import Inapplicable
from kdbench.method.metric import metric_named
from kdbench.nets import build_net
from kdbench.report.frame import frame_of, sources_of
from kdbench.results.schema import Record
from kdbench.suite.cells import cells_of
from kdbench.suite.load import ModelSpec, load_suite
from kdbench.suite.starts import with_starts
from kdbench.suite.steps import made
from kdbench.train.delivery import measured
from kdbench.train.load import load_deployed
from kdbench.train.onnx_file import onnx_file
from kdbench.train.student import Delivered, Student
from kdbench.train.transforms import examples
from kdbench.vision.batches import picture_task

STUDENT: dict[str, Any] = {"model": "cifar_resnet8", "widths": [8, 8, 16, 16]}
AWARE = STUDENT | {"from": {"label": "student"}, "transforms": [{"prune": {"share": 0.5}}, "int8_aware"]}
ROWS: dict[str, Any] = {
    "student": {"ce": 1},
    "int8": {"ce": 1, "then": ["int8"]},
    "fp16": {"ce": 1, "then": ["fp16"]},
    "kd int8": {"ce": 0.1, "kd": 0.9, "then": [{"int8": {"calibrate": "percentile", "examples": 64}}]},
}
RUN = {label: ROWS[label] for label in ("student", "int8", "fp16")}
SUITE: dict[str, Any] = {
    **TINY,
    "methods": ROWS,
    "pairs": [{"teacher": TEACHER, "student": student} for student in (STUDENT, AWARE)],
    "train": TINY["train"] | {"epochs": 3, "batch_size": 64},
}


def suite_in(folder: Path, **changes: Any) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **changes}, sort_keys=False))
    return path


def run_in(folder: Path, only: str | None = None, **changes: Any) -> dict[str, Record]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.grid.outcome.Measure.profile_seconds", 0.0)
        patch.setattr("kdbench.report.plots.write_plots", lambda *a: [])
        run_suite(suite_in(folder, **changes), Options(results=folder / "results", device="cpu", only=only))
    records = [json.loads(path.read_bytes()) for path in (folder / "results" / "tiny" / "records").glob("*.json")]
    return {("aware " if "int8_aware" in r["student"] else "") + r["label"]: r for r in records}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def records(folder: Path) -> dict[str, Record]:
    """The pair with 8-bit training has its `student` row alone: each other one takes seconds."""
    torch.set_num_threads(1)
    plain = run_in(folder, pairs=SUITE["pairs"][:1], methods=RUN)
    return plain | run_in(folder, methods={"student": {"ce": 1}})


def file_of(folder: Path, record: Record) -> Path:
    return folder / "results" / "tiny" / "students" / f"{record['key']}.onnx"


CONVERTED = ("int8", "fp16", "aware student")


def test_all_are_done(records: dict[str, Record]) -> None:
    assert {label: (r["status"], r["reason"]) for label, r in records.items()} == dict.fromkeys(
        ("student", "int8", "fp16", "aware student"), ("done", "")
    )


@pytest.mark.parametrize("label", CONVERTED)
def test_sizes_are_those_of_the_file(folder: Path, records: dict[str, Record], label: str) -> None:
    record = records[label]
    content = file_of(folder, record).read_bytes()
    assert record["profile"]["file"]["bytes"] == len(content)
    assert record["delivered"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(content) < 0.85 * record["profile"]["uncompressed"]["bytes"]
    assert record["profile"]["file"]["peak_mb_b1"] > 0 or sys.platform != "linux"


@pytest.mark.parametrize("label", ["int8", "aware student"])
def test_an_int8_row_runs_in_int8(records: dict[str, Record], label: str) -> None:
    """By the operators that ran: every convolution of the net, and its dense layer."""
    ran = records[label]["profile"]["ran"]
    assert (ran["QLinearConv"], ran["QGemm"]) == (9, 1)
    assert not {"Conv", "FusedConv", "Gemm", "MatMul"} & ran.keys()


def test_what_wrote_and_ran_the_files_is_told(records: dict[str, Record]) -> None:
    for record in records.values():
        told = {name: record["versions"][name] for name in ("onnxruntime", "onnx", "onnxscript", "torch-pruning")}
        assert told == {name: version(name) for name in told}
    shown = sources_of(frame_of(records.values()).assign(teacher="t", student="s"))
    assert shown.made_by["onnxruntime"] == [version("onnxruntime")]


def test_a_file_has_no_best_epoch(records: dict[str, Record]) -> None:
    """The curve of training for 8 bits is that of the net that rounds, with the ranges of training: another net."""
    scores = records["aware student"]["scores"]
    assert (scores["test_top1_best"], scores["test_top1_chosen"]) == (None, None)
    assert records["student"]["scores"]["test_top1_best"] is not None


def test_held_out_scores_of_a_file_are_the_files() -> None:
    """Of a net trained for 8 bits too, whose curve ends with another one."""
    metric = metric_named("top1")
    told = {"test_top1": 50.0, "test_top1_best": 70.0, "test_top1_chosen": 60.0, "chosen_epoch": 2,
            "validation_top1": 80.0, "validation_top1_delivered": 40.0}  # fmt: skip
    assert without_epochs(told, metric) == {
        "test_top1": 50.0, "test_top1_best": None, "test_top1_chosen": None, "validation_top1": 40.0,
        "validation_top1_delivered": 40.0,
    }  # fmt: skip


def test_fp32_rows_run_in_fp32(records: dict[str, Record]) -> None:
    assert records["student"]["profile"]["ran"]["Conv"] == records["fp16"]["profile"]["ran"]["Conv"] == 9


def test_pruned_training_for_int8_has_half_the_channels(records: dict[str, Record]) -> None:
    sizes = {label: records[label]["profile"]["student"] for label in ("student", "aware student")}
    assert sizes["aware student"]["params"] < 0.3 * sizes["student"]["params"]
    assert sizes["aware student"]["macs"] < 0.3 * sizes["student"]["macs"]


def test_the_reference_is_of_the_size_of_the_trained_net(records: dict[str, Record]) -> None:
    """Untrained it would be smaller: biases of 0 that layers share are written once."""
    for label in CONVERTED:
        uncompressed = records[label]["profile"]["uncompressed"]["bytes"]
        assert uncompressed == pytest.approx(records["student"]["profile"]["file"]["bytes"], rel=1e-4), label


@pytest.mark.long
def test_what_is_timed_against_what() -> None:
    """A wide file beside a narrow reference is slower by a ratio above 1, and the other way round below it."""
    files = {}
    for width in (8, 96):
        task = picture_task(10, 16)
        net = build_net(ModelSpec.model_validate({"model": "cifar_resnet8", "widths": [width] * 4}), task, 0)
        files[width] = onnx_file(Student(Delivered(net), task.inputs).eval(), {})
    inputs = picture_task(10, 16).inputs
    wide, narrow = (measured(files[a], files[b], inputs, 0.0) for a, b in ((96, 8), (8, 96)))
    assert wide["file"]["bytes"] == len(files[96]) == narrow["uncompressed"]["bytes"]
    for batch in (1, 64):
        assert wide["file"][f"ort_ms_b{batch}_vs_first"] > 2 > 0.5 > narrow["file"][f"ort_ms_b{batch}_vs_first"]


def test_ranges_are_found_on_training_pictures(folder: Path, records: dict[str, Record]) -> None:
    """By the input's own range in the file: digits are dark, and no noise would give the first layers these ranges."""
    import onnx

    splits = load_splits("digits", {"size": 8}, Path())
    shown = torch.cat([inputs for inputs, _ in examples(splits.train, 0)(512)])
    assert len(shown) == 512
    trained = {row.numpy().tobytes() for batch in splits.train.in_order(512) for row in batch.inputs}
    assert all(row.numpy().tobytes() in trained for row in shown)
    student = load_deployed(records["student"]["key"], folder / "results")
    with torch.inference_mode():
        expected = float(student(shown).max())
    model = onnx.load_from_string(file_of(folder, records["int8"]).read_bytes())
    values = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    [last] = [node for node in model.graph.node if "logits" in node.output]
    scale, zero = (float(values[name]) for name in last.input[1:3])
    assert scale * (255 - zero) == pytest.approx(expected, rel=0.02)


ALONE = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
pictures, target = numpy.load(sys.argv[2]), numpy.load(sys.argv[3])
[logits] = session.run(["logits"], {session.get_inputs()[0].name: pictures})
assert not {"torch", "kdbench"} & set(sys.modules)
print(100 * (logits.argmax(1) == target).mean())
"""


def test_onnxruntime_alone_gives_the_tables_top1(folder: Path, records: dict[str, Record], tmp_path: Path) -> None:
    test = load_splits("digits", {"size": 8}, Path()).test
    [batch] = list(test.in_order(len(test)))
    np.save(tmp_path / "pictures.npy", batch.inputs.numpy())
    np.save(tmp_path / "target.npy", batch.target.numpy())
    for label in (*CONVERTED, "student"):
        path, line = export(records[label]["key"], "onnx", tmp_path / f"{label}.onnx", folder / "results")
        given = [str(path), *(str(tmp_path / name) for name in ("pictures.npy", "target.npy"))]
        told = subprocess.run([sys.executable, "-I", "-c", ALONE, *given], capture_output=True, text=True, check=True)
        assert float(told.stdout) == pytest.approx(records[label]["scores"]["test_top1"], abs=1e-6), label
        assert ("to the byte" in line) == (label in CONVERTED)
        assert path.stat().st_size == records[label]["profile"]["file"]["bytes"], label


def test_a_converted_student_is_exported_as_it_was_measured_or_not_at_all(
    folder: Path, records: dict[str, Record], tmp_path: Path
) -> None:
    key = records["int8"]["key"]
    with pytest.raises(UserError, match="is delivered as a converted ONNX file"):
        export(key, "safetensors", tmp_path / "x.safetensors", folder / "results")
    with pytest.raises(UserError, match="which onnxruntime runs"):
        kdbench.load_deployed(key, folder / "results")
    file = file_of(folder, records["int8"])
    content = file.read_bytes()
    try:
        file.write_bytes(content + b"\0")
        with pytest.raises(UserError, match="is not the file that was measured"):
            export(key, "onnx", tmp_path / "x.onnx", folder / "results")
    finally:
        file.write_bytes(content)


def test_files_are_verified_as_records_are(folder: Path, records: dict[str, Record], capsys: Any) -> None:
    from kdbench.cli import main

    suite = suite_in(folder, pairs=SUITE["pairs"][:1], methods=RUN)
    where = [str(suite), "--results", str(folder / "results"), "--device", "cpu"]
    main(["leaderboard", *where[:3]])
    main(["verify", *where, "--sample", "0"])
    told = capsys.readouterr().out
    assert "weights re-evaluated: 3 students give what is claimed" in told
    assert "WRONG" not in told


@pytest.mark.long
def test_made_again_the_files_are_the_same(folder: Path, records: dict[str, Record]) -> None:
    """Nothing is trained again: a conversion needs its row's student alone."""
    for label in ("int8", "fp16"):
        (folder / "results" / "tiny" / "records" / f"{records[label]['key']}.json").unlink()
        file_of(folder, records[label]).unlink()
    again = run_in(folder, pairs=SUITE["pairs"][:1], methods=RUN)
    for label in ("int8", "fp16"):
        assert again[label]["delivered"] == records[label]["delivered"]
        assert again[label]["scores"] == records[label]["scores"]
    assert again["student"]["finished"] == records["student"]["finished"]


def test_a_file_is_put_into_integers_once(folder: Path, records: dict[str, Record]) -> None:
    content = file_of(folder, records["int8"]).read_bytes()
    for name, why in (("int8", "in integers already"), ("fp16", "no weights in fp32")):
        with pytest.raises(Inapplicable, match=why):
            made({name: {}}).apply(content, lambda n: iter(()))


def test_a_conversion_is_paired_with_its_own_row(tmp_path: Path) -> None:
    cells = with_starts(cells_of(load_suite(suite_in(tmp_path, pairs=SUITE["pairs"][:1]))))
    by_label = {cell.label: cell for cell in cells}
    assert list(by_label) == ["student", "int8", "fp16", "kd int8 (before)", "kd int8"]
    assert by_label["int8"].before.key == by_label["student"].key
    assert by_label["kd int8"].origin.key == by_label["kd int8 (before)"].key
    assert not by_label["int8"].is_alone
    assert len({cell.key for cell in cells}) == 5


@pytest.mark.parametrize(
    ("pair", "then", "why"),
    [
        (0, ["int8", "fp16"], "fp16 finds nothing left to change after int8"),
        (0, ["fp16", "bf16"], "bf16 finds nothing left to change after fp16"),
        (1, ["bf16"], "bf16 finds nothing left to change after int8"),
        (0, ["fp16", "int8"], None),
    ],
)
def test_plan_tells_what_finds_nothing_left(tmp_path: Path, pair: int, then: list[str], why: str | None) -> None:
    rows = {"student": {"ce": 1}, "then": {"by_pair": {f"*{'int8_aware*' * pair}": {"ce": 1}}, "then": then}}
    made = kdbench.plan(suite_in(tmp_path, pairs=SUITE["pairs"][: pair + 1], methods=rows), results=tmp_path)
    reasons = {c.label: made.inapplicable.get(c.key) for c in made.cells if bool(c.make.transforms) == bool(pair)}
    assert reasons["then"] == why
    assert reasons["student"] is None


@pytest.mark.parametrize(("package", "pairs"), [("onnxruntime", 1), ("onnxscript", 1), ("torch_pruning", 2)])
def test_without_the_extra_one_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, pairs: int
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'kdbench\[compress\]'") as told:
        kdbench.plan(suite_in(tmp_path, pairs=SUITE["pairs"][:pairs]), results=tmp_path)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("then", "text"),
    [
        (["int9"], "unknown transform 'int9'; did you mean 'int8'?"),
        (["prune"], "prune is made before training; it belongs into a student's `transforms`"),
        ([{"int8": {"ranges": "dynamic", "examples": 9}}], "leave calibrate and examples out"),
        ([{"int8": {"ranges": "statik"}}], "methods.int8.then[0].int8.ranges"),
        ([], "then"),
    ],
)
def test_mistakes_in_then_are_told(tmp_path: Path, then: Any, text: str) -> None:
    with pytest.raises(UserError) as told:
        cells_of(load_suite(suite_in(tmp_path, methods={"student": {"ce": 1}, "int8": {"ce": 1, "then": then}})))
    assert text in str(told.value)
