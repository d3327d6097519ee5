"""The separation table as a picture: every variable, every space, with intervals and chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sepclr_med.analysis.layout import headlines
from sepclr_med.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, and shapes, so that spaces stay apart without colour.
STYLES = {
    "common": ("#0072B2", "o"),
    "salient": ("#D55E00", "s"),
    "both": ("#009E73", "D"),
    "covariates": ("#CC79A7", "v"),
    "voxel_pca": ("#777777", "^"),
}
PANELS = {
    "balanced_accuracy": ("balanced accuracy", (0.0, 1.02)),
    "r2": ("R2", (-0.5, 1.02)),
    "spearman": ("rank correlation (ordered levels)", (-0.5, 1.02)),
}
SCHEMES = {
    "held-out": "linear probes on held-out participants, 95% intervals",
    "cross-validated": "linear probes, cross-validated over participants, 95% intervals",
}
BAND = 0.72


def draw_separation(table: pd.DataFrame, path: Path) -> Path:
    """Draw balanced accuracy, R2 or rank correlation of every variable from each space.

    Parameters
    ----------
    table : DataFrame
        From :func:`sepclr_med.evaluate`; leave-site-out rows are not drawn.
    path : Path
        PNG, written atomically.

    Returns
    -------
    Path
        No file is there when no probe could be scored.
    """
    from matplotlib.figure import Figure

    scored = headlines(table[table["scheme"] != "leave-site-out"])
    scored = scored[scored["value"].notna()]
    counts = {metric: scored[scored["metric"] == metric]["variable"].nunique() for metric in PANELS}
    shown = [metric for metric in PANELS if counts[metric]]
    if not shown:
        # Too few participants for any probe: the table has the reasons, a picture has nothing to show.
        path.unlink(missing_ok=True)
        return path
    n_spaces = scored["space"].nunique()
    height = 1.7 + (0.24 + 0.11 * n_spaces) * max(counts.values())
    figure = Figure(figsize=(max(5.4 * len(shown), 6.4), height), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw_panel(axes, scored[scored["metric"] == metric], metric)
    figure.suptitle(SCHEMES.get(scored["scheme"].iloc[0], ""), x=0.01, ha="left", fontsize=10)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    # A single panel is too narrow for all of them in a row.
    columns = len(handles) if len(shown) > 1 else 3
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path


def _draw_panel(axes: Axes, rows: pd.DataFrame, metric: str) -> None:
    title, limits = PANELS[metric]
    variables = list(dict.fromkeys(rows["variable"]))
    spaces = list(dict.fromkeys(rows["space"]))
    for place in range(0, len(variables), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="black", alpha=0.04, linewidth=0)
    for offset, space in enumerate(spaces):
        colour, marker = STYLES.get(space, ("black", "P"))
        mine = rows[rows["space"] == space].drop_duplicates("variable")
        height = [variables.index(v) + BAND * ((offset + 0.5) / len(spaces) - 0.5) for v in mine["variable"]]
        low, high = mine["ci_low"].fillna(mine["value"]), mine["ci_high"].fillna(mine["value"])
        axes.hlines(height, low.clip(*limits), high.clip(*limits), color=colour, linewidth=1.5)
        label = space.replace("_", " ")
        axes.plot(mine["value"].clip(*limits), height, marker, color=colour, label=label, markersize=5)
    chance = rows.groupby("variable", sort=False)["chance"].first().reindex(variables).clip(*limits)
    axes.vlines(
        chance,
        [k - 0.44 for k in range(len(variables))],
        [k + 0.44 for k in range(len(variables))],
        color="black",
        linewidth=1.2,
        label="chance",
    )
    counts = rows.groupby("variable", sort=False)["n"].max().reindex(variables)
    axes.set_yticks(range(len(variables)), [f"{name} (n = {int(n)})" for name, n in counts.items()])
    axes.set_ylim(len(variables) - 0.5, -0.5)
    axes.set_xlim(limits[0] - 0.02, limits[1])
    edge = f" (cut at {limits[0]:g})" if (rows["ci_low"].fillna(rows["value"]) < limits[0]).any() else ""
    axes.set_title(f"{title}{edge}", fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
