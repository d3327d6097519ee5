"""What :mod:`sepclr_med.analysis.subtypes` is given, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.cohort.covariates import refuse
from sepclr_med.errors import Problem

MIN_PARTICIPANTS = 20


def read_features(
    features: pd.DataFrame | np.ndarray, names: list[str] | None = None
) -> tuple[np.ndarray, list[str], pd.Index]:
    """Return factors as numbers, their names and the index of the rows; ``names`` are the factors wanted."""
    problems = []
    if isinstance(features, pd.DataFrame):
        wanted = list(features.columns) if names is None else names
        absent = [name for name in wanted if name not in features]
        refuse("subtypes: factors are missing", [Problem("no such factor", column=str(name)) for name in absent])
        index, table = features.index, features[wanted]
        problems = [
            Problem("not a number", column=str(name), fix="give factors only")
            for name in wanted
            if not pd.api.types.is_numeric_dtype(table[name])
        ]
        refuse("subtypes: not a table of factors", problems)
        values = table.to_numpy(dtype=float)
    else:
        values = np.atleast_2d(np.asarray(features, dtype=float))
        wanted = names or [f"factor_{number:03}" for number in range(values.shape[1])]
        index = pd.RangeIndex(len(values))
    if values.shape[1] != len(wanted):
        got = f"{values.shape[1]} factors"
        problems.append(Problem("another space", got=got, allowed=f"{len(wanted)} factors"))
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        problems.append(Problem(f"{len(rows)} rows are not finite", got=f"row {rows[0]}", fix="leave them out"))
    refuse("subtypes: values cannot be used", problems)
    return values, [str(name) for name in wanted], index


def read_masks(n: int, fit_rows: Any, background_rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the masks of target and background rows, refusing what does not fit ``n`` participants."""
    fit = np.asarray(fit_rows, dtype=bool)
    background = np.zeros(n, dtype=bool) if background_rows is None else np.asarray(background_rows, dtype=bool)
    problems = [
        Problem(f"{name} does not fit the factors", got=str(mask.shape), allowed=f"({n},)")
        for name, mask in (("fit_rows", fit), ("background_rows", background))
        if mask.shape != (n,)
    ]
    refuse("subtypes: rows cannot be used", problems)
    if (fit & background).any():
        problems.append(
            Problem("participants are target and background at once", got=str(int((fit & background).sum())))
        )
    if fit.sum() < MIN_PARTICIPANTS:
        allowed = f"{MIN_PARTICIPANTS} or more"
        problems.append(Problem("too few target participants", got=str(int(fit.sum())), allowed=allowed))
    refuse("subtypes: rows cannot be used", problems)
    return fit, background
