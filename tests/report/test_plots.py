"""The forest plot of `plots/` shows what the page's does."""

from types import SimpleNamespace
from typing import Any

from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from kdbench.report.plots import plot_gains


def row(label: str, mean: float, new: bool = True, **changes: Any) -> Any:
    gain = SimpleNamespace(mean=mean, low=mean - 1, high=mean + 1, new_low=mean - 2, new_high=mean + 2, n=3, claim=1,
                           has_interval=True, has_new_interval=new)  # fmt: skip
    return SimpleNamespace(**{"label": label, "gain": gain, "tier": 1, "control": "", "lost": 0, **changes})


def ends(lines: LineCollection) -> list[list[float]]:
    return [list(line[:, 0]) for line in lines.get_segments()]


def test_both_intervals_ties_controls_and_lost_seeds_are_marked() -> None:
    axes = Figure().subplots()
    plain = row("plain", 3.0, new=False)
    plot_gains(
        axes, [row("tied", 4.0, tier=0), plain, row("control", 2.0, control="untrained"), row("lost", 1.0, lost=1)]
    )
    bands, lines = (found for found in axes.collections if isinstance(found, LineCollection))
    assert (ends(bands)[-1], list(bands.get_linewidth())) == ([2.0, 6.0], [5])
    assert (ends(lines)[-1], list(lines.get_linewidth())) == ([3.0, 5.0], [1.6])
    assert len(ends(bands)) == 3  # `plain` has none for new examples
    circles, diamonds = (found for found in axes.collections if isinstance(found, PathCollection))
    assert [place for _, place in circles.get_offsets()] == [0, 2, 3]  # from below
    assert [colour[3] for colour in circles.get_facecolor()] == [0, 1, 1]  # the one that lost a seed is hollow
    assert [place for _, place in diamonds.get_offsets()] == [1]
    assert diamonds.get_facecolor()[0][3] == 1
    assert [patch.get_y() for patch in axes.patches] == [2.5]  # the ground of `tied`, which stands highest
    assert axes.get_yticklabels()[1].get_text() == "control, control (n = 3)"
