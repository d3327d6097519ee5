"""A battery of items reduced to its first principal component: one variable instead of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sepclr_med.errors import ManifestError, Problem, UserError, did_you_mean

MIN_FITTED = 10
BALANCED = 0.1


@dataclass(frozen=True)
class BatteryComponent:
    r"""First principal component of standardised items: :math:`c = \sum_j w_j (x_j - m_j) / s_j`.

    The sign makes the mean loading positive, so that more of the component is more of most items; of items that balance
    out it makes the first one's positive. A missing item
    makes the component missing: nothing is filled in.

    Parameters
    ----------
    items : tuple of str
        Columns.
    means, spreads, loadings : array of shape (p,)
        m, s and w, from the rows fitted on; the component has variance 1 there.
    share : float
        Share of the items' variance that the component holds.
    n_fitted : int
        Participants fitted on.

    Examples
    --------
    >>> rows = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [2.0, 4.0, 6.0, 9.0]})
    >>> component = fit_battery(rows, ["a", "b"])
    >>> round(component.share, 2), component.transform(rows).round(2).tolist()
    (1.0, [-1.3, -0.47, 0.37, 1.4])
    """

    items: tuple[str, ...]
    means: np.ndarray
    spreads: np.ndarray
    loadings: np.ndarray
    share: float
    n_fitted: int

    def transform(self, rows: pd.DataFrame) -> pd.Series:
        """Return the component of each row, missing where an item is."""
        items = rows[list(self.items)].to_numpy(dtype=float)
        standard = (np.where(np.isfinite(items), items, np.nan) - self.means) / self.spreads
        return pd.Series(standard @ self.loadings, index=rows.index)


def fit_battery(rows: pd.DataFrame, items: Sequence[str]) -> BatteryComponent:
    """Fit the component on the rows that have every item.

    Parameters
    ----------
    rows : DataFrame
        Those it may look at: training rows, or the fitted side of a fold.
    items : sequence of str
        Numeric columns; one that does not vary there counts for nothing.

    Returns
    -------
    BatteryComponent

    Raises
    ------
    UserError
        When fewer than three rows have every item, or no item varies.
    """
    table = rows[list(items)].to_numpy(dtype=float)
    table = table[np.isfinite(table).all(axis=1)]
    if len(table) < 3 or not (np.ptp(table, axis=0) > 0).any():
        raise UserError(f"battery of {', '.join(items)}: {len(table)} participants have every item, or none varies")
    means, spreads = table.mean(axis=0), table.std(axis=0)
    spreads = np.where(np.ptp(table, axis=0) > 0, spreads, np.inf)
    standard = (table - means) / spreads
    _, sizes, directions = np.linalg.svd(standard, full_matrices=False)
    mean, largest = directions[0].mean(), np.abs(directions[0]).max()
    # Of items that balance out the first decides, or the sign would be left to rounding.
    loadings = directions[0] * np.sign(mean if abs(mean) > BALANCED * largest else directions[0][0] or 1.0)
    loadings = loadings / (standard @ loadings).std()
    share = float(sizes[0] ** 2 / np.square(sizes).sum())
    return BatteryComponent(tuple(items), means, spreads, loadings, share, len(table))


def check_batteries(rows: pd.DataFrame, batteries: Mapping[str, Sequence[str]]) -> None:
    """Refuse batteries whose name is a column, or whose items are no numeric columns, all at once.

    Parameters
    ----------
    rows : DataFrame
        One row per participant.
    batteries : mapping of str to sequence of str
        Items by battery.

    Raises
    ------
    ManifestError
        With every problem.

    Examples
    --------
    >>> check_batteries(pd.DataFrame({"bdi": [1.0], "sex": ["F"]}), {"mood": ["bdi", "sex"]})
    Traceback (most recent call last):
    ...
    sepclr_med.errors.ManifestError: link: 1 problem(s) with batteries
      column "sex": battery mood: not a number; allowed: columns of numbers
    """
    problems = []
    for name, items in batteries.items():
        if name in rows:
            problems.append(Problem("a battery cannot have the name of a column", column=name, fix="rename it"))
        for item in items:
            if item not in rows:
                fix = did_you_mean(item, rows.columns)
                problems.append(Problem(f"battery {name}: no such column", column=item, fix=fix))
            elif not pd.api.types.is_numeric_dtype(rows[item]) or pd.api.types.is_bool_dtype(rows[item]):
                problems.append(Problem(f"battery {name}: not a number", column=item, allowed="columns of numbers"))
    if problems:
        raise ManifestError(f"link: {len(problems)} problem(s) with batteries", problems)


def add_batteries(
    rows: pd.DataFrame, batteries: Mapping[str, Sequence[str]], among: np.ndarray | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Add the first component of each battery as a column, for tests without folds.

    The component is fitted on the rows whose ``split`` is ``train`` when at least ten of them have every item, else on
    all rows given, which is said. It never sees a factor, so a test of factors stays valid either way. Prediction in
    folds fits it anew in every fold.

    Parameters
    ----------
    rows : DataFrame
        One row per participant, those to be tested.
    batteries : mapping of str to sequence of str
        Items by battery.
    among : bool array of shape (n,) or None, default=None
        Those the component may be fitted on, such as patients: over patients and controls together it could be the
        diagnosis. None means everyone.

    Returns
    -------
    DataFrame
        With one more column per battery, missing where an item is.
    list of str
        What was fitted on whom, the share of variance and the loadings.

    Raises
    ------
    ManifestError
        As for :func:`check_batteries`.
    UserError
        As for :func:`fit_battery`.

    Examples
    --------
    >>> rows = pd.DataFrame({"a": [1.0, 2.0, 3.0, None], "b": [2.0, 4.0, 6.0, 9.0]})
    >>> added, notes = add_batteries(rows, {"both": ["a", "b"]})
    >>> added["both"].round(2).tolist(), notes
    ([-1.22, 0.0, 1.22, nan], ['both: first component of a, b (100% of their variance; loadings 0.71, 0.71), fitted on
    all 3 tested participants with every item; 1 lack an item.'])
    """
    check_batteries(rows, batteries)
    columns, notes = {}, []
    for name, items in batteries.items():
        complete = rows[list(items)].replace([np.inf, -np.inf], np.nan).notna().all(axis=1)
        asked = complete if among is None else complete & among
        train = asked & (rows["split"] == "train") if "split" in rows else asked & False
        fitted = train if train.sum() >= MIN_FITTED else asked
        component = fit_battery(rows[fitted], items)
        columns[name] = component.transform(rows)
        whom = "training participants" if fitted is train else "tested participants"
        directions = component.loadings / np.linalg.norm(component.loadings)
        loadings = ", ".join(f"{value:.2f}" for value in directions)
        lacking = f"; {n} lack an item" if (n := int((~complete).sum())) else ""
        notes.append(
            f"{name}: first component of {', '.join(items)} ({component.share:.0%} of their variance; loadings "
            f"{loadings}), fitted on all {component.n_fitted} {whom} with every item{lacking}."
        )
    return rows.assign(**columns), notes
