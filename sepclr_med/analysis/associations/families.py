"""Many variables: the false discovery rate within each declared family."""

from __future__ import annotations

import numpy as np
import pandas as pd


def adjust_families(table: pd.DataFrame) -> pd.DataFrame:
    r"""Fill ``p_fdr``: Benjamini-Hochberg over variables, then each variable's factors at what selection left.

    A variable's own p-value is its smallest ``p_fwe``, which is already corrected for the number of factors. These are
    adjusted over the m variables of a family by Benjamini and Hochberg (1995), giving :math:`q_v`. A factor of a
    selected variable is then tested at the level :math:`q R(q) / m`, R(q) being the number of variables with
    :math:`q_v \le q` (Benjamini and Bogomolov 2014), so its adjusted value is

    .. math:: \min \{q \ge q_v : p_{fwe} \le q R(q) / m\}.

    The smallest of a variable equals :math:`q_v`. Controlled is the expected share of false claims, averaged over the
    variables selected.

    Parameters
    ----------
    table : DataFrame
        Columns ``variable``, ``family`` and ``p_fwe``, and ``space`` where there are several; a missing ``p_fwe`` is
        not counted.

    Returns
    -------
    DataFrame
        The table with ``p_fdr``.

    Examples
    --------
    >>> table = pd.DataFrame({"variable": ["a", "a", "b"], "family": "all", "p_fwe": [0.01, 0.04, 0.5]})
    >>> adjust_families(table)["p_fdr"].tolist()
    [0.02, 0.08, 0.5]
    """
    unit = table["variable"].astype(str)
    if "space" in table:
        # A character that no name has between the two.
        unit = table["space"].astype(str) + "\x00" + unit
    adjusted = pd.Series(np.nan, index=table.index, dtype=float)
    for _, rows in table.groupby("family", sort=False):
        adjusted.loc[rows.index] = _adjust(rows["p_fwe"].to_numpy(dtype=float), unit.loc[rows.index].to_numpy())
    return table.assign(p_fdr=adjusted)


def _adjust(p_fwe: np.ndarray, units: np.ndarray) -> np.ndarray:
    from scipy.stats import false_discovery_control

    known = np.isfinite(p_fwe)
    smallest = pd.Series(p_fwe[known]).groupby(units[known]).min()
    adjusted = np.full(len(p_fwe), np.nan)
    if not len(smallest):
        return adjusted
    q = false_discovery_control(smallest.to_numpy())
    levels = np.unique(q)
    selected = np.searchsorted(np.sort(q), levels, side="right")
    q_of_row = pd.Series(q, index=smallest.index).reindex(units[known]).to_numpy()
    # At each level where one more variable is selected: the smallest q that also passes within the variable.
    candidates = np.maximum(levels, p_fwe[known, None] * len(q) / selected)
    candidates[levels < q_of_row[:, None]] = np.inf
    adjusted[known] = np.minimum(candidates.min(axis=1), 1.0)
    return adjusted
