"""Trained students, ready to use: as timm models, as safetensors, as ONNX. No teacher, no training adapters.

Two forms, which differ in what they take:

- `load_student` gives the plain timm model; like every timm model it takes pictures normalised with the mean and std of
  its `pretrained_cfg`.
- `load_deployed`, and with it every ONNX file, takes pictures [B, 3, H, W] in 0..1: normalisation (and resizing, if the
  suite asked for it) is part of the net, and so are layers that a method leaves in the student (SimKD).
"""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.layout import RESULTS, Layout, suite_of_record
from kdbench.method.contract import Outputs, Task
from kdbench.results.records import Record, read_record
from kdbench.suite.load import ModelSpec
from kdbench.suite.plugins import load_methods
from kdbench.train.objective import Objective, blank_outputs, needs_of, own_needs, student_needs_of
from kdbench.vision.nets import build_net


class Deployed(nn.Module):
    """A student as it is used: itself, or with the adapter that stays (SimKD)."""

    def __init__(self, net: Any, objective: Objective) -> None:
        super().__init__()
        self.net, self.method = net, objective.inference()

    def forward(self, images: Tensor, needs: Iterable[str] = ("logits",)) -> Outputs:
        if self.method is None:
            return self.net(images, needs)
        said = self.net(images, own_needs({*needs, *self.method.student_needs}))
        logits = self.method.infer(said)
        assert logits is not None
        return replace(said, logits=logits)


class Student(nn.Module):
    """Logits [B, K] from pictures [B, 3, H, W] in 0..1."""

    def __init__(self, deployed: Deployed, input_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.deployed, self.input_size = deployed, input_size

    def forward(self, images: Tensor) -> Tensor:
        return self.deployed(images).logits


def load_student(key: str | Path, results: str | Path = RESULTS, tracking_uri: str | None = None) -> nn.Module:
    """The timm model of a finished cell with its weights, in eval mode on the CPU.

    `key`: the cell's key (or its beginning), the path of its record, or the id of its MLflow run (with `tracking_uri`).
    Raises UserError when there is no such student, or when layers of its method stay in it: then only `load_deployed`
    gives the student that was measured.
    """
    deployed = load_deployed(key, results, tracking_uri).deployed
    if deployed.method is not None:
        raise UserError(f"{key}: {deployed.method.name} leaves layers in its student; use kdbench.load_deployed")
    return deployed.net.model


def load_deployed(key: str | Path, results: str | Path = RESULTS, tracking_uri: str | None = None) -> Student:
    """The student as it was evaluated: pictures [B, 3, H, W] in 0..1 -> logits [B, K]; in eval mode on the CPU."""
    if tracking_uri is not None:
        with tempfile.TemporaryDirectory() as folder:
            return _load(*fetch(str(key), tracking_uri, Path(folder)))
    return _load(*find(key, Path(results)))


def find(key: str | Path, results: Path) -> tuple[Record, Path]:
    """The record and the weights of a finished cell. Raises UserError when they can't be found."""
    given = Path(key)
    paths = [given] if given.suffix == ".json" else Layout(results).find_records(str(key))
    names = {path.stem for path in paths}
    if len(names) != 1:
        what = "no record" if not names else f"{len(names)} records ({', '.join(sorted(names)[:3])} ...)"
        raise UserError(f"{what} for key {str(key)!r} in {results}; keys stand in <suite>/cells.csv")
    try:
        record = read_record(paths[0])
    except FileNotFoundError as error:
        raise UserError(f"{paths[0]}: no such record") from error
    if record["status"] != "done":
        raise UserError(f"cell {record['key']} ({record['label']}) is {record['status']}: it left no student")
    weights = suite_of_record(paths[0]).student(record["key"])
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
        record = json.loads(Path(client.download_artifacts(run, "record.json", str(folder))).read_text())
        weights = client.download_artifacts(run, f"{record['key']}.safetensors", str(folder))
    except Exception as error:
        raise UserError(f"MLflow ({uri}) has no student {name!r}: {str(error).strip().splitlines()[0]}") from error
    return record, Path(weights)


def _load(record: Record, weights: Path) -> Student:
    load_methods()
    settings = record["settings"]
    state = load_file(weights)
    own = {name.removeprefix("method."): state.pop(name) for name in list(state) if name.startswith("method.")}
    num_classes, input_size = shapes_of(record)
    net = build_net(_spec(settings["student"]), num_classes, input_size)
    net.model.load_state_dict(state)
    objective = Objective(phases_of(settings["objective"]))
    if own:
        _restore(objective, own, settings, net, num_classes, input_size)
    deployed = Deployed(net, objective)
    if (deployed.method is not None) != bool(own):
        raise UserError(f"{weights}: does not hold the layers that its method leaves in the student")
    return Student(deployed, input_size).eval().requires_grad_(False)


def _restore(
    objective: Objective, state: dict[str, Tensor], settings: Record, net: Any, num_classes: int, input_size: Any
) -> None:
    """Build the method's layers from shapes alone (the teacher is not needed), then give them their weights."""
    stays = objective.inference()
    assert stays is not None
    task = Task(num_classes, 1, input_size, 1, 2, torch.zeros(1, dtype=torch.int64))
    with torch.device("meta"):
        teacher = build_net(_spec(settings["teacher"]["model"]), num_classes, input_size).eval()
    names = [stays.name]
    said = blank_outputs(net.eval(), student_needs_of(names), task, "cpu")
    with torch.device("meta"):
        taught = blank_outputs(teacher.to("meta"), needs_of(names), task, "meta")
    stays.build(said, taught, task)
    stays.to_empty(device="cpu")
    stays.load_state_dict(state)


def _spec(identity: dict[str, Any]) -> ModelSpec:
    """The model without its first weights: it gets its own."""
    return ModelSpec.model_validate({k: v for k, v in identity.items() if k not in ("pretrained", "checkpoint")})


def phases_of(objective: Any) -> Any:
    """A record's objective as `Cell.phases`."""
    if isinstance(objective, list):
        return tuple((part["epochs"], part["terms"]) for part in objective)
    return ((None, objective),)


def shapes_of(record: Record) -> tuple[int, tuple[int, int, int]]:
    """Number of classes and size of a picture: from the record, else from the data set's own word."""
    if "num_classes" in record and "input_size" in record:
        channels, height, width = record["input_size"]
        return record["num_classes"], (channels, height, width)
    settings = dict(record["settings"]["dataset"])
    dataset = DATASETS[settings.pop("name")]
    if dataset.info is None:
        raise UserError(f"record {record['key']} does not say how large its pictures are; run its suite again")
    info = dataset.info(Path(), **settings)
    return info.num_classes, info.input_size
