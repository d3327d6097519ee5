"""The separation table and card laid out for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

SHORT_METRICS = {"balanced_accuracy": "acc", "r2": "R2", "spearman": "rho"}
HEADLINE_OF = {
    "continuous": "r2",
    "ordinal": "spearman",
    "binary": "balanced_accuracy",
    "categorical": "balanced_accuracy",
}
NARROWEST_CELL = len("[-.00,-.00]")
MARKS = {"good": ("+", "green"), "info": (" ", ""), "warning": ("!", "yellow")}
MEASURES = {
    "distance_correlation": "distance correlation",
    "hsic": "HSIC, normalised",
    "salient_from_common": "R2 of salient, from common",
    "common_from_salient": "R2 of common, from salient",
}


def headlines(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that stand for their variable: balanced accuracy, R2, or rank correlation for ordered levels.

    Examples
    --------
    >>> rows = {"measure": ["ordinal", "ordinal"], "metric": ["spearman", "r2"], "value": [0.5, 0.2]}
    >>> headlines(pd.DataFrame(rows))
       measure    metric  value
    0  ordinal  spearman    0.5
    """
    return table[table["metric"] == table["measure"].map(HEADLINE_OF)]


def format_separation(table: pd.DataFrame) -> Table:
    """Lay the table out for people: a line per variable, a column per space, notes below.

    Each cell is balanced accuracy (``acc``), R2 or, for ordered levels, Spearman's ``rho``, with its 95% interval;
    bold where it is above chance at p <= 0.05. Leave-site-out figures are in the file only.

    Parameters
    ----------
    table : DataFrame
        From :func:`sepclr_med.evaluate`, or read back from ``separation.tsv``.

    Returns
    -------
    rich.table.Table
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    notes = "\n".join(f"- {note}" for note in table.attrs.get("notes", ()))
    grid = Table(
        title=Text("What a linear probe reads from each space [95% interval]"),
        caption=Text(notes) if notes else None,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    shown = headlines(table[table["scheme"] != "leave-site-out"])
    spaces = list(dict.fromkeys(table["space"]))
    grid.add_column("variable", overflow="fold", min_width=9)
    grid.add_column("", no_wrap=True)
    for space in spaces:
        grid.add_column(Text(space), justify="right", min_width=NARROWEST_CELL)
    grid.add_column("chance", justify="right", no_wrap=True)
    grid.add_column("n", justify="right", no_wrap=True)
    for variable, rows in shown.groupby("variable", sort=False):
        by_space = rows.set_index("space")
        cells = [_cell(by_space.loc[space]) if space in by_space.index else Text("") for space in spaces]
        chance = rows["chance"].dropna()
        counts = "/".join(str(n) for n in dict.fromkeys(rows["n"]))
        metric = SHORT_METRICS[rows["metric"].iloc[0]]
        grid.add_row(Text(str(variable)), metric, *cells, short(chance.iloc[0]) if len(chance) else "n/a", counts)
    return grid


def format_card(card: Mapping[str, Any]) -> Group:
    """Lay out the rest of the card: the verdicts, the salient norms, and what ties the two spaces.

    Parameters
    ----------
    card : mapping
        From :func:`sepclr_med.analysis.card.separation_card`, or read back from ``card.json``.

    Returns
    -------
    rich.console.Group
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text("Verdicts (+ as hoped, ! beware)")]
    for verdict in card.get("verdicts", ()):
        mark, style = MARKS[verdict["level"]]
        parts.append(Text(f"{mark} {verdict['text']}", style=style))
    if card.get("dependence"):
        parts.append(_dependence(card["dependence"]))
    return Group(*parts)


def short(value: float) -> str:
    """Round to two digits, without a negative zero.

    Examples
    --------
    >>> short(-0.001)
    '0.00'
    """
    return f"{round(value, 2) + 0.0:.2f}"


def _dependence(rows: list[Mapping[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        title=Text("Dependence of common and salient"), box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left"
    )
    for name in ("measure", "among"):
        grid.add_column(name)
    for name in ("value", "chance", "p", "n"):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = ["n/a" if row[name] is None else short(row[name]) for name in ("value", "chance")]
        p_value = "n/a" if row["p_value"] is None else f"{row['p_value']:.3f}"
        grid.add_row(MEASURES.get(row["measure"], row["measure"]), row["group"], *figures, p_value, str(row["n"]))
    return grid


def _cell(row: pd.Series) -> Text:
    from rich.text import Text

    if pd.isna(row["value"]):
        return Text("n/a", style="dim")
    # No space inside the brackets: in a narrow terminal the interval moves below the value as a whole.
    interval = "" if pd.isna(row["ci_low"]) else f" [{_shorter(row['ci_low'])},{_shorter(row['ci_high'])}]"
    return Text(f"{short(row['value'])}{interval}", style="bold" if stands_out(row) else "")


def _shorter(value: float) -> str:
    """Round without the zero before the point: intervals of five spaces must fit beside one another."""
    return short(value).replace("0.", ".", 1) if abs(value) < 0.995 else short(value)


def stands_out(row: Mapping[str, Any] | pd.Series) -> bool:
    """Say whether a figure is above chance: p <= 0.05 and better than chance; without a p-value, the whole interval.

    Examples
    --------
    >>> stands_out({"value": 0.6, "chance": 0.5, "p_value": 0.01, "ci_low": 0.5})
    True
    """
    # The mean predictor can score below zero by luck of the draw; a probe must beat zero as well.
    level = max(row["chance"], 0.0)
    if pd.isna(row["value"]):
        return False
    if pd.isna(row["p_value"]):
        return bool(row["ci_low"] > level)
    return bool(row["p_value"] <= 0.05 and row["value"] > level)
