"""The forest plot of `plots/` shows what the page's does."""

from types import SimpleNamespace
from typing import Any

from matplotlib.figure import Figure

from kdbench.report.plots import plot_gains


def row(label: str, mean: float, new: bool = True, **changes: Any) -> Any:
    gain = SimpleNamespace(mean=mean, low=mean - 1, high=mean + 1, new_low=mean - 2, new_high=mean + 2, n=3, claim=1,
                           has_interval=True, has_new_interval=new)  # fmt: skip
    return SimpleNamespace(**{"label": label, "gain": gain, "tier": 1, "control": "", "lost": 0, **changes})


def test_both_intervals_ties_controls_and_lost_seeds_are_marked() -> None:
    axes = Figure().subplots()
    plain = row("plain", 3.0, new=False)
    plot_gains(
        axes, [row("tied", 4.0, tier=0), plain, row("control", 2.0, control="untrained"), row("lost", 1.0, lost=1)]
    )
    lines = [(list(line.get_xdata()), line.get_linewidth()) for line in axes.lines]
    assert ([2.0, 6.0], 5) in lines
    assert ([3.0, 5.0], 1.6) in lines
    assert [width for _, width in lines].count(5) == 3  # `plain` has none for new examples
    marks = [(line.get_marker(), line.get_fillstyle()) for line in axes.lines if line.get_marker() != "None"]
    assert marks == [("o", "none"), ("D", "full"), ("o", "full"), ("o", "full")]  # from below
    assert [patch.get_y() for patch in axes.patches] == [2.5]  # the ground of `tied`, which stands highest
    assert axes.get_yticklabels()[1].get_text() == "control, control (n = 3)"
