"""Columns of the manifest as numbers that a loss can use: standardised, coded, or spread over columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from sepclr_med.cohort.covariates import require_columns
from sepclr_med.errors import ManifestError, Problem

Kind = Literal["continuous", "discrete", "design"]


class Wanted(NamedTuple):
    """A column that a method asks for, what for, and as what.

    ``design`` spreads a column of either kind over as many numbers as it needs, missing values at the mean.
    """

    purpose: str
    column: str
    kind: Kind


@dataclass(frozen=True)
class Labels:
    """Labels of every row of a table.

    Parameters
    ----------
    numbers : array of shape (n, L), float32
        Missing is NaN, except in a design.
    places : dict of (str, str) to slice
        Columns of each (purpose, column of the manifest).
    levels : dict of str to list of str
        What the codes of each discrete column mean.
    """

    numbers: np.ndarray
    places: dict[tuple[str, str], slice]
    levels: dict[str, list[str]]


def encode_labels(table: pd.DataFrame, wanted: list[Wanted], is_train: np.ndarray) -> Labels:
    """Encode the columns that a method asks for; means, deviations and levels come from training rows.

    Parameters
    ----------
    table : DataFrame
    wanted : list of Wanted
    is_train : bool array of shape (n,)

    Returns
    -------
    Labels

    Raises
    ------
    ManifestError
        When a column is absent, holds no numbers although it is continuous, or has no value in training.

    Examples
    --------
    >>> table = pd.DataFrame({"age": [30.0, 50.0, 70.0], "sex": ["F", "M", None]})
    >>> wanted = [Wanted("common", "age", "continuous"), Wanted("common", "sex", "discrete")]
    >>> encode_labels(table, wanted, np.array([True, True, False])).numbers
    array([[-1.,  0.],
           [ 1.,  1.],
           [ 3., nan]], dtype=float32)
    """
    require_columns(table, [label.column for label in wanted])
    problems = [problem for label in wanted for problem in _problems(table[label.column], label, is_train)]
    if problems:
        raise ManifestError(f"columns cannot be used by the method: {len(problems)} problem(s)", problems)
    parts, places, levels, start = [np.empty((len(table), 0))], {}, {}, 0
    for label in wanted:
        levels[label.column] = _levels(table[label.column][is_train])
        part = _encode(table[label.column], label.kind, is_train)
        places[label.purpose, label.column] = slice(start, start + part.shape[1])
        parts.append(part)
        start += part.shape[1]
    return Labels(np.concatenate(parts, axis=1).astype(np.float32), places, levels)


def _problems(values: pd.Series, label: Wanted, is_train: np.ndarray) -> list[Problem]:
    if label.kind == "continuous" and not pd.api.types.is_numeric_dtype(values):
        fix = f"say {label.column}: discrete, or give numbers"
        return [Problem("not a number, and asked for as continuous", column=label.column, fix=fix)]
    if not values[is_train].notna().any():
        return [Problem("no value in the training part", column=label.column, fix="leave it out")]
    return []


def _encode(values: pd.Series, kind: Kind, is_train: np.ndarray) -> np.ndarray:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if kind == "continuous" or (kind == "design" and numeric):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        spread = np.nanstd(numbers[is_train]) or 1.0
        standard = ((numbers - np.nanmean(numbers[is_train])) / spread)[:, None]
        return np.nan_to_num(standard, nan=0.0) if kind == "design" else standard
    levels = _levels(values[is_train])
    placed = values.astype(object).map(lambda value: levels.index(str(value)) if str(value) in levels else np.nan)
    codes = placed.to_numpy(dtype=float)
    return codes[:, None] if kind == "discrete" else (codes[:, None] == np.arange(len(levels))).astype(float)


def _levels(values: pd.Series) -> list[str]:
    return sorted(set(values.dropna().astype(str)))
