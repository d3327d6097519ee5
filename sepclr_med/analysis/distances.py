"""How far a row of factors lies from a cohort of controls and patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf

FEWEST_ROWS = 3
# Of the median standard deviation: a column that varies less is as good as constant.
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class GroupDistance:
    r"""Mahalanobis distance from the nearer of the groups, each with its own centre and shrunken covariance.

    .. math:: d(x) = \min_g \sqrt{(x - m_g)^T S_g^{-1} (x - m_g)}

    with :math:`S_g` the estimate of Ledoit and Wolf (J Multivar Anal 2004), which has an inverse whatever the number of
    rows. Patients may lie far from controls without being far from the cohort.

    Parameters
    ----------
    names : tuple of str
        The groups.
    centres : array of shape (g, d)
    precisions : array of shape (g, d, d)
    scale : array of shape (d,)
        What columns are divided by first.
    """

    names: tuple[str, ...]
    centres: np.ndarray
    precisions: np.ndarray
    scale: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the distance of each row, (n,)."""
        away = (np.asarray(rows, dtype=float) / self.scale)[None] - self.centres[:, None]
        squares = np.einsum("gni,gij,gnj->gn", away, self.precisions, away)
        return np.sqrt(np.maximum(squares, 0)).min(axis=0)

    def standard_scores(self, rows: np.ndarray) -> np.ndarray:
        """Return each column's distance from the first group's centre in its scale, (n, d)."""
        return np.asarray(rows, dtype=float) / self.scale - self.centres[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        arrays = {name: _rounded(getattr(self, name)) for name in ("centres", "precisions", "scale")}
        return {"names": list(self.names), **arrays}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GroupDistance:
        """Return what :meth:`to_dict` gave."""
        arrays = (np.asarray(values[name], dtype=float) for name in ("centres", "precisions", "scale"))
        return cls(tuple(values["names"]), *arrays)


def fit_distance(rows: np.ndarray, group: np.ndarray, standardise: bool = False) -> GroupDistance:
    """Fit centres and covariances of the groups.

    Parameters
    ----------
    rows : array of shape (n, d)
    group : array of str of shape (n,)
        Groups of fewer than three rows are passed over; without any other, all rows are one.
    standardise : bool, default=False
        Divide each column by its standard deviation first: for columns of different units, since covariances are
        shrunk towards equal variances. A column that hardly varies beside the others is left as it is.

    Examples
    --------
    >>> rows = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [9, 9], [10, 9], [9, 10], [10, 10]])
    >>> distance = fit_distance(rows, np.repeat(["control", "patient"], 4))
    >>> distance(np.array([[0.5, 0.5], [9.5, 9.5], [5, 5]])).round(1).tolist()
    [0.0, 0.0, 12.7]
    """
    rows = np.asarray(rows, dtype=float)
    spread = rows.std(axis=0)
    # In units of rounding errors whoever is not exactly constant would lie far away.
    varies = spread > NEGLIGIBLE * np.median(spread)
    scale = np.where(varies, spread, 1.0) if standardise else np.ones(rows.shape[1])
    names = [str(name) for name in np.unique(group) if (group == name).sum() >= FEWEST_ROWS]
    if not names:
        names, group = ["everyone"], np.repeat("everyone", len(rows))
    fits = [LedoitWolf().fit(rows[group == name] / scale) for name in names]
    return GroupDistance(
        tuple(names), np.array([fit.location_ for fit in fits]), np.array([fit.precision_ for fit in fits]), scale
    )


def _rounded(values: np.ndarray) -> Any:
    return [_rounded(value) for value in values] if np.ndim(values) else float(f"{values:.8g}")
