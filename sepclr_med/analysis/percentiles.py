"""Where a factor of a new participant lies among controls and among patients, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta, t

from sepclr_med.cohort.embeddings import ID_COLUMNS, factor_columns

LEVEL = 0.95


def percentile(values: np.ndarray, norm: np.ndarray, level: float = LEVEL) -> pd.DataFrame:
    """Return the percentile of values among a norm group, with the interval of Clopper and Pearson.

    The percentile is the share of the group below the value, and half of those equal to it; the interval is that of the
    share in the population the group was drawn from (Clopper and Pearson, Biometrika 1934), which holds at least as
    often as it says.

    Parameters
    ----------
    values : array of shape (m,)
    norm : array of shape (n,)
        The group's values.
    level : float, default=0.95

    Returns
    -------
    DataFrame
        ``percentile``, ``ci_low``, ``ci_high``, from 0 to 100, missing where the group is empty or the value missing.

    Examples
    --------
    >>> percentile(np.array([2.5, 9.0]), np.arange(1.0, 5.0)).round(1).values.tolist()
    [[50.0, 6.8, 93.2], [100.0, 39.8, 100.0]]
    """
    values, norm = np.asarray(values, dtype=float), np.sort(np.asarray(norm, dtype=float))
    n = len(norm)
    if not n:
        return pd.DataFrame(np.full((len(values), 3), np.nan), columns=["percentile", "ci_low", "ci_high"])
    below, up_to = (np.searchsorted(norm, values, side=side) for side in ("left", "right"))
    tail = (1 - level) / 2
    low = np.where(below > 0, beta.ppf(tail, np.maximum(below, 1), n - below + 1), 0.0)
    high = np.where(up_to < n, beta.ppf(1 - tail, up_to + 1, np.maximum(n - up_to, 1)), 1.0)
    found = np.column_stack([(below + up_to) / 2 / n, low, high]) * 100
    found[~np.isfinite(values)] = np.nan
    return pd.DataFrame(found, columns=["percentile", "ci_low", "ci_high"])


def jackknife(replicates: np.ndarray, n_groups: np.ndarray, level: float = LEVEL) -> np.ndarray:
    r"""Return the half-width of the interval of each factor, from estimates without each group of a site's controls.

    .. math:: t_{K-1} \sqrt{\frac{K-1}{K} \sum_k (x_k - \bar x)^2}

    Parameters
    ----------
    replicates : array of shape (K, m, d)
        Factors with each group left out (the delete-a-group jackknife; Tukey, Ann Math Stat 1958).
    n_groups : int array of shape (m,)
        Of the site of each row, at most K; 0 for rows of sites that were in training, whose half-width is missing.

    Examples
    --------
    >>> jackknife(np.array([[[1.0]], [[2.0]], [[3.0]]]), np.array([3])).round(2).tolist()
    [[4.97]]
    """
    half = np.full(replicates.shape[1:], np.nan)
    for k in np.unique(n_groups[n_groups >= 2]):
        rows = n_groups == k
        moved = replicates[:k, rows]
        error = np.sqrt((k - 1) / k * np.square(moved - moved.mean(axis=0)).sum(axis=0))
        half[rows] = t.ppf((1 + level) / 2, k - 1) * error
    return half


def percentile_table(
    tables: Mapping[str, pd.DataFrame],
    norms: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    groups: Mapping[str, Mapping[str, Any]],
    spreads: Mapping[str, pd.DataFrame],
    half_widths: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """Return one row for each image, factor and norm group.

    Parameters
    ----------
    tables : mapping of space to DataFrame
        New embeddings.
    norms : mapping of space to (mapping of factor to (mapping of group to values))
    groups : mapping of group to mapping
        ``n`` and ``part`` of each group.
    spreads : mapping of space to DataFrame
        Over the models of a cross-fit, as :func:`sepclr_med.cohort.embeddings.write_spread` takes it.
    half_widths : mapping of space to array of shape (m, d)
        From :func:`jackknife`.

    Returns
    -------
    DataFrame
        ``participant_id``, ``session_id``, ``run`` where there is one, ``space factor value value_low value_high norm
        norm_part norm_n percentile ci_low ci_high models_low models_high site_low site_high``.
    """
    found = []
    for space, table in tables.items():
        known = norms.get(space, {})
        ids = table[[name for name in ("participant_id", "session_id", "run") if name in table]].reset_index(drop=True)
        for place, factor in enumerate(factor_columns(table)):
            values = table[factor].to_numpy(dtype=float)
            spread = _spread(spreads.get(space), factor, len(table))
            half = half_widths[space][:, place] if space in half_widths else np.full(len(table), np.nan)
            for group, facts in groups.items():
                norm = np.asarray(known.get(factor, {}).get(group, []), dtype=float)
                low_high = {
                    f"{name}_{side}": percentile(values + sign * width, norm)["percentile"]
                    for name, width in (("models", spread), ("site", half))
                    for side, sign in (("low", -1), ("high", 1))
                }
                columns = {
                    "space": space, "factor": factor, "value": values,
                    "value_low": values - half, "value_high": values + half,
                    "norm": group, "norm_part": facts["part"], "norm_n": len(norm),
                }  # fmt: skip
                found.append(ids.assign(**columns).join(percentile(values, norm)).assign(**low_high))
    table = pd.concat(found, ignore_index=True)
    order = table.groupby(list(ids.columns), sort=False, dropna=False).ngroup().argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True)


def _spread(spread: pd.DataFrame | None, factor: str, n: int) -> np.ndarray:
    if spread is None or factor not in spread:
        return np.full(n, np.nan)
    return spread[factor].to_numpy(dtype=float)


PERCENTILE_COLUMNS = {
    **dict.fromkeys(ID_COLUMNS[:3], "As in the manifest."),
    "space": "Space of the factor.",
    "factor": "Factor.",
    "value": "Its value.",
    "value_low": "Lower end of the 95% interval of the value for want of controls at a new site (delete-a-group "
    "jackknife over its controls); n/a where the site was in training.",
    "value_high": "Upper end.",
    "norm": "Group of the run's cohort that it is compared with.",
    "norm_part": "held-out: people the network was not trained on; training: people it was trained on, among whom new "
    "people look more unusual than they are.",
    "norm_n": "People of that group.",
    "percentile": "Share of the group below the value, in percent; no probability of being ill.",
    "ci_low": "Lower end of the 95% interval for the size of the group (Clopper and Pearson).",
    "ci_high": "Upper end.",
    "models_low": "Percentile one standard deviation over the models of a cross-fit below the value; n/a for one "
    "model.",
    "models_high": "The same above.",
    "site_low": "Percentile at value_low.",
    "site_high": "Percentile at value_high.",
}
