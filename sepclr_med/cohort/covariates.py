"""Covariates as numbers: learnt from some rows, applied to others, nothing guessed about what was not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sepclr_med.cohort.columns import suggest_column
from sepclr_med.errors import ManifestError, Problem

SHOWN_ROWS = 5


@dataclass(frozen=True)
class CovariateCoding:
    """How columns become numbers: numbers as they are, classes as one column each without the first.

    Parameters
    ----------
    numbers : tuple of str
        Columns used as they are.
    levels : tuple of (str, tuple of str)
        Columns of classes with the classes seen, sorted; the first is the reference.

    Examples
    --------
    >>> table = pd.DataFrame({"age": [30.0, 40.0, 50.0], "site": ["A", "B", "B"]})
    >>> coding = learn_coding(table, ["age", "site"])
    >>> coding.names
    ['age', 'site=B']
    >>> coding.encode(table)
    array([[30.,  0.],
           [40.,  1.],
           [50.,  1.]])
    """

    numbers: tuple[str, ...]
    levels: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def names(self) -> list[str]:
        """Names of the columns of :meth:`encode`."""
        return [*self.numbers, *(f"{name}={level}" for name, seen in self.levels for level in seen[1:])]

    def encode(self, table: pd.DataFrame, fix: str = "") -> np.ndarray:
        """Return the rows as an array of shape (n, columns), without an intercept.

        Raises
        ------
        ManifestError
            With every column that is absent, every missing value and every class that was not learnt; ``fix`` is what
            the message advises about such a class.
        """
        columns = [*self.numbers, *(name for name, _ in self.levels)]
        require_columns(table, columns)
        problems = missing_values(table, columns)
        for name, seen in self.levels:
            unseen = sorted(set(table[name].dropna().astype(str)) - set(seen))
            problems += [
                Problem("class was not seen when fitting", column=name, got=level, allowed=", ".join(seen), fix=fix)
                for level in unseen
            ]
        refuse("covariates cannot be used for these rows", problems)
        parts = [table[list(self.numbers)].to_numpy(dtype=float)]
        for name, seen in self.levels:
            parts.append(
                (table[name].astype(str).to_numpy()[:, None] == np.array(seen[1:], dtype=object)).astype(float)
            )
        return np.concatenate(parts, axis=1) if parts else np.empty((len(table), 0))


def learn_coding(table: pd.DataFrame, covariates: Sequence[str], classes: Sequence[str] = ()) -> CovariateCoding:
    """Learn the coding of covariates: text, booleans and categories are classes, the rest numbers.

    Parameters
    ----------
    table : DataFrame
        Rows to learn from; none of the covariates missing.
    covariates : sequence of str
        Columns.
    classes : sequence of str, default=()
        Covariates that are classes although written as numbers.

    Returns
    -------
    CovariateCoding

    Raises
    ------
    ManifestError
        When a column is absent or a value missing or not finite.
    """
    covariates = list(dict.fromkeys(covariates))
    require_columns(table, [*covariates, *classes])
    refuse("covariates cannot be learnt from these rows", missing_values(table, covariates))
    numbers = [name for name in covariates if name not in classes and _is_number(table[name])]
    levels = [
        (name, tuple(sorted(set(table[name].astype(str)), key=_level_order)))
        for name in covariates
        if name not in numbers
    ]
    return CovariateCoding(tuple(numbers), tuple(levels))


def require_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse what is no table, or a table without the columns, naming each with the nearest one there is."""
    if not isinstance(table, pd.DataFrame):
        fix = "give features and covariates together in one pandas DataFrame"
        raise ManifestError("covariates are found by name", [Problem("not a table", got=type(table).__name__, fix=fix)])
    known = [str(name) for name in table.columns]
    refuse(
        "columns are missing from the table",
        [
            Problem("no such column", column=str(name), fix=suggest_column(str(name), known))
            for name in dict.fromkeys(columns)
            if name not in table
        ],
    )


def missing_values(table: pd.DataFrame, columns: Sequence[str]) -> list[Problem]:
    """List the columns with values that are missing or infinite, with the first rows or participants concerned."""
    problems = []
    for name in columns:
        values = table[name]
        absent = values.isna().to_numpy()
        if _is_number(values):
            absent = ~np.isfinite(values.to_numpy(dtype=float, na_value=np.nan))
        if not absent.any():
            continue
        who = table["participant_id"] if "participant_id" in table else table.index.to_series()
        shown = ", ".join(str(name) for name in who[absent][:SHOWN_ROWS])
        more = ", ..." if absent.sum() > SHOWN_ROWS else ""
        problems.append(
            Problem(
                f"{int(absent.sum())} of {len(table)} rows have no value",
                column=str(name),
                got=shown + more,
                fix="leave these rows out, or the covariate",
                code="missing_covariate",
            )
        )
    return problems


def choose_features(table: pd.DataFrame, features: Sequence[str] | None, taken: Sequence[str]) -> list[str]:
    """Return the features asked for, or every numeric column that is not ``taken``.

    Raises
    ------
    ManifestError
        When one is absent, is not numeric, is a covariate as well, or none is left.
    """
    if features is None:
        chosen = [name for name in table.columns if name not in taken and _is_number(table[name])]
    else:
        chosen = list(features)
        require_columns(table, chosen)
    problems = [
        Problem("feature is a covariate as well", column=str(name), fix="name it once")
        for name in chosen
        if name in taken
    ]
    problems += [Problem("feature is not numeric", column=str(name)) for name in chosen if not _is_number(table[name])]
    if not chosen:
        problems.append(Problem("no features", allowed="numeric columns beside the covariates"))
    refuse("features cannot be used", problems)
    return chosen


def refuse(summary: str, problems: list[Problem]) -> None:
    """Raise all problems at once, if there are any."""
    if problems:
        raise ManifestError(f"{summary}: {len(problems)} problem(s)", problems)


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _level_order(level: str) -> tuple[int, float, str]:
    try:
        return (0, float(level), level)
    except ValueError:
        return (1, 0.0, level)
