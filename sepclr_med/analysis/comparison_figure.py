"""Methods beside one another: a panel per variable, a row per method, intervals, chance and the expected direction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.figures import STYLES
from sepclr_med.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIMITS = {"r2": (-0.25, 1.02), "balanced_accuracy": (0.0, 1.02), "spearman": (-0.5, 1.02)}
METRIC_WORDS = {"r2": "R2", "balanced_accuracy": "balanced accuracy", "spearman": "rank correlation"}
MOST_COLUMNS = 4


def draw_comparison(table: pd.DataFrame, path: Path) -> Path:
    """Draw a table of :func:`sepclr_med.analysis.comparing.compare_embeddings`.

    Parameters
    ----------
    table : DataFrame
    path : Path
        PNG, written atomically.

    Returns
    -------
    Path
        No file is there when nothing could be scored.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = list(dict.fromkeys(zip(table["variable"], table["people"], strict=True)))
    if not panels:
        path.unlink(missing_ok=True)
        return path
    methods = list(dict.fromkeys(table["method"]))
    n_columns = min(MOST_COLUMNS, len(panels))
    n_rows = -(-len(panels) // n_columns)
    size = (2.0 + 2.9 * n_columns, 0.7 + n_rows * (1.0 + 0.3 * len(methods)))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    for axes, (variable, people) in zip(grid.flat, panels, strict=False):
        rows = table[(table["variable"] == variable) & (table["people"] == people)]
        _draw_panel(axes, rows, methods, f"{variable} ({'patients' if people == 'target' else people})")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    # Rows share one axis: the last call holds for all.
    grid[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    figure.suptitle("held-out participants, 95% intervals over participants and seeds", x=0.01, ha="left", fontsize=10)
    handles = dict(
        pair for axes in figure.axes for pair in zip(*reversed(axes.get_legend_handles_labels()), strict=True)
    )
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path


def _draw_panel(axes: Axes, rows: pd.DataFrame, methods: list[str], title: str) -> None:
    metric = rows["metric"].iloc[0]
    low_limit, high_limit = LIMITS[metric]
    for place in range(0, len(methods), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="black", alpha=0.04, linewidth=0)
    for offset, space in zip((-0.16, 0.16), ("common", "salient"), strict=True):
        colour, marker = STYLES[space]
        mine = rows[rows["space"] == space]
        height = np.array([methods.index(method) for method in mine["method"]]) + offset
        low, high = mine["ci_low"].fillna(mine["value"]), mine["ci_high"].fillna(mine["value"])
        axes.hlines(height, low.clip(low_limit, high_limit), high.clip(low_limit, high_limit), color=colour)
        wanted = f"{space}: {mine['expected'].iloc[0]} wanted" if len(mine) else space
        axes.plot(mine["value"].clip(low_limit, high_limit), height, marker, color=colour, label=space, markersize=5)
        above = (0, 3 if space == "common" else 12)
        look: dict[str, Any] = {"textcoords": "offset points", "color": colour, "fontsize": 7}
        axes.annotate(wanted, (0.0, 1.0), xycoords="axes fraction", xytext=above, **look)
    axes.axvline(rows["chance"].clip(low_limit, high_limit).iloc[0], color="black", linewidth=1, label="chance")
    axes.set_yticks(range(len(methods)), methods)
    axes.set_xlim(low_limit - 0.02, high_limit)
    axes.set_xlabel(METRIC_WORDS[metric], fontsize=8)
    axes.set_title(f"{title}, n = {rows['n'].max()}", fontsize=9, loc="left", pad=24)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
