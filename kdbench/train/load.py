"""Trained students, ready to use: the bare model, or the student as it was evaluated. No teacher, no adapters.

- `load_student` gives the bare model; a timm model takes pictures normalised with the mean and std of its
  `pretrained_cfg`, as every timm model does.
- `load_deployed`, and with it every ONNX file, takes the inputs as the data set gives them (pictures in 0..1):
  normalisation is part of the net, and so are layers that a method leaves in the student (SimKD).
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from kdbench.data import task_of
from kdbench.errors import UserError, first_line
from kdbench.layout import RESULTS, Layout, suite_of_record
from kdbench.method.contract import Field, InputSpec, Task
from kdbench.method.register import METHODS
from kdbench.nets import Net, build_net, settings_again
from kdbench.results.mlflow_runs import download_record
from kdbench.results.records import read_record
from kdbench.results.schema import Record, judged
from kdbench.suite.objectives import BASELINE
from kdbench.suite.objectives import objective as parsed
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.train.objective import Objective, blank_outputs, needs_of, student_needs_of
from kdbench.train.student import Delivered, Student
from kdbench.train.transforms import rebuilt
from kdbench.weights import give_weights, mismatch

KEY = re.compile("[0-9a-f]{0,64}")  # a cell's key, or its beginning


def load_student(key: str | Path, results: str | Path = RESULTS, tracking_uri: str | None = None) -> nn.Module:
    """The timm model of a finished cell with its weights, in eval mode on the CPU.

    `key`: the cell's key (or its beginning), the path of its record, or the id of its MLflow run (with `tracking_uri`).
    Raises UserError when there is no such student, or when layers of its method stay in it: then only `load_deployed`
    gives the student that was measured.
    """
    delivered = load_deployed(key, results, tracking_uri).delivered
    if delivered.method is not None:
        raise UserError(f"{key}: {delivered.method.name} leaves layers in its student; use kdbench.load_deployed")
    return delivered.net.model


def load_deployed(key: str | Path, results: str | Path = RESULTS, tracking_uri: str | None = None) -> Student:
    """The student as it was evaluated: inputs -> logits [B, K], in eval mode on the CPU. `key`: see `load_student`."""
    if tracking_uri is not None:
        with tempfile.TemporaryDirectory() as folder:
            return load_weights_of(*fetch(str(key), tracking_uri, Path(folder)))
    return load_weights_of(*find(key, Path(results)))


def find(key: str | Path, results: Path) -> tuple[Record, Path]:
    """The record and the weights of a finished cell. Raises UserError when they can't be found."""
    given = Path(key)
    known = Layout(results).find_records(str(key)) if KEY.fullmatch(str(key)) else []
    paths = [given] if given.suffix == ".json" else known
    names = {path.stem for path in paths}
    if len(names) != 1:
        what = "no record" if not names else f"{len(names)} records ({', '.join(sorted(names)[:3])} ...)"
        raise UserError(f"{what} for key {str(key)!r} in {results}; keys stand in <suite>/cells.csv")
    try:
        record = read_record(paths[0])
    except FileNotFoundError as error:
        raise UserError(f"{paths[0]}: no such record") from error
    except UserError as error:
        if paths[0] is not given:
            raise
        raise UserError(f"{error} (records of cells lie in results/SUITE/records)") from error
    if record["status"] != "done":
        raise UserError(f"cell {record['key']} ({record['label']}) is {record['status']}: it left no student")
    folder = suite_of_record(paths[0])
    weights = (folder.converted if record.get("delivered") else folder.student)(record["key"])
    if not weights.is_file():
        raise UserError(f"the student of {record['key']} is not in {weights.parent}")
    return record, weights


def fetch(name: str, uri: str, folder: Path) -> tuple[Record, Path]:
    """The same from MLflow: `name` is a cell's key or a run's id. Raises UserError when MLflow has no such student."""
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`kdbench.key` = '{name}'")
        run = found[0].info.run_id if found else client.get_run(name).info.run_id
        record = judged(download_record(client, run, folder))
        weights = client.download_artifacts(run, f"{record['key']}.safetensors", str(folder))
    except Exception as error:
        raise UserError(f"MLflow ({uri}) has no student {name!r}: {first_line(error)}") from error
    return record, Path(weights)


