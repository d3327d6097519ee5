"""What a table of links allows to be said, a sentence or two for each variable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

LEVEL = 0.05
WHOLE = "(whole)"
UNITS = {
    "r": "partial r",
    "rho": "adjusted rank correlation",
    "d": "adjusted difference d",
    "eta2": "partial eta squared",
    "r2": "cross-validated R2",
    "auc": "cross-validated AUC",
}


def describe_links(links: pd.DataFrame, settings: Mapping[str, Any]) -> list[dict[str, str]]:
    """Say for each variable whether a factor, or the space as a whole, goes with it.

    Parameters
    ----------
    links : DataFrame
        In the columns of :func:`sepclr_med.analysis.associations.links.link_factors`, whole-space rows among them.
    settings : mapping
        ``blocks`` and ``vary_among_controls`` as :func:`sepclr_med.analysis.linkage.link` settled them.

    Returns
    -------
    list of dict
        ``level`` (``good``: a link; ``info``: none found; ``warning``: what must not be claimed), ``variable`` and
        ``text``.

    Examples
    --------
    >>> row = {"factor": "salient_000", "variable": "severity", "effect": "r", "n": 90, "statistic": 0.25}
    >>> row |= {"estimate": 0.5, "ci_low": 0.3, "ci_high": 0.6, "p_value": 1e-4, "p_free": 1e-4, "p_fdr": 3e-3}
    >>> said = describe_links(pd.DataFrame([row | {"family": "clinical"}]), {"blocks": ["site"]})
    >>> said[0]["text"]
    'severity goes with salient_000: partial r 0.50 [0.30, 0.60], n = 90; p = 0.003 corrected, permuted within site.'
    """
    within = f"permuted within {' and '.join(settings['blocks'])}" if settings["blocks"] else "permuted freely"
    said = []
    clinical_first = links.sort_values("family", key=lambda family: family == "shared", kind="stable")
    for variable, rows in clinical_first.groupby("variable", sort=False):
        is_whole = rows["factor"].str.endswith(WHOLE)
        # One sentence takes the best of several sets of tests, each corrected on its own.
        sets = (rows["space"].astype(str) + is_whole.astype(str))[rows["p_value"].notna()] if "space" in rows else []
        rows = rows.assign(p_fdr=(rows["p_fdr"] * max(1, len(set(sets)))).clip(upper=1))
        level, text = _say_factors(str(variable), rows[~is_whole], within)
        for _, row in rows[is_whole & rows["p_value"].notna()].iterrows():
            level = "good" if level == "info" and row["p_fdr"] <= LEVEL else level
            text += _say_whole(row)
        if level == "good" and rows["family"].iloc[0] == "shared":
            level = "warning"
            text += " It is no clinical variable: the space leaks it, so adjust for it."
        elif level == "good" and variable in settings.get("vary_among_controls", ()):
            level = "warning"
            text += " It varies among controls too: what everyone shares may have leaked into the space."
        said.append({"level": level, "variable": str(variable), "text": text})
    return said


def _say_factors(variable: str, rows: pd.DataFrame, within: str) -> tuple[str, str]:
    tested = rows[rows["p_value"].notna()]
    if rows.empty:
        return "info", f"{variable}: no factor was stable, and none was tested alone."
    if tested.empty:
        return "info", _say_untested(variable, rows)
    best = strongest(tested)
    nearest = f"{best['factor']}: {_effect(best)}; p = {_p(best['p_fdr'])} corrected"
    if best["p_fdr"] <= LEVEL:
        others = int((tested["p_fdr"] <= LEVEL).sum()) - 1
        more = "" if not others else f" {others} other factor{'s' * (others > 1)} passed too."
        return "good", f"{variable} goes with {nearest}, {within}.{more}"
    vanished = tested.loc[vanishes(tested), "factor"].tolist() if "p_fwe_free" in tested else []
    if len(vanished):
        names = ", ".join(vanished[:3]) + (", ..." if len(vanished) > 3 else "")
        return "warning", (
            f"{variable}: nothing to claim. Its link with {names} is significant by free permutation only and vanishes "
            f"once permutations stay within blocks (nearest {nearest})."
        )
    detectable = ""
    if np.isfinite(best["mde"]):
        detectable = f" One uncorrected test at this n finds {best['mde']:.2f} or more four times in five."
    return "info", f"{variable}: no single factor's link was detected (nearest {nearest}).{detectable}"


def _say_untested(variable: str, rows: pd.DataFrame) -> str:
    if rows["p_free"].isna().all():
        why = next((note for note in rows["note"] if note), "too few participants")
        return f"{variable} was not tested: {why.removeprefix('not tested: ')}."
    return (
        f"{variable} does not vary within the blocks: no link with it can be tested, and none is claimed (free "
        f"permutation would have given p = {_p(rows['p_free'].min())})."
    )


def _say_whole(row: pd.Series) -> str:
    found = "goes with it" if row["p_fdr"] <= LEVEL else "was not found to go with it"
    figure = "" if pd.isna(row["estimate"]) else f"{UNITS.get(row['effect'], row['effect'])} {row['estimate']:.2f}, "
    return f" The space as a whole {found} ({figure}p = {_p(row['p_fdr'])} corrected)."


def vanishes(links: pd.DataFrame) -> np.ndarray:
    """Say which links would be claimed without the blocks only, corrected over factors either way.

    Uncorrected, one factor of thirty-two would vanish in most studies in which there is nothing to find.

    Examples
    --------
    >>> vanishes(pd.DataFrame({"p_fwe": [0.4, 0.01, None], "p_fwe_free": [0.01, 0.01, 0.01]}, dtype=float))
    array([ True, False, False])
    """
    return ((links["p_fwe_free"] <= LEVEL) & (links["p_fwe"] > LEVEL)).to_numpy()


def strongest(rows: pd.DataFrame) -> pd.Series:
    """Return the row with the smallest corrected p-value, of several the one with the largest statistic."""
    order = pd.DataFrame({"p": rows["p_fdr"], "weak": -rows["statistic"]}).sort_values(["p", "weak"], kind="stable")
    return rows.loc[order.index[0]]


def _effect(row: pd.Series) -> str:
    if row["effect"] == "d" and pd.isna(row["estimate"]):
        return f"classes that do not overlap, n = {row['n']}"
    interval = f"[{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    return f"{UNITS.get(row['effect'], row['effect'])} {row['estimate']:.2f} {interval}, n = {row['n']}"


def _p(value: float) -> str:
    return f"{value:.1g}" if value < 0.01 else f"{value:.2f}"
