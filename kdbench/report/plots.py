"""Plots as PNG and SVG files, for papers and slides; the page draws its own.

One file per pair (gains with their intervals, gain against training time, learning curves), accuracy against latency
over the suite, and the critical-difference diagram where there are two pairs or more.
"""

import math
import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from kdbench.files import write_atomic
from kdbench.method.metric import Metric
from kdbench.report.compression import AXES, Compressed
from kdbench.report.rows import Pair, Row
from kdbench.report.statistics import Ranking
from kdbench.report.table import Board

MOST_ROWS = 40  # of a pair in its figure: those with the highest means, and the student alone
MOST_PAIRS = 4  # figures of single pairs; a large suite's others are on the page
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "kdbench", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False, "text.parse_math": False}  # fmt: skip
COLOURS = {1: "#1b7f3b", 0: "#777777", -1: "#b3261e"}  # better, not distinguishable, worse


def write_plots(board: Board, folder: Path) -> list[Path]:
    """Write every plot that the results allow; returns the files."""
    for path in [*folder.glob("*.png"), *folder.glob("*.svg")]:  # of an earlier state of the suite
        path.unlink()
    written: list[Path] = []
    pairs = [Pair(pair.title, most_of([row for row in pair.rows if math.isfinite(row.score)])) for pair in board.pairs]
    pairs = [pair for pair in pairs if pair.rows]
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a label in a script that the font lacks
        for number, pair in enumerate(pairs[:MOST_PAIRS], 1):
            figure = pair_figure(pair, board.curves.get(pair.title, {}))
            written += save(figure, folder / f"{number:02d}-{slug(pair.title)}")
        if pairs:
            written += save(latency_figure(pairs, board.metric), folder / "accuracy-latency")
        for dataset, lines in board.compression.items():
            written += save(compression_figure(lines), folder / f"compression-{slug(dataset)}")
        if board.ranking is not None and len(board.ranking.ranks) <= MOST_ROWS:
            written += save(ranking_figure(board.ranking), folder / "critical-difference")
    return written


def most_of(rows: list[Row]) -> list[Row]:
    """The rows that a figure has room for, in their order."""
    least = sorted((row.score for row in rows), reverse=True)[:MOST_ROWS][-1:] or [0.0]
    return [row for row in rows if row.score >= least[0] or row.alone]


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:80]


