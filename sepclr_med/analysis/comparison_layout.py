"""The comparison laid out for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from sepclr_med.analysis.layout import SHORT_METRICS, short

if TYPE_CHECKING:
    from rich.table import Table

SIGNIFICANT = 0.05


def format_comparison(table: pd.DataFrame, space: str) -> Table:
    """Lay out what one space of every method holds: a line per variable, a column per method.

    Each cell is the mean over seeds with its 95% interval; an asterisk marks a difference to the first method at
    p <= 0.05 (corrected resampled t-test, not corrected for the number of cells).

    Parameters
    ----------
    table : DataFrame
        From :func:`sepclr_med.analysis.comparing.compare_embeddings`.
    space : {"common", "salient"}

    Returns
    -------
    rich.table.Table
    """
    from rich.text import Text

    rows = table[table["space"] == space]
    methods = list(dict.fromkeys(rows["method"]))
    n_seeds = rows["n_seeds"].max() if len(rows) else 0
    grid = _grid(f"{space} space, {n_seeds} seed(s): mean [95% interval]; * differs from {methods[0]}")
    for name in ("variable", "", "chance", "expected"):
        grid.add_column(name, no_wrap=True)
    for method in methods:
        grid.add_column(Text(method), justify="right")
    for (variable, people), own in rows.groupby(["variable", "people"], sort=False):
        by_method = own.set_index("method")
        cells = [_cell(by_method.loc[method]) if method in by_method.index else "n/a" for method in methods]
        one = own.iloc[0]
        who = f"{variable}, {'patients' if people == 'target' else people}"
        grid.add_row(Text(who), SHORT_METRICS[one["metric"]], short(one["chance"]), one["expected"], *cells)
    return grid


def format_separation(table: pd.DataFrame, scores: pd.DataFrame) -> Table:
    """Lay out how far apart the groups lie in the salient space, beside what it knows within patients.

    Of the clinical variables the one is shown that is furthest above chance, as a share of what a perfect predictor
    would be above it.

    Parameters
    ----------
    table : DataFrame
        From :func:`sepclr_med.analysis.comparing.compare_embeddings`.
    scores : DataFrame
        From :func:`sepclr_med.comparison.score_disentanglement`.

    Returns
    -------
    rich.table.Table
    """
    from rich.text import Text

    grid = _grid("salient space: groups apart proves nothing without what it knows within patients")
    grid.add_column("method")
    for name in ("silhouette of groups", "chance", "best within patients", "", "chance"):
        grid.add_column(name, justify="right", no_wrap=True)
    chosen = (scores["score"] == "silhouette") & (scores["variable"] == "all") & (scores["space"] == "salient")
    apart = scores[chosen].groupby("method", sort=False)[["value", "chance"]].mean()
    within = table.query("space == 'salient' and people == 'target' and expected == 'high'")
    gain = (within["value"] - within["chance"]) / (1 - within["chance"])
    for method, (value, chance) in apart.iterrows():
        cells = ["n/a", "", ""]
        if (own := gain[within["method"] == method].dropna()).size:
            best = within.loc[own.idxmax()]
            cells = [f"{best['variable']} {SHORT_METRICS[best['metric']]}", short(best["value"]), short(best["chance"])]
        grid.add_row(*map(Text, (str(method), short(value), short(chance), *cells)))
    return grid


def _grid(title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(title), box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")


def _cell(row: pd.Series) -> str:
    star = "*" if row["p_value"] <= SIGNIFICANT else ""
    interval = "" if pd.isna(row["ci_low"]) else f" ({short(row['ci_low'])},{short(row['ci_high'])})"
    return f"{short(row['value'])}{star}{interval}"
