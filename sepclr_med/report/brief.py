"""What stands at the top of the page: one sentence of what was found, and verdicts without the list of nulls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from sepclr_med.report import blocks
from sepclr_med.report.collect import dig, records
from sepclr_med.report.sections.forests import factor_rows
from sepclr_med.report.wording import as_number, format_number, plural, say_list

# Correlations: what a study must be able to find to be called able to show a strong, or a moderate link.
STRONG, MODERATE = 0.5, 0.3
SHARED = "shared"


def say_bottom_line(data: Mapping[str, Any]) -> str:
    """Say in a sentence or two what was found among how many, and whether so many could have shown it.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    str
        Empty when no link was tested, or nothing says how it ended.

    Examples
    --------
    >>> row = {"factor": "salient_000", "variable": "MADRS", "family": "clinical", "effect": "r", "mde": 0.85, "n": 10}
    >>> said = [{"variable": "MADRS", "level": "info", "text": "no link"}]
    >>> data = {"tables": {"links": pd.DataFrame([row | {"p_value": 0.4}])}, "objects": {"link": {"verdicts": said}}}
    >>> print(say_bottom_line(data).split(": ")[0])
    Nothing was found
    """
    links, link = data["tables"].get("links"), data["objects"].get("link", {})
    verdicts = records(link, "verdicts")
    if links is None or not verdicts:
        return ""
    tested = links[links["p_value"].notna() & (links["family"] != SHARED)]
    names = list(dict.fromkeys(tested["variable"].astype(str)))
    if not names:
        return ""
    n = as_number(dig(link, "settings", "n")) or tested["n"].max()
    who = "target participant" if dig(link, "settings", "target") else "participant"
    among = f"of {plural(len(names), 'clinical variable')} tested in {plural(n, who)}"
    by_level = {
        level: [str(v["variable"]) for v in verdicts if v.get("level") == level and str(v.get("variable")) in names]
        for level in ("good", "warning")
    }
    doubtful = f" With a caution: {say_list(by_level['warning'])}." if by_level["warning"] else ""
    if by_level["good"]:
        return f"Found: {among}, {say_list(by_level['good'])} went with the salient space, corrected.{doubtful}"
    if doubtful:
        return f"Nothing was found that may be claimed without a caution: {among}.{doubtful}"
    return f"Nothing was found: {among}, none went with the salient space, corrected. {_say_power(tested)}"


def _say_power(tested: pd.DataFrame) -> str:
    """Say what so many participants could have shown."""
    single = factor_rows(tested)
    least = single.loc[single["effect"].isin(["r", "rho"]), "mde"].median()
    if pd.isna(least):
        return "What so many could have shown is not known."
    figure = f"a correlation of {format_number(least)} or more is what one uncorrected test finds four times in five"
    if least > STRONG:
        return f"So few could hardly have shown a link that is there: {figure}, and corrected tests need more."
    words = "a strong link only" if least > MODERATE else "a moderate link"
    return f"So many could have shown {words}: {figure}; corrected tests need more."


def without_nulls(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return verdicts with those that found nothing as one.

    Examples
    --------
    >>> entries = [{"variable": "BDI", "level": "info", "text": "BDI: no single factor's link was detected."}]
    >>> without_nulls(entries)[0]["text"]
    'Not detected: BDI.'
    """
    listed = list(entries)
    nulls = [entry for entry in listed if entry.get("level") == "info" and "detected" in str(entry.get("text"))]
    said = [blocks.verdict(entry.get("text", ""), entry.get("level")) for entry in listed if entry not in nulls]
    by_space: dict[str, list[str]] = {}
    for entry in nulls:
        by_space.setdefault(str(entry.get("space") or ""), []).append(str(entry.get("variable")))
    names = "; ".join(say_list(names) + (f" in {space}" if space else "") for space, names in by_space.items())
    return [*said, blocks.verdict(f"Not detected: {names}.")] if nulls else said
