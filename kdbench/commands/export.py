"""`kdbench export`: a trained student as one file, checked against the original."""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from kdbench.errors import UserError
from kdbench.files import write_atomic
from kdbench.layout import RESULTS
from kdbench.results.records import Record
from kdbench.train.student import Student, _load, find

TOLERANCE = 1e-4  # of logits, between the net and its exported file
FORMATS = ("safetensors", "onnx")


# --- files -----------------------------------------------------------------------------------------------------------


def export(key: str | Path, format: str, output: Path | None = None, results: Path = RESULTS) -> tuple[Path, str]:
    """Write the student of a cell as one file and compare the file's logits with the student's.

    Returns the file and a line about it. Raises UserError when the logits differ by more than 1e-4.
    """
    record, weights = find(key, results)
    student = _load(record, weights)
    path = output or Path(f"{record['key']}.{format}")
    images = torch.rand(4, *student.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = student(images)
    write = write_safetensors if format == "safetensors" else write_onnx
    difference = write(student, record, path, images, expected)
    if not difference <= TOLERANCE:
        path.unlink()
        raise UserError(f"{path}: its logits differ from the student's by {difference:.2g}; not written")
    takes = "x".join(map(str, student.input_size))
    plain = format == "safetensors" and student.deployed.method is None
    what = "takes normalised pictures, as timm models do" if plain else "takes pictures in 0..1, normalises them itself"
    line = (
        f"{path}: {record['student']} ({record['label']}, {record['scores']['test_top1']:.2f}% top-1), {takes}, {what}"
    )
    return path, f"{line}; logits differ from the student's by {difference:.1g}"


def write_safetensors(student: Student, record: Record, path: Path, images: Tensor, expected: Tensor) -> float:
    """The weights under timm's names, with what is needed to build the model as metadata; returns the difference."""
    method = student.deployed.method
    state = dict(student.deployed.net.model.state_dict())
    if method is not None:
        state |= {f"method.{name}": value for name, value in method.state_dict().items()}
    net = student.deployed.net
    about = {
        "kdbench.key": record["key"],
        "model": json.dumps(record["settings"]["student"]),
        "num_classes": str(expected.shape[1]),
        "input_size": json.dumps(student.input_size),
        "mean": json.dumps(net.mean.flatten().tolist()),
        "std": json.dumps(net.std.flatten().tolist()),
    }
    write_atomic(path, save({name: value.contiguous() for name, value in state.items()}, metadata=about))
    with torch.inference_mode():
        return float((_load(record, path)(images) - expected).abs().max())


def write_onnx(student: Student, record: Record, path: Path, images: Tensor, expected: Tensor) -> float:
    """One file, any batch size, pictures in 0..1; returns how far onnxruntime's logits are from the student's."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("ONNX needs onnx, onnxscript and onnxruntime: pip install 'kdbench[export]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about itself
        dynamic = {"images": {0: torch.export.Dim("batch", min=1)}}
        with torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(student, (images,), input_names=["images"], output_names=["logits"],
                                        dynamo=True, dynamic_shapes=dynamic, optimize=True, verbose=False)  # fmt: skip
    assert program is not None
    model = program.model_proto
    about = {"kdbench.key": record["key"], "input": "pictures [batch, 3, H, W] in 0..1; normalisation is inside"}
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    write_atomic(path, model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for count in (1, len(images)):
        [logits] = session.run(["logits"], {"images": images[:count].numpy()})
        differences.append(float(np.abs(logits - expected[:count].numpy()).max()))
    return max(differences)
