"""A student as an ONNX file: written by torch's exporter, run by ONNX Runtime as whoever gets it runs it."""

import json
import logging
import math
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.method.contract import InputSpec, Outputs
from kdbench.method.inputs import Inputs, device_of
from kdbench.method.onnx_tools import onnx_package, onnxruntime_package
from kdbench.train.student import Student


def onnx_file(student: Student, about: dict[str, str], inputs: Inputs | None = None) -> bytes:
    """One file, any batch size; `about`: its metadata. `student`: in eval mode on the CPU."""
    onnx = onnx_package()
    inputs = student.inputs.random(4, generator=torch.Generator().manual_seed(0)) if inputs is None else inputs
    names = [field.name for field in student.inputs.fields]
    with quietly():
        shapes = free_dimensions(student.inputs)
        dynamic = {"inputs": shapes[names[0]] if isinstance(inputs, Tensor) else shapes}
        with torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(student, (), kwargs={"inputs": inputs}, input_names=names,
                                        output_names=["logits"], dynamo=True, dynamic_shapes=dynamic, optimize=True,
                                        verbose=False)  # fmt: skip
    assert program is not None
    # Written and read again: what the exporter gives may still refer to the net's own memory.
    model = onnx.load_from_string(program.model_proto.SerializeToString())
    without_notes(model.graph)
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def free_dimensions(inputs: InputSpec) -> dict[str, dict[int, Any]]:
    """Of each field: the batch, and what differs between the shapes that inputs come in (the length of a sequence)."""
    batch = torch.export.Dim("batch", min=1)
    lengths: dict[tuple[int, ...], Any] = {}
    found: dict[str, dict[int, Any]] = {}
    for name, varying in inputs.varying().items():
        found[name] = {0: batch}
        for place, sizes in varying.items():
            if sizes not in lengths:
                lengths[sizes] = torch.export.Dim(f"length_{len(lengths)}", min=2, max=max(sizes))
            found[name][place + 1] = lengths[sizes]
    return found


def without_notes(graph: Any) -> None:
    """The exporter notes with every node which line of Python it comes from: in a small net's file that is the most."""
    for parts in (graph.node, graph.initializer, graph.value_info, graph.input, graph.output):
        for part in parts:
            part.ClearField("metadata_props")
            part.ClearField("doc_string")


@contextmanager
def quietly() -> Iterator[None]:
    """Around exporters and quantisers, which warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def session_of(file: bytes, threads: int = 1, profile: str = "") -> Any:
    """ONNX Runtime's own session on the CPU; `threads` 0: as many as there are cores."""
    onnxruntime = onnxruntime_package()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def arrays_of(inputs: Inputs, spec: InputSpec) -> dict[str, Any]:
    """A batch of inputs as a session takes it: numpy arrays by name, those of the spec's fields alone."""
    given = {spec.fields[0].name: inputs} if isinstance(inputs, Tensor) else inputs
    return {field.name: given[field.name].detach().cpu().numpy() for field in spec.fields}


class FileNet(nn.Module):
    """An ONNX file in the place of a net, so that one evaluation and one clock serve both."""

    def __init__(self, file: bytes, inputs: InputSpec, threads: int = 1) -> None:
        super().__init__()
        self.session = session_of(file, threads)
        self.inputs = inputs.only(tuple(given.name for given in self.session.get_inputs()))

    def forward(self, inputs: Inputs, needs: Collection[str] = ("logits",)) -> Outputs:
        [logits] = self.session.run(["logits"], arrays_of(inputs, self.inputs))
        return Outputs(torch.from_numpy(np.asarray(logits, dtype=np.float32)).to(device_of(inputs)))


def operators_run(file: bytes, inputs: InputSpec) -> dict[str, int]:
    """How often each operator ran in one forward, by ONNX Runtime's profiler: graphs are rewritten on loading."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(file, profile=str(Path(folder) / "run"))
        session.run(["logits"], arrays_of(inputs.blank(1), inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return dict(Counter(str(event["args"]["op_name"]) for event in ran))


ALONE = """
import sys
import numpy, onnxruntime
def memory(name):
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(name)).split()[1])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
given = dict(numpy.load(sys.argv[2]))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
before = memory("VmRSS")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(["logits"], given)
assert not {"torch", "kdbench", "onnx"} & set(sys.modules)
print(memory("VmHWM") - before)
"""


def peak_memory(file: bytes, inputs: InputSpec, batch: int) -> float:
    """MiB that loading the file and one forward of `batch` examples add to a process that has ONNX Runtime alone.

    NaN where the system does not tell a process its peak (all but Linux).
    """
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    with tempfile.TemporaryDirectory() as folder:
        model, given = Path(folder) / "model.onnx", Path(folder) / "inputs.npz"
        model.write_bytes(file)
        np.savez(given, **arrays_of(inputs.random(batch), inputs))
        command = [sys.executable, "-I", "-c", ALONE, str(model), str(given)]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(told.stdout) / 1024
