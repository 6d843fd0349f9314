"""Files of a group: its first process reads and writes them, and the others are told what stands in them."""

import io
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdbench.files import finite, write_atomic, write_json
from kdbench.layout import Layout, TeacherFolder
from kdbench.locks import hold
from kdbench.results.checkpoints import Checkpoints
from kdbench.train.group import ALONE, Group


class GroupCheckpoints(Checkpoints):
    """Checkpoints of members that a group trains."""

    def __init__(self, folder: Path, group: Group = ALONE) -> None:
        super().__init__(folder)
        self.group = group

    def save(self, key: str, state: dict[str, Any]) -> None:
        if self.group.rank == 0:
            super().save(key, state)

    def load(self, key: str) -> dict[str, Any] | None:
        if self.group.size == 1:
            return super().load(key)
        content = self.group.share(lambda: packed(Checkpoints.load(self, key)))
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) if content else None

    def remove(self, key: str) -> None:
        if self.group.rank == 0:
            super().remove(key)


def packed(state: dict[str, Any] | None) -> bytes | None:
    if state is None:
        return None
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Shelf:
    """Where a group keeps its trained teachers."""

    results: Path
    group: Group

    @property
    def folder(self) -> TeacherFolder:
        return Layout(self.results).teachers

    @property
    def checkpoints(self) -> GroupCheckpoints:
        return GroupCheckpoints(self.folder.checkpoints, self.group)

    def lock(self, key: str, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """The teacher's lock, which the first process has for all."""
        return hold(self.folder.lock(key), waiting) if self.group.rank == 0 else nullcontext()

    def read(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """What is told of a teacher, and its weights' file; None where either is not there. Raises ValueError."""
        about = self.group.share(lambda: bytes_of(self.folder.record(key)))
        content = self.group.share(lambda: bytes_of(self.folder.weights(key)))
        return None if about is None or content is None else (json.loads(about), content)

    def write(self, key: str, about: dict[str, Any], content: bytes) -> None:
        if self.group.rank == 0:
            write_atomic(self.folder.weights(key), content)
            write_json(self.folder.record(key), finite(about))


def bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
