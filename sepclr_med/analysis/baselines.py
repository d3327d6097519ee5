"""What the spaces are held against: both together, and what needs no image at all."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sepclr_med.analysis.spaces import Space

COVARIATES = ("age", "sex", "site", "tiv")
ORDER = ("common", "salient", "both", "covariates", "voxel_pca")
# A scanner stands at a site: from the site it would be read without any image.
SAME_THING = {"site": ("site", "scanner"), "scanner": ("site", "scanner")}


def join_both(spaces: list[Space]) -> Space | None:
    """Return ``common`` and ``salient`` side by side, for the images that both have; none without the two.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["a", "b"]})
    >>> join_both([Space("common", rows, np.zeros((2, 3))), Space("salient", rows, np.ones((2, 4)))]).features.shape
    (2, 7)
    """
    named = {space.name: space for space in spaces}
    if not {"common", "salient"} <= set(named):
        return None
    common, salient = named["common"], named["salient"]
    places = common.rows.index.intersection(salient.rows.index)
    features = [space.features[space.rows.index.get_indexer(places)] for space in (common, salient)]
    return Space("both", common.rows.loc[places], np.hstack(features))


def covariate_space(rows: pd.DataFrame, variable: str) -> Space | None:
    """Return the covariates that are there as if they were a space: numbers, and an indicator for each class.

    Parameters
    ----------
    rows : DataFrame
        Rows of the manifest.
    variable : str
        The variable to be read, which is not a covariate of itself.

    Returns
    -------
    Space or None
        Named ``covariates``; none without a covariate that varies. What is missing stays missing.

    Examples
    --------
    >>> rows = pd.DataFrame({"age": [20.0, 30.0, 40.0], "sex": ["F", "M", None], "site": "here"})
    >>> covariate_space(rows, "severity").features
    array([[20.,  0.],
           [30.,  1.],
           [40., nan]])
    """
    skipped = SAME_THING.get(variable, (variable,))
    columns: list[np.ndarray] = []
    for name in COVARIATES:
        if name not in rows or name in skipped or rows[name].nunique() < 2:
            continue
        values = rows[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            numbers = values.to_numpy(dtype=float, na_value=np.nan)
            columns.append(np.where(np.isfinite(numbers), numbers, np.nan))
            continue
        levels = sorted(values.dropna().astype(str).unique())
        missing = values.isna().to_numpy()
        # Two classes need one indicator; with more, dropping one would make the ridge penalty depend on which.
        for level in levels[1:] if len(levels) == 2 else levels:
            columns.append(np.where(missing, np.nan, (values.astype(str) == level).to_numpy(dtype=float)))
    return Space("covariates", rows, np.column_stack(columns)) if columns else None


def in_order(spaces: list[Space]) -> list[Space]:
    """Sort spaces as tables show them: the learned ones, both, what needs no image, the plain baseline."""
    place = {name: number for number, name in enumerate(ORDER)}
    last_learned = place["both"]
    return sorted(spaces, key=lambda space: (place.get(space.name, last_learned), space.name not in place))


def missing_covariates(rows: pd.DataFrame) -> str:
    """Say how many participants lack a covariate, or nothing."""
    counts = {
        name: rows.loc[rows[name].isna(), "participant_id"].nunique()
        for name in COVARIATES
        if name in rows and len(rows[name].dropna().unique()) > 1
    }
    said = ", ".join(f"{name} of {count}" for name, count in counts.items() if count)
    return f"Missing covariates ({said} participants) were taken to be the mean of those fitted on." if said else ""