def save(figure: Figure, path: Path) -> list[Path]:
    """`path`.png and .svg, the same bytes for the same numbers."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # both pictures have one layout, worked out once
    files = []
    for kind, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
        content = BytesIO()
        figure.savefig(content, format=kind, **options)
        files.append(path.with_name(f"{path.name}.{kind}"))
        write_atomic(files[-1], content.getvalue() if kind == "png" else with_plain_clips(content.getvalue()))
    return files


def with_plain_clips(svg: bytes) -> bytes:
    """Clip paths numbered in their order: matplotlib names those of a shape by where it lies in memory."""
    for number, name in enumerate(dict.fromkeys(re.findall(rb'<clipPath id="(\w+)"', svg))):
        svg = svg.replace(name, b"clip%d" % number)
    return svg


def pair_figure(pair: Pair, curves: dict[str, list[float]]) -> Figure:
    figure = Figure(figsize=(12, max(3.4, 0.22 * len(pair.rows) + 1.4)), layout="constrained")
    figure.suptitle(short(pair.title, 140))
    left, middle, right = figure.subplots(1, 3)
    plot_gains(left, pair.rows)
    plot_costs(middle, pair)
    shown = {row.label for row in pair.rows}
    plot_curves(right, pair.rows, {label: curve for label, curve in curves.items() if label in shown}, pair.metric)
    return figure


def plot_gains(axes: Axes, rows: list[Row]) -> None:
    """Gain over the student alone with both its 95% intervals; colour: what the corrected test says.

    As on the page: a grey ground for rows tied for the top, a diamond for a control, hollow for a row that lost seeds.
    """
    shown = [(row, row.gain) for row in rows if row.gain and math.isfinite(row.gain.mean)]
    shown.sort(key=lambda pair: pair[1].mean)
    for place, (row, _) in enumerate(shown):
        if row.tier == 0:
            axes.axhspan(place - 0.5, place + 0.5, color="#f0f0f0", linewidth=0, zorder=0)
    gains = [(place, gain) for place, (_, gain) in enumerate(shown)]  # all lines of a kind are drawn as one
    bands = [(place, gain.new_low, gain.new_high) for place, gain in gains if gain.has_new_interval]
    places, low, high = _columns(bands, 3)
    axes.hlines(places, low, high, color="#cccccc", linewidth=5, zorder=1)
    lines = [(place, gain.low, gain.high, COLOURS[gain.claim]) for place, gain in gains if gain.has_interval]
    places, low, high, colours = _columns(lines, 4)
    axes.hlines(places, low, high, color=colours, linewidth=1.6, zorder=2)
    for marker, is_control in (("o", False), ("D", True)):
        points = [(gain.mean, place, "none" if row.lost else COLOURS[gain.claim], COLOURS[gain.claim])
                  for place, (row, gain) in enumerate(shown) if bool(row.control) == is_control]  # fmt: skip
        x, y, fills, edges = _columns(points, 4)
        axes.scatter(x, y, s=16, marker=marker, facecolors=fills, edgecolors=edges, zorder=3)
    axes.axvline(0, color="black", linewidth=0.8)
    names = [f"{short(row.label)}{', control' * bool(row.control)} (n = {gain.n})" for row, gain in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_xlabel("gain over the student alone, points (95% intervals)\nline: other seeds; band: other examples too")


def _columns(rows: list[Any], width: int) -> list[list[Any]]:
    """Each column of a table as a list of its own; `width` empty ones of no row."""
    return [[row[place] for row in rows] for place in range(width)]


def plot_costs(axes: Axes, pair: Pair) -> None:
    """Gain against the time of a run, as a multiple of the student alone's; the front is drawn."""
    points = [(pair.cost_ratio(row, "alone_seconds"), row.gained, row) for row in pair.rows]
    points = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    x, y, rows = _columns(points, 3)
    axes.scatter(x, y, s=25, color=[COLOURS[row.claim] for row in rows])
    _front(axes, [(1.0, 0.0, "student alone")] + [(x, y, row.label) for x, y, row in points])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="time of a run, x the student alone's", ylabel="gain, points")


def plot_curves(axes: Axes, rows: list[Row], curves: dict[str, list[float]], metric: Metric) -> None:
    """Mean test score after every epoch: the five best and the student alone by name, the others grey."""
    best = sorted(rows, key=lambda row: -row.score)[:5]
    named = [row.label for row in rows if row in best or row.alone]
    points = {label: np.column_stack([np.arange(1, len(curve) + 1), curve]) for label, curve in curves.items()}
    others = [line for label, line in points.items() if label not in named]
    axes.add_collection(LineCollection(others, color="#bbbbbb", linewidth=0.7))
    for label in (label for label in curves if label in named):
        axes.plot(*points[label].T, label=short(label), linewidth=1.4)
    axes.autoscale_view()
    axes.set(xlabel="epoch", ylabel=metric.axis)
    if curves:
        axes.legend(frameon=False, fontsize=7)


