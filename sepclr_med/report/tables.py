"""Tables as the page shows them: headings with their meaning, cells with what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sepclr_med.report.wording import as_number, format_count, format_number, format_p, plural

MOST_ROWS = 1500
# More rows than this scroll in a box of their own; texts up to this length are not broken.
LONG, SHORT = 30, 26


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    heading : str
    words : callable
        Row to the text of the cell.
    sort : callable or None, default=None
        Row to the number (or None) that the column is sorted by; none means sorted by its text.
    meaning : str, default=""
        Said below the table.
    """

    heading: str
    words: Callable[[Mapping[Any, Any]], str]
    sort: Callable[[Mapping[Any, Any]], float | None] | None = None
    meaning: str = ""


def make_table(
    name: str,
    caption: str,
    columns: Sequence[Column],
    rows: pd.DataFrame | Sequence[Mapping[Any, Any]],
    file: str = "",
    mark: Callable[[Mapping[Any, Any]], str] = lambda row: "",
    sortable: bool = True,
) -> dict[str, Any]:
    """Return a table as plain values.

    Parameters
    ----------
    name : str
        Anchor on the page.
    caption : str
        What the table shows.
    columns : sequence of Column
        The first one names the row.
    rows : DataFrame or sequence of mapping
        At most 1,500 are written; the caption says how many there are.
    file : str, default=""
        Where all of it is.
    mark : callable, default=none
        Row to a class of the style sheet.
    sortable : bool, default=True

    Returns
    -------
    dict

    Examples
    --------
    >>> make_table("t", "Sites", [Column("site", lambda row: row["site"])], [{"site": "A"}])["rows"]
    [{'kind': '', 'cells': [{'words': 'A', 'sort': None, 'short': True}]}]
    """
    listed = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else list(rows)
    more = len(listed) - MOST_ROWS
    note = f" The first {MOST_ROWS:,} of {plural(len(listed), 'row')}; the rest is in {file}." if more > 0 else ""
    return {
        "name": name,
        "caption": caption + note,
        "file": file,
        "sortable": sortable and len(listed) > 1,
        "long": sortable and len(listed) > LONG,
        "columns": [{"heading": c.heading, "numeric": c.sort is not None} for c in columns],
        "legend": [{"heading": c.heading, "meaning": c.meaning} for c in columns if c.meaning],
        "rows": [
            {
                "kind": mark(row),
                "cells": [_cell(c, row) for c in columns],
            }
            for row in listed[:MOST_ROWS]
        ],
    }


def text_column(heading: str, key: str, meaning: str = "") -> Column:
    """Return a column of text."""
    return Column(heading, lambda row: _text(row.get(key)), None, meaning)


def number_column(heading: str, key: str, digits: int = 2, meaning: str = "") -> Column:
    """Return a column of numbers with fixed decimals."""
    return Column(
        heading, lambda row: format_number(row.get(key), digits), lambda row: as_number(row.get(key)), meaning
    )


def count_column(heading: str, key: str, meaning: str = "") -> Column:
    """Return a column of whole numbers."""
    return Column(heading, lambda row: format_count(row.get(key)), lambda row: as_number(row.get(key)), meaning)


def p_column(heading: str, key: str, meaning: str = "") -> Column:
    """Return a column of p-values."""
    return Column(heading, lambda row: format_p(row.get(key)), lambda row: as_number(row.get(key)), meaning)


def has_values(table: pd.DataFrame, key: str) -> bool:
    """Return whether a column says anything."""
    if key not in table:
        return False
    values = table[key]
    return bool((values.notna() & values.map(lambda value: value != "")).any())


def _cell(column: Column, row: Mapping[Any, Any]) -> dict[str, Any]:
    words = column.words(row)
    return {"words": words, "sort": column.sort(row) if column.sort else None, "short": len(words) <= SHORT}


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and value != value) else str(value)
