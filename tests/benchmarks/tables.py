"""How long `leaderboard` takes over 10,000 records and `plan` over 100,000 cells, and how much memory.

Each command runs in a process of its own, imports included, after both have left their compiled bytecode behind, as on
every machine but a new one. Wall time depends on who else works on the machine, so the process's own CPU time stands
beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from common import machine, report
from grids import PAIRS, grid, record

from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_methods

EPOCHS = 240
CURVES = ("loss/total", "loss/ce", "loss/kd", "test_top1", "test_top5", "test_nll", "test_ece", "test_agreement",
          "validation_top1", "validation_top5", "validation_nll", "validation_ece")  # fmt: skip

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def make_records(folder: Path, seeds: int) -> Path:
    """4 pairs, 4 objectives; as large as the records of a run of 240 epochs on 10 classes."""
    folder.mkdir(exist_ok=True)
    suite, cells = grid(folder, pairs=4, seeds=seeds, train={"epochs": EPOCHS, "batch_size": 64})
    draw, place = np.random.default_rng(0), folder / "results" / "grid" / "records"
    place.mkdir(parents=True)
    for cell in cells:
        made = record(cell, float(70 + draw.normal()), num_classes=10)
        made["curves"] = {name: (100 * draw.random(EPOCHS)).tolist() for name in CURVES}
        made["test_top1_per_class"] = (100 * draw.random(10)).tolist()
        (place / f"{cell.key}.json").write_text(json.dumps(made, indent=1))
    return suite


def make_wide(folder: Path, rows: int) -> Path:
    """13 pairs, 2 seeds, `rows` objectives."""
    folder.mkdir()
    made = {f"kd {t}": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 1 + t / 100}} for t in range(rows - 1)}
    depths = (8, 14, 20, 32, 44, 56)
    pairs = [{"teacher": f"cifar_resnet{t}", "student": f"cifar_resnet{s}"} for t in depths for s in depths if s < t]
    suite = {"name": "wide", "datasets": ["digits"], "pairs": pairs[:13], "methods": {"student": {"ce": 1}, **made},
             "seeds": [0, 1], "train": {"epochs": EPOCHS, "batch_size": 64}}  # fmt: skip
    path = folder / "wide.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    draw, place = np.random.default_rng(0), folder / "results" / "wide" / "records"
    place.mkdir(parents=True)
    for cell in cells_of(load_suite(path)):
        one = record(cell, float(70 + draw.normal()), num_classes=10)
        one["curves"] = {name: (100 * draw.random(EPOCHS)).round(4).tolist() for name in CURVES[:8]}
        one["test_top1_per_class"] = (100 * draw.random(10)).tolist()
        (place / f"{cell.key}.json").write_text(json.dumps(one, indent=1), encoding="utf-8")
    return path


def make_plan(folder: Path, seeds: int) -> Path:
    """4 pairs, 25 objectives."""
    rows: dict[str, Any] = {f"kd{t}": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": t + 1.0}} for t in range(24)}
    suite = {"name": "huge", "datasets": ["digits"], "pairs": PAIRS, "methods": {"student": {"ce": 1}, **rows},
             "seeds": list(range(seeds)), "train": {"epochs": EPOCHS, "batch_size": 64}}  # fmt: skip
    path = folder / "huge.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    return path


def measured(command: str, suite: Path, what: str) -> dict[str, Any]:
    """CPU and wall seconds of one command, and its peak memory, which the kernel counts until the process is gone."""
    start = time.perf_counter()
    words = [sys.executable, "-m", "kdbench", command, str(suite), "--results", str(suite.parent / "results")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return {"command": command, "of": what, "cpu_s": used.ru_utime + used.ru_stime,
            "wall_s": time.perf_counter() - start, "peak_mib": used.ru_maxrss / 1024}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=500, help="of 13 pairs and 2 seeds")
    given = parser.parse_args()
    load_methods()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many, huge = make_records(folder, given.records // 16), make_plan(folder, given.cells // 100)
        few = make_records(folder / "few", 1)
        measured("plan", few, "bytecode"), measured("leaderboard", few, "bytecode")
        rows = [measured("leaderboard", many, f"{given.records:,} records")]
        wide = make_wide(folder / "wide", given.rows)
        rows.append(measured("leaderboard", wide, f"{given.rows} rows x 13 pairs x 2 seeds"))
        rows.append(measured("plan", huge, f"{given.cells:,} cells"))
    report("tables", machine(torch.device("cpu")), rows)


if __name__ == "__main__":
    main()
