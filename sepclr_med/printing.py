"""How the command line shows tables and problems."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sepclr_med.errors import SHOWN_PROBLEMS, Problem

if TYPE_CHECKING:
    import pandas as pd


def print_problems(problems: list[Problem]) -> None:
    """Print problems to the standard error, thirty at most."""
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"{problem.severity}: {problem}", file=sys.stderr)
    if len(problems) > SHOWN_PROBLEMS:
        print(f"... and {len(problems) - SHOWN_PROBLEMS} more", file=sys.stderr)


def print_json(table: pd.DataFrame) -> None:
    """Print a table as JSON records."""
    print(table.to_json(orient="records", indent=2))


def print_table(table: pd.DataFrame, as_json: bool, title: str) -> None:
    """Print a table, as JSON or for people."""
    if as_json:
        print_json(table)
        return
    from rich import box
    from rich.table import Table

    grid = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in table.columns:
        grid.add_column(str(column), justify="right" if table[column].dtype.kind in "fi" else "left", overflow="fold")
    for row in table.itertuples(index=False):
        grid.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    print_rich(grid)


def print_rich(content: Any) -> None:
    """Print what ``rich`` can lay out; a pipe or file, which has no width, gets 160 columns."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(content)
