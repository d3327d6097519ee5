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
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = table[table["space"] == space]
    methods = list(dict.fromkeys(rows["method"]))
    n_seeds = rows["n_seeds"].max() if len(rows) else 0
    grid = Table(
        title=Text(f"{space} space, {n_seeds} seed(s): mean [95% interval]; * differs from {methods[0]}"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title_justify="left",
    )
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


def _cell(row: pd.Series) -> str:
    star = "*" if row["p_value"] <= SIGNIFICANT else ""
    interval = "" if pd.isna(row["ci_low"]) else f" ({short(row['ci_low'])},{short(row['ci_high'])})"
    return f"{short(row['value'])}{star}{interval}"
