"""The picture of a training in progress."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sepclr_med.atomic import atomic_path

PANELS = {
    "objective": ["total"],
    "common space": ["common_alignment", "common_uniformity"],
    "salient space": ["salient_alignment", "salient_uniformity", "null_salient"],
    "independence": ["joint_entropy", "independence", "nuisance"],
    "mean norm of the salient head": ["salient_norm_background", "salient_norm_target"],
    "learning rate": ["learning_rate"],
}
# Okabe and Ito's colours stay apart for colour-blind readers.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


def draw_progress(history: pd.DataFrame, path: Path) -> Path:
    """Draw every logged quantity against the epoch, training solid and validation dashed.

    Parameters
    ----------
    history : DataFrame
        One row per epoch with ``epoch``, ``train_*``, ``val_*`` and ``learning_rate``.
    path : Path
        PNG, written atomically.

    Returns
    -------
    Path
    """
    from matplotlib.figure import Figure

    panels = _panels(history)
    n_columns = 3 if len(panels) <= 6 else 4
    figure = Figure(figsize=(4 * n_columns, 6.5), layout="constrained")
    grid = figure.subplots(2, n_columns).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, names) in zip(grid, panels.items(), strict=False):
        for name, colour in zip(names, COLOURS, strict=False):
            label = name.removeprefix("salient_norm_").replace("_", " ")
            train = name if name in history else f"train_{name}"
            axes.plot(history["epoch"], history[train], color=colour, label=label, linewidth=1.8)
            if f"val_{name}" in history and history[f"val_{name}"].notna().any():
                seen = history[history[f"val_{name}"].notna()]
                axes.plot(seen["epoch"], seen[f"val_{name}"], "--o", color=colour, markersize=3)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if title != "learning rate":
            axes.legend(fontsize=8, frameon=False)
    figure.suptitle("solid: training; dashed: validation", x=0.01, ha="left", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path


def _panels(history: pd.DataFrame) -> dict[str, list[str]]:
    """Return the panels that have something to show, terms that belong to none in one of their own."""
    known = {name for names in PANELS.values() for name in names}
    logged = [name.removeprefix("train_") for name in history if name.startswith("train_")] + ["learning_rate"]
    varies = [name for name in logged if name == "learning_rate" or history[f"train_{name}"].abs().max() > 0]
    panels = {title: [name for name in names if name in varies] for title, names in PANELS.items()}
    others = [name for name in varies if name not in known and name != "gradient_norm"]
    rest = {"other terms": others[: len(COLOURS)]} if others else {}
    last = {"learning rate": panels.pop("learning rate")}
    return {title: names for title, names in {**panels, **rest, **last}.items() if names}
