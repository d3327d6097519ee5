"""Links laid out for people: what may be said first, then the strongest link of each variable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from sepclr_med.analysis.associations.claims import LEVEL, WHOLE, strongest
from sepclr_med.analysis.variables import describe_left_out

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

MARKS = {"good": "+", "info": " ", "warning": "!"}
COLUMNS = ("variable", "factor", "effect", "estimate [95% interval]", "p", "p free", "p FWE", "p FDR", "n")


def format_links(found: Any) -> Group:
    """Lay out links: a table with the strongest factor of each variable, what may be said, and the notes.

    Parameters
    ----------
    found : Linkage
        From :func:`sepclr_med.analysis.linkage.link`.

    Returns
    -------
    rich.console.Group
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    said = [Text(f"{MARKS[verdict['level']]} {verdict['text']}") for verdict in found.verdicts]
    notes = [Text(f"- {note}", style="dim") for note in found.notes]
    head = Text(f"Over {found.settings['over']}, n = {found.settings['n']} (+ goes with it, ! beware)")
    last = [Text(left_out, style="bold")] if (left_out := describe_left_out(found.not_tested)) else []
    return Group(_table(found.links), head, *said, Padding(Group(*notes), (1, 0, 0, 0)), *last)


def _table(links: pd.DataFrame) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        title=Text("Strongest link of each variable, in each set of factors"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
    )
    for column in COLUMNS:
        grid.add_column(column, justify="left" if column in COLUMNS[:3] else "right", overflow="fold")
    kinds = links["space"].where(~links["factor"].str.endswith(WHOLE), "whole")
    for variable, of_variable in links.groupby("variable", sort=False):
        for _, rows in of_variable.groupby(kinds.loc[of_variable.index], sort=False):
            tested = rows[rows["p_value"].notna()]
            row = strongest(tested) if len(tested) else rows.iloc[0]
            passed = pd.notna(row["p_fdr"]) and row["p_fdr"] <= LEVEL
            cells = [str(variable), row["factor"] if len(tested) else "not tested", row["effect"], _estimate(row)]
            cells += [_p(row[name]) for name in ("p_value", "p_free", "p_fwe", "p_fdr")]
            grid.add_row(*(Text(cell) for cell in cells), str(row["n"]), style="bold" if passed else "")
    return grid


def _estimate(row: pd.Series) -> str:
    if pd.isna(row["estimate"]) or pd.isna(row["p_value"]):
        return "n/a"
    interval = f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]" if pd.notna(row["ci_low"]) else ""
    return f"{row['estimate']:.2f}{interval}"


def _p(value: float) -> str:
    return "n/a" if pd.isna(value) else f"{value:.4f}"
