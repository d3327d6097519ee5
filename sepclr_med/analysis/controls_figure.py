"""Controls of the method: runs that must show nothing, and how often planted atrophy is found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from sepclr_med.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {"permuted": "labels exchanged", "pseudo": "pseudo-patients"}
COLOURS = {"nothing": "#0072B2", "planted": "#D55E00", "line": "#444444"}
LEVEL = 0.05


def draw_controls(table: pd.DataFrame, path: Path) -> Path:
    """Draw the table of :func:`sepclr_med.controls.run_controls`.

    Left: accuracy of a diagnosis that means nothing, and of a planted one by strength, every run a point. Right: share
    of runs that find it, with 95% intervals; chance is 5%.

    Parameters
    ----------
    table : DataFrame
    path : Path
        PNG, written atomically.

    Returns
    -------
    Path
    """
    from matplotlib.figure import Figure

    groups = list(table.groupby(["kind", "strength"], sort=False))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = [WORDS.get(str(kind), f"planted {strength:g}") for (kind, strength), _ in groups]
    rng = np.random.default_rng(0)
    for place, ((kind, _), rows) in enumerate(groups):
        colour = COLOURS["planted" if kind == "planted" else "nothing"]
        across = place + rng.uniform(-0.18, 0.18, len(rows))
        left.plot(across, rows["accuracy"], "o", ms=4, alpha=0.6, color=colour, mew=0)
        left.plot([place - 0.3, place + 0.3], [rows["accuracy"].mean()] * 2, color=colour, lw=2)
        n = int((rows["p_value"] <= LEVEL).sum())
        low, high = binomtest(n, len(rows)).proportion_ci(0.95)
        share = n / len(rows)
        right.errorbar(place, share, [[share - low], [high - share]], fmt="s", color=colour, capsize=3)
    _finish(left, labels, "diagnosis read from the salient space,\nheld-out participants", "balanced accuracy", 0.5)
    _finish(right, labels, "share of runs in which it is found\n(p of 0.05 or less)", "share of runs", LEVEL)
    right.set_ylim(-0.03, 1.03)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return path


def _finish(axes: Axes, labels: list[str], title: str, name: str, chance: float) -> None:
    axes.axhline(chance, color=COLOURS["line"], lw=1, ls=":")
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylabel(name)
    axes.spines[["top", "right"]].set_visible(False)
