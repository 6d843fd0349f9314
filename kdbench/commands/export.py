"""`kdbench export`: a trained student as one file, checked against the original."""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from kdbench.data import DATASETS, digest_of
from kdbench.errors import UserError
from kdbench.files import write_atomic, write_json
from kdbench.layout import RESULTS
from kdbench.method.inputs import Inputs, num_inputs
from kdbench.method.metric import metric_of
from kdbench.results.card import about, as_metadata, card
from kdbench.results.schema import Record
from kdbench.suite.cells import DATA
from kdbench.suite.plugins import load_methods, load_plugin
from kdbench.train.load import find, load_weights_of
from kdbench.train.onnx_file import onnx_file, session_of
from kdbench.train.student import Student

TOLERANCE = 1e-4  # of logits, between the net and its exported file
FORMATS = ("safetensors", "onnx")


def run(given: argparse.Namespace) -> int:
    for path in given.plugin:
        load_plugin(path)
    print(export(given.key, given.format, given.output, given.results, given.force, given.data)[1])
    return 0


def form_of(asked: str | None, output: Path | None) -> str:
    """What `--output` ends in, where `--format` says nothing. Raises UserError where they differ."""
    ending = output.suffix[1:] if output else asked or "onnx"
    if ending not in FORMATS:
        raise UserError(f"--output {output}: its name must end in .onnx or .safetensors")
    if asked not in (None, ending):
        raise UserError(f"--output {output} is another form than --format {asked}: leave one of them out")
    return ending


def export(
    key: str | Path,
    format: str | None = None,
    output: Path | None = None,
    results: Path = RESULTS,
    force: bool = False,
    data: Path = DATA,
) -> tuple[Path, str]:
    """Write the student of a cell as one file, what its user must know as JSON beside it, and compare its logits.

    Returns the file and a line about it. `force`: replace a file that is there. Raises UserError when the logits
    differ by more than 1e-4; then what stood there still does.
    """
    format = form_of(format, output)
    record, weights = find(key, results)
    converted = weights.suffix == ".onnx"
    if converted and format != "onnx":
        raise UserError(f"{record['label']} is delivered as a converted ONNX file; there is no other form of it")
    path = output or Path(f"{record['key']}.{format}")
    beside = path.with_suffix(".json")
    others = {path.with_name(f"{path.stem}.{name}"): content for name, content in needed_beside(record, data).items()}
    if path.parent.resolve().name == "records":
        raise UserError(f"{path.parent.resolve()} is for records, and one may have that name: give another --output")
    for file in (path, beside, *others):
        if file.exists() and (not force or file.is_dir()):
            what = "it is a folder" if file.is_dir() else "--force replaces it"
            raise UserError(f"{file} is there already; {what}")
    if converted:
        line = as_measured(record, weights, path, beside)
        for file, content in others.items():
            write_atomic(file, content)
        return path, line
    student = load_weights_of(record, weights)
    inputs = student.inputs.random(4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = student(inputs)
    write = write_safetensors if format == "safetensors" else write_onnx
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        aside = Path(folder) / path.name
        difference = write(student, record, aside, inputs, expected)
        if not difference <= TOLERANCE:
            raise UserError(f"{path}: its logits differ from the student's by {difference:.2g}; not written")
        aside.replace(path)
    write_json(beside, card(record))
    for file, content in others.items():
        write_atomic(file, content)
    takes = str(student.inputs)
    bare = format == "safetensors" and student.delivered.method is None and student.delivered.net.about()
    what = (
        "takes normalised inputs, as its bare model does" if bare else student.inputs.about or "takes them as they are"
    )
    line = f"{path}: {record['student']} ({record['label']}, {metric_of(record).says(record)}), {takes}, {what}"
    more = "".join(f"; {file} belongs to it" for file in others)
    line += f"; logits differ from the student's by {difference:.1g}; {beside} has classes, sizes and scores{more}"
    return path, line


def needed_beside(record: Record, data: Path) -> dict[str, bytes]:
    """Files of the data set without which the student can't be used. Raises UserError where they can't be had."""
    load_methods()
    given = dict(record["settings"]["dataset"])
    name = given.pop("name")
    make = DATASETS[name].beside if name in DATASETS else None
    if make is None:
        return {}
    settings = DATASETS.settings(name, given)[0]
    if digest_of(name, settings, data) != record["settings"].get("data", ""):
        raise UserError(f"data set {name}: the data in {data} are not those that the student learnt")
    return make(data, **settings)


def as_measured(record: Record, file: Path, path: Path, beside: Path) -> str:
    """Write the very file that was measured. Raises UserError where it is another by now."""
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != (record.get("delivered") or {}).get("sha256"):
        raise UserError(f"{file} is not the file that was measured; remove the cell's record and run the suite again")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    write_json(beside, card(record))
    what = f"{record['student']} ({record['label']}, {metric_of(record).says(record)})"
    return f"{path}: {what}, the file that was measured, to the byte; {beside} has classes, sizes and scores"


def write_safetensors(student: Student, record: Record, path: Path, inputs: Inputs, expected: Tensor) -> float:
    """The weights under timm's names, with what is needed to build the model as metadata; returns the difference."""
    state = student.delivered.weights()
    said = {
        "kdbench.key": record["key"],
        "model": json.dumps(record["settings"]["student"]),
        "num_classes": str(expected.shape[1]),
        "input_size": json.dumps(student.inputs.shape),
        **student.delivered.net.about(),
    }
    if student.delivered.net.structure:
        said["structure"] = json.dumps(student.delivered.net.structure)
    write_atomic(path, save({name: value.contiguous() for name, value in state.items()}, metadata=said))
    written = load_weights_of(record, path)
    with torch.inference_mode():
        return float((written(inputs) - expected).abs().max())


def write_onnx(student: Student, record: Record, path: Path, inputs: Inputs, expected: Tensor) -> float:
    """One file, any batch size; returns how far onnxruntime's logits are from the student's."""
    measured = "file" in (record.get("profile") or {})
    said = about(record["key"]) if measured else as_metadata(card(record))
    write_atomic(path, onnx_file(student, said, inputs))
    names = [field.name for field in student.inputs.fields]
    named = dict(zip(names, [inputs] if isinstance(inputs, Tensor) else inputs.values(), strict=True))
    session = session_of(path.read_bytes())
    differences = []
    for count in (1, num_inputs(inputs)):
        given = {name: x[:count].numpy() for name, x in named.items()}
        [logits] = session.run(["logits"], given)
        differences.append(float(np.abs(logits - expected[:count].numpy()).max()))
    for other in student.inputs.others:
        drawn: Any = other.random(2, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            wanted = student(drawn).numpy()
        [logits] = session.run(["logits"], {name: x.numpy() for name, x in drawn.items()})
        differences.append(float(np.abs(logits - wanted).max()))
    return max(differences)