def latency_figure(pairs: list[Pair], metric: Metric) -> Figure:
    """Score against latency on one CPU thread, a panel per data set: every student's best row, and the teachers."""
    datasets = list(dict.fromkeys(pair.rows[0].dataset for pair in pairs))[:6]
    figure = Figure(figsize=(4.6 * min(len(datasets), 3), 3.6 * math.ceil(len(datasets) / 3)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(math.ceil(len(datasets) / 3), min(len(datasets), 3), squeeze=False)).ravel()
    for axes, dataset in zip(panels, datasets, strict=False):
        here = [pair.rows for pair in pairs if pair.rows[0].dataset == dataset]
        points = [point for rows in here for point in _latency_points(rows)]
        points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
        axes.set(title=dataset, xlabel="ms of one example, one CPU thread", ylabel=metric.axis, xscale="log")
        _plain_numbers(axes, [p[0] for p in points] or [1.0])
        axes.plot([p[0] for p in points], [p[1] for p in points], "o", color=COLOURS[0], markersize=4)
        _front(axes, points)
    for axes in panels[len(datasets) :]:
        axes.set_axis_off()
    return figure


def compression_figure(lines: list[Compressed]) -> Figure:
    """Accuracy against size, latency and multiply-adds of every row that was measured as a file, with the fronts."""
    figure = Figure(figsize=(5 * len(AXES), 4), layout="constrained")
    for axes, (label, of) in zip(figure.subplots(1, len(AXES)), AXES.values(), strict=True):
        points = [(of(line.row), line.row.score, f"{line.row.student}, {line.row.label}") for line in lines]
        points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
        axes.set(xlabel=label, ylabel=lines[0].row.metric.axis, xscale="log")
        _plain_numbers(axes, [p[0] for p in points] or [1.0])
        axes.plot([p[0] for p in points], [p[1] for p in points], "o", color=COLOURS[0], markersize=4)
        _front(axes, points)
    return figure


def _plain_numbers(axes: Axes, times: list[float]) -> None:
    """1, 2, 5 on a logarithmic axis, and not powers of ten."""
    wide = max(times) > 10 * min(times)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def _latency_points(rows: list[Row]) -> list[tuple[float, float, str]]:
    best = max(rows, key=lambda row: row.score)
    alone = [row for row in rows if row.alone and row is not best]
    points = [(row.size.cpu_ms_b1, row.score, f"{row.student}, {row.label}") for row in (best, *alone)]
    return [*points, (best.teacher_size.cpu_ms_b1, best.teacher_score, f"{best.teacher} (teacher)")]


def ranking_figure(ranking: Ranking) -> Figure:
    """Demsar's diagram: average ranks on a line, bars join what can't be told apart at 5%."""
    names = sorted(ranking.ranks, key=lambda name: ranking.ranks[name][0])
    ranks = [ranking.ranks[name][0] for name in names]
    half = math.ceil(len(names) / 2)
    bars = cliques(ranks, ranking.critical)
    figure = Figure(figsize=(8, 1.2 + 0.24 * half + 0.12 * len(bars)), layout="constrained")
    axes = figure.subplots()
    top, low = len(names), -(half + 0.5 * len(bars) + 1)
    for number, (first, last) in enumerate(bars):
        axes.plot([ranks[first] - 0.03, ranks[last] + 0.03], [-0.5 * (number + 1)] * 2, color="black", linewidth=3)
    for place, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        left = place < half
        y = -(0.5 * len(bars) + 1 + (place if left else len(names) - 1 - place))
        x = 0.6 if left else top + 0.4
        axes.plot([rank, rank, x], [0, y, y], color="#777777", linewidth=0.8)
        axes.text(x, y, f" {name} {rank:.2f} ", ha="right" if left else "left", va="center")
    axes.plot([1, 1 + ranking.critical], [1.2, 1.2], color="black", linewidth=1.5)
    axes.text(1, 1.5, f"critical difference {ranking.critical:.2f} ({ranking.pairs} pairs)", va="bottom", fontsize=8)
    axes.set(xlim=(0, top + 1), ylim=(low, 3))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set(visible=True, position=("data", 0), bounds=(1, top))
    axes.xaxis.tick_top()
    axes.set_xticks(range(1, top + 1))
    axes.set_yticks([])
    return figure


def cliques(ranks: list[float], critical: float) -> list[tuple[int, int]]:
    """Widest runs (first, last) of sorted ranks that span less than the critical difference, of two or more."""
    runs: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(n for n in range(first, len(ranks)) if ranks[n] - ranks[first] < critical)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def front(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """The points that no other beats in both (less x, more y), by rising x."""
    kept: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept


def _front(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    best = front(points)
    axes.step([p[0] for p in best], [p[1] for p in best], where="post", color="#888888", linewidth=0.8)
    width = max((p[0] for p in points), default=0.0) - min((p[0] for p in points), default=0.0)
    axes.get_xlim()  # so that the scale is known
    inside = axes.transAxes.inverted()  # from places on the screen to 0..1 of the panel
    for place, (x, y, name) in enumerate(best):
        if place + 1 < len(best) and best[place + 1][0] - x < 0.03 * width:
            continue  # the next name would be written over it
        right = inside.transform(axes.transData.transform((x, y)))[0] > 0.5
        text = axes.annotate(short(name), (x, y), xytext=(-4 if right else 4, 4), textcoords="offset points",
                             ha="right" if right else "left", fontsize=7)  # fmt: skip
        text.set_in_layout(False)  # a long name makes no panel narrower


def short(name: str, most: int = 40) -> str:
    """Names of taught teachers and of nets with options can be longer than a panel is wide."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
