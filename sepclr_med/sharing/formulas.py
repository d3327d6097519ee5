"""Cells that a spreadsheet would take for formulas, made plain text in what is exported.

Only exported copies are changed. Tables of a run folder and manifests keep every cell as it is, for they are read back
by the software and by scripts, and an id must stay the id of the manifest.

OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection.
"""

from __future__ import annotations

import re

import pandas as pd

from sepclr_med.sharing.words import change_cells, holds_text

# Also the wide signs of East Asian keyboards, and apostrophes before any, so that no two cells become one.
FORMULA = re.compile(r"[\s']*[=+\-@\t\r\n\0＝＋－＠]")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?", re.IGNORECASE)


def neutralise(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula: an apostrophe before it, unless it is a number.

    Examples
    --------
    >>> [neutralise(cell) for cell in ("=1+1", "-0.5", "+a", "@x", "a=b", "-2+3", "'=1")]
    ["'=1+1", '-0.5', "'+a", "'@x", 'a=b', "'-2+3", "''=1"]
    """
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def neutralise_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of strings in which neither a cell nor a heading is a formula.

    Parameters
    ----------
    table : DataFrame
        Strings, missing where empty.

    Examples
    --------
    >>> neutralise_table(pd.DataFrame({"=a": ["=1", "-1", None]})).to_dict("list")
    {"'=a": ["'=1", '-1', nan]}
    """
    safe = {name: change_cells(cells, neutralise) for name, cells in table.items() if holds_text(cells)}
    return table.assign(**safe).rename(columns=neutralise)
