"""What was measured of nets and rows on a machine, kept in its results folder for the commands that come after."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from kdbench.files import write_json
from kdbench.layout import Layout
from kdbench.results.provenance import device_name


@dataclass
class Speeds:
    """`nets`: seconds per example of a forward, and of a step as a student; `rows`: of a step, over the student's."""

    nets: dict[str, tuple[float, float]] = field(default_factory=dict)
    rows: dict[str, float] = field(default_factory=dict)
    when: str = "just now"


def conditions(device: torch.device) -> str:
    """Under which a number holds: the device, the threads, torch."""
    return f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def keep(results: Path, where: str, speeds: Speeds) -> None:
    """Beside what is known already; what was measured anew takes the place of the old. Raises OSError."""
    found = _read(results)
    before = _speeds(found.get(where))
    entry = {"nets": before.nets | speeds.nets, "rows": before.rows | speeds.rows}
    write_json(Layout(results).speeds, {**found, where: {**entry, "when": f"{datetime.now():%Y-%m-%d %H:%M}"}})


def measured(results: Path, where: str) -> Speeds:
    return _speeds(_read(results).get(where))


def _read(results: Path) -> dict[str, Any]:
    """Nothing where the file is damaged: it only saves measuring again."""
    try:
        found = json.loads(Layout(results).speeds.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _speeds(entry: Any) -> Speeds:
    try:
        nets = {str(name): (float(forward), float(step)) for name, (forward, step) in entry["nets"].items()}
        rows = {str(name): float(ratio) for name, ratio in entry["rows"].items()}
        return Speeds(nets, rows, f"on {entry['when']}")
    except (TypeError, KeyError, ValueError, AttributeError):
        return Speeds()
