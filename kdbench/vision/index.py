"""timm's models by name without timm, which takes seconds to import: the names are kept, for each version of it."""

import json
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kdbench.files import cache_folder, write_json
from kdbench.method.contract import Task
from kdbench.nets import Family, Net, Spec
from kdbench.registry import hash_of_file

OWN = Path(__file__).with_name("cifar")  # registers nets of ours into timm


class Indexed:
    """The family of `kdbench.vision.nets`, imported when a net is built.

    Who has imported timm may have registered models of its own: then timm itself is asked.
    """

    def names(self) -> frozenset[str]:
        if "timm" in sys.modules:
            return frozenset(family().names())
        return self.kept()

    @staticmethod
    @lru_cache
    def kept() -> frozenset[str]:
        """From the index of this version of timm and of our nets, which is made where it is missing or damaged."""
        path = index()
        with suppress(OSError, ValueError):
            if (found := json.loads(path.read_bytes())) and all(isinstance(name, str) for name in found):
                return frozenset(found)
        names = sorted(family().names())
        with suppress(OSError):  # a folder that can't be written only makes the next command slower
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, names)
        return frozenset(names)

    def build(self, spec: Spec, task: Task) -> Net:
        return family().build(spec, task)

    def begins_with(self, spec: Spec) -> dict[str, str]:
        return family().begins_with(spec)

    def own_crop(self, model: str, side: int) -> dict[str, Any] | None:
        found: Any = family()
        crop: dict[str, Any] | None = found.own_crop(model, side)
        return crop


def index() -> Path:
    """Where the names are kept."""
    try:
        timms = version("timm")
    except PackageNotFoundError:
        timms = "unknown"
    ours = hash_of_file(b"\0".join(path.read_bytes() for path in sorted(OWN.glob("*.py"))))
    return cache_folder("models") / f"timm-{timms}-{ours}.json"


def family() -> Family:
    from kdbench.vision.nets import FAMILY

    found: Any = FAMILY
    return found


INDEX = Indexed()
