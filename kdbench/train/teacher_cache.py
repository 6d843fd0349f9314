"""A teacher's logits and embeddings on every training batch, kept on disk for objectives that are added later.

A file per epoch, in the order of the batches. What decides the batches and the arithmetic is in the folder's name, so
what is read is to the bit what the teacher would give again. Nothing depends on these files: delete them at will.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdbench.files import write_atomic
from kdbench.method.contract import Outputs

KEPT = ("logits", "embedding")  # feature maps are some hundred times larger: terabytes for a long run


class TeacherCache:
    """Outputs of one teacher for one cohort's batches, in a `folder` of their own, as far as the `budget` goes."""

    def __init__(self, folder: Path, device: torch.device, budget: "DiskBudget") -> None:
        self.folder, self.device, self.budget = folder, device, budget
        self.number = -1
        self.known: list[dict[str, Tensor]] = []  # what the file of the present epoch holds, by step
        self.fresh: list[Outputs] = []  # computed in this epoch, from its first step on
        self.seconds = 0.0  # that the teacher's forward takes for a step, as measured when it was made

    def get(
        self, epoch: int, step: int, needs: frozenset[str], compute: Callable[[], Outputs]
    ) -> tuple[Outputs, float]:
        """The teacher's outputs for a batch, and the seconds that were saved by not computing them."""
        if epoch != self.number:
            self.open_epoch(epoch)
        needs |= {"logits"}
        if self.known and needs <= self.known[step].keys():
            found = {name: self.known[step][name].to(self.device, torch.float32, copy=True) for name in needs}
            return Outputs(found["logits"], found.get("embedding")), self.seconds
        return compute(), 0.0

    def add(self, step: int, steps: int, outputs: Outputs, seconds: float) -> None:
        """Note the outputs of step `step` of `steps`, which took so long; the last one writes the epoch."""
        if self.known or step != len(self.fresh) or not outputs.logits.shape[1]:
            return
        embedding = outputs.embedding.clone() if outputs.embedding is not None else None
        self.fresh.append(Outputs(outputs.logits.clone(), embedding))
        self.seconds += seconds / steps
        if len(self.fresh) == steps:
            self.write()

    def open_epoch(self, epoch: int) -> None:
        """Go to another epoch, and read its file if there is a sound one."""
        self.number, self.fresh, self.seconds = epoch, [], 0.0
        self.known = []
        try:
            with safe_open(self.path, "pt") as file:
                about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about["digest"] == digest(tensors):
                self.seconds = float(about["seconds"])
                parts = {name: x.split(int(about["batch"])) for name, x in tensors.items()}
                self.known = [dict(zip(parts, batch, strict=True)) for batch in zip(*parts.values(), strict=True)]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError):
            self.seconds = 0.0  # none, or damaged: they are computed, and the file is written again

    @property
    def path(self) -> Path:
        return self.folder / f"{self.number:04d}.safetensors"

    def write(self) -> None:
        names = [name for name in KEPT if all(getattr(outputs, name) is not None for outputs in self.fresh)]
        tensors = {
            n: narrow(torch.cat([getattr(outputs, n) for outputs in self.fresh])).cpu().contiguous() for n in names
        }
        about = {"seconds": repr(self.seconds), "batch": str(len(self.fresh[0].logits)), "digest": digest(tensors)}
        content = save(tensors, metadata=about)
        self.fresh = []
        if self.budget.reserve(len(content)):
            write_atomic(self.path, content)


class DiskBudget:
    """How many bytes may still be written below `folder`, in which at most `most` shall lie."""

    def __init__(self, folder: Path, most: float) -> None:
        self.folder = folder
        self.left = most - sum(path.stat().st_size for path in folder.rglob("*.safetensors"))

    def reserve(self, size: int) -> bool:
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


def narrow(x: Tensor) -> Tensor:
    """In half the bytes where no digit is lost: what a net gives under bf16 was widened from there."""
    half = x.bfloat16()
    return half if torch.equal(half.to(x.dtype), x) else x


def digest(tensors: dict[str, Tensor]) -> str:
    flat = (x.detach().cpu().contiguous().flatten().view(torch.uint8) for _, x in sorted(tensors.items()))
    return hashlib.sha256(b"".join(x.numpy().tobytes() for x in flat)).hexdigest()
