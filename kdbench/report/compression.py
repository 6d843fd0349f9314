"""Compression beside distillation: what each student costs as the file that is delivered, and what it lost.

One table for each data set, over all its pairs: a student that was pruned, factored or put into integers stands beside
one that is small from the start.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdbench.report.frame import GROUP
from kdbench.report.rows import Pair, Row
from kdbench.report.statistics import Difference, of_differences
from kdbench.report.text import human, number, plus_minus

AXES: Mapping[str, tuple[str, Callable[[Row], float]]] = {
    "size": ("kB of the file", lambda row: digits(row.file.bytes / 1000)),
    "latency": ("ms of one example, ONNX Runtime, one CPU thread", lambda row: digits(row.file.ort_ms_b1)),
    "MACs": ("millions of multiply-adds", lambda row: digits(row.size.macs / 1e6)),
}
# Names of ONNX Runtime's kernels for convolutions and matrix products.
IN_INTEGERS = ("QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul",
               "MatMulIntegerToFloat", "QAttention")  # fmt: skip
IN_FLOATS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits", "Attention")


@dataclass(frozen=True)
class Compressed:
    """A row as a file. `drop`: its score less that of the student it was made from, on the same seeds.

    `fronts`: those of AXES on which no other row of its data set is both smaller and better.
    """

    row: Row
    drop: Difference
    fronts: tuple[str, ...]

    @property
    def integers(self) -> float:
        """Percent of its convolutions and products that ran in integers; NaN where nothing is known."""
        integers, floats = (sum(self._ran(name) for name in names) for names in (IN_INTEGERS, IN_FLOATS))
        return 100 * integers / (integers + floats) if integers + floats else math.nan

    def _ran(self, name: str) -> float:
        """How often an operator ran; an operator that no student has is not in its record."""
        count = self.row.means.get(f"ran_{name}", 0.0)
        return count if math.isfinite(count) else 0.0

    @property
    def ratio(self) -> float:
        """How many times smaller its file is than that of the net before its transforms."""
        return self.row.before.bytes / self.row.file.bytes

    @property
    def faster(self) -> float:
        """How many times as fast as that net, by the median of ratios of interleaved runs."""
        return 1 / self.row.file.ort_ms_b1_vs_first


def compressions_of(frame: pd.DataFrame, pairs: Iterable[Pair]) -> dict[str, list[Compressed]]:
    """Data set -> its rows that are measured as files, the smallest first; nothing where no row is."""
    rows = [row for pair in pairs for row in pair.rows if math.isfinite(row.file.bytes)]
    if not rows:
        return {}
    drops = drops_of(frame)
    found: dict[str, list[Compressed]] = {}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        here = [row for row in rows if row.dataset == dataset]
        fronts = {name: undominated([(x(row), row.score) for row in here]) for name, (_, x) in AXES.items()}
        lines = [
            Compressed(row, drops.get(place_of(row), Difference()), tuple(n for n in fronts if place in fronts[n]))
            for place, row in enumerate(here)
        ]
        found[dataset] = sorted(lines, key=lambda line: line.row.file.bytes)
    return found


def place_of(row: Row) -> tuple[str, ...]:
    return row.dataset, row.teacher, row.student, row.label


def drops_of(frame: pd.DataFrame) -> dict[tuple[str, ...], Difference]:
    """Of every row that was made from another's student, over the seeds that both have."""
    if not {"origin", "score"} <= set(frame.columns):
        return {}
    done = frame[(frame["status"] == "done") & frame["origin"].notna()]
    scores = dict(zip(frame["key"], frame["score"], strict=True))
    done = done.assign(drop=done["score"] - done["origin"].map(scores))
    made = done[done["origin"] != done["key"]]
    groups = made.groupby([*GROUP, "label"], sort=False)["drop"]
    return {
        tuple(map(str, place)): of_differences(values.dropna().to_numpy(dtype=np.float64)) for place, values in groups
    }


def undominated(points: list[tuple[float, float]]) -> set[int]:
    """The places of the points that no other beats in both (less x, more y)."""
    known = [(x, -y, place) for place, (x, y) in enumerate(points) if math.isfinite(x) and math.isfinite(y)]
    kept, best = set(), -math.inf
    for _, down, place in sorted(known):
        if -down > best:
            kept.add(place)
            best = -down
    return kept


def digits(x: float) -> float:
    """Three of them: a byte more or less makes no file smaller."""
    return float(f"{x:.3g}")


def drop_text(drop: Difference) -> str:
    """`-0.52 [-1.10, +0.06]`, the interval where there are two seeds or more."""
    if not math.isfinite(drop.mean):
        return "–"
    span = f" [{drop.low:+.2f}, {drop.high:+.2f}]" if math.isfinite(drop.low) else ""
    return f"{drop.mean:+z.2f}{span}"


def times(value: float) -> str:
    return f"{value:.2f}x" if math.isfinite(value) else "–"


def cells_of_line(line: Compressed) -> dict[str, str]:
    """One line of the table."""
    row = line.row
    return {
        "student": row.student,
        "objective": row.label,
        "n": str(row.n),
        row.metric.head: plus_minus(row.score, row.std),
        "vs before": drop_text(line.drop),
        "file kB": number(row.file.bytes / 1000, 1),
        "smaller": times(line.ratio),
        "params": human(row.size.params),
        "MACs": human(row.size.macs),
        "integer %": number(line.integers, 0),
        "ms": number(row.file.ort_ms_b1, 3),
        "faster": times(line.faster),
        "ms (64)": number(row.file.ort_ms_b64, 2),
        "ms (64), all threads": number(row.file.ort_ms_b64_all, 2),
        "torch ms": number(row.size.cpu_ms_b1, 3),
        "MiB": number(row.file.peak_mb_b1, 1),
        "made in s": number(row.file.conversion_seconds, 1),
        "front": ", ".join(line.fronts) or "–",
    }


LEGEND = (
    "*vs before*: against the student it was made from, on the same seeds, with its own 95% interval. *file*: the "
    "ONNX file that is delivered. *smaller*, *faster*: times, against the same net before its transforms, of one "
    "example in ONNX Runtime on one CPU thread, both interleaved in one run. *ms*: the median time of that net over "
    "all cells that timed it, divided by *faster*; rows whose files run the same operators on as many parameters "
    "and multiply-adds share one. *integer*: share of convolutions and products that ran in integers, by the "
    "profiler. *ms (64)*: of 64 examples. *torch ms*: of the net in torch; a converted file runs in ONNX Runtime "
    "alone. *MiB*: that loading the file and one example add to a process with ONNX Runtime alone. *made in*: "
    "calibration and conversion. *front*: no other row is both better and smaller (faster, of fewer MACs), by three "
    "digits."
)