def load_weights_of(record: Record, weights: Path) -> Student:
    load_methods()
    if weights.suffix == ".onnx":
        raise UserError(f"{record['label']} is delivered as an ONNX file, which onnxruntime runs: {weights}")
    settings = record["settings"]
    state, about = weights_of(record, weights), about_of(weights)
    own = {name.removeprefix("method."): state.pop(name) for name in list(state) if name.startswith("method.")}
    task = task_of_record(record)
    net = rebuilt(build_net(_spec(settings["student"], about), task), record.get("structure") or (), task.inputs)
    if wrong := mismatch(net.model.state_dict(), state):
        raise UserError(f"{weights} is not a {record['student']}: it {wrong}")
    give_weights(net.model, state)
    objective = Objective(_phases_known(settings["objective"], bool(own)))
    if own:
        _restore(objective, own, settings, net, task)
    delivered = Delivered(net, objective)
    if (delivered.method is not None) != bool(own):
        raise UserError(f"{weights}: does not hold the layers that its method leaves in the student")
    return Student(delivered, task.inputs.only(net.fields)).eval().requires_grad_(False)


def _phases_known(objective: Any, needed: bool) -> Any:
    """A record's objective; plain cross-entropy where its methods are not here and left nothing in the student."""
    phases = phases_of(objective)
    known = all(name in METHODS for _, terms in phases for name in terms)
    return phases if needed or known else parsed({BASELINE: 1.0})


def weights_of(record: Record, path: Path) -> dict[str, Tensor]:
    """The tensors of a student's file. Raises UserError when it is none, or another cell's."""
    try:
        with safe_open(path, "pt") as file:
            key = (file.metadata() or {}).get("kdbench.key", record["key"])
        state = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path}: can't be read as a .safetensors file: {first_line(error)}") from error
    if key != record["key"]:
        raise UserError(f"{path}: holds the student of cell {key}, not of {record['key']}")
    return state


def _restore(objective: Objective, state: dict[str, Tensor], settings: Record, net: Net, task: Task) -> None:
    """Build the method's layers from shapes alone (the teacher is not needed), then give them their weights."""
    stays = objective.inference()
    assert stays is not None
    with torch.device("meta"):
        teacher = build_net(_spec(settings["teacher"]["model"]), task).eval()
    names = [stays.name]
    student_out = blank_outputs(net.eval(), student_needs_of(names), task, "cpu")
    with torch.device("meta"):
        teacher_out = blank_outputs(teacher.to("meta"), needs_of(names), task, "meta")
    stays.build(student_out, teacher_out, task)
    stays.to_empty(device="cpu")
    if wrong := mismatch(stays.state_dict(), state):
        raise UserError(f"the layers that {stays.name} leaves in its student are others: the file {wrong}")
    stays.load_state_dict(state)


def about_of(path: Path) -> dict[str, str]:
    """What a student's file says of it beside its weights."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _spec(identity: dict[str, Any], about: dict[str, str] | None = None) -> ModelSpec:
    """The model without its first weights: it gets its own. `code` and `files` tell what it was made of.

    `about`: what its file says, so that nothing that it once began with is needed again.
    """
    left_out = ("pretrained", "checkpoint", "checkpoint_entry", "head", "freeze", "code", "files", "transforms")
    spec = ModelSpec.model_validate({k: v for k, v in identity.items() if k not in left_out})
    if not about:
        return spec
    kept = {k: v for k, v in identity.items() if k not in left_out and k not in spec.options}
    return ModelSpec.model_validate({**kept, **settings_again(spec.model, about, spec.options)})


def phases_of(objective: Any) -> Any:
    """A record's objective as `Cell.phases`."""
    if isinstance(objective, list):
        return tuple((part["epochs"], part["terms"]) for part in objective)
    return ((None, objective),)


def task_of_record(record: Record) -> Task:
    """What was learnt: from the record, else from what its data set says of itself."""
    targets = torch.zeros(1, dtype=torch.int64)
    if "num_classes" in record and "inputs" in record:
        return Task(record["num_classes"], 1, InputSpec.of_dict(record["inputs"]), batch_size=2, targets=targets)
    if "num_classes" in record and "input_size" in record:  # older records
        spec = InputSpec((Field("images", tuple(record["input_size"])),))
        return Task(record["num_classes"], 1, spec, batch_size=2, targets=targets)
    settings = dict(record["settings"]["dataset"])
    return task_of(settings.pop("name"), settings, Path())
