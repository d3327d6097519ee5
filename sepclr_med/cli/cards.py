"""The separation card on a terminal, with what could not be asked as its last line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sepclr_med.printing import print_json, print_rich

if TYPE_CHECKING:
    import pandas as pd


def print_separation(table: pd.DataFrame, as_json: bool) -> None:
    """Print what ``evaluate`` or ``run`` returned, and at the end the variables that could not be tested."""
    from sepclr_med.analysis.layout import format_card, format_separation
    from sepclr_med.analysis.variables import describe_left_out

    if as_json:
        print_json(table)
    else:
        print_rich(format_separation(table))
        print_rich(format_card(table.attrs["card"]))
    if said := describe_left_out(table.attrs["not_tested"]):
        print(said, file=sys.stderr)
