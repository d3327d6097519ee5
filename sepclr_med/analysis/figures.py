"""The separation table as a picture: every variable, every space, with intervals and chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sepclr_med.rundir import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, and shapes, so that spaces stay apart without colour.
STYLES = {"common": ("#0072B2", "o"), "salient": ("#D55E00", "s"), "voxel_pca": ("#777777", "^")}
PANELS = {"balanced_accuracy": ("balanced accuracy", (0.0, 1.02)), "r2": ("R2", (-0.5, 1.02))}


def draw_separation(table: pd.DataFrame, path: Path) -> Path:
    """Draw balanced accuracy and R2 of every variable from each space.

    Parameters
    ----------
    table : DataFrame
        From :func:`sepclr_med.evaluate`.
    path : Path
        PNG, written atomically.

    Returns
    -------
    Path
        No file is there when no probe could be scored.
    """
    from matplotlib.figure import Figure

    scored = table[table["metric"].isin(PANELS) & table["value"].notna()]
    counts = {metric: scored[scored["metric"] == metric]["variable"].nunique() for metric in PANELS}
    shown = [metric for metric in PANELS if counts[metric]]
    if not shown:
        # Too few participants for any probe: the table has the reasons, a picture has nothing to show.
        path.unlink(missing_ok=True)
        return path
    height = 1.6 + 0.42 * max(counts.values(), default=1)
    figure = Figure(figsize=(5.2 * len(shown), height), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw_panel(axes, scored[scored["metric"] == metric], metric)
    figure.suptitle("linear probes on held-out participants, 95% intervals", x=0.01, ha="left", fontsize=10)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path


def _draw_panel(axes: Axes, rows: pd.DataFrame, metric: str) -> None:
    title, limits = PANELS[metric]
    variables = list(dict.fromkeys(rows["variable"]))
    spaces = list(dict.fromkeys(rows["space"]))
    for offset, space in enumerate(spaces):
        colour, marker = STYLES.get(space, ("black", "D"))
        mine = rows[rows["space"] == space].drop_duplicates("variable")
        height = [variables.index(v) + (offset - (len(spaces) - 1) / 2) * 0.24 for v in mine["variable"]]
        low, high = mine["ci_low"].fillna(mine["value"]), mine["ci_high"].fillna(mine["value"])
        axes.hlines(height, low.clip(*limits), high.clip(*limits), color=colour, linewidth=1.6)
        axes.plot(
            mine["value"].clip(*limits), height, marker, color=colour, label=space.replace("_", " "), markersize=6
        )
    chance = rows.groupby("variable", sort=False)["chance"].first().reindex(variables)
    axes.plot(chance.clip(*limits), range(len(variables)), "|", color="black", markersize=16, label="chance")
    names = [
        f"{v} (n = {int(n)})" for v, n in rows.groupby("variable", sort=False)["n"].max().reindex(variables).items()
    ]
    axes.set_yticks(range(len(variables)), names)
    axes.set_ylim(len(variables) - 0.5, -0.5)
    axes.set_xlim(limits[0] - 0.02, limits[1])
    edge = f" (cut at {limits[0]:g})" if limits[0] < 0 else ""
    axes.set_title(f"{title}{edge}", fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
