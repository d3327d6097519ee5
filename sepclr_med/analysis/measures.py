"""What a variable measures, and so which test it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from sepclr_med.errors import ManifestError, Problem, did_you_mean

Measure: TypeAlias = Literal["continuous", "ordinal", "binary", "categorical"]
MEASURES: tuple[Measure, ...] = get_args(Measure)

OUTLYING = 5.0
MOST_LEVELS = 7
MOST_DESCRIBED_LEVELS = 12


def measure_of(values: pd.Series, described: Mapping[str, Any] | None = None) -> tuple[Measure, str]:
    """Say what a column measures, and why.

    The column's entry in the BIDS sidecar decides when it has ``Levels``: two are binary, numbered ones ordinal, named
    ones categorical. Otherwise text is binary or categorical, numbers with two values are binary, whole numbers with
    three to seven values ordinal, and all other numbers continuous.

    Parameters
    ----------
    values : Series
        The column; missing values do not count.
    described : mapping or None, default=None
        The column's entry in the sidecar.

    Returns
    -------
    {"continuous", "ordinal", "binary", "categorical"}
    str
        The reason, to be shown beside it.

    Examples
    --------
    >>> measure_of(pd.Series([61.5, 70.0, 33.0]))
    ('continuous', 'numbers')
    >>> measure_of(pd.Series([1.0, 2.0, 4.0, 2.0]))
    ('ordinal', 'whole numbers, 3 values')
    >>> measure_of(pd.Series(["mild", "severe", "mild"]), {"Levels": {"mild": "", "severe": "", "absent": ""}})
    ('binary', 'two values')
    >>> measure_of(pd.Series([1.0, 2.0, 3.0]), {"Levels": {"1": "left", "2": "both", "3": "right"}})
    ('ordinal', 'numbered levels of the sidecar')
    """
    known = values.dropna()
    n_values = known.nunique()
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if n_values <= 2:
        return "binary", "two values" if n_values == 2 else "one value"
    if not numeric:
        return "categorical", f"text, {n_values} values"
    levels = (described or {}).get("Levels")
    if isinstance(levels, Mapping) and 2 < len(levels) <= MOST_DESCRIBED_LEVELS and _all_described(known, levels):
        return "ordinal", "numbered levels of the sidecar"
    if n_values <= MOST_LEVELS and np.equal(np.mod(known.to_numpy(dtype=float), 1), 0).all():
        return "ordinal", f"whole numbers, {n_values} values"
    return "continuous", "numbers"


def choose_measure(
    name: str, values: pd.Series, described: Mapping[str, Any] | None = None, asked: str | None = None
) -> tuple[Measure, str]:
    """Return what the user asked for, if the column can be that, else :func:`measure_of`.

    Raises
    ------
    ManifestError
        When the measure asked for is unknown or does not fit the column.
    """
    if asked is None:
        return measure_of(values, described)
    found, _ = measure_of(values, described)
    can_be = {found}
    if found != "binary":
        can_be |= {"categorical"} if values.nunique() <= MOST_DESCRIBED_LEVELS else set()
        can_be |= {"ordinal", "continuous"} if pd.api.types.is_numeric_dtype(values) else set()
        can_be |= {"ordinal"} if _order(described) else set()
    if asked not in can_be:
        fix = did_you_mean(asked, MEASURES) or "text becomes ordinal when the JSON sidecar lists its Levels in order"
        problem = Problem(
            "cannot be measured like that", column=name, got=asked, allowed=", ".join(sorted(can_be)), fix=fix
        )
        raise ManifestError(f"link: {name} is {found}", [problem])
    return asked, "as asked"


def level_codes(values: pd.Series, described: Mapping[str, Any] | None = None) -> pd.Series:
    """Return an ordinal column as numbers: itself, or for text the place of each level in the sidecar.

    Examples
    --------
    >>> level_codes(pd.Series(["mild", None, "severe"]), {"Levels": {"mild": "", "severe": ""}}).tolist()
    [0.0, nan, 1.0]
    """
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    places = {level: float(place) for place, level in enumerate(_order(described))}
    return values.map(places).astype(float)


def _order(described: Mapping[str, Any] | None) -> list[str]:
    levels = (described or {}).get("Levels")
    return [str(level) for level in levels] if isinstance(levels, Mapping) else []


def _all_described(known: pd.Series, levels: Mapping[str, Any]) -> bool:
    numbers = set()
    for level in levels:
        try:
            numbers.add(float(level))
        except ValueError:
            return False
    return set(known.astype(float)) <= numbers


def find_outlying(values: np.ndarray) -> np.ndarray:
    """Return which values lie more than five robust standard deviations (1.4826 MAD) from the median.

    Examples
    --------
    >>> find_outlying(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 60.0])).tolist()
    [False, False, False, False, False, True]
    """
    from scipy.stats import median_abs_deviation

    spread = median_abs_deviation(values, scale="normal")
    return np.abs(values - np.median(values)) > (OUTLYING * spread if spread > 0 else np.inf)
