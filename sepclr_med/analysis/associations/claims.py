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
    >>> print(said[0]["text"])
    severity goes with salient_000: partial r 0.50 [0.30, 0.60], n = 90; p FDR = 0.003, permuted within
    site.
    """
    within = f"permuted within {' and '.join(settings['blocks'])}" if settings["blocks"] else "permuted freely"
    said = []
    clinical_first = links.sort_values("family", key=lambda family: family == "shared", kind="stable")
    for variable, rows in clinical_first.groupby("variable", sort=False):
        is_whole = rows["factor"].str.endswith(WHOLE)
        # One sentence takes the best of several sets of tests, each corrected on its own.
        sets = (rows["space"].astype(str) + is_whole.astype(str))[rows["p_value"].notna()] if "space" in rows else []
        n_sets = max(1, len(set(sets)))
        rows = rows.assign(p_said=(rows["p_fdr"] * n_sets).clip(upper=1))
        which = "p FDR" if n_sets == 1 else f"p FDR times {n_sets} sets"
        level, text = _say_factors(str(variable), rows[~is_whole], within, which)
        for _, row in rows[is_whole & rows["p_value"].notna()].iterrows():
            level = "good" if level == "info" and row["p_said"] <= LEVEL else level
            text += _say_whole(row, which)
        if level == "good" and rows["family"].iloc[0] == "shared":
            level = "warning"
            text += " It is no clinical variable: the space leaks it, so adjust for it."
        elif level == "good" and variable in settings.get("vary_among_controls", ()):
            level = "warning"
            text += " It varies among controls too: what everyone shares may have leaked into the space."
        said.append({"level": level, "variable": str(variable), "text": text})
    return said


def _say_factors(variable: str, rows: pd.DataFrame, within: str, which: str) -> tuple[str, str]:
    tested = rows[rows["p_value"].notna()]
    if rows.empty:
        return "info", f"{variable}: no factor was stable, and none was tested alone."
    if tested.empty:
        return "info", _say_untested(variable, rows)
    best = strongest(tested)
    nearest = f"{best['factor']}: {_effect(best)}; {which} = {_p(best['p_said'])}"
    if best["p_said"] <= LEVEL:
        others = int((tested["p_said"] <= LEVEL).sum()) - 1
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


def _say_whole(row: pd.Series, which: str) -> str:
    found = "goes with it" if row["p_said"] <= LEVEL else "was not found to go with it"
    figure = "" if pd.isna(row["estimate"]) else f"{UNITS.get(row['effect'], row['effect'])} {row['estimate']:.2f}, "
    return f" The space as a whole {found} ({figure}{which} = {_p(row['p_said'])})."


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
    """Return the first row of :func:`by_strength`."""
    return by_strength(rows).iloc[0]


def by_strength(links: pd.DataFrame) -> pd.DataFrame:
    """Order tests: those of at most 0.05 by p FDR; the others by p FWE, the p-value, and the larger statistic.

    The one rule of what is nearest or strongest, in sentences, tables, figures and maps. Where nothing passes, p FDR
    is no guide: it depends on the other variables, and differs between sets of factors.

    Examples
    --------
    >>> links = pd.DataFrame({"p_fdr": [0.7, 0.8, 0.01], "p_fwe": [0.2, 0.1, 0.01], "statistic": [0.9, 0.2, 0.1]})
    >>> by_strength(links).index.tolist()
    [2, 1, 0]
    """
    order = links.assign(p_fdr=links["p_fdr"].where(links["p_fdr"] <= LEVEL))
    order = order.sort_values("statistic", ascending=False, kind="stable", na_position="last")
    by = [name for name in ("p_fdr", "p_fwe", "p_value") if name in links]
    return links.loc[order.sort_values(by, kind="stable", na_position="last").index]


def _effect(row: pd.Series) -> str:
    if row["effect"] == "d" and pd.isna(row["estimate"]):
        return f"classes that do not overlap, n = {row['n']}"
    interval = f"[{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    return f"{UNITS.get(row['effect'], row['effect'])} {row['estimate']:.2f} {interval}, n = {row['n']}"


def _p(value: float) -> str:
    return f"{value:.1g}" if value < 0.01 else f"{value:.2f}"
