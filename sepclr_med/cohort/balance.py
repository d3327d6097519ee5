"""Numbers that say how alike two groups are: standardised differences, Cramer's V, Table 1 and the site table.

All of it counts participants, not images: a participant with three sessions is one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

ROLES = ("background", "target")
SHOWN_FIRST = ("age", "sex", "tiv", "site", "scanner", "diagnosis")
NOT_DESCRIBED = ("participant_id", "session_id", "run", "image_path", "mask_path", "family_id", "split", "fold", "role")
MAX_LEVELS = 12


def participants_of(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return one row per participant: the first value that is not missing in each column.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["a", "a", "b"], "age": [np.nan, 30.0, 40.0]})
    >>> participants_of(rows)["age"].to_dict()
    {'a': 30.0, 'b': 40.0}
    """
    return manifest.groupby("participant_id", sort=False).first()


def is_measured(values: pd.Series) -> bool:
    """Tell whether a column is described by mean and SD (numbers) rather than by counts of levels."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def standardised_difference(background: pd.Series, target: pd.Series) -> float:
    r"""Return the standardised mean difference of one variable between two groups.

    Numbers: :math:`d = (\bar x_t - \bar x_b) / \sqrt{(s_t^2 + s_b^2) / 2}`, signed, positive when the target is higher
    (Austin 2009). Levels: the Mahalanobis distance between the two vectors of proportions,
    :math:`d = \sqrt{(T - C)^\top S^{-1} (T - C)}` with S the mean of the two multinomial covariance matrices, never
    negative (Yang and Dalton 2012). Missing values are left out.

    Parameters
    ----------
    background, target : Series
        The variable in each group.

    Returns
    -------
    float
        NaN when a group has no value (for numbers: fewer than two), infinite when the groups do not overlap at all.

    References
    ----------
    Austin PC. Balance diagnostics for comparing the distribution of baseline covariates between treatment groups in
    propensity-score matched samples. Statistics in Medicine 2009;28:3083-3107. doi:10.1002/sim.3697

    Yang D, Dalton JE. A unified approach to measuring the effect size between two groups using SAS. SAS Global Forum
    2012, paper 335.

    Examples
    --------
    >>> standardised_difference(pd.Series([1.0, 2.0, 3.0]), pd.Series([2.0, 3.0, 4.0]))
    1.0
    >>> round(standardised_difference(pd.Series(["F", "M"]), pd.Series(["F", "F", "F", "M"])), 3)
    0.535
    """
    background, target = background.dropna(), target.dropna()
    if is_measured(background) and is_measured(target):
        return _difference_of_means(background.to_numpy(float), target.to_numpy(float))
    return _difference_of_shares(background.astype(str), target.astype(str))


def cramers_v(first: pd.Series, second: pd.Series) -> float:
    """Return Cramer's V of two categorical variables, corrected for small-sample bias.

    The plain V grows with the number of levels even when nothing is associated; the correction of Bergsma (2013)
    removes that, so that many small sites alone do not look like a confound. 0 is no association, 1 is complete.

    Parameters
    ----------
    first, second : Series
        Aligned; rows with a missing value are left out.

    Returns
    -------
    float
        NaN when either variable has fewer than two levels.

    References
    ----------
    Bergsma W. A bias-correction for Cramer's V and Tschuprow's T. Journal of the Korean Statistical Society
    2013;42:323-328. doi:10.1016/j.jkss.2012.10.002

    Examples
    --------
    >>> group = pd.Series(["b", "b", "t", "t"])
    >>> cramers_v(group, pd.Series(["A", "A", "B", "B"])), cramers_v(group, pd.Series(["A", "B", "A", "B"]))
    (1.0, 0.0)
    """
    from scipy.stats import chi2_contingency

    counts = pd.crosstab(first, second).to_numpy()
    if min(counts.shape) < 2:
        return float("nan")
    n, sizes = counts.sum(), np.array(counts.shape, dtype=float)
    phi2 = chi2_contingency(counts, correction=False).statistic / n
    levels = sizes - (sizes - 1) ** 2 / (n - 1)
    if levels.min() <= 1:  # as many levels as rows: the correction leaves nothing
        return float(np.sqrt(phi2 / (sizes.min() - 1)))
    phi2 = max(0.0, phi2 - np.prod(sizes - 1) / (n - 1))
    return float(min(1.0, np.sqrt(phi2 / (levels.min() - 1))))


def table_one(manifest: pd.DataFrame, role: pd.Series) -> pd.DataFrame:
    """Describe both groups, one row per variable and one per level of a categorical variable.

    Parameters
    ----------
    manifest : DataFrame
        One row per image.
    role : Series
        "background", "target" or missing for each row; rows without a role are left out.

    Returns
    -------
    DataFrame
        Columns ``variable level statistic background background_spread target target_spread missing_background
        missing_target smd``. For numbers, ``statistic`` is "mean (SD)"; for levels, "n (%)" with the percentage of
        those not missing. ``smd`` is :func:`standardised_difference`, on the variable's first row. A text variable with
        more than 12 levels gets one row with its number of distinct values.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": list("abcd"), "age": [20.0, 30.0, 30.0, 40.0]})
    >>> table = table_one(rows, pd.Series(["background", "background", "target", "target"]))
    >>> table.loc[table.variable == "age", ["background", "target", "smd"]].round(2).values.tolist()
    [[25.0, 35.0, 1.41]]
    """
    people = participants_of(manifest.assign(role=role))
    groups = [people[people["role"] == name] for name in ROLES]
    images = [int((role == name).sum()) for name in ROLES]
    rows = [_Row("participants", "n", [len(group) for group in groups]), _Row("images", "n", images)]
    for name in _described(manifest):
        values = [group[name] for group in groups]
        rows.extend([_measured_row(name, values)] if is_measured(people[name]) else _level_rows(name, values))
    return pd.DataFrame([row.as_dict() for row in rows])


def site_table(manifest: pd.DataFrame, role: pd.Series, column: str = "site") -> pd.DataFrame:
    """Count participants per site and group, and name the sites where one group is missing.

    Parameters
    ----------
    manifest : DataFrame
        One row per image.
    role : Series
        "background", "target" or missing for each row; rows without a role are left out.
    column : str, default="site"
        What to tabulate; ``scanner`` works as well.

    Returns
    -------
    DataFrame
        Columns: the site, ``background``, ``target``, one per diagnosis when a group has several, and ``groups``
        ("both", "background only", "target only"). Empty when the manifest has no such column. A participant seen at
        two sites counts at both; "n/a" holds those without a site.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": list("abc"), "site": ["A", "A", "B"]})
    >>> site_table(rows, pd.Series(["background", "target", "target"])).values.tolist()
    [['A', 1, 1, 'both'], ['B', 0, 1, 'target only']]
    """
    if column not in manifest:
        return pd.DataFrame(columns=[column, *ROLES, "groups"])
    seen = manifest.assign(role=role)[role.notna()]
    seen = seen.assign(**{column: seen[column].astype(object).where(seen[column].notna(), "n/a")})
    seen = seen.drop_duplicates(["participant_id", column, "role"])
    table = pd.crosstab(seen[column], seen["role"]).reindex(columns=list(ROLES), fill_value=0)
    if "diagnosis" in seen and seen["diagnosis"].nunique() > len(ROLES):
        taken = {*ROLES, "groups", column}
        counts = pd.crosstab(seen[column], seen["diagnosis"])
        table = table.join(counts.rename(columns=lambda name: f"diagnosis {name}" if name in taken else name))
    table["groups"] = np.select(
        [table["target"] == 0, table["background"] == 0], ["background only", "target only"], "both"
    )
    return table.rename_axis(index=column, columns=None).reset_index()


def _difference_of_means(background: np.ndarray, target: np.ndarray) -> float:
    if min(len(background), len(target)) < 2:
        return float("nan")
    difference = target.mean() - background.mean()
    spread = np.sqrt((target.var(ddof=1) + background.var(ddof=1)) / 2)
    if spread == 0:
        return 0.0 if difference == 0 else float(np.copysign(np.inf, difference))
    return float(difference / spread)


def _difference_of_shares(background: pd.Series, target: pd.Series) -> float:
    if background.empty or target.empty:
        return float("nan")
    levels = sorted(set(background) | set(target))
    if len(levels) == 1:
        return 0.0
    shares = [group.value_counts(normalize=True).reindex(levels[1:], fill_value=0.0) for group in (background, target)]
    spread = sum(np.diag(share) - np.outer(share, share) for share in shares) / 2
    difference = (shares[1] - shares[0]).to_numpy()
    solution, *_ = np.linalg.lstsq(spread, difference, rcond=1e-10)
    # A difference that no combination of the spread explains means groups with no level in common: infinitely far.
    if not np.allclose(spread @ solution, difference, atol=1e-8):
        return float("inf")
    return float(np.sqrt(max(0.0, difference @ solution)))


def _described(manifest: pd.DataFrame) -> list[str]:
    first = [name for name in SHOWN_FIRST if name in manifest]
    return first + [name for name in manifest.columns if name not in {*SHOWN_FIRST, *NOT_DESCRIBED}]


@dataclass(frozen=True)
class _Row:
    """One line of Table 1; pairs are background and target."""

    variable: str
    statistic: str
    values: Sequence[float]
    level: str = ""
    spread: Sequence[float] = (np.nan, np.nan)
    missing: Sequence[float] = (np.nan, np.nan)
    smd: float = np.nan

    def as_dict(self) -> dict[str, object]:
        (background, target), (background_spread, target_spread) = self.values, self.spread
        return {
            "variable": self.variable,
            "level": self.level,
            "statistic": self.statistic,
            "background": float(background),
            "background_spread": float(background_spread),
            "target": float(target),
            "target_spread": float(target_spread),
            "missing_background": float(self.missing[0]),
            "missing_target": float(self.missing[1]),
            "smd": self.smd,
        }


def _measured_row(name: str, groups: list[pd.Series]) -> _Row:
    means, spreads = [group.mean() for group in groups], [group.std() for group in groups]
    missing = [group.isna().sum() for group in groups]
    return _Row(name, "mean (SD)", means, spread=spreads, missing=missing, smd=standardised_difference(*groups))


def _level_rows(name: str, groups: list[pd.Series]) -> list[_Row]:
    missing = [group.isna().sum() for group in groups]
    groups = [group.dropna().astype(str) for group in groups]
    # Groups are made of diagnoses: their difference there says nothing.
    smd = np.nan if name == "diagnosis" else standardised_difference(*groups)
    levels = sorted(set(groups[0]) | set(groups[1]))
    if len(levels) > MAX_LEVELS:
        return [_Row(name, "distinct values", [group.nunique() for group in groups], missing=missing)]
    head = _Row(name, "n", [len(group) for group in groups], missing=missing, smd=smd)
    rows = [head]
    for level in levels:
        counts = [(group == level).sum() for group in groups]
        percents = [
            100 * count / len(group) if len(group) else np.nan for count, group in zip(counts, groups, strict=True)
        ]
        rows.append(_Row(name, "n (%)", counts, level=level, spread=percents))
    return rows
